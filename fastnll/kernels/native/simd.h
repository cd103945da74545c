/* Vectors of the compiler (GCC and clang extensions), for the instruction set that the including file names.
 *
 * VBYTES is the width in bytes. Intrinsics stand only here, for what C cannot say: scalef, stores that
 * bypass the cache, half-precision conversion, the flush-to-zero bit. Each has its portable twin.
 */
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#define FNLL_X86 1
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define inline_always static inline __attribute__((always_inline))

typedef float v_f32 __attribute__((vector_size(VBYTES)));
typedef double v_f64 __attribute__((vector_size(VBYTES)));
typedef int32_t i_f32 __attribute__((vector_size(VBYTES)));
typedef int64_t i_f64 __attribute__((vector_size(VBYTES)));
typedef float h_f32 __attribute__((vector_size(VBYTES / 2)));     /* as many floats as v_f64 has lanes */
typedef uint16_t u16_half __attribute__((vector_size(VBYTES / 2))); /* as many as v_f32 has lanes */
typedef uint32_t u32_full __attribute__((vector_size(VBYTES)));

#define W_f32 (VBYTES / 4)
#define W_f64 (VBYTES / 8)

/* c - a * b, rounded once where the table has fma. Said outright, for a compiler may take a * b out of a loop first. */
#if VBYTES == 64 && defined(FNLL_X86)
inline_always v_f32 fnma_f32(v_f32 a, v_f32 b, v_f32 c) { return (v_f32)_mm512_fnmadd_ps((__m512)a, (__m512)b, (__m512)c); }
inline_always v_f64 fnma_f64(v_f64 a, v_f64 b, v_f64 c) { return (v_f64)_mm512_fnmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
#elif VBYTES == 32 && defined(FNLL_X86)
inline_always v_f32 fnma_f32(v_f32 a, v_f32 b, v_f32 c) { return (v_f32)_mm256_fnmadd_ps((__m256)a, (__m256)b, (__m256)c); }
inline_always v_f64 fnma_f64(v_f64 a, v_f64 b, v_f64 c) { return (v_f64)_mm256_fnmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }
#elif defined(__aarch64__)
inline_always v_f32 fnma_f32(v_f32 a, v_f32 b, v_f32 c) { return (v_f32)vfmsq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
inline_always v_f64 fnma_f64(v_f64 a, v_f64 b, v_f64 c) { return (v_f64)vfmsq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b); }
#else
inline_always v_f32 fnma_f32(v_f32 a, v_f32 b, v_f32 c) { return c - a * b; }
inline_always v_f64 fnma_f64(v_f64 a, v_f64 b, v_f64 c) { return c - a * b; }
#endif

/* b where either is NaN: max_*(bound, x) clamps x from below and lets NaN through. */
#if VBYTES == 64 && defined(FNLL_X86)
inline_always v_f32 max_f32(v_f32 a, v_f32 b) { return (v_f32)_mm512_max_ps((__m512)a, (__m512)b); }
inline_always v_f64 max_f64(v_f64 a, v_f64 b) { return (v_f64)_mm512_max_pd((__m512d)a, (__m512d)b); }
inline_always v_f32 select_f32(i_f32 m, v_f32 a, v_f32 b) {
    return (v_f32)_mm512_mask_blend_ps(_mm512_movepi32_mask((__m512i)m), (__m512)b, (__m512)a);
}
inline_always v_f64 select_f64(i_f64 m, v_f64 a, v_f64 b) {
    return (v_f64)_mm512_mask_blend_pd(_mm512_movepi64_mask((__m512i)m), (__m512d)b, (__m512d)a);
}
#else
inline_always v_f32 select_f32(i_f32 m, v_f32 a, v_f32 b) { return (v_f32)(((i_f32)a & m) | ((i_f32)b & ~m)); }
inline_always v_f64 select_f64(i_f64 m, v_f64 a, v_f64 b) { return (v_f64)(((i_f64)a & m) | ((i_f64)b & ~m)); }
#if VBYTES == 32 && defined(FNLL_X86)
inline_always v_f32 max_f32(v_f32 a, v_f32 b) { return (v_f32)_mm256_max_ps((__m256)a, (__m256)b); }
inline_always v_f64 max_f64(v_f64 a, v_f64 b) { return (v_f64)_mm256_max_pd((__m256d)a, (__m256d)b); }
#elif defined(FNLL_X86)
inline_always v_f32 max_f32(v_f32 a, v_f32 b) { return (v_f32)_mm_max_ps((__m128)a, (__m128)b); }
inline_always v_f64 max_f64(v_f64 a, v_f64 b) { return (v_f64)_mm_max_pd((__m128d)a, (__m128d)b); }
#else
inline_always v_f32 max_f32(v_f32 a, v_f32 b) { return select_f32(a > b, a, b); }
inline_always v_f64 max_f64(v_f64 a, v_f64 b) { return select_f64(a > b, a, b); }
#endif
#endif

/* x where a is b, else y. Said outright, for compilers take a comparison's mask into a vector and back. */
#if VBYTES == 64 && defined(FNLL_X86)
inline_always v_f32 where_f32(v_f32 a, v_f32 b, v_f32 x, v_f32 y) {
    return (v_f32)_mm512_mask_blend_ps(_mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_EQ_OQ), (__m512)y, (__m512)x);
}
inline_always v_f64 where_f64(v_f64 a, v_f64 b, v_f64 x, v_f64 y) {
    return (v_f64)_mm512_mask_blend_pd(_mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_EQ_OQ), (__m512d)y, (__m512d)x);
}
#else
inline_always v_f32 where_f32(v_f32 a, v_f32 b, v_f32 x, v_f32 y) { return select_f32(a == b, x, y); }
inline_always v_f64 where_f64(v_f64 a, v_f64 b, v_f64 x, v_f64 y) { return select_f64(a == b, x, y); }
#endif

