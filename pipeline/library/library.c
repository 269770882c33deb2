/* Part of every library: a timer for its kernels.
 *
 * It is compiled without headers of TVM and without a C library. What it knows of TVM's C interface is below, with the
 * names that tvm/ffi/c_api.h and dlpack.h give it.
 */
#include <stdint.h>

#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))

enum { kTVMFFIInt = 1, kTVMFFIBool = 2, kTVMFFIRawStr = 8, kTVMFFIFunction = 68, kTVMFFITensor = 70 };

typedef struct {
    int32_t type_index;
    uint32_t padding;
    union {
        int64_t number;
        const char *text;
        void *pointer;
    } value;
} TVMFFIAny;

typedef struct {
    const char *data;
    uint64_t size;
} TVMFFIByteArray;

typedef struct {
    void *data; /* its other fields aren't needed */
} DLTensor;

enum { OBJECT_HEADER = 24 }; /* bytes of a TVMFFIObject, behind which a tensor object has its DLTensor */

typedef int (*TVMFFISafeCallType)(void *, const TVMFFIAny *, int32_t, TVMFFIAny *);

extern int TVMFFIFunctionCreate(void *self, TVMFFISafeCallType call, void (*deleter)(void *), void **out);
extern int TVMFFIFunctionGetGlobal(const TVMFFIByteArray *name, void **out);
extern int TVMFFIFunctionCall(void *function, TVMFFIAny *arguments, int32_t count, TVMFFIAny *result);
extern int TVMFFIObjectDecRef(void *object);

/* What the caller's tensor holds. The caller sets the capacity, and zeros. */
typedef struct {
    int64_t count;    /* kernels that have ended */
    int64_t capacity; /* how many durations there is room for */
    int64_t started;  /* when the kernel that runs, or ran last, began */
    int64_t reading;  /* how long it takes to read the clock */
    int64_t durations[];
} KernelTimes; /* durations and times are nanoseconds */

/* Return the time in nanoseconds. Linux is asked directly, as a library must not need a C library. */
static int64_t now(void) {
    int64_t time[2];
    long clock_monotonic = 1;
#if defined(__x86_64__)
    long result = 228;
    __asm__ volatile("syscall" : "+a"(result) : "D"(clock_monotonic), "S"(time) : "rcx", "r11", "memory");
#else
    register long x8 __asm__("x8") = 113;
    register long x0 __asm__("x0") = clock_monotonic;
    register int64_t *x1 __asm__("x1") = time;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1) : "memory");
#endif
    return time[0] * 1000000000 + time[1];
}

static int64_t shortest_reading(void) {
    int64_t shortest = INT64_MAX;
    for (int i = 0; i < 100; i++) {
        int64_t start = now(), duration = now() - start;
        if (duration < shortest) shortest = duration;
    }
    return shortest;
}

static int is_builtin(const TVMFFIAny *name) {
    const char *prefix = "vm.builtin.", *text = name->type_index == kTVMFFIRawStr ? name->value.text : prefix;
    while (*prefix && *prefix == *text) prefix++, text++;
    return !*prefix;
}

/* The virtual machine calls this before and after each function. The arguments are the function, its name, whether the
 * call is still to come, its result, and its arguments. */
static int record(void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result) {
    KernelTimes *times = self;
    int64_t time = now();
    *result = (TVMFFIAny){.type_index = kTVMFFIInt}; /* 0: go on */
    if (is_builtin(&arguments[1])) return 0;
    if (arguments[2].value.number) {
        times->started = now();
    } else {
        if (times->count < times->capacity) times->durations[times->count] = time - times->started - times->reading;
        times->count++;
    }
    return 0;
}

/* From now on, note how long each kernel takes that a virtual machine of this library calls, in the order of the calls.
 *
 * Arguments: the machine's module; an int64 tensor that holds KernelTimes and has to live as long as the machine.
 */
__attribute__((visibility("default"))) int __tvm_ffi_pipeline_time_kernels(
    void *self, const TVMFFIAny *arguments, int32_t count, TVMFFIAny *result) {
    const TVMFFIByteArray name = {"ffi.ModuleGetFunction", sizeof("ffi.ModuleGetFunction") - 1};
    TVMFFIAny query[] = {
        arguments[0],
        {.type_index = kTVMFFIRawStr, .value.text = "set_instrument"},
        {.type_index = kTVMFFIBool},
    };
    TVMFFIAny setter = {0}, instrument = {.type_index = kTVMFFIFunction};
    const char *tensor = arguments[1].value.pointer;
    KernelTimes *times;
    void *get_function;
    int status;
    if (arguments[1].type_index == kTVMFFITensor) tensor += OBJECT_HEADER;
    times = ((const DLTensor *)tensor)->data;
    times->count = 0;
    times->reading = shortest_reading();
    status = TVMFFIFunctionGetGlobal(&name, &get_function);
    if (status) return status;
    status = TVMFFIFunctionCall(get_function, query, 3, &setter);
    TVMFFIObjectDecRef(get_function);
    if (status) return status;
    status = TVMFFIFunctionCreate(times, record, 0, &instrument.value.pointer);
    if (!status) {
        status = TVMFFIFunctionCall(setter.value.pointer, &instrument, 1, result);
        TVMFFIObjectDecRef(instrument.value.pointer);
    }
    TVMFFIObjectDecRef(setter.value.pointer);
    return status;
}

#endif
