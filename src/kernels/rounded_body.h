/* Products with rounded inputs over vectors of VN floats: what follows the sums of integers. An ISA
 * file defines v_load v_store v_set1 v_mul v_fma v_f16 as simd_body.h wants them, and
 *   v_nfma(a,b,c) = c - a*b
 *   v_planes(low, high): VN whole numbers low + 256 high as floats; high NULL: low alone
 *   piece_sums(lanes, bits, columns, w, x, start, d): d[lane][row of the panel] = start[lane] + the
 *     sum of code * x over a piece's columns, from x[columns / 4][lanes][4] and the words of a
 *     panel; start is minus the middle of the codes times the sum of x,
 * then includes this. */

static inline __attribute__((always_inline)) void tile(int rows, int planes, int bits,
                                                       const sq_weight *w, int64_t panel,
                                                       const sq_rounded *x, const float *bias,
                                                       float *y, int64_t ldy) {
    int64_t pieces = x->pieces, split = pieces / sq_weight_groups(w);
    const uint8_t *codes = sq_weight_panel(w, panel);
    const int8_t *in = x->codes;
    enum { PARTS = SQ_PANEL / VN };
    float out[8][SQ_PANEL];
    V acc[8][PARTS];
    for (int i = 0; i < PARTS * rows; i++) {
        acc[i / PARTS][i % PARTS] = v_set1(0.0f);
    }
    for (int64_t p = 0; p < pieces; p++) {
        int32_t d[8][SQ_PANEL], start[8] = {0};
        for (int r = 0; r < rows; r++) {
            start[r] = -(1 << (bits - 1)) * x->sums[p * rows + r];
        }
        int64_t columns = sq_piece_stored(x->stored, x->columns, p);
        piece_sums(rows * planes, bits, columns, codes, in, start, d);
        codes += columns * SQ_PANEL * bits / 8;
        in += columns * rows * planes;
        int64_t at = (panel * sq_weight_groups(w) + p / split) * SQ_PANEL;
        for (int r = 0; w->zeros != NULL && r < rows; r++) {
            for (int c = 0; c < SQ_PANEL; c++) {
                d[r][c] += ((1 << (bits - 1)) - w->zeros[at + c]) * x->sums[p * rows + r];
            }
        }
        for (int h = 0; h < PARTS; h++, at += VN) {
            V scale = w->half == NULL ? v_load(w->scales + at) : v_f16(w->half + at);
            for (int r = 0; r < rows; r++) {
                V f = v_planes(d[r] + VN * h, planes == 2 ? d[rows + r] + VN * h : NULL);
                f = planes == 2 ? v_mul(v_set1(x->scales[p * rows + r]), f) : f;
                acc[r][h] = v_fma(scale, f, acc[r][h]);
                if (w->offsets != NULL) {
                    acc[r][h] =
                        v_fma(v_load(w->offsets + at), v_set1(x->worth[p * rows + r]), acc[r][h]);
                }
            }
        }
    }
    int64_t c = panel * SQ_PANEL, n = w->n - c < SQ_PANEL ? w->n - c : SQ_PANEL;
    for (int i = 0; i < rows; i++) {
        for (int h = 0; h < PARTS; h++) {
            V v = planes == 1 ? v_mul(acc[i][h], v_set1(x->scales[i])) : acc[i][h];
            if (x->zeros != NULL) {
                v = v_nfma(v_set1(x->zeros[i]), v_load(w->sums + c + VN * h), v);
            }
            v_store(out[i] + VN * h, v);
        }
        for (int64_t k = 0; k < n; k++) {
            y[i * ldy + c + k] = bias == NULL ? out[i][k] : out[i][k] + bias[c + k];
        }
    }
}

#define TILE(rows, planes)                                                                         \
    static void tile_##rows##_##planes(const sq_weight *w, int64_t panel0, int64_t panels,         \
                                       const sq_rounded *x, const float *bias, float *y,           \
                                       int64_t ldy) {                                              \
        for (int64_t j = panel0; j < panel0 + panels; j++) {                                       \
            if (w->kind == SQ_W_Q4) {                                                              \
                tile(rows, planes, 4, w, j, x, bias, y, ldy);                                      \
            } else {                                                                               \
                tile(rows, planes, 8, w, j, x, bias, y, ldy);                                      \
            }                                                                                      \
        }                                                                                          \
    }
TILE(1, 1)
TILE(2, 1)
TILE(4, 1)
TILE(8, 1)
TILE(1, 2)
TILE(2, 2)
TILE(4, 2)

static void int_tile(const sq_weight *w, int64_t panel0, int64_t panels, const sq_rounded *x,
                     const float *bias, float *y, int64_t ldy) {
    static void (*const tiles[2][4])(const sq_weight *, int64_t, int64_t, const sq_rounded *,
                                     const float *, float *, int64_t) = {
        {tile_1_1, tile_2_1, tile_4_1, tile_8_1}, {tile_1_2, tile_2_2, tile_4_2, NULL}};
    int rows = x->rows == 1 ? 0 : x->rows == 2 ? 1 : x->rows == 4 ? 2 : 3;
    tiles[x->planes - 1][rows](w, panel0, panels, x, bias, y, ldy);
}
