/* Products of stored bfloat16, two by two: an instruction multiplies the pairs of each lane exactly and adds both to float32, twice
 * as many products as a fused multiplication. Subnormal numbers count as 0.
 *
 * A panel of hidden has pairs of features where that of micro.h has features: W rows a vector, one pair of each.
 */

inline_always uint32_t pair_at(const uint16_t *p) {
    uint32_t pair;
    memcpy(&pair, p, sizeof pair);
    return pair;
}

/* c[m][NR] (+)= a b for m rows of weights as they are stored, ai apart, and k features; `ahead` as in micro.h. */
inline_always void pairs_micro(const uint16_t *a, int64_t ai, const float *b, int64_t k, float *c, int64_t ldc, int add,
                               const uint16_t *ahead, int64_t step, const int m) {
    __m512 acc[MR][2];
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        acc[i][0] = acc[i][1] = _mm512_setzero_ps();
        __builtin_prefetch(c + i * ldc, 1);
        __builtin_prefetch(c + i * ldc + NR - 1, 1);
    }
#define STEP(pair)                                                                  \
    do {                                                                            \
        const __m512bh b0 = (__m512bh)_mm512_loadu_si512(b);                        \
        const __m512bh b1 = (__m512bh)_mm512_loadu_si512(b + W);                    \
        _Pragma("GCC unroll 16") for (int i = 0; i < m; i++) {                      \
            const __m512bh x = (__m512bh)_mm512_set1_epi32((int)(pair));            \
            acc[i][0] = _mm512_dpbf16_ps(acc[i][0], x, b0);                         \
            acc[i][1] = _mm512_dpbf16_ps(acc[i][1], x, b1);                         \
        }                                                                           \
        b += NR;                                                                    \
    } while (0)
    int64_t p = 0;
    for (; p + 2 <= k; p += 2) {
        __builtin_prefetch(b + 8 * NR);
        __builtin_prefetch(b + 8 * NR + W);
        __builtin_prefetch(ahead + p * step);
        STEP(pair_at(a + i * ai + p));
    }
    if (p < k) STEP(a[i * ai + p]);
#undef STEP
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        float *to = c + i * ldc;
        if (add) {
            acc[i][0] = _mm512_add_ps(acc[i][0], _mm512_loadu_ps(to));
            acc[i][1] = _mm512_add_ps(acc[i][1], _mm512_loadu_ps(to + W));
        }
        _mm512_storeu_ps(to, acc[i][0]);
        _mm512_storeu_ps(to + W, acc[i][1]);
    }
}

#define PAIRS_ROWS(M)                                                   \
    case M:                                                             \
        pairs_micro(a, stride, b, k, c, ldc, add, ahead, step, M);      \
        break;
static void pairs_block(const uint16_t *a, int64_t stride, const float *b, int64_t k, float *c, int64_t ldc, int add,
                        const uint16_t *ahead, int64_t step, int64_t m) {
    switch (m) { EACH_M(PAIRS_ROWS) }
}
#undef PAIRS_ROWS