/* Whether a > b or unordered in any lane. */
#if VBYTES == 64 && defined(FNLL_X86)
inline_always int any_above_f32(v_f32 a, v_f32 b) { return _mm512_cmp_ps_mask((__m512)a, (__m512)b, _CMP_NLE_UQ) != 0; }
inline_always int any_above_f64(v_f64 a, v_f64 b) { return _mm512_cmp_pd_mask((__m512d)a, (__m512d)b, _CMP_NLE_UQ) != 0; }
#elif VBYTES == 32 && defined(FNLL_X86)
inline_always int any_above_f32(v_f32 a, v_f32 b) { return _mm256_movemask_ps(_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_NLE_UQ)) != 0; }
inline_always int any_above_f64(v_f64 a, v_f64 b) {
    return _mm256_movemask_pd(_mm256_cmp_pd((__m256d)a, (__m256d)b, _CMP_NLE_UQ)) != 0;
}
#else
inline_always int any_above_f32(v_f32 a, v_f32 b) {
    const i_f32 above = ~(a <= b);
    int any = 0;
    for (int l = 0; l < W_f32; l++) any |= above[l];
    return any != 0;
}
inline_always int any_above_f64(v_f64 a, v_f64 b) {
    const i_f64 above = ~(a <= b);
    int any = 0;
    for (int l = 0; l < W_f64; l++) any |= (int)above[l];
    return any != 0;
}
#endif

/* a / b for normal b and a quotient in the normal range or 0: correct but for the last half unit, where an estimate of 1 / b
 * is at hand that costs less than the division. */
#if VBYTES == 64 && defined(FNLL_X86)
inline_always v_f32 quotient_f32(v_f32 a, v_f32 b) {
    v_f32 y = (v_f32)_mm512_rcp14_ps((__m512)b);
    y = y + y * fnma_f32(b, y, (v_f32){} + 1.0f);
    const v_f32 q = a * y;
    return q + y * fnma_f32(q, b, a);
}
#else
inline_always v_f32 quotient_f32(v_f32 a, v_f32 b) { return a / b; }
#endif
inline_always v_f64 quotient_f64(v_f64 a, v_f64 b) { return a / b; }

