/* AMX: AVX-512 with tile registers for bfloat16 (Sapphire Rapids and later). */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c,bmi2,prfchw,amx-tile,amx-bf16")
#define TABLE fnll_linear_amx
#define TABLE_NAME "amx"
#define VBYTES 64
#define HAS_FMA 1
#define HAS_TILES 1
#include "products_table.h"
#else
typedef int fnll_no_linear_amx;
#endif
