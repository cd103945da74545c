/* The inner loops of the products for one compute type: included with T set. */
#include "vecmath.h"

#undef NR
#undef MR
#define NR (2 * W) /* columns of a panel: two vectors */
/* Rows of a block: as many as leave two registers for the panel and one for the row's element. */
#if VBYTES == 64 || defined(__aarch64__)
#define MR 14
#else
#define MR 6
#endif
#define TILE (MR == 14 ? 224 : 192)

/* c[m][NR] (+)= a b: element (i, p) of a lies at a + i ai + p ap, row p of the panel b at b + p NR. While it multiplies it asks
 * for m elements a step from `ahead`, which the caller will need next. */
inline_always void F(micro)(const REAL *a, int64_t ai, int64_t ap, const REAL *b, int64_t k, REAL *c, int64_t ldc, int add,
                            const REAL *ahead, int64_t step, const int m) {
    VEC acc[MR][2];
    const VEC zero = {};
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        acc[i][0] = acc[i][1] = zero;
        __builtin_prefetch(c + i * ldc, 1);
        __builtin_prefetch(c + i * ldc + NR - 1, 1);
    }
    for (int64_t p = 0; p < k; p++) {
        const VEC b0 = F(load)(b + p * NR), b1 = F(load)(b + p * NR + W);
        __builtin_prefetch(b + p * NR + 8 * NR);
        __builtin_prefetch(b + p * NR + 8 * NR + W);
        __builtin_prefetch(ahead + p * step);
#pragma GCC unroll 16
        for (int i = 0; i < m; i++) {
            const VEC x = a[i * ai + p * ap] - zero; /* a - 0 is a, whatever a is: a broadcast and no more */
            acc[i][0] += x * b0;
            acc[i][1] += x * b1;
        }
    }
#pragma GCC unroll 16
    for (int i = 0; i < m; i++) {
        REAL *to = c + i * ldc;
        if (add) {
            acc[i][0] += F(load)(to);
            acc[i][1] += F(load)(to + W);
        }
        F(store)(to, acc[i][0]);
        F(store)(to + W, acc[i][1]);
    }
}

#undef EACH_M
#if MR == 14
#define EACH_M(X) X(14) X(12) X(10) X(8) X(6) X(4) X(2) X(1)
#else
#define EACH_M(X) X(6) X(4) X(2) X(1)
#endif
#define MICRO_ROWS(M)    \
    case M:              \
        F(micro)(a, stride, 1, b, k, c, ldc, add, ahead, step, M); \
        break;
#define MICRO_COLUMNS(M) \
    case M:              \
        F(micro)(a, 1, stride, b, k, c, ldc, add, ahead, step, M); \
        break;

/* Rows of a with their elements side by side. */
static void F(block_rows)(const REAL *a, int64_t stride, const REAL *b, int64_t k, REAL *c, int64_t ldc, int add,
                          const REAL *ahead, int64_t step, int64_t m) {
    switch (m) { EACH_M(MICRO_ROWS) }
}
/* Columns of a with their elements side by side. */
static void F(block_columns)(const REAL *a, int64_t stride, const REAL *b, int64_t k, REAL *c, int64_t ldc, int add,
                             const REAL *ahead, int64_t step, int64_t m) {
    switch (m) { EACH_M(MICRO_COLUMNS) }
}
#undef MICRO_ROWS
#undef MICRO_COLUMNS

/* The next block's height where `left` rows remain. */
inline_always int64_t F(height)(int64_t left) {
    const int64_t m = left < MR ? left : MR;
    return m > 1 ? m - m % 2 : m;
}
inline_always int64_t F(round_up)(int64_t n) { return (n + NR - 1) / NR * NR; }

/* W rows of a tile, from r on, out of a tile that holds them as columns; the bias goes on here. */
inline_always void F(turn_rows)(const fnll_linear *t, const REAL *tile, int64_t cp, int64_t v0, int64_t n, int64_t r, REAL *to,
                                int64_t row) {
    const REAL *bias = t->bias ? (const REAL *)t->bias + v0 : 0;
    const int64_t m = t->c - r < W ? t->c - r : W;
    int64_t j = 0;
#if HAS_TRANSPOSE
    for (; j + W <= n; j += W) {
        VEC a[W];
        for (int i = 0; i < W; i++) a[i] = F(load)(tile + (j + i) * cp + r);
        F(transpose)(a);
        if (bias) {
            const VEC b = F(load)(bias + j);
            for (int i = 0; i < W; i++) a[i] += b;
        }
        if (m == W) {
            for (int i = 0; i < W; i++) F(store)(to + i * row + j, a[i]);
        } else {
            for (int i = 0; i < m; i++) F(store)(to + i * row + j, a[i]);
        }
    }
#endif
    for (; j < n; j++)
        for (int64_t i = 0; i < m; i++) to[i * row + j] = tile[j * cp + r + i] + (bias ? bias[j] : 0);
}

/* The sum of exp(x) over n <= TILE logits, relative to 2^k: k = 0 is tried first, as in rows.h. x is ours: it is padded to whole
 * vectors with -inf. sum = 0 says that nothing is there; NaN in k that the row needs its logits. */