/* 2^(j/16), j being the low four bits of each lane: of sixteen numbers, from a register or two. */
#if VBYTES == 64 && defined(FNLL_X86)
#define HAS_POWERS 1
inline_always v_f32 power16_f32(v_f32 bits) {
    static const float powers[16] __attribute__((aligned(64))) = {
        0x1.000000p+0f, 0x1.0b5586p+0f, 0x1.172b84p+0f, 0x1.2387a6p+0f, 0x1.306fe0p+0f, 0x1.3dea64p+0f, 0x1.4bfdaep+0f, 0x1.5ab07ep+0f,
        0x1.6a09e6p+0f, 0x1.7a1148p+0f, 0x1.8ace54p+0f, 0x1.9c4918p+0f, 0x1.ae89fap+0f, 0x1.c199bep+0f, 0x1.d5818ep+0f, 0x1.ea4afap+0f};
    return (v_f32)_mm512_permutexvar_ps((__m512i)bits, _mm512_load_ps(powers));
}
inline_always v_f64 power16_f64(v_f64 bits) {
    static const double powers[16] __attribute__((aligned(64))) = {
        0x1.0000000000000p+0, 0x1.0b5586cf9890fp+0, 0x1.172b83c7d517bp+0, 0x1.2387a6e756238p+0, 0x1.306fe0a31b715p+0, 0x1.3dea64c123422p+0,
        0x1.4bfdad5362a27p+0, 0x1.5ab07dd485429p+0, 0x1.6a09e667f3bcdp+0, 0x1.7a11473eb0187p+0, 0x1.8ace5422aa0dbp+0, 0x1.9c49182a3f090p+0,
        0x1.ae89f995ad3adp+0, 0x1.c199bdd85529cp+0, 0x1.d5818dcfba487p+0, 0x1.ea4afa2a490dap+0};
    return (v_f64)_mm512_permutex2var_pd(_mm512_load_pd(powers), (__m512i)bits, _mm512_load_pd(powers + 8));
}
#else
#define HAS_POWERS 0
#endif

/* p * 2^floor(n); n is an integer where the table has no instruction for it. 0 where the result would be below the normal range. */
#if VBYTES == 64 && defined(FNLL_X86)
inline_always v_f32 scale2_f32(v_f32 p, v_f32 n) { return (v_f32)_mm512_scalef_ps((__m512)p, (__m512)n); }
inline_always v_f64 scale2_f64(v_f64 p, v_f64 n) { return (v_f64)_mm512_scalef_pd((__m512d)p, (__m512d)n); }
#else
/* Adding 1.5 * 2^23 puts the integer into the low bits of the mantissa, from where a shift makes it an exponent. */
inline_always v_f32 scale2_f32(v_f32 p, v_f32 n) {
    n = max_f32((v_f32){} - 127.0f, n);
    n = -max_f32((v_f32){} - 127.0f, -n);
    i_f32 bits = ((i_f32)(n + 0x1.8p23f) + 127) << 23;
    return p * (v_f32)bits;
}
inline_always v_f64 scale2_f64(v_f64 p, v_f64 n) {
    n = max_f64((v_f64){} - 1023.0, n);
    n = -max_f64((v_f64){} - 1023.0, -n);
    i_f64 bits = ((i_f64)(n + 0x1.8p52) + 1023) << 52;
    return p * (v_f64)bits;
}
#endif

/* Stores that do not read the line first; p is aligned to VBYTES. */
inline_always void stream(void *p, v_f32 a) {
#if defined(FNLL_X86) && VBYTES == 64
    _mm512_stream_ps(p, (__m512)a);
#elif defined(FNLL_X86) && VBYTES == 32
    _mm256_stream_ps(p, (__m256)a);
#elif defined(FNLL_X86)
    _mm_stream_ps(p, (__m128)a);
#else
    memcpy(p, &a, sizeof a);
#endif
}

/* The first eight or four of n bytes, as the address allows; returns how many, 0 for none. */
inline_always int64_t stream_few(void *p, const void *from, int64_t n) {
#if defined(__x86_64__)
    long long eight;
    int four;
    if (n >= 8 && (uintptr_t)p % 8 == 0) {
        memcpy(&eight, from, 8);
        _mm_stream_si64(p, eight);
        return 8;
    }
    if (n >= 4 && (uintptr_t)p % 4 == 0) {
        memcpy(&four, from, 4);
        _mm_stream_si32(p, four);
        return 4;
    }
#endif
    (void)p, (void)from, (void)n;
    return 0;
}

