/* The probe loops over one vector width. Included once per instruction set by probes.c, which defines
 *   PROBE_BYTES       width of a vector in bytes
 *   PROBE_NAME(stem)  the function name for this instruction set
 *   PROBE_STREAM(p,v) a non-temporal store of vector v to the aligned address p, or undefined
 *   PROBE_FENCE()     makes those stores visible
 *   PROBE_SCALE_F32 / PROBE_SCALE_F64(p,n)   p * 2^n, or undefined for the integer form below
 * No include guard: that is the point of the file.
 */
#define FLOATS ((ptrdiff_t)(PROBE_BYTES / sizeof(float)))
#define DOUBLES ((ptrdiff_t)(PROBE_BYTES / sizeof(double)))
#define VF PROBE_NAME(vf)
#define VD PROBE_NAME(vd)
#define VU32 PROBE_NAME(vu32)
#define VU64 PROBE_NAME(vu64)

/* aligned(4): the loads must be correct for any array; on an aligned one they cost the same. */
typedef float VF __attribute__((vector_size(PROBE_BYTES), aligned(4), may_alias));
typedef double VD __attribute__((vector_size(PROBE_BYTES), aligned(8), may_alias));
/* Unsigned: the bits of an exponent are shifted out at the top on purpose. */
typedef uint32_t VU32 __attribute__((vector_size(PROBE_BYTES)));
typedef uint64_t VU64 __attribute__((vector_size(PROBE_BYTES)));

#define LOAD_F(p) (*(const VF *)(p))
#define LOAD_D(p) (*(const VD *)(p))
#define STORE_F(p, v) (*(VF *)(p) = (v))

/* Eight accumulators: an add takes 2 to 4 cycles and two can start in each, fewer would measure latency. */
static double PROBE_NAME(read)(const float *x, ptrdiff_t n)
{
    VF sum[8] = {{0}};
    double total = 0.0;
    ptrdiff_t i = 0;
    for (; i + 8 * FLOATS <= n; i += 8 * FLOATS)
        for (int k = 0; k < 8; k++) sum[k] += LOAD_F(x + i + k * FLOATS);
    for (int k = 0; k < 8; k++)
        for (int lane = 0; lane < FLOATS; lane++) total += sum[k][lane];
    for (; i < n; i++) total += x[i];
    return total;
}

/* The empty asm keeps the compiler from recognising memcpy, whose library version changes to non-temporal
 * stores by itself above a size of its own choice. */
static void PROBE_NAME(copy)(float *dst, const float *src, ptrdiff_t n)
{
    ptrdiff_t i = 0;
    for (; i + 4 * FLOATS <= n; i += 4 * FLOATS) {
        for (int k = 0; k < 4; k++) STORE_F(dst + i + k * FLOATS, LOAD_F(src + i + k * FLOATS));
        __asm__ volatile("" ::: "memory");
    }
    for (; i < n; i++) {
        dst[i] = src[i];
        __asm__ volatile("" ::: "memory");
    }
}

#ifdef PROBE_STREAM
static void PROBE_NAME(stream)(float *dst, const float *src, ptrdiff_t n)
{
    ptrdiff_t i = 0;
    /* A whole 64-byte line at a time from an aligned address: a line written in part is sent in pieces. */
    for (; i < n && ((uintptr_t)(dst + i) & 63u) != 0; i++) dst[i] = src[i];
    for (; i + 16 <= n; i += 16)
        for (int k = 0; k < 16; k += (int)FLOATS) PROBE_STREAM(dst + i + k, LOAD_F(src + i + k));
    for (; i < n; i++) dst[i] = src[i];
    PROBE_FENCE();
}
#endif

static void PROBE_NAME(update)(float *x, float factor, ptrdiff_t n)
{
    ptrdiff_t i = 0;
    for (; i + 4 * FLOATS <= n; i += 4 * FLOATS)
        for (int k = 0; k < 4; k++) STORE_F(x + i + k * FLOATS, LOAD_F(x + i + k * FLOATS) * factor);
    for (; i < n; i++) x[i] *= factor;
}

