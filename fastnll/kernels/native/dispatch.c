/* What needs no instruction set: which tables this machine can run, the scan of targets. */
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

/* A class id is bad if, as an unsigned number, it is not below v: one comparison covers both ends. */
#define SCAN(name, type, wide)                                                                                       \
    static void name(const fnll_array *t, int64_t outer, int64_t inner, int64_t v, int has, int64_t ignore,         \
                     int64_t *n_ignored, int64_t *n_bad, int64_t *first) {                                           \
        int64_t ignored = 0, bad = 0;                                                                                \
        for (int64_t o = 0; o < outer; o++) {                                                                        \
            const type *row = (const type *)t->p + o * t->outer;                                                     \
            for (int64_t b = 0; b < inner; b += 4096) {                                                              \
                const int64_t end = inner - b < 4096 ? inner : b + 4096;                                             \
                int64_t i_count = 0, b_count = 0;                                                                    \
                if (t->inner == 1) {                                                                                 \
                    for (int64_t i = b; i < end; i++) {                                                              \
                        const int skip = has & (row[i] == (type)ignore);                                             \
                        i_count += skip;                                                                             \
                        b_count += ((uint64_t)(wide)row[i] >= (uint64_t)v) & !skip;                                  \
                    }                                                                                                \
                } else {                                                                                             \
                    for (int64_t i = b; i < end; i++) {                                                              \
                        const type x = row[i * t->inner];                                                            \
                        const int skip = has & (x == (type)ignore);                                                  \
                        i_count += skip;                                                                             \
                        b_count += ((uint64_t)(wide)x >= (uint64_t)v) & !skip;                                       \
                    }                                                                                                \
                }                                                                                                    \
                if (b_count && !bad)                                                                                 \
                    for (int64_t i = b; i < end; i++) {                                                              \
                        const type x = row[i * t->inner];                                                            \
                        if (!(has & (x == (type)ignore)) && (uint64_t)(wide)x >= (uint64_t)v) {                      \
                            *first = o * inner + i;                                                                  \
                            break;                                                                                   \
                        }                                                                                            \
                    }                                                                                                \
                ignored += i_count;                                                                                  \
                bad += b_count;                                                                                      \
            }                                                                                                        \
        }                                                                                                            \
        *n_ignored = ignored;                                                                                        \
        *n_bad = bad;                                                                                                \
    }
SCAN(scan_u8, uint8_t, uint64_t)
SCAN(scan_i8, int8_t, int64_t)
SCAN(scan_u16, uint16_t, uint64_t)
SCAN(scan_i16, int16_t, int64_t)
SCAN(scan_u32, uint32_t, uint64_t)
SCAN(scan_i32, int32_t, int64_t)
SCAN(scan_u64, uint64_t, uint64_t)
SCAN(scan_i64, int64_t, int64_t)

void fnll_scan(const fnll_array *t, int code, int64_t outer, int64_t inner, int64_t v, int has_ignore,
               int64_t ignore, int64_t *n_ignored, int64_t *n_bad, int64_t *first) {
    static void (*const scans[])(const fnll_array *, int64_t, int64_t, int64_t, int, int64_t, int64_t *, int64_t *,
                                 int64_t *) = {scan_u8,  scan_i8,  scan_u16, scan_i16,
                                               scan_u32, scan_i32, scan_u64, scan_i64};
    *first = -1;
    scans[code](t, outer, inner, v, has_ignore, ignore, n_ignored, n_bad, first);
}
