/* Kernels written once over vectors of VN floats. An ISA file defines V, VN and the words below,
 * then includes this: v_load v_store v_set1 v_add v_sub v_mul v_fma(a,b,c)=a*b+c v_div, v_max and
 * v_min (the second operand if either is NaN), v_sum v_top v_load_part v_store_part (n < VN
 * elements, others zero) v_f16 v_bf16 v_i8 (widen VN at p) v_scale2(x, n)=x*2^n with whole n,
 * v_round. */

/* exp: x = n ln2 + r, a degree-6 polynomial on r (Cephes expf), within 2 ulp. Below -87.3, where
 * the result is no normal number, it gives 0; above 88.72 infinity; NaN stays NaN. */
static inline V v_exp(V x) {
    V lo = v_set1(-87.33654f), hi = v_set1(89.0f); /* n <= 128, so that v_scale2 can overflow */
    V c = v_min(hi, v_max(lo, x));                 /* in this order NaN passes through */
    V n = v_round(v_mul(c, v_set1(1.44269504088896341f)));
    V r = v_fma(n, v_set1(-0.693359375f), c);
    r = v_fma(n, v_set1(2.12194440e-4f), r);
    V p = v_set1(1.9875691500e-4f);
    p = v_fma(p, r, v_set1(1.3981999507e-3f));
    p = v_fma(p, r, v_set1(8.3334519073e-3f));
    p = v_fma(p, r, v_set1(4.1665795894e-2f));
    p = v_fma(p, r, v_set1(1.6666665459e-1f));
    p = v_fma(p, r, v_set1(5.0000001201e-1f));
    p = v_fma(p, v_mul(r, r), v_add(r, v_set1(1.0f)));
    return v_zero_below(x, lo, v_scale2(p, n));
}

static float k_dot_f32(const float *a, const float *b, int64_t n) {
    V s0 = v_set1(0), s1 = s0, s2 = s0, s3 = s0;
    int64_t i = 0;
    for (; i + 4 * VN <= n; i += 4 * VN) {
        s0 = v_fma(v_load(a + i), v_load(b + i), s0);
        s1 = v_fma(v_load(a + i + VN), v_load(b + i + VN), s1);
        s2 = v_fma(v_load(a + i + 2 * VN), v_load(b + i + 2 * VN), s2);
        s3 = v_fma(v_load(a + i + 3 * VN), v_load(b + i + 3 * VN), s3);
    }
    for (; i + VN <= n; i += VN) {
        s0 = v_fma(v_load(a + i), v_load(b + i), s0);
    }
    if (i < n) {
        s1 = v_fma(v_load_part(a + i, n - i), v_load_part(b + i, n - i), s1);
    }
    return v_sum(v_add(v_add(s0, s1), v_add(s2, s3)));
}

/* The last n < VN 16-bit values, with zeros behind them. */
static inline V v_half_part(const uint16_t *p, int64_t n, int bf16) {
    uint16_t buf[VN] = {0};
    memcpy(buf, p, (size_t)n * 2);
    return bf16 ? v_bf16(buf) : v_f16(buf);
}

#define DOT_HALF(name, widen, is_bf16)                                                             \
    static float name(const uint16_t *w, const float *x, int64_t n) {                              \
        V s0 = v_set1(0), s1 = s0, s2 = s0, s3 = s0;                                               \
        int64_t i = 0;                                                                             \
        for (; i + 4 * VN <= n; i += 4 * VN) {                                                     \
            s0 = v_fma(widen(w + i), v_load(x + i), s0);                                           \
            s1 = v_fma(widen(w + i + VN), v_load(x + i + VN), s1);                                 \
            s2 = v_fma(widen(w + i + 2 * VN), v_load(x + i + 2 * VN), s2);                         \
            s3 = v_fma(widen(w + i + 3 * VN), v_load(x + i + 3 * VN), s3);                         \
        }                                                                                          \
        for (; i + VN <= n; i += VN) {                                                             \
            s0 = v_fma(widen(w + i), v_load(x + i), s0);                                           \
        }                                                                                          \
        if (i < n) {                                                                               \
            s1 = v_fma(v_half_part(w + i, n - i, is_bf16), v_load_part(x + i, n - i), s1);         \
        }                                                                                          \
        return v_sum(v_add(v_add(s0, s1), v_add(s2, s3)));                                         \
    }
DOT_HALF(k_dot_f16, v_f16, 0)
DOT_HALF(k_dot_bf16, v_bf16, 1)

#define WIDEN_HALF(name, widen, is_bf16)                                                           \
    static void name(float *dst, const uint16_t *src, int64_t n) {                                 \
        int64_t i = 0;                                                                             \
        for (; i + VN <= n; i += VN) {                                                             \
            v_store(dst + i, widen(src + i));                                                      \
        }                                                                                          \
        if (i < n) {                                                                               \
            v_store_part(dst + i, v_half_part(src + i, n - i, is_bf16), n - i);                    \
        }                                                                                          \
    }
WIDEN_HALF(k_widen_f16, v_f16, 0)
WIDEN_HALF(k_widen_bf16, v_bf16, 1)

