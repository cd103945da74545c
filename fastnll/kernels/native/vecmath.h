/* exp, log, log1p and tanh of vectors, for one compute type: included with T = f32 or f64.
 *
 * exp works with a base-2 reference. With n = round(x log2 e) and r = x - n ln 2, exp(x) = P(r) 2^n, and
 * relative to 2^k it is P(r) 2^(n-k): n - k is exact, so unlike exp(x - max) the error does not grow with
 * |x - max|, and sums with different references merge by an exact shift of the exponent. n ln 2 is taken off in
 * two fused steps: with ln 2 = hi + lo and hi of full precision the first is exact for |x| <= LIMIT. Coefficients
 * come from benchmarks/fit_elementary.py, which also measures them: worst 0.87 ulp in float32, 0.86 in float64; 0.99 and 1.11
 * where the table has sixteen powers of two in a register (simd.h), which saves two of nine multiplications and four of fourteen.
 */
#include "real.h"

inline_always VEC F(set)(REAL a) { return a - (VEC){}; } /* -0 too, and no more than a broadcast */
inline_always VEC F(load)(const REAL *p) {
    VEC a;
    memcpy(&a, p, sizeof a);
    return a;
}
inline_always void F(store)(REAL *p, VEC a) { memcpy(p, &a, sizeof a); }

/* x - k LN2_HI, exact where the result is small: what is left of x after k ln 2, up to k LN2_LO. */
inline_always VEC F(less_k)(VEC x, VEC k) {
    VEC r = F(fnma)(k, F(set)(LN2_HI), x);
#if !T_IS_F64 && !HAS_FMA
    r = r - k * LN2_MID;
#endif
    return r;
}

/* For each of the first c of some vectors, c a constant to the compiler. A core looks ahead a few dozen instructions, one
 * exponential is a chain of fifteen that wait for each other: several go side by side, or it would mostly wait. */
#undef EACH
#undef MASKED
#undef SIDE_BY_SIDE
#define EACH                 \
    _Pragma("GCC unroll 4") \
    for (int q = 0; q < c; q++)
#define SIDE_BY_SIDE 2 /* measured: more need more registers than they gain */

