#include "kernels/packed.h"

#include <string.h>

#include "kernels/internal.h"

const char sq_packed_layout[] = "panels of 16 rows, pieces of 128 columns, none behind the last; 2";

enum { CODES, SCALES, OFFSETS, HALF, ZEROS, SUMS, PLACE };

/* What each part takes where the matrix has it. */
static void sizes(const sq_weight *w, size_t out[SQ_WEIGHT_PARTS]) {
    size_t panels = (size_t)sq_weight_panels(w);
    size_t cells = panels * (size_t)sq_weight_groups(w) * SQ_PANEL;
    out[CODES] = panels * (size_t)sq_panel_bytes(w);
    out[SCALES] = out[OFFSETS] = cells * sizeof(float);
    out[HALF] = cells * sizeof(uint16_t);
    out[ZEROS] = cells;
    out[SUMS] = panels * SQ_PANEL * sizeof(float);
    out[PLACE] = 2 * (size_t)w->k * sizeof(int32_t);
}

void sq_weight_parts(const sq_weight *w, sq_weight_part out[SQ_WEIGHT_PARTS]) {
    const void *const data[] = {w->data,  w->scales, w->offsets, w->half,
                                w->zeros, w->sums,   w->place};
    size_t bytes[SQ_WEIGHT_PARTS];
    sizes(w, bytes);
    for (int i = 0; i < SQ_WEIGHT_PARTS; i++) {
        out[i] = (sq_weight_part){data[i], data[i] == NULL ? 0 : bytes[i]};
    }
}

/* Both directions of an order of columns are permutations, and inverse. */
static int ordered(const int32_t *place, int64_t k) {
    const int32_t *order = place + k;
    for (int64_t j = 0; j < k; j++) {
        if (order[j] < 0 || order[j] >= k || place[order[j]] != j) {
            return 0;
        }
    }
    return 1;
}

int sq_weight_borrow(sq_weight *w, const sq_weight_part parts[SQ_WEIGHT_PARTS]) {
    size_t bytes[SQ_WEIGHT_PARTS];
    if ((w->kind != SQ_W_Q4 && w->kind != SQ_W_Q8) || w->n < 1 || w->k < 1 || w->k_padded < w->k ||
        w->group < 1 || w->k_padded > INT64_MAX / 64 / w->n || w->k_padded % w->group != 0) {
        return 0;
    }
    sizes(w, bytes);
    for (int i = 0; i < SQ_WEIGHT_PARTS; i++) {
        if (parts[i].data != NULL && parts[i].bytes != bytes[i]) {
            return 0;
        }
    }
    if (parts[CODES].data == NULL || parts[SUMS].data == NULL ||
        (parts[SCALES].data == NULL) == (parts[HALF].data == NULL) ||
        (parts[OFFSETS].data != NULL && parts[HALF].data != NULL) ||
        (parts[ZEROS].data != NULL && parts[HALF].data == NULL)) {
        return 0;
    }
    /* read alone, whatever their types say */
    w->data = parts[CODES].data;
    w->owned = NULL;
    w->scales = (float *)(uintptr_t)parts[SCALES].data;
    w->offsets = (float *)(uintptr_t)parts[OFFSETS].data;
    w->half = (uint16_t *)(uintptr_t)parts[HALF].data;
    w->zeros = (uint8_t *)(uintptr_t)parts[ZEROS].data;
    w->sums = (float *)(uintptr_t)parts[SUMS].data;
    w->place = (int32_t *)(uintptr_t)parts[PLACE].data;
    w->order = w->place == NULL ? NULL : w->place + w->k;
    return w->place == NULL || ordered(w->place, w->k);
}
