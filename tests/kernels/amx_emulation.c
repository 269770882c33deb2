/* What AMX's instructions do, by Intel's manual, on memory of the calling thread; a wrong use ends the process. */

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TILES = 8, ROWS = 16, ROW_BYTES = 64 };

struct tile {
    int rows, row_bytes;
    uint8_t data[ROWS][ROW_BYTES];
};

static _Thread_local struct {
    int configured;
    struct tile tiles[TILES];
} state;

static void check(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "AMX would fault: %s\n", what);
        abort();
    }
}

static struct tile *used(uint8_t number) {
    check(state.configured, "tiles are not configured");
    check(number < TILES, "there is no such tile");
    check(state.tiles[number].rows > 0, "the tile has no rows");
    return &state.tiles[number];
}

void emulated_ldtilecfg(const uint8_t *configuration) {
    check(configuration[0] == 1, "there is only palette 1");
    memset(&state, 0, sizeof state);
    for (int i = 1; i < 16; i++) check(configuration[i] == 0, "a reserved byte is set");
    for (int t = 0; t < 16; t++) {
        int row_bytes = configuration[16 + 2 * t] | configuration[17 + 2 * t] << 8, rows = configuration[48 + t];
        check(t < TILES || (row_bytes == 0 && rows == 0), "a reserved byte is set");
        check(row_bytes <= ROW_BYTES && rows <= ROWS, "a tile is too large");
        check((row_bytes == 0) == (rows == 0), "a tile has rows without bytes");
        if (t < TILES) state.tiles[t].rows = rows, state.tiles[t].row_bytes = row_bytes;
    }
    state.configured = 1;
}

void emulated_tilerelease(void) { memset(&state, 0, sizeof state); }

void emulated_tileloadd64(uint8_t number, const uint8_t *start, int64_t stride) {
    struct tile *tile = used(number);
    memset(tile->data, 0, sizeof tile->data);
    for (int r = 0; r < tile->rows; r++) memcpy(tile->data[r], start + r * stride, tile->row_bytes);
}

void emulated_tilestored64(uint8_t number, uint8_t *start, int64_t stride) {
    struct tile *tile = used(number);
    for (int r = 0; r < tile->rows; r++) memcpy(start + r * stride, tile->data[r], tile->row_bytes);
}

void emulated_tdpbusd(uint8_t sums, uint8_t left, uint8_t right) {
    struct tile *c = used(sums), *a = used(left), *b = used(right);
    check(sums != left && sums != right && left != right, "operands are the same tile");
    check(c->rows == a->rows && c->row_bytes == b->row_bytes && a->row_bytes == 4 * b->rows, "shapes do not fit");
    for (int m = 0; m < c->rows; m++)
        for (int n = 0; n < c->row_bytes / 4; n++) {
            int32_t sum;
            memcpy(&sum, &c->data[m][4 * n], 4);
            for (int k = 0; k < a->row_bytes; k++) sum += a->data[m][k] * (int8_t)b->data[k / 4][4 * n + k % 4];
            memcpy(&c->data[m][4 * n], &sum, 4);
        }
}
