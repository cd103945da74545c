/* AVX-512 with conversions to bfloat16 (Cooper Lake, Zen 4 and later): the rows of that type; dispatch.c takes the others from
 * AVX-512, and SGD too, for the instruction flushes subnormal numbers and parameters keep theirs.
 */
#include "native.h"
#if defined(FNLL_HAS_BF16)
#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c,bmi2,prfchw"))), apply_to = function)
#else
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx512bf16,avx2,fma,f16c,bmi2,prfchw")
#endif
#define BF16_ALONE fnll_bf16_avx512
#define VBYTES 64
#define HAS_FMA 1
#include "table.h"
#ifdef __clang__
#pragma clang attribute pop
#endif
#else
typedef int fnll_no_avx512_bf16;
#endif