/* P(r) - 1 with its integer n, in place of x; x is clamped from below, so that -inf and mask values end as exact zeros. */
inline_always void F(exp_rests)(VEC *x, VEC *n, const int c) {
    VEC p[4], r[4];
    EACH x[q] = F(max)(F(set)(-4 * LIMIT), x[q]); /* NaN stays */
    EACH n[q] = x[q] * LOG2E + MAGIC;
    EACH n[q] = n[q] - MAGIC;
    EACH r[q] = F(less_k)(x[q], n[q]);
    EACH r[q] = F(fnma)(n[q], F(set)(LN2_LO), r[q]);
#if T_IS_F64
    EACH p[q] = r[q] * 0x1.ada06b224e7b7p-26 + 0x1.28ad5f6134b57p-22;
    EACH p[q] = p[q] * r[q] + 0x1.71df0c1447596p-19;
    EACH p[q] = p[q] * r[q] + 0x1.a0199a0b6f519p-16;
    EACH p[q] = p[q] * r[q] + 0x1.a01a0138662c2p-13;
    EACH p[q] = p[q] * r[q] + 0x1.6c16c1843a301p-10;
    EACH p[q] = p[q] * r[q] + 0x1.111111112464ep-7;
    EACH p[q] = p[q] * r[q] + 0x1.5555555550797p-5;
    EACH p[q] = p[q] * r[q] + 0x1.555555555550cp-3;
    EACH p[q] = p[q] * r[q] + 0x1.000000000000ap-1;
#else
    EACH p[q] = r[q] * 0x1.6a5234p-10f + 0x1.12396cp-7f;
    EACH p[q] = p[q] * r[q] + 0x1.5558aap-5f;
    EACH p[q] = p[q] * r[q] + 0x1.555492p-3f;
    EACH p[q] = p[q] * r[q] + 0x1.fffffcp-2f;
#endif
    EACH p[q] = p[q] * r[q] + (REAL)1;
    EACH x[q] = p[q] * r[q];
}
/* exp(x) = p 2^floor(n), with p in place of x. */
inline_always void F(exp_powers)(VEC *x, VEC *n, const int c) {
#if HAS_POWERS
    /* n in sixteenths: 2^(n - floor(n)) is one of 16 numbers in a register, r is at most ln 2 / 32, and four terms of e^r do. */
    VEC r[4], s[4], p[4];
    EACH x[q] = F(max)(F(set)(-4 * LIMIT), x[q]);
    EACH s[q] = x[q] * LOG2E + MAGIC / 16;
    EACH n[q] = s[q] - MAGIC / 16;
    EACH r[q] = F(less_k)(x[q], n[q]);
    EACH r[q] = F(fnma)(n[q], F(set)(LN2_LO), r[q]);
    EACH p[q] = F(power16)(s[q]);
#if T_IS_F64
    EACH s[q] = r[q] * 0x1.6c14c3f7729efp-10 + 0x1.11123aee15b04p-7;
    EACH s[q] = s[q] * r[q] + 0x1.5555555902f11p-5;
    EACH s[q] = s[q] * r[q] + 0x1.555555548f34ep-3;
    EACH s[q] = s[q] * r[q] + 0x1.fffffffffffb8p-2;
#else
    EACH s[q] = r[q] * 0x1.55564cp-3f + 0x1.000226p-1f;
#endif
    EACH s[q] = (r[q] * r[q]) * s[q] + r[q];
    EACH x[q] = p[q] * s[q] + p[q];
#else
    F(exp_rests)(x, n, c);
    EACH x[q] = x[q] + (REAL)1;
#endif
}
/* exp(x), and exp(x) 2^-k for an integer-valued k. */
inline_always void F(exps)(VEC *x, const int c) {
    VEC n[4];
    F(exp_powers)(x, n, c);
    EACH x[q] = F(scale2)(x[q], n[q]);
}
inline_always void F(exps2k)(VEC *x, VEC k, const int c) {
    VEC n[4];
    F(exp_powers)(x, n, c);
    EACH x[q] = F(scale2)(x[q], n[q] - k);
}
inline_always VEC F(exp_rest)(VEC x, VEC *n) {
    F(exp_rests)(&x, n, 1);
    return x;
}
inline_always VEC F(exp_parts)(VEC x, VEC *n) { return F(exp_rest)(x, n) + (REAL)1; }
inline_always VEC F(exp)(VEC x) {
    F(exps)(&x, 1);
    return x;
}
inline_always VEC F(exp2k)(VEC x, VEC k) {
    F(exps2k)(&x, k, 1);
    return x;
}
inline_always void F(exps_of_4)(VEC *x) {
    for (int j = 0; j < 4; j += SIDE_BY_SIDE) F(exps)(x + j, SIDE_BY_SIDE);
}
inline_always void F(exps2k_of_4)(VEC *x, VEC k) {
    for (int j = 0; j < 4; j += SIDE_BY_SIDE) F(exps2k)(x + j, k, SIDE_BY_SIDE);
}

/* Masks of 0 .. MASKED - 1: all bits of each element but number `one`; of every one where that is negative. */
#define MASKED (32 * W)
inline_always const REAL *F(all_but)(int64_t one) {
    static const INT masks[2 * MASKED] = {[0 ... MASKED - 1] = -1, [MASKED] = 0, [MASKED + 1 ... 2 * MASKED - 1] = -1};
    return (const REAL *)masks + (one < 0 ? 0 : MASKED - one);
}

/* Transpose W rows of W lanes in log2 W stages of swaps; lane l of row r becomes lane r of row l. `step` is a constant to
 * the compiler, and with it the lanes that a shuffle takes: W + l stands for lane l of the second operand. */
#if defined(__GNUC__) && !defined(__clang__)
#define HAS_TRANSPOSE 1
#define LOW(l) ((l) & step ? W + (l) - step : (l))
#define HIGH(l) ((l) & step ? W + (l) : (l) + step)
#define LANES_2(X) X(0), X(1)
#define LANES_4(X) LANES_2(X), X(2), X(3)
#define LANES_8(X) LANES_4(X), X(4), X(5), X(6), X(7)
#define LANES_16(X) LANES_8(X), X(8), X(9), X(10), X(11), X(12), X(13), X(14), X(15)
inline_always void F(swap)(VEC *rows, const int step) {
#if T_IS_F64 && VBYTES == 16
    const IVEC low = {LANES_2(LOW)}, high = {LANES_2(HIGH)};
#elif (T_IS_F64 && VBYTES == 32) || (!T_IS_F64 && VBYTES == 16)
    const IVEC low = {LANES_4(LOW)}, high = {LANES_4(HIGH)};
#elif (T_IS_F64 && VBYTES == 64) || (!T_IS_F64 && VBYTES == 32)
    const IVEC low = {LANES_8(LOW)}, high = {LANES_8(HIGH)};
#else
    const IVEC low = {LANES_16(LOW)}, high = {LANES_16(HIGH)};
#endif
#pragma GCC unroll 16
    for (int r = 0; r < W; r++)
        if (!(r & step)) {
            const VEC a = rows[r], b = rows[r + step];
            rows[r] = __builtin_shuffle(a, b, low);
            rows[r + step] = __builtin_shuffle(a, b, high);
        }
}
#undef LOW
#undef HIGH
#undef LANES_2
#undef LANES_4
#undef LANES_8
#undef LANES_16
inline_always void F(transpose)(VEC *rows) {
    F(swap)(rows, 1);
    if (W > 2) F(swap)(rows, 2);
    if (W > 4) F(swap)(rows, 4);
    if (W > 8) F(swap)(rows, 8);
}
#else
#define HAS_TRANSPOSE 0
#endif

