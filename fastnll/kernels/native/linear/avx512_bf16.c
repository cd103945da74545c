/* AVX-512 with products of bfloat16 (Cooper Lake, Zen 4 and later). */
#include "native.h"
#if defined(FNLL_HAS_BF16)
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c,bmi2,prfchw"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c,bmi2,prfchw")
#endif
#define TABLE fnll_linear_avx512_bf16
#define TABLE_NAME "avx512_bf16"
#define VBYTES 64
#define HAS_FMA 1
#define HAS_PAIRS 1
#include "products_table.h"
#ifdef __clang__
#pragma clang attribute pop
#endif
#else
typedef int fnll_no_linear_avx512_bf16;
#endif
