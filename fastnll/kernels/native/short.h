/* Contiguous rows without transforms that are one block, as many at a time as a vector of float64 has lanes; one instance per
 * storage dtype. Exponentials are kept from the sums to the output: of so few and short rows they stay in the first-level cache.
 * Output that bypasses the caches is put together there too: where rows end within a line, it goes out with the next one's start,
 * beside the sums of the next rows.
 */
#undef SHORT
#define SHORT 1024 /* classes: with 8 rows of float32, 32 KB */
#define UNIT (4 * W)

/* The output of a group, one row behind the other at `from`, as an emission of whole units to whole lines. What is left at its
 * end waits in front of the next group's, whose output begins at `next`. */
static int64_t S(join)(S(emission) *e, STYPE *to, REAL *from, int64_t n, int64_t waiting, REAL *next) {
    from -= waiting, to -= waiting, n += waiting;
    int64_t head = (int64_t)((-(uintptr_t)to & (VBYTES - 1)) / sizeof(STYPE)); /* 0 but for a range's first group */
    if (head > n) head = n;
    for (int64_t q = 0; q < head; q++) S(put)(to + q, from[q]);
    const int64_t left = (n - head) % UNIT;
    *e = (S(emission)){.kept = from + head, .out = to + head, .whole = n - head - left, .n = n - head - left, .hole = -1,
                       .scale = F(set)(1), .shift = F(set)((REAL)-0.0), .mode = FROM_KEPT, .bypass = 1};
    memcpy(next - left, from + n - left, (size_t)left * sizeof(REAL));
    return left;
}

inline_always void S(short_range)(const fnll_task *task, int64_t r0, int64_t r1, REAL *scratch, const int ce, const int keep,
                                  const int joins) {
    const int64_t v = task->v;
    const int log = task->op == FNLL_LOG_SOFTMAX;
    REAL *sides[2] = {scratch + 4 * v + UNIT, scratch + (4 + W_f64) * v + 2 * UNIT}, *kept = sides[0];
    S(emission) before = {0};
    int64_t waiting = 0;
    int64_t o = r0 / task->inner, i = r0 % task->inner;
    for (int64_t g = r0; g < r1; g += W_f64) {
        const int m = (int)(r1 - g < W_f64 ? r1 - g : W_f64);
        const STYPE *x[W_f64];
        STYPE *out[W_f64];
        int64_t t[W_f64];
        double k[W_f64], others[W_f64], x_t[W_f64];
        int plain[W_f64];
        for (int j = 0; j < W_f64; j++) {
            k[j] = x_t[j] = 0.0, others[j] = 1.0, t[j] = -1, plain[j] = 0;
            if (j >= m) continue;
            x[j] = (const STYPE *)task->x.p + o * task->x.outer + i * task->x.inner;
            out[j] = joins ? (STYPE *)(kept + j * v) : (STYPE *)task->out.p + o * task->out.outer + i * task->out.inner;
            if (ce && !(task->row_weight && task->row_weight[g + j] == 0.0)) t[j] = read_target(task, o, i);
            if (++i == task->inner) i = 0, o++;
            if (ce && (t[j] < 0 || t[j] >= v)) continue;
            fnll_block row = {0.0, S(block_sum)(x[j], v, 0, t[j], kept + j * v, 0, &before, 0, keep, 0,
                                             joins ? FROM_KEPT : NOTHING, joins)};
            if (!(row.sum >= LEAST && row.sum < (double)SPECULATE)) row = S(block)(x[j], v, t[j], keep ? kept + j * v : 0, 0, 0);
            const double at = ce ? (double)S(get)(x[j] + t[j]) : 0.0;
            if (!is_plain(row, at, ce, (double)LIMIT)) continue;
            k[j] = row.k, others[j] = row.sum, x_t[j] = at, plain[j] = 1;
        }
        vector_scalars u;
        finish_vector(load_f64(k), load_f64(others), load_f64(x_t), ce, &u);
        fnll_task to = *task; /* the same, with the output where it is put together */
        if (joins) to.stream = FNLL_STREAM_NONE, to.out.outer = to.out.inner = 0;
        for (int j = 0; j < m; j++) {
            const int64_t r = g + j;
            if (joins) to.out.p = out[j];
            if (!plain[j]) {
                S(general_row)(&to, r, scratch);
                continue;
            }
            row_scalars s = scalars_of(&u, j);
            S(parts) p = {0.0, 1.0, 0.0, 0.0};
            if (ce) p = S(row_parts)(task, r, &s, 0.0);
            fnll_block row = {k[j], others[j]}, each = row;
            if (log) {
                t[j] = S(sure_class)(x[j], v, &each, &row, &s);
                p.value = -s.nll;
            }
            if (task->loss) task->loss[r - task->loss_from] = p.loss;
            if (task->lse) task->lse[r] = s.lse;
            if (!task->out.p) continue;
            S(emission) e;
            S(emit_set)(&to, x[j], keep ? kept + j * v : 0, &each, out[j], &s, t[j], p.scale, p.shift, p.value, &e);
            S(emit_end)(&e);
        }
        if (joins) {
            S(emit_end)(&before);
            REAL *next = kept == sides[0] ? sides[1] : sides[0];
            waiting = S(join)(&before, (STYPE *)task->out.p + g * v, kept, m * v, waiting, next);
            kept = next;
        }
    }
    if (!joins) return;
    S(emit_end)(&before);
    for (int64_t q = 0; q < waiting; q++) S(put)((STYPE *)task->out.p + r1 * v - waiting + q, kept[q - waiting]);
}

static void S(short_rows)(const fnll_task *task, int64_t r0, int64_t r1, REAL *scratch) {
    const int ce = task->op == FNLL_CROSS_ENTROPY;
#if !S_IS_16
    if (task->stream == FNLL_STREAM_JOINED) {
        if (task->op == FNLL_LOG_SOFTMAX)
            S(short_range)(task, r0, r1, scratch, 0, 0, 1);
        else
            ce ? S(short_range)(task, r0, r1, scratch, 1, 1, 1) : S(short_range)(task, r0, r1, scratch, 0, 1, 1);
        return;
    }
#endif
    if (task->out.p && task->op != FNLL_LOG_SOFTMAX)
        ce ? S(short_range)(task, r0, r1, scratch, 1, 1, 0) : S(short_range)(task, r0, r1, scratch, 0, 1, 0);
    else
        ce ? S(short_range)(task, r0, r1, scratch, 1, 0, 0) : S(short_range)(task, r0, r1, scratch, 0, 0, 0);
}
#undef UNIT