/* log(x + lost) of positive normal numbers, where `lost` is at most what a rounding loses: x = m 2^e with m in [sqrt(1/2), sqrt(2)),
 * log m = 2 atanh((m-1)/(m+1)), and m - 1 has room for what was lost. */
inline_always VEC F(log_parts)(VEC x, VEC lost, const int rounded) {
#if T_IS_F64
    IVEC shifted = (IVEC)x - 0x3fe6a09e667f3bcdLL;
    IVEC e = shifted >> 52;
    VEC m = (VEC)((IVEC)x - (e << 52));
    VEC ef = (VEC)((e + 0x4338000000000000LL)) - MAGIC;
#else
    IVEC shifted = (IVEC)x - 0x3f3504f3;
    IVEC e = shifted >> 23;
    VEC m = (VEC)((IVEC)x - (e << 23));
    VEC ef = (VEC)((e + 0x4b400000)) - MAGIC;
#endif
    VEC above = m - (REAL)1;
    if (rounded) above += F(scale2)(lost, F(set)(0) - ef);
    VEC s = above / (m + (REAL)1), z = s * s;
#if T_IS_F64
    VEC p = z * 0x1.0f11d107ce4d6p-3 + 0x1.0f66dc4f1c824p-3;
    p = p * z + 0x1.3b2028ac28fcdp-3;
    p = p * z + 0x1.745ce1b365a26p-3;
    p = p * z + 0x1.c71c724b9f93fp-3;
    p = p * z + 0x1.24924924395bcp-2;
    p = p * z + 0x1.9999999999d12p-2;
    p = p * z + 0x1.5555555555555p-1;
#else
    VEC p = z * 0x1.31e1a8p-2f + 0x1.995edp-2f;
    p = p * z + 0x1.55557ap-1f;
#endif
    VEC tail = s * (z * p) + ef * LN2_REST;
    return ef * LN2_SHORT + (s + s + tail);
}

inline_always VEC F(log)(VEC x) { return F(log_parts)(x, F(set)(0), 0); }

/* log(1 + y) for y >= 0 with small relative error. */
inline_always VEC F(log1p)(VEC y) {
    VEC u = y + (REAL)1;
    return F(log_parts)(u, y - (u - (REAL)1), 1);
}

/* tanh |u| = m / (m + 2) with m = expm1(2|u|) = 2^n (P(r) - 1) + (2^n - 1), where P(r) - 1 is formed without its 1. In float32
 * a polynomial where |u| < 5/8, and no more than that where all lanes are (a cap is rarely near): worst 0.76 ulp. */
inline_always VEC F(tanh)(VEC u) {
    const VEC a = F(max)(-u, u), one = F(set)((REAL)1);
#if !T_IS_F64
    const VEC z = u * u, bound = F(set)((REAL)0.625);
    VEC p = z * -0x1.750ce2p-8f + 0x1.51f8cep-6f;
    p = p * z - 0x1.b835a4p-5f;
    p = p * z + 0x1.1106f6p-3f;
    p = p * z - 0x1.555532p-2f;
    p = u * z * p + u;
    if (!any_above_f32(a, bound)) return p;
#endif
    const VEC x = -F(max)(F(set)((REAL)-40), (REAL)-2 * a);
    VEC n, rest = F(exp_rest)(x, &n);
    const VEC power = F(scale2)(one, n), m = power * rest + (power - one);
    VEC t = F(quotient)(m, m + (REAL)2);
    t = F(select)(u < (REAL)0, -t, t);
#if !T_IS_F64
    t = F(select)(a <= bound, p, t);
#endif
    return t;
}
