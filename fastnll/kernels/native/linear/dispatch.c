/* Which tables of products this machine can run: those of dispatch.c, by the same tests. */
#include "linear.h"

extern const fnll_linear_table fnll_linear_baseline;
#if defined(__x86_64__)
extern const fnll_linear_table fnll_linear_avx2, fnll_linear_avx512;
#endif

int fnll_linear_tables(const fnll_linear_table **tables, int most) {
    int n = 0;
    if (n < most) tables[n++] = &fnll_linear_baseline;
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (n < most && __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
        tables[n++] = &fnll_linear_avx2;
    if (n < most && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
        tables[n++] = &fnll_linear_avx512;
#endif
    return n;
}