inline_always void stream_fence(void) {
#if defined(FNLL_X86)
    _mm_sfence();
#endif
}

/* Subnormal results cost a microcode assist each and are worth nothing in a probability: flush them. The
 * caller's mode is restored, and inputs are left alone. */
inline_always uint32_t flush_on(void) {
#if defined(FNLL_X86)
    uint32_t old = _mm_getcsr();
    _mm_setcsr(old | 0x8000);
    return old;
#else
    return 0;
#endif
}
inline_always void flush_restore(uint32_t old) {
#if defined(FNLL_X86)
    _mm_setcsr(old);
#else
    (void)old;
#endif
}

/* The first m <= W elements, -inf in the other lanes; and their store. */
#if VBYTES == 64 && defined(FNLL_X86)
inline_always v_f32 part_f32(const float *p, int64_t m) {
    return (v_f32)_mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), (__mmask16)((1u << m) - 1), p);
}
inline_always v_f64 part_f64(const double *p, int64_t m) {
    return (v_f64)_mm512_mask_loadu_pd(_mm512_set1_pd(-INFINITY), (__mmask8)((1u << m) - 1), p);
}
inline_always void put_part_f32(float *p, v_f32 a, int64_t m) {
    _mm512_mask_storeu_ps(p, (__mmask16)((1u << m) - 1), (__m512)a);
}
inline_always void put_part_f64(double *p, v_f64 a, int64_t m) {
    _mm512_mask_storeu_pd(p, (__mmask8)((1u << m) - 1), (__m512d)a);
}
#else
#define PARTS(type, vector, W)                                       \
    inline_always vector CAT(part_, W)(const type *p, int64_t m) {   \
        type e[sizeof(vector) / sizeof(type)];                       \
        vector a;                                                    \
        for (size_t i = 0; i < sizeof e / sizeof *e; i++) e[i] = (type)-INFINITY; \
        for (int64_t i = 0; i < m; i++) e[i] = p[i];                 \
        memcpy(&a, e, sizeof a);                                     \
        return a;                                                    \
    }                                                                \
    inline_always void CAT(put_part_, W)(type *p, vector a, int64_t m) { \
        type e[sizeof(vector) / sizeof(type)];                       \
        memcpy(e, &a, sizeof a);                                     \
        for (int64_t i = 0; i < m; i++) p[i] = e[i];                 \
    }
PARTS(float, v_f32, f32)
PARTS(double, v_f64, f64)
#endif

inline_always double sum_f64(v_f64 a) {
#if VBYTES == 64 && defined(FNLL_X86)
    const __m256d four = _mm256_add_pd(_mm512_castpd512_pd256((__m512d)a), _mm512_extractf64x4_pd((__m512d)a, 1));
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(four), _mm256_extractf128_pd(four, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
#else
    double e[W_f64], s = 0.0;
    memcpy(e, &a, sizeof e);
    for (int i = 0; i < W_f64; i++) s += e[i];
    return s;
#endif
}

/* The same for vectors that stand for the lanes, in the same order. */
inline_always v_f64 sum_across_f64(const v_f64 *lanes) {
#if VBYTES == 64 && defined(FNLL_X86)
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
#else
    v_f64 s = {};
    for (int i = 0; i < W_f64; i++) s += lanes[i];
    return s;
#endif
}

/* The lanes of a float vector added two by two in float64, and all of them. */
inline_always v_f64 halves_f64(v_f64 a) { return a; }
inline_always v_f64 halves_f32(v_f32 a) {
#if VBYTES == 64 && defined(FNLL_X86) /* GCC 12 converts quarters */
    return (v_f64)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)a)) + (v_f64)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)a, 1));
#else
    h_f32 h[2];
    memcpy(h, &a, sizeof h);
    return __builtin_convertvector(h[0], v_f64) + __builtin_convertvector(h[1], v_f64);
#endif
}
inline_always double sum_f32(v_f32 a) { return sum_f64(halves_f32(a)); }

