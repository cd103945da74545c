/* How the work of a call is cut into items and dealt to OpenMP threads. Results are per row or per block of rows, so that the
 * order in which threads take items cannot change a bit of them.
 */
#include "native.h"

#include <stdlib.h>

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

int64_t fnll_row_scratch(int64_t v) {
    const int64_t row = fnll_room(v) * (int64_t)sizeof(double), kept = v > FNLL_KEEP_MOST ? 0 : row;
    return v <= FNLL_STACK ? 0 : 4 * row + 2 * (kept > FNLL_KEEP_BYTES ? kept : FNLL_KEEP_BYTES);
}

/* Memory for scratch, and where its first cache line starts. */
static void *allocate(int64_t bytes) { return malloc((size_t)bytes + 64); }
static char *first_line(void *memory) { return (char *)(((uintptr_t)memory + 63) & ~(uintptr_t)63); }

/* Bytes that a thread needs. */
static int64_t scratch_of(const fnll_task *task) {
    const int64_t kept = task->v <= FNLL_COLUMNS_KEEP ? task->v * FNLL_COLUMNS * (int64_t)sizeof(double) : 0;
    return fnll_row_scratch(task->v) + (fnll_is_columns(task) ? kept : 0);
}

/* How many rows an item has: a multiple of FNLL_ROWS, or a divisor of it where rows are long or few. */
static int64_t rows_per_item(const fnll_task *task, int itemsize, int threads) {
    const int64_t n = task->outer * task->inner;
    if (fnll_is_columns(task)) return n >= FNLL_COLUMNS * threads ? FNLL_COLUMNS : FNLL_ROWS;
    if (threads == 1) return (n + FNLL_ROWS) / FNLL_ROWS * FNLL_ROWS; /* all of them: nobody to deal to */
    /* Enough items that a core which others disturb can be relieved, each large enough to be worth dealing. */
    int64_t rows = (256 << 10) / (task->v * itemsize) / FNLL_ROWS * FNLL_ROWS;
    if (rows > n / (8 * threads) / FNLL_ROWS * FNLL_ROWS) rows = n / (8 * threads) / FNLL_ROWS * FNLL_ROWS;
    if (rows >= FNLL_ROWS) return rows;
    rows = FNLL_ROWS; /* and enough rows that writing one can hide behind reading the next */
    while (rows > 1 && ((rows > 16 && rows * task->v * itemsize > (1 << 20)) || n < rows * 8 * threads)) rows /= 2;
    return rows;
}

/* How many pieces each row is cut into; 1 where rows are not: only contiguous ones are, without options that look at a whole row
 * twice. */
static int64_t pieces_of(const fnll_task *t, int threads) {
    const int64_t n = t->outer * t->inner, blocks = (t->v + FNLL_BLOCK - 1) / FNLL_BLOCK;
    if (threads == 1 || n >= 4 * threads || blocks < 8 || n == 0) return 1;
    if (t->op == FNLL_GATHER || t->row_weight || t->x.cls != 1 || (t->out.p && t->out.cls != 1) || t->smoothing != 0.0 ||
        t->z_loss != 0.0 || t->temperature != 1.0 || t->softcap != 0.0 || t->mask.p || t->q.p || t->ids || t->entropy || t->argmax ||
        t->rank || (t->op == FNLL_CROSS_ENTROPY && (!t->t.p || t->lse)))
        return 1;
    return least(blocks / 2, 8 * threads);
}

/* Sums of blocks of rows [r0, r1), from the losses of rows, loss[0] being that of row r0. Each is four sums of every fourth row: one
 * alone would wait for each addition. */
static void sum_blocks(const double *loss, int64_t r0, int64_t r1, double *sums) {
    for (int64_t r = r0; r < r1; r += FNLL_ROWS) {
        const int64_t n = least(r1, r + FNLL_ROWS) - r;
        const double *x = loss + (r - r0);
        double s[4] = {0.0, 0.0, 0.0, 0.0};
        int64_t i = 0;
        for (; i + 4 <= n; i += 4)
            for (int q = 0; q < 4; q++) s[q] += x[i + q];
        for (int q = 0; i < n; i++, q++) s[q] += x[i];
        sums[r / FNLL_ROWS] = (s[0] + s[1]) + (s[2] + s[3]);
    }
}

/* Rows [r0, r1), and the sums of their blocks where wanted. */
static void run_item(const fnll_kernels *kernels, const fnll_task *task, int64_t r0, int64_t r1, double *sums, void *scratch) {
    if (!sums) {
        kernels->rows(task, r0, r1, scratch);
        return;
    }
    double buffer[FNLL_ROWS];
    for (int64_t r = r0; r < r1; r += FNLL_ROWS) {
        const int64_t end = least(r1, r + FNLL_ROWS);
        fnll_task part = *task;
        if (!task->loss) part.loss = buffer, part.loss_from = r;
        kernels->rows(&part, r, end, scratch);
        sum_blocks(part.loss + (r - part.loss_from), r, end, sums);
    }
}

