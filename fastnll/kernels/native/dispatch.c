/* What needs no instruction set: which tables this machine can run, how work is dealt, the scan of targets. */
#include "native.h"

#include <stddef.h>

extern const fnll_table fnll_table_baseline;
#if defined(__x86_64__)
extern const fnll_table fnll_table_avx2, fnll_table_avx512;
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
#endif
    return n;
}

int64_t fnll_row_scratch(int64_t v) {
    const int64_t kept = v > FNLL_KEEP_MOST ? 0 : v * (int64_t)sizeof(double);
    return v <= FNLL_STACK ? 0 : 4 * v * (int64_t)sizeof(double) + 2 * (kept > FNLL_KEEP_BYTES ? kept : FNLL_KEEP_BYTES);
}

int64_t fnll_scratch(const fnll_task *task) {
    const int64_t kept = task->v <= FNLL_COLUMNS_KEEP ? task->v * FNLL_COLUMNS * (int64_t)sizeof(double) : 0;
    return fnll_row_scratch(task->v) + (fnll_is_columns(task) ? kept : 0);
}

void fnll_item(const fnll_kernels *kernels, const fnll_task *task, int64_t rows_per_item, int64_t item,
               double *block_sums, void *scratch) {
    const int64_t n = task->outer * task->inner, r0 = item * rows_per_item;
    const int64_t r1 = r0 + rows_per_item < n ? r0 + rows_per_item : n;
    if (!block_sums) {
        kernels->rows(task, r0, r1, scratch);
        return;
    }
    double buffer[FNLL_ROWS];
    for (int64_t r = r0; r < r1; r += FNLL_ROWS) {
        const int64_t end = r + FNLL_ROWS < r1 ? r + FNLL_ROWS : r1;
        fnll_task part = *task;
        if (!task->loss) {
            part.loss = buffer;
            part.loss_from = r;
        }
        kernels->rows(&part, r, end, scratch);
        double sum = 0.0;
        for (int64_t i = r; i < end; i++) sum += part.loss[i - part.loss_from];
        block_sums[r / FNLL_ROWS] = sum;
    }
}

int64_t fnll_rows_per_item(const fnll_task *task, int itemsize, int threads) {
    const int64_t n = task->outer * task->inner;
    if (fnll_is_columns(task)) return n >= FNLL_COLUMNS * threads ? FNLL_COLUMNS : FNLL_ROWS;
    /* Enough items that a core which others disturb can be relieved, each large enough to be worth dealing. */
    int64_t rows = (256 << 10) / (task->v * itemsize) / FNLL_ROWS * FNLL_ROWS;
    if (rows > n / (8 * threads) / FNLL_ROWS * FNLL_ROWS) rows = n / (8 * threads) / FNLL_ROWS * FNLL_ROWS;
    if (rows >= FNLL_ROWS) return rows;
    rows = FNLL_ROWS; /* and enough rows that writing one can hide behind reading the next */
    while (rows > 1 && ((rows > 16 && rows * task->v * itemsize > (256 << 10)) || n < rows * 8 * threads)) rows /= 2;
    return rows;
}

int64_t fnll_pieces(const fnll_task *task, int threads) {
    const int64_t n = task->outer * task->inner, blocks = (task->v + FNLL_BLOCK - 1) / FNLL_BLOCK;
    if (threads == 1 || n >= 4 * threads || blocks < 8 || n == 0) return 1;
    return blocks / 2 < 8 * threads ? blocks / 2 : 8 * threads;
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
