/* The names of one compute type, for the file that includes this: T is f32 or f64, T_IS_F64 says which. */
#undef VEC
#undef IVEC
#undef W
#undef F
#undef REAL
#undef INT
#undef MAGIC
#undef LOG2E
#undef SPECULATE
#undef LEAST
#undef LIMIT
#undef LN2_HI
#undef LN2_MID
#undef LN2_LO
#undef LN2_SHORT
#undef LN2_REST

#define VEC CAT(v_, T)
#define IVEC CAT(i_, T)
#define W CAT(W_, T)
#define F(name) CAT(name##_, T)

#if T_IS_F64
#define REAL double
#define INT int64_t
#define MAGIC 0x1.8p52
#define LOG2E 0x1.71547652b82fep+0
#define LN2_SHORT 0x1.62e42feep-1
#define LN2_REST 0x1.a39ef35793c76p-33
#define SPECULATE 0x1p900
#define LEAST 0x1p-500
#else
#define REAL float
#define INT int32_t
#define MAGIC 0x1.8p23f
#define LOG2E 0x1.715476p+0f
#define LN2_SHORT 0x1.62e4p-1f
#define LN2_REST 0x1.7f7d1cp-20f
#define SPECULATE 0x1p100
#define LEAST 0x1p-60
#endif
/* ln 2 = LN2_SHORT + LN2_REST: the product of the first with any exponent is exact without fma. */

/* Largest |x| for which the reduction is exact; beyond, rows take the careful path that subtracts their maximum. */
#if T_IS_F64
#if HAS_FMA
#define LIMIT 0x1p40
#define LN2_HI 0x1.62e42fefa39efp-1
#define LN2_LO 0x1.abc9e3b39803fp-56
#else
#define LIMIT 0x1p19
#define LN2_HI 0x1.62e42ff000000p-1
#define LN2_LO -0x1.718432a1b0e26p-35
#endif
#else
#if HAS_FMA
#if HAS_POWERS
#define LIMIT 0x1p17f /* x log2 e in sixteenths takes four bits more */
#else
#define LIMIT 0x1p19f
#endif
#define LN2_HI 0x1.62e43p-1f
#define LN2_LO -0x1.05c61p-29f
#else
#define LIMIT 0x1p12f
#define LN2_HI 0x1.63p-1f
#define LN2_MID -0x1.bdp-13f
#define LN2_LO -0x1.05c61p-29f
#endif
#endif