/* Fewer rows than keep all threads at work: cut rows into runs of blocks. The task has a place for losses. */
static int run_split(const fnll_kernels *kernels, const fnll_task *task, int threads, int64_t pieces) {
    const int64_t n = task->outer * task->inner, blocks = (task->v + FNLL_BLOCK - 1) / FNLL_BLOCK, items = n * pieces;
    const int64_t bytes = scratch_of(task);
    fnll_block *state = malloc((size_t)(n * blocks) * sizeof *state);
    double *scalars = malloc((size_t)(n * FNLL_COEFFICIENTS) * sizeof *scalars);
    int *done = malloc((size_t)n * sizeof *done);
    void *memory = allocate(bytes);
    const int failed = !state || !scalars || !done || !memory;
    if (!failed) {
#pragma omp parallel for num_threads(threads) schedule(static)
        for (int64_t i = 0; i < items; i++) {
            const int64_t r = i / pieces, part = i % pieces;
            kernels->split_stats(task, r, blocks * part / pieces, blocks * (part + 1) / pieces, state + r * blocks);
        }
        for (int64_t r = 0; r < n; r++) {
            done[r] = kernels->split_merge(task, r, state + r * blocks, scalars + r * FNLL_COEFFICIENTS);
            if (!done[r]) kernels->rows(task, r, r + 1, first_line(memory));
        }
        if (task->out.p) {
#pragma omp parallel for num_threads(threads) schedule(static)
            for (int64_t i = 0; i < items; i++) {
                const int64_t r = i / pieces, part = i % pieces;
                if (done[r])
                    kernels->split_emit(task, r, blocks * part / pieces, blocks * (part + 1) / pieces, scalars + r * FNLL_COEFFICIENTS);
            }
        }
    }
    free(state);
    free(scalars);
    free(done);
    free(memory);
    return !failed;
}

int fnll_run(const fnll_kernels *kernels, const fnll_task *given, int itemsize, int threads, double *sums) {
    fnll_task task = *given;
    const int64_t n = task.outer * task.inner, pieces = pieces_of(&task, threads), rows = rows_per_item(&task, itemsize, threads);
    const int64_t items = (n + rows - 1) / rows, bytes = scratch_of(&task);
    /* Blocks of rows are summed as they are done, or afterwards where items are not made of whole ones or must not be cut. */
    const int afterwards = sums && (pieces > 1 || rows < FNLL_ROWS || fnll_is_columns(&task));
    double *losses = 0;
    int done = 1;
    if (n == 0) return 1;
    if (items < threads && pieces == 1) threads = (int)items;
    if (afterwards && !task.loss) {
        task.loss = losses = malloc((size_t)n * sizeof *losses);
        if (!losses) return 0;
    }
    double *beside = afterwards ? 0 : sums;
    if (pieces > 1) {
        done = run_split(kernels, &task, threads, pieces);
    } else {
        void *memory = allocate(bytes * threads);
        char *scratch = first_line(memory);
        done = memory != 0;
        if (done && threads == 1)
            for (int64_t i = 0; i < items; i++) run_item(kernels, &task, i * rows, least(n, (i + 1) * rows), beside, bytes ? scratch : 0);
        else if (done) {
#pragma omp parallel num_threads(threads)
            {
                char *mine = bytes ? scratch + bytes * fnll_thread() : 0;
#pragma omp for schedule(dynamic)
                for (int64_t i = 0; i < items; i++) run_item(kernels, &task, i * rows, least(n, (i + 1) * rows), beside, mine);
            }
        }
        free(memory);
    }
    if (done && afterwards) sum_blocks(task.loss, 0, n, sums);
    free(losses);
    return done;
}

int fnll_run_vjp(const fnll_kernels *kernels, const fnll_task *task, int log, int itemsize, int threads) {
    const int64_t n = task->outer * task->inner, bytes = fnll_row_scratch(task->v), rows = rows_per_item(task, itemsize, threads);
    const int64_t items = (n + rows - 1) / rows;
    if (n == 0) return 1;
    if (items < threads) threads = (int)items;
    void *memory = allocate(bytes * threads);
    if (!memory) return 0;
    char *scratch = first_line(memory);
    if (threads == 1)
        kernels->vjp(task, log, 0, n, bytes ? scratch : 0);
    else {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
        for (int64_t i = 0; i < items; i++)
            kernels->vjp(task, log, i * rows, least(n, (i + 1) * rows), bytes ? scratch + bytes * fnll_thread() : 0);
    }
    free(memory);
    return 1;
}

void fnll_run_sgd(const fnll_kernels *kernels, const fnll_sgd *u, char *param, const char *grad, char *buffer, int64_t n, int64_t size,
                  int threads) {
    const int64_t chunk = 1 << 15, items = (n + chunk - 1) / chunk;
    if (threads == 1) {
        kernels->sgd(u, param, grad, buffer, n);
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < items; i++) {
        const int64_t at = i * chunk * size;
        kernels->sgd(u, param + at, grad + at, buffer ? buffer + at : 0, least(chunk, n - i * chunk));
    }
}

int fnll_run_scan(const fnll_table *table, const fnll_array *t, int code, int64_t itemsize, int64_t outer, int64_t inner, int64_t v,
                  int has_ignore, int64_t ignore, int threads, int64_t found[3]) {
    const int64_t rows = 1 << 16, parts = (inner + rows - 1) / rows;
    if (threads == 1 || outer != 1 || parts < 2) {
        table->scan(t, code, outer, inner, v, has_ignore, ignore, &found[0], &found[1], &found[2]);
        return 1;
    }
    int64_t *each = malloc((size_t)(3 * parts) * sizeof *each);
    if (!each) return 0;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < parts; i++) {
        fnll_array part = *t;
        part.p = (char *)t->p + i * rows * t->inner * itemsize;
        table->scan(&part, code, 1, least(rows, inner - i * rows), v, has_ignore, ignore, each + 3 * i, each + 3 * i + 1,
                    each + 3 * i + 2);
    }
    /* The first bad one is that of the first part with any. */
    found[0] = found[1] = 0, found[2] = -1;
    for (int64_t i = 0; i < parts; i++) {
        found[0] += each[3 * i];
        found[1] += each[3 * i + 1];
        if (found[2] < 0 && each[3 * i + 2] >= 0) found[2] = i * rows + each[3 * i + 2];
    }
    free(each);
    return 1;
}
