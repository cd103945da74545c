/* AVX-512 F, DQ, BW and VL (Skylake-X, Zen 4 and later). */
#if defined(__x86_64__)
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c,bmi2,prfchw"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c,bmi2,prfchw")
#endif
#define TABLE fnll_linear_avx512
#define TABLE_NAME "avx512"
#define VBYTES 64
#define HAS_FMA 1
#include "products_table.h"
#ifdef __clang__
#pragma clang attribute pop
#endif
#else
typedef int fnll_no_linear_avx512;
#endif
