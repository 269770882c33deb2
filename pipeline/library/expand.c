/* Part of every library: expands its small constants when it is loaded; see compression.py, which says how they are
 * coded. It is compiled without a C library.
 */
#include <stdint.h>

#define HIDDEN __attribute__((visibility("hidden")))

enum { AREAS = 8, AREA_BITS = 40, GRANULE = 16, NUMBERED = 1, NUMBER_BYTES = 4 };
enum { STATES = 64, FREQUENCY_BITS = 11, WORD_BITS = 16, LONG = 0x80 };
enum { MATCHINGS = 15 * 13 * 11 * 9 * 7 * 5 * 3, STRIDE = 1200943 }; /* see matchings.py */

/* An area of constants of one dtype. */
typedef struct {
    int32_t start;    /* where it is: of what is expanded if it is coded or widened, else of what is stored as it is */
    int32_t size;     /* bytes */
    int32_t coded;    /* whether it is */
    int32_t widened;  /* whether bytes become int16 */
    int32_t differences; /* which bits of words are differences from those before; not of what is widened */
    int32_t period;   /* how many tables of frequencies the bytes of new granules take turns with */
    int32_t literals; /* bytes of new granules; if it is widened, but not coded, where its bytes are stored */
    int32_t numbered; /* bytes of numbers */
} Area;

typedef struct {
    int32_t count; /* areas, of which the first one is stored as it is */
    int32_t words; /* 16-bit words of the stream */
    Area areas[];
    /* uint32_t states[STATES]; uint16_t words[]; uint8_t tables[]; */
} Packed;

/* What a state's lowest bits stand for: a symbol, its frequency, and how far they are from where the symbol begins. */
typedef struct {
    uint32_t symbol : 8, frequency : FREQUENCY_BITS + 1, within : FREQUENCY_BITS;
} Slot;

/* Four bytes of any constants. */
typedef uint32_t __attribute__((may_alias)) Word;

typedef Slot Table[1 << FREQUENCY_BITS];

typedef struct {
    const uint16_t *words;
    const uint8_t *tables;
    uint32_t states[STATES];
} Stream;

extern const char constants[] HIDDEN;
extern const Packed packed HIDDEN;
extern char expanded[] HIDDEN;

static const char *areas[AREAS];
static Table tables[GRANULE];

/* Kernels call this; see constants.py. */
HIDDEN const char *pipeline_constant(int64_t offset) {
    return areas[offset >> AREA_BITS] + (offset & (((int64_t)1 << AREA_BITS) - 1));
}

/* Read a table, and return what is behind it. */
static const uint8_t *read_table(Slot *slot, const uint8_t *from) {
    for (uint32_t symbol = 0; symbol < 256; symbol++) {
        uint32_t frequency = *from++;
        if (!frequency) {
            symbol += *from++;
            continue;
        }
        if (frequency & LONG) frequency = (frequency & ~LONG) << 8 | *from++;
        for (uint32_t i = 0; i < frequency; i++) *slot++ = (Slot){symbol, frequency, i};
    }
    return from;
}

/* Decode symbols, up to a multiple of STATES. */
static void decode(Stream *stream, int32_t count, int32_t period, uint8_t *to) {
    const uint16_t *words = stream->words;
    uint32_t states[STATES]; /* which bytes that are written can't be part of */
    for (int i = 0; i < STATES; i++) states[i] = stream->states[i];
    for (int i = 0; i < period; i++) stream->tables = read_table(tables[i], stream->tables);
    for (const uint8_t *end = to + count; to < end; to += STATES) {
        for (int i = 0; i < STATES; i++) {
            const Slot slot = tables[i & (period - 1)][states[i] & ((1 << FREQUENCY_BITS) - 1)];
            uint32_t state = slot.frequency * (states[i] >> FREQUENCY_BITS) + slot.within;
            /* Without a branch, which would often be predicted wrongly. */
            uint32_t low = state < (uint32_t)1 << WORD_BITS;
            states[i] = state << low * WORD_BITS | (*words & -low);
            words += low;
            to[i] = slot.symbol;
        }
    }
    for (int i = 0; i < STATES; i++) stream->states[i] = states[i];
    stream->words = words;
}

/* Write a matching: inputs in pairs, the lowest one that is left, and the one of a rank among the others. */
static void order(uint32_t number, uint8_t *to) {
    uint32_t left = (1 << GRANULE) - 1, ranks = (uint64_t)number * STRIDE % MATCHINGS;
    for (uint32_t radix = GRANULE - 1; left; radix -= 2) {
        *to++ = __builtin_ctz(left);
        uint32_t others = left &= left - 1;
        for (uint32_t k = ranks % radix; k; k--) others &= others - 1;
        ranks /= radix;
        *to++ = __builtin_ctz(others);
        left ^= others & -others;
    }
}

/* Return the value of a word whose bits in `mask` are its difference from the last one, the lowest one its sign. */
static Word value(Word word, Word last, Word mask) {
    const Word sign = word & mask & -mask ? mask : 0;
    const Word difference = (word >> 1 & mask) ^ sign;
    return ((last & mask) + difference) | (word & ~mask);
}

/* Expand an area. Tokens and numbers are kept behind it, where the next area will be. Literals are decoded to its end, and
 * moved to where they belong from the first to the last, so that none is overwritten before it is moved. */
static void expand_area(Stream *stream, const Area *area, uint8_t *to) {
    const uint8_t *end = to + area->size, *token = end + STATES, *literal = end - area->literals;
    const int32_t tokens = area->size / GRANULE * 2;
    Word last = 0;
    const uint8_t *number = token + (tokens + STATES - 1) / STATES * STATES;
    decode(stream, tokens, 2, (uint8_t *)token);
    decode(stream, area->literals, area->period, (uint8_t *)literal);
    if (area->numbered) decode(stream, area->numbered, NUMBER_BYTES, (uint8_t *)number);
    for (; to < end; to += GRANULE, token += 2) {
        const int32_t reference = token[0] | token[1] << 8;
        if (reference == NUMBERED) {
            order(*(const Word *)number, to);
            number += NUMBER_BYTES;
        } else if (reference) {
            const int32_t distance = reference - NUMBERED;
            for (int i = 0; i < GRANULE; i++) to[i] = to[i - distance * GRANULE];
        } else if (area->widened) {
            for (int i = 0; i < GRANULE; i += 2) to[i + 1] = (to[i] = *literal++) & 0x80 ? 0xFF : 0;
        } else {
            for (int i = 0; i < GRANULE; i += sizeof(Word), literal += sizeof(Word)) {
                last = value(*(const Word *)literal, last, area->differences);
                *(Word *)(to + i) = last;
            }
        }
    }
}

/* Make bytes int16. */
static void widen(const int8_t *from, int32_t count, int16_t *to) {
    for (int32_t i = 0; i < count; i++) to[i] = from[i];
}

/* Linux runs this when it loads the library. */
__attribute__((constructor)) static void expand(void) {
    const uint32_t *states = (const uint32_t *)&packed.areas[packed.count];
    Stream stream = {.words = (const uint16_t *)(states + STATES)};
    stream.tables = (const uint8_t *)(stream.words + packed.words);
    for (int i = 0; i < STATES; i++) stream.states[i] = states[i];
    for (int32_t i = 0; i < packed.count; i++) {
        const Area *area = &packed.areas[i];
        char *to = expanded + area->start;
        areas[i] = area->coded || area->widened ? to : constants + area->start;
        if (area->coded)
            expand_area(&stream, area, (uint8_t *)to);
        else if (area->widened)
            widen((const int8_t *)constants + area->literals, area->size / 2, (int16_t *)to);
    }
}