/* exp(v) = 2^n p(r) with n = round(v / ln 2), r = v - n ln 2: adding the magic number rounds to an integer
 * and leaves it in the low bits of the sum. */
static inline VF PROBE_NAME(expf)(VF v)
{
    const float magic = 0x1.8p23f;
    VF shifted = v * EXP_F32_LOG2E + magic;
    VF n = shifted - magic;
    VF r = v - n * EXP_F32_LN2;
    VF p = r * EXP_F32_C5 + EXP_F32_C4;
    p = p * r + EXP_F32_C3;
    p = p * r + EXP_F32_C2;
    p = p * r + EXP_F32_C1;
    p = p * r + EXP_F32_C0;
#ifdef PROBE_SCALE_F32
    return PROBE_SCALE_F32(p, n);
#else
    return (VF)((VU32)p + ((VU32)shifted << 23));
#endif
}

static inline VD PROBE_NAME(expd)(VD v)
{
    const double magic = 0x1.8p52;
    VD shifted = v * EXP_F64_LOG2E + magic;
    VD n = shifted - magic;
    VD r = v - n * EXP_F64_LN2_HIGH;
    r = r - n * EXP_F64_LN2_LOW;
    VD p = r * EXP_F64_C10 + EXP_F64_C9;
    p = p * r + EXP_F64_C8;
    p = p * r + EXP_F64_C7;
    p = p * r + EXP_F64_C6;
    p = p * r + EXP_F64_C5;
    p = p * r + EXP_F64_C4;
    p = p * r + EXP_F64_C3;
    p = p * r + EXP_F64_C2;
    p = p * r + EXP_F64_C1;
    p = p * r + EXP_F64_C0;
#ifdef PROBE_SCALE_F64
    return PROBE_SCALE_F64(p, n);
#else
    return (VD)((VU64)p + ((VU64)shifted << 52));
#endif
}

/* Four independent vectors: the polynomial is one chain of about 40 cycles, so several must be in flight.
 * n is a multiple of four vectors of the widest table (probes.c checks). */
static double PROBE_NAME(exp_f32)(const float *x, ptrdiff_t n)
{
    VF sum[4] = {{0}};
    double total = 0.0;
    for (ptrdiff_t i = 0; i + 4 * FLOATS <= n; i += 4 * FLOATS)
        for (int k = 0; k < 4; k++) sum[k] += PROBE_NAME(expf)(LOAD_F(x + i + k * FLOATS));
    for (int k = 0; k < 4; k++)
        for (int lane = 0; lane < FLOATS; lane++) total += sum[k][lane];
    return total;
}

static double PROBE_NAME(exp_f64)(const double *x, ptrdiff_t n)
{
    VD sum[4] = {{0}};
    double total = 0.0;
    for (ptrdiff_t i = 0; i + 4 * DOUBLES <= n; i += 4 * DOUBLES)
        for (int k = 0; k < 4; k++) sum[k] += PROBE_NAME(expd)(LOAD_D(x + i + k * DOUBLES));
    for (int k = 0; k < 4; k++)
        for (int lane = 0; lane < DOUBLES; lane++) total += sum[k][lane];
    return total;
}

static const fastnll_probe_table PROBE_NAME(table) = {
    PROBE_LABEL,
#ifdef PROBE_STREAM
    1,
#else
    0,
#endif
    PROBE_NAME(read),
    PROBE_NAME(copy),
#ifdef PROBE_STREAM
    PROBE_NAME(stream),
#else
    PROBE_NAME(copy),
#endif
    PROBE_NAME(update),
    PROBE_NAME(exp_f32),
    PROBE_NAME(exp_f64),
};

#undef FLOATS
#undef DOUBLES
#undef VF
#undef VD
#undef VU32
#undef VU64
#undef LOAD_F
#undef LOAD_D
#undef STORE_F
#undef PROBE_BYTES
#undef PROBE_NAME
#undef PROBE_LABEL
#undef PROBE_STREAM
#undef PROBE_FENCE
#undef PROBE_SCALE_F32
#undef PROBE_SCALE_F64
