/* Which tables of products this machine can run: those of the other dispatch.c, by the same tests, and AMX. */
#define _GNU_SOURCE
#include "linear.h"

#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
#define HAS_AMX 1
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

extern const fnll_linear_table fnll_linear_amx;

/* Whether the machine has AMX for bfloat16 and Linux lets this process use it, which has to be asked for (5.16 and later). */
static int has_amx(void) {
    const int request_permission = 0x1023, tile_data = 18;
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & 1u << 22) || !(d & 1u << 24)) return 0;
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
}
#endif

extern const fnll_linear_table fnll_linear_baseline;
#if defined(__x86_64__)
extern const fnll_linear_table fnll_linear_avx2, fnll_linear_avx512;
#ifdef FNLL_HAS_BF16
extern const fnll_linear_table fnll_linear_avx512_bf16;
#endif
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
    const int avx512 = tables[n - 1] == &fnll_linear_avx512;
    (void)avx512;
#ifdef FNLL_HAS_BF16
    if (n < most && avx512 && __builtin_cpu_supports("avx512bf16")) tables[n++] = &fnll_linear_avx512_bf16;
#endif
#ifdef HAS_AMX
    if (n < most && avx512 && has_amx()) tables[n++] = &fnll_linear_amx;
#endif
#endif
    return n;
}
