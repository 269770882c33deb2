/* A QEMU plugin that counts how often each translated block runs, between marks that the program itself sets.

   qemu-aarch64 -plugin counter.so,out=FILE PROGRAM

   A program sets marks with `getppid`, which nothing else calls, by the system call's arguments:

       getppid(MAGIC, 0)        a mark: counting begins anew
       getppid(MAGIC, address)  from now on, each call of the function at this address is a mark, too

   FILE is a sequence of records of little-endian 64-bit words:

       0, id, address, n, n times an instruction          a block, before it is first counted
       1, address, n, n times (id, runs)                  what ran from one mark to the next; the first one's address

   Interface of QEMU 7.2, as its include/qemu/qemu-plugin.h has it, which Debian 12 doesn't package. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct block;
struct instruction;
enum { INLINE_ADD = 0, NO_REGISTERS = 0 };

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct block *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct block *, void (*)(unsigned, void *), int, void *);
void qemu_plugin_register_vcpu_tb_exec_inline(struct block *, int, void *, uint64_t);
void qemu_plugin_register_vcpu_syscall_cb(plugin_id, void (*)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t,
                                                              uint64_t, uint64_t, uint64_t, uint64_t, uint64_t));
void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
size_t qemu_plugin_tb_n_insns(const struct block *);
uint64_t qemu_plugin_tb_vaddr(const struct block *);
struct instruction *qemu_plugin_tb_get_insn(const struct block *, size_t);
const void *qemu_plugin_insn_data(const struct instruction *);

EXPORT int qemu_plugin_version = 1;

enum { GETPPID = 173, MAGIC = 0x6d61726b, CHUNK = 1 << 14, MOST_CHUNKS = 1 << 12, MOST_ENTRIES = 1 << 12 };

/* Chunks stay where they are: translated code adds to their counters. */
static uint64_t *chunks[MOST_CHUNKS];
static uint64_t blocks;
static uint64_t entries[MOST_ENTRIES];
static size_t entry_count;
static uint64_t began_at;
static int counting;
static FILE *out;

static void write_word(uint64_t word) {
  if (fwrite(&word, sizeof word, 1, out) != 1) {
    perror("counter");
    exit(1);
  }
}

static uint64_t *counter(uint64_t id) { return &chunks[id / CHUNK][id % CHUNK]; }

static void mark(uint64_t address) {
  uint64_t ran = 0;
  for (uint64_t id = 0; id < blocks; id++) ran += *counter(id) != 0;
  if (counting) {
    write_word(1), write_word(began_at), write_word(ran);
    for (uint64_t id = 0; id < blocks; id++)
      if (*counter(id)) write_word(id), write_word(*counter(id));
  }
  for (uint64_t id = 0; id < blocks; id++) *counter(id) = 0;
  began_at = address;
}

static void enter(unsigned cpu, void *address) {
  (void)cpu;
  if (counting) mark((uint64_t)(uintptr_t)address);
}

static void translated(plugin_id plugin, struct block *block) {
  (void)plugin;
  uint64_t id = blocks++, address = qemu_plugin_tb_vaddr(block), count = qemu_plugin_tb_n_insns(block);
  if (id / CHUNK >= MOST_CHUNKS) {
    fputs("counter: too many translated blocks\n", stderr);
    exit(1);
  }
  if (id % CHUNK == 0) chunks[id / CHUNK] = calloc(CHUNK, sizeof(uint64_t));
  write_word(0), write_word(id), write_word(address), write_word(count);
  for (size_t i = 0; i < count; i++) {
    uint32_t word;
    memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
    write_word(word);
  }
  for (size_t i = 0; i < entry_count; i++)
    if (entries[i] == address)
      qemu_plugin_register_vcpu_tb_exec_cb(block, enter, NO_REGISTERS, (void *)(uintptr_t)address);
  qemu_plugin_register_vcpu_tb_exec_inline(block, INLINE_ADD, counter(id), 1);
}

static void called(plugin_id plugin, unsigned cpu, int64_t number, uint64_t magic, uint64_t address, uint64_t a3,
                   uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
  (void)plugin, (void)cpu, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
  if (number != GETPPID || magic != MAGIC) return;
  if (address == 0) {
    mark(0);
    counting = 1;
  } else if (entry_count < MOST_ENTRIES) {
    entries[entry_count++] = address;
  }
}

static void ended(plugin_id plugin, void *data) {
  (void)plugin, (void)data;
  fclose(out);
}

EXPORT int qemu_plugin_install(plugin_id plugin, const void *info, int count, char **arguments) {
  (void)info;
  if (count != 1 || strncmp(arguments[0], "out=", 4) != 0 || !(out = fopen(arguments[0] + 4, "wb"))) {
    fputs("counter: expected out=FILE, a file that can be written\n", stderr);
    return 1;
  }
  qemu_plugin_register_vcpu_tb_trans_cb(plugin, translated);
  qemu_plugin_register_vcpu_syscall_cb(plugin, called);
  qemu_plugin_register_atexit_cb(plugin, ended, NULL);
  return 0;
}