static fnll_block F(tile_sum)(REAL *x, int64_t n) {
    for (; n % W; n++) x[n] = -INFINITY;
    REAL k = 0;
    for (int again = 0; again < 2; again++) {
        const VEC kk = F(set)(k);
        VEC s0 = F(set)(0), s1 = s0;
        int64_t i = 0;
        for (; i + 2 * W <= n; i += 2 * W) {
            s0 += F(exp2k)(F(load)(x + i), kk);
            s1 += F(exp2k)(F(load)(x + i + W), kk);
        }
        if (i < n) s0 += F(exp2k)(F(load)(x + i), kk);
        const double s = CAT(sum_, T)(s0 + s1);
        if (s >= (again ? 0.0 : 0.5) && s < (double)SPECULATE) return (fnll_block){k, s};
        if (again || s != s) break;
        VEC top = F(set)(-INFINITY);
        for (i = 0; i < n; i += W) top = F(max)(F(load)(x + i), top);
        REAL e[W], m = -INFINITY;
        F(store)(e, top);
        for (int j = 0; j < W; j++) m = e[j] > m ? e[j] : m;
        if (m < -2 * LIMIT) return (fnll_block){0, 0.0};
        if (!(m <= LIMIT)) break;
        k = (m * (REAL)LOG2E + MAGIC) - MAGIC;
    }
    return (fnll_block){NAN, 0.0};
}

/* One bit a lane of a mask of whole lanes. */
inline_always unsigned F(bits)(IVEC m) {
#if defined(FNLL_X86) && VBYTES == 64 && T_IS_F64
    return _mm512_movepi64_mask((__m512i)m);
#elif defined(FNLL_X86) && VBYTES == 64
    return _mm512_movepi32_mask((__m512i)m);
#elif defined(FNLL_X86) && VBYTES == 32 && T_IS_F64
    return (unsigned)_mm256_movemask_pd((__m256d)m);
#elif defined(FNLL_X86) && VBYTES == 32
    return (unsigned)_mm256_movemask_ps((__m256)m);
#else
    unsigned bits = 0;
    for (int j = 0; j < W; j++) bits |= (unsigned)(m[j] & 1) << j;
    return bits;
#endif
}

/* A large element of a tile of G. */
typedef struct {
    REAL value;
    uint16_t row, column; /* of a chunk and a tile, both far below 65536 */
} F(entry);
/* A tile with more of them than this share is multiplied as a whole: an entry costs what eight elements do there. */
#define SPARSE_SHARE 10

/* Collect the elements of a tile beyond the threshold, NaN among them, column by column; how many, or -1 where they are too many. What is
 * left out goes to mass and sums (a number each for every row) and *squares. */
static int64_t F(collect)(const REAL *g, int64_t ld, int64_t c, int64_t n, REAL threshold, F(entry) *found, F(entry) *sorted,
                          double *mass, double *sums, double *squares) {
    const int64_t most = c * n / SPARSE_SHARE;
    int64_t count = 0, start[TILE + 1] = {0};
    VEC limit = F(set)(threshold), q = F(set)(0);
    for (int64_t r = 0; r < c; r++) {
        const REAL *x = g + r * ld;
        VEC m = F(set)(0), signed_sum = m;
        for (int64_t j = 0; j < n; j += W) { /* rows are padded with zeros to whole vectors */
            const VEC a = F(load)(x + j), size = F(max)(a, -a);
            const IVEC small = size <= limit;
            const VEC lost = F(select)(small, size, F(set)(0));
            m += lost;
            signed_sum += F(select)(small, a, F(set)(0));
            q += lost * lost;
            unsigned bits = F(bits)(~small);
            if (count + W > most && bits) return -1;
            for (; bits; bits &= bits - 1) {
                const int64_t at = j + __builtin_ctz(bits);
                found[count++] = (F(entry)){x[at], (uint16_t)r, (uint16_t)at};
                start[at + 1]++;
            }
        }
        mass[r] = CAT(sum_, T)(m);
        sums[r] = CAT(sum_, T)(signed_sum);
    }
    *squares = CAT(sum_, T)(q);
    for (int64_t j = 0; j < n; j++) start[j + 1] += start[j];
    for (int64_t i = 0; i < count; i++) sorted[start[found[i].column]++] = found[i];
    return count;
}

/* to += the sum over entries of value times a row of x, the one that the entry's column (or row) names; n elements, read and
 * written in whole vectors. Eight vectors of the sum stay in registers while all entries pass. */
inline_always void F(combine)(REAL *to, const F(entry) *e, int64_t count, const REAL *x, int64_t stride, int by_column, int64_t n) {
    int64_t j = 0;
    for (; j + 8 * W <= n; j += 8 * W) {
        VEC acc[8];
#pragma GCC unroll 8
        for (int q = 0; q < 8; q++) acc[q] = F(load)(to + j + q * W);
        for (int64_t i = 0; i < count; i++) {
            const REAL *from = x + (by_column ? e[i].column : e[i].row) * stride + j;
            const VEC a = e[i].value - (VEC){};
#pragma GCC unroll 8
            for (int q = 0; q < 8; q++) acc[q] += a * F(load)(from + q * W);
        }
#pragma GCC unroll 8
        for (int q = 0; q < 8; q++) F(store)(to + j + q * W, acc[q]);
    }
    for (; j < n; j += W) {
        VEC acc = F(load)(to + j);
        for (int64_t i = 0; i < count; i++) acc += e[i].value * F(load)(x + (by_column ? e[i].column : e[i].row) * stride + j);
        F(store)(to + j, acc);
    }
}
static void F(combine_columns)(REAL *to, const F(entry) *e, int64_t count, const REAL *x, int64_t stride, int64_t n) {
    F(combine)(to, e, count, x, stride, 1, n);
}
static void F(combine_rows)(REAL *to, const F(entry) *e, int64_t count, const REAL *x, int64_t stride, int64_t n) {
    F(combine)(to, e, count, x, stride, 0, n);
}