static void k_widen_i8(float *dst, const int8_t *src, float scale, int64_t n) {
    V s = v_set1(scale);
    int64_t i = 0;
    for (; i + VN <= n; i += VN) {
        v_store(dst + i, v_mul(s, v_i8(src + i)));
    }
    for (; i < n; i++) {
        dst[i] = scale * (float)src[i];
    }
}

static void k_axpy(float *y, float a, const float *x, int64_t n) {
    V va = v_set1(a);
    int64_t i = 0;
    for (; i + VN <= n; i += VN) {
        v_store(y + i, v_fma(va, v_load(x + i), v_load(y + i)));
    }
    if (i < n) {
        v_store_part(y + i, v_fma(va, v_load_part(x + i, n - i), v_load_part(y + i, n - i)), n - i);
    }
}

static void k_rmsnorm(float *y, const float *x, const float *w, float eps, int64_t n) {
    V r = v_set1(1.0f / sqrtf(k_dot_f32(x, x, n) / (float)n + eps));
    int64_t i = 0;
    for (; i + VN <= n; i += VN) {
        v_store(y + i, v_mul(v_mul(v_load(x + i), r), v_load(w + i)));
    }
    if (i < n) {
        v_store_part(y + i, v_mul(v_mul(v_load_part(x + i, n - i), r), v_load_part(w + i, n - i)),
                     n - i);
    }
}

static void k_layernorm(float *y, const float *x, const float *w, const float *b, float eps,
                        int64_t n) {
    V s = v_set1(0);
    int64_t i = 0, whole = n / VN * VN, left = n - whole;
    for (; i < whole; i += VN) {
        s = v_add(s, v_load(x + i));
    }
    s = left > 0 ? v_add(s, v_load_part(x + whole, left)) : s;
    float mean = v_sum(s) / (float)n;
    V m = v_set1(mean), q = v_set1(0);
    for (i = 0; i < whole; i += VN) {
        V d = v_sub(v_load(x + i), m);
        q = v_fma(d, d, q);
    }
    float rest = 0;
    for (i = whole; i < n; i++) {
        rest += (x[i] - mean) * (x[i] - mean);
    }
    float scale = 1.0f / sqrtf((v_sum(q) + rest) / (float)n + eps);
    V r = v_set1(scale);
    for (i = 0; i < whole; i += VN) {
        V v = v_mul(v_mul(v_sub(v_load(x + i), m), r), v_load(w + i));
        v_store(y + i, b == NULL ? v : v_add(v, v_load(b + i)));
    }
    for (; i < n; i++) {
        y[i] = (x[i] - mean) * scale * w[i] + (b == NULL ? 0.0f : b[i]);
    }
}

static void k_softmax(float *x, int64_t n) {
    float top = -INFINITY, rest = 0;
    int64_t i = 0, whole = n / VN * VN;
    if (whole > 0) {
        V t = v_load(x);
        for (i = VN; i < whole; i += VN) {
            t = v_max(t, v_load(x + i));
        }
        top = v_top(t);
    }
    for (i = whole; i < n; i++) {
        top = x[i] > top ? x[i] : top;
    }
    top = top == -INFINITY ? 0 : top;
    V t = v_set1(top), s = v_set1(0);
    for (i = 0; i < whole; i += VN) {
        V e = v_exp(v_sub(v_load(x + i), t));
        v_store(x + i, e);
        s = v_add(s, e);
    }
    for (; i < n; i++) {
        x[i] = expf(x[i] - top);
        rest += x[i];
    }
    rest += v_sum(s);
    float scale = rest == 0 ? 0.0f : 1.0f / rest; /* nothing but -inf: zeros */
    V r = v_set1(scale);
    for (i = 0; i < whole; i += VN) {
        v_store(x + i, v_mul(v_load(x + i), r));
    }
    for (; i < n; i++) {
        x[i] *= scale;
    }
}

/* x * sigmoid(a x) */
static inline V v_swish(V x, V minus_a) {
    return v_div(x, v_add(v_set1(1.0f), v_exp(v_mul(minus_a, x))));
}

static void k_silu_mul(float *gate, const float *up, int64_t n) {
    V a = v_set1(-1.0f);
    int64_t i = 0;
    for (; i + VN <= n; i += VN) {
        v_store(gate + i, v_mul(v_swish(v_load(gate + i), a), v_load(up + i)));
    }
    if (i < n) {
        V g = v_load_part(gate + i, n - i), u = v_load_part(up + i, n - i);
        v_store_part(gate + i, v_mul(v_swish(g, a), u), n - i);
    }
}

static void k_quick_gelu(float *x, int64_t n) {
    V a = v_set1(-1.702f);
    int64_t i = 0;
    for (; i + VN <= n; i += VN) {
        v_store(x + i, v_swish(v_load(x + i), a));
    }
    if (i < n) {
        v_store_part(x + i, v_swish(v_load_part(x + i, n - i), a), n - i);
    }
}