/* bfloat16 is the upper half of a float; rounding is to nearest even, NaN stays NaN. */
#if VBYTES == 64 && defined(FNLL_X86) /* halves move to their places in one permutation, which compilers do not find */
inline_always v_f32 bf16_load(const uint16_t *p) {
    static const uint16_t from[32] __attribute__((aligned(64))) = {0, 0, 0, 1, 0, 2,  0, 3,  0, 4,  0, 5,  0, 6,  0, 7,
                                                                   0, 8, 0, 9, 0, 10, 0, 11, 0, 12, 0, 13, 0, 14, 0, 15};
    const __m512i h = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)p));
    return (v_f32)_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, _mm512_load_si512(from), h);
}
#ifdef BF16_ALONE
inline_always void bf16_store(uint16_t *p, v_f32 a) {
    const __m256bh h = _mm512_cvtneps_pbh((__m512)a); /* no subnormals */
    memcpy(p, &h, sizeof h);
}
#else
inline_always void bf16_store(uint16_t *p, v_f32 a) {
    static const uint16_t from[32] __attribute__((aligned(64))) = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
    const __m512i u = (__m512i)a, even = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i r = _mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), even);
    const __mmask16 nan = _mm512_cmp_ps_mask((__m512)a, (__m512)a, _CMP_UNORD_Q);
    const __m512i h = _mm512_mask_or_epi32(r, nan, u, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256((__m256i *)p, _mm512_castsi512_si256(_mm512_permutexvar_epi16(_mm512_load_si512(from), h)));
}
#endif
#else
inline_always v_f32 bf16_load(const uint16_t *p) {
    u16_half h;
    memcpy(&h, p, sizeof h);
    return (v_f32)(__builtin_convertvector(h, u32_full) << 16);
}
inline_always void bf16_store(uint16_t *p, v_f32 a) {
    u32_full u = (u32_full)a;
    u32_full r = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    u32_full nan = (u32_full)(a != a);
    r = (r & ~nan) | (((u >> 16) | 0x40) & nan);
    u16_half h = __builtin_convertvector(r, u16_half);
    memcpy(p, &h, sizeof h);
}
#endif

/* float16: the hardware's conversion where the table has it, else the same by shifts and one exact product. */
inline_always v_f32 f16_load(const uint16_t *p) {
#if defined(FNLL_X86) && VBYTES == 64
    return (v_f32)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
#elif defined(FNLL_X86) && VBYTES == 32
    return (v_f32)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
#else
    u16_half h;
    memcpy(&h, p, sizeof h);
    u32_full u = __builtin_convertvector(h, u32_full);
    v_f32 scaled = (v_f32)((u & 0x7fff) << 13) * 0x1p112f; /* exponent bias 15 to 127 */
    u32_full special = (u32_full)((u & 0x7c00) == 0x7c00);
    u32_full bits = ((u32_full)scaled & ~special) | ((((u & 0x7fff) << 13) | 0x7f800000) & special);
    return (v_f32)(bits | ((u & 0x8000) << 16));
#endif
}
inline_always void f16_store(uint16_t *p, v_f32 a) {
#if defined(FNLL_X86) && VBYTES == 64
    _mm256_storeu_si256((__m256i *)p, _mm512_cvtps_ph((__m512)a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(FNLL_X86) && VBYTES == 32
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph((__m256)a, _MM_FROUND_TO_NEAREST_INT));
#else
    u32_full u = (u32_full)a, sign = (u >> 16) & 0x8000, m = u & 0x7fffffff;
    /* Normal: rebias and round to even. Subnormal: the float adder rounds at the right bit. */
    u32_full normal = (m - 0x38000000 + 0xfff + ((m >> 13) & 1)) >> 13;
    u32_full small = (u32_full)((v_f32)m + 0.5f) - 0x3f000000;
    u32_full is_small = (u32_full)(m < 0x38800000), is_big = (u32_full)(m >= 0x477ff000),
             is_nan = (u32_full)(m > 0x7f800000);
    u32_full r = (normal & ~is_small) | (small & is_small);
    r = (r & ~is_big) | (0x7c00 & is_big);
    r = (r & ~is_nan) | (0x7e00 & is_nan);
    u16_half h = __builtin_convertvector(r | sign, u16_half);
    memcpy(p, &h, sizeof h);
#endif
}
