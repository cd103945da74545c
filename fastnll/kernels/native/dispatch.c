/* Which tables this machine can run. */
#include "native.h"

#include <stddef.h>

extern const fnll_table fnll_table_baseline;
#if defined(__x86_64__)
extern const fnll_table fnll_table_avx2, fnll_table_avx512;
#ifdef FNLL_HAS_BF16
extern const fnll_kernels fnll_bf16_avx512;

/* AVX-512 with kernels of bfloat16 of its own. */
static const fnll_table *avx512_bf16(void) {
    static fnll_table table;
    fnll_kernels *bf16 = &table.storage[FNLL_BF16];
    table = fnll_table_avx512;
    table.name = "avx512_bf16";
    *bf16 = fnll_bf16_avx512;
    bf16->sgd = fnll_table_avx512.storage[FNLL_BF16].sgd;
    return &table;
}
#endif
#endif

int fnll_tables(const fnll_table **tables, int most) {
    int n = 0;
    if (n < most) tables[n++] = &fnll_table_baseline;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (n < most && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
        tables[n++] = &fnll_table_avx2;
    if (n < most && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        tables[n++] = &fnll_table_avx512;
#ifdef FNLL_HAS_BF16
    if (n < most && tables[n - 1] == &fnll_table_avx512 && __builtin_cpu_supports("avx512bf16")) tables[n++] = avx512_bf16();
#endif
#endif
    return n;
}