/* 0.5 x (1 + tanh(u)) = x * sigmoid(2 u) */
static inline V v_gelu_tanh(V x) {
    V u = v_mul(v_fma(v_mul(v_mul(x, x), x), v_set1(0.044715f), x), v_set1(-1.5957691216057308f));
    return v_div(x, v_add(v_set1(1.0f), v_exp(u)));
}

static void k_gelu_tanh(float *x, int64_t n) {
    int64_t i = 0;
    for (; i + VN <= n; i += VN) {
        v_store(x + i, v_gelu_tanh(v_load(x + i)));
    }
    if (i < n) {
        v_store_part(x + i, v_gelu_tanh(v_load_part(x + i, n - i)), n - i);
    }
}

static void k_rope(float *x, const float *cos_row, const float *sin_row, int64_t d) {
    int64_t half = d / 2, i = 0;
    for (; i + VN <= half; i += VN) {
        V a = v_load(x + i), b = v_load(x + half + i), c = v_load(cos_row + i),
          s = v_load(sin_row + i);
        v_store(x + i, v_sub(v_mul(a, c), v_mul(b, s)));
        v_store(x + half + i, v_add(v_mul(b, c), v_mul(a, s)));
    }
    for (; i < half; i++) {
        float a = x[i], b = x[i + half];
        x[i] = a * cos_row[i] - b * sin_row[i];
        x[i + half] = b * cos_row[i] + a * sin_row[i];
    }
}

static inline V v_on_grid(V w, V scale, V lo, V hi) {
    return v_mul(v_min(v_max(v_round(v_div(w, scale)), lo), hi), scale);
}

static void k_round_back(const float *w, int64_t n, float scale, float zero, float top,
                         float *back) {
    V s = v_set1(scale), lo = v_set1(-zero), hi = v_set1(top - zero);
    int64_t i = 0;
    for (; i + VN <= n; i += VN) {
        v_store(back + i, v_on_grid(v_load(w + i), s, lo, hi));
    }
    if (i < n) {
        v_store_part(back + i, v_on_grid(v_load_part(w + i, n - i), s, lo, hi), n - i);
    }
}

static float k_round_loss(const float *w, const float *h, int64_t n, float scale, float zero,
                          float top) {
    V s = v_set1(scale), lo = v_set1(-zero), hi = v_set1(top - zero), sum = v_set1(0), more = sum;
    int64_t i = 0;
    for (; i + 2 * VN <= n; i += 2 * VN) {
        V a = v_load(w + i), b = v_load(w + i + VN);
        V d = v_sub(v_on_grid(a, s, lo, hi), a), e = v_sub(v_on_grid(b, s, lo, hi), b);
        sum = v_fma(v_mul(v_load(h + i), d), d, sum);
        more = v_fma(v_mul(v_load(h + i + VN), e), e, more);
    }
    for (; i < n; i += VN) {
        int64_t m = n - i < VN ? n - i : VN;
        V a = v_load_part(w + i, m), d = v_sub(v_on_grid(a, s, lo, hi), a);
        sum = v_fma(v_mul(v_load_part(h + i, m), d), d, sum);
    }
    return v_sum(v_add(sum, more));
}

static void k_gptq_block(const sq_gptq_block *b) {
    enum { L = SQ_GPTQ_LANES, PARTS = L / VN };
    const V none = v_set1(0), top = v_set1(b->top);
    for (int64_t i = b->n - 1; i >= 0; i--) {
        const float *l = b->l + i * b->ldl;
        V e[PARTS], pivot = v_set1(l[i]);
        for (int p = 0; p < PARTS; p++) {
            int64_t at = i * L + p * VN;
            V s = v_load(b->scales + at), z = v_load(b->zeros + at), w = v_load(b->w + at);
            V want = v_add(w, v_div(v_load(b->carry + at), pivot));
            V q = v_min(v_max(v_add(v_round(v_div(want, s)), z), none), top); /* NaN gives 0 */
            e[p] = v_sub(w, v_mul(v_sub(q, z), s));
            v_store(b->codes + at, q);
            v_store(b->errors + at, e[p]);
        }
        for (int64_t j = 0; j < i; j++) {
            V f = v_set1(l[j]);
            for (int p = 0; p < PARTS; p++) {
                float *to = b->carry + j * L + p * VN;
                v_store(to, v_fma(e[p], f, v_load(to)));
            }
        }
    }
}

static void fill_table(sq_kernels *k) {
    k->dot_f32 = k_dot_f32;
    k->dot_f16 = k_dot_f16;
    k->dot_bf16 = k_dot_bf16;
    k->widen_f16 = k_widen_f16;
    k->widen_bf16 = k_widen_bf16;
    k->widen_i8 = k_widen_i8;
    k->axpy = k_axpy;
    k->rmsnorm = k_rmsnorm;
    k->layernorm = k_layernorm;
    k->softmax = k_softmax;
    k->silu_mul = k_silu_mul;
    k->quick_gelu = k_quick_gelu;
    k->gelu_tanh = k_gelu_tanh;
    k->rope = k_rope;
    k->round_back = k_round_back;
    k->round_loss = k_round_loss;
    k->gptq_block = k_gptq_block;
}
