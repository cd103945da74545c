/* AVX2 with FMA and F16C (Haswell, Zen and later). */
#if defined(__x86_64__)
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi2,prfchw"))), apply_to = function)
#else
#pragma GCC target("avx2,fma,f16c,bmi2,prfchw")
#endif
#define TABLE fnll_linear_avx2
#define TABLE_NAME "avx2"
#define VBYTES 32
#define HAS_FMA 1
#include "products_table.h"
#ifdef __clang__
#pragma clang attribute pop
#endif
#else
typedef int fnll_no_linear_avx2;
#endif
