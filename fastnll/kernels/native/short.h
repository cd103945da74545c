/* Contiguous rows without transforms that are one block, in groups of at most as many as a vector of float64 has lanes; one
 * instance per storage dtype. A group's sums are finished together: one transposition adds the lanes of all, and logarithms, factors and
 * losses are vectors. Exponentials are kept from the sums to the output: of so few and short rows they stay in the first-level
 * cache. Output that bypasses the caches is put together there too: where rows end within a line, it goes out with the next one's
 * start, beside the sums of the next rows.
 */
#undef SHORT
#define SHORT FNLL_BLOCK
#define SHORT_BYTES (16 << 10) /* of exponentials: beside the logits of as many, what the first-level cache takes */
#define UNIT (4 * W)

/* The output of a group of rows, each v + gap behind the one before from `from` on, as an emission of whole units to whole lines. What
 * is left at its end waits in front of the next group's, whose output begins at `next`. */
static int64_t S(join)(S(emission) *e, STYPE *to, REAL *from, int64_t rows, int64_t v, int64_t gap, int64_t waiting, REAL *next) {
    const int64_t n = rows * v + waiting;
    from -= waiting, to -= waiting;
    int64_t head = (int64_t)((-(uintptr_t)to & (VBYTES - 1)) / sizeof(STYPE)); /* 0 but for a range's first group */
    if (head > n) head = n;
    for (int64_t q = 0; q < head; q++) S(put)(to + q, from[q]);
    const int64_t left = (n - head) % UNIT;
    *e = (S(emission)){.kept = from + head, .out = to + head, .whole = n - head - left, .n = n - head - left, .hole = -1,
                       .row = v, .gap = gap, .turn = gap ? waiting + v - head : INT64_MAX, .mode = JOINED, .bypass = 1};
    for (int64_t i = n - left; i < n;) {
        const int64_t row = i < waiting ? 0 : (i - waiting) / v, end = waiting + (row + 1) * v;
        memcpy(next - (n - i), from + i + row * gap, (size_t)(end - i) * sizeof(REAL));
        i = end;
    }
    return left;
}

/* A row's output. The target's value is stored afterwards, for a branch at it would be mispredicted once a row. */
inline_always void S(write_row)(const S(emission) e, const int mode) {
    int64_t i = 0;
    for (; i + UNIT <= e.n; i += UNIT)
        for (int q = 0; q < 4; q++) {
            if (e.ahead) S(ask_to_write)(e.out + i + q * W);
            S(st)(e.out + i + q * W, S(emit_value)(&e, i + q * W, W, mode));
        }
    for (; i + W <= e.n; i += W) S(st)(e.out + i, S(emit_value)(&e, i, W, mode));
    if (i < e.n) S(st_part)(e.out + i, S(emit_value)(&e, i, e.n - i, mode), e.n - i);
    if (e.hole >= 0) S(put)(e.out + e.hole, e.value);
}

inline_always void S(short_range)(const fnll_task *task, int64_t r0, int64_t r1, REAL *scratch, const int ce, const int keep,
                                  const int joins) {
    const int64_t v = task->v;
    const int log = task->op == FNLL_LOG_SOFTMAX;
    const int64_t step = fnll_room(v), fit = SHORT_BYTES / (step * (int64_t)sizeof(REAL));
    const int rows = !keep && !joins ? W_f64 : fit < 1 ? 1 : fit > W_f64 ? W_f64 : (int)fit;
    REAL *sides[2] = {scratch + 4 * step + UNIT, scratch + (4 + rows) * step + 2 * UNIT}, *kept = sides[0];
    S(emission) before = {0};
    fnll_task to = *task; /* the same, with the output where it is put together */
    if (joins) to.stream = FNLL_STREAM_NONE, to.out.outer = to.out.inner = 0;
    int64_t waiting = 0;
    int64_t o = r0 / task->inner, i = r0 % task->inner;
    for (int64_t g = r0; g < r1; g += rows) {
        const int m = (int)(r1 - g < rows ? r1 - g : rows);
        const STYPE *x[W_f64];
        STYPE *out[W_f64];
        int64_t t[W_f64];
        v_f64 lanes[W_f64], most;
        double k[W_f64], others[W_f64], x_t[W_f64], c[W_f64], f[W_f64];
        int plain[W_f64];
        for (int j = 0; j < W_f64; j++) {
            lanes[j] = set_f64(0);
            x_t[j] = f[j] = 0.0, c[j] = 1.0, t[j] = -1, plain[j] = 0;
            if (j >= m) continue;
            x[j] = (const STYPE *)task->x.p + o * task->x.outer + i * task->x.inner;
            out[j] = joins ? (STYPE *)(kept + j * step) : (STYPE *)task->out.p + o * task->out.outer + i * task->out.inner;
            if (ce && !(task->row_weight && task->row_weight[g + j] == 0.0)) t[j] = read_target(task, o, i);
            if (++i == task->inner) i = 0, o++;
            if (ce && (t[j] < 0 || t[j] >= v)) continue;
            lanes[j] = S(block_lanes)(x[j], v, 0, t[j], kept + j * step, 0, &before, 0, keep, 0, joins ? JOINED : NOTHING, joins);
            if (ce) x_t[j] = (double)S(get)(x[j] + t[j]);
            plain[j] = 1;
        }
        store_f64(others, sums_f64(lanes, &most));
        int all = m == W_f64; /* whether all are plain */
        for (int j = 0; j < W_f64; j++) {
            k[j] = 0.0;
            if (plain[j]) {
                fnll_block row = {0.0, others[j]};
                if (!(row.sum >= LEAST && row.sum < (double)SPECULATE)) row = S(block)(x[j], v, t[j], keep ? kept + j * step : 0, 0, 0);
                plain[j] = is_plain(row, x_t[j], ce, (double)LIMIT);
                k[j] = row.k, others[j] = row.sum;
            }
            if (!plain[j]) k[j] = x_t[j] = 0.0, others[j] = 1.0, all = 0;
        }
        vector_scalars u;
        finish_vector(load_f64(k), load_f64(others), load_f64(x_t), ce, !ce, &u);
        const int unweighted = all && ce && !task->row_weight && !task->target_weight;
        if (unweighted && task->loss) store_f64(task->loss + (g - task->loss_from), u.nll);
        if (unweighted && !task->out.p) continue;
        /* The factor of each row's probabilities and the gradient at its target. */
        double scale[W_f64], value[W_f64];
        if (ce && task->out.p)
            for (int j = 0; j < m; j++) {
                f[j] = gradient_factor(task, g + j);
                c[j] = task->target_weight ? task->target_weight[g + j] : 1.0;
            }
        const v_f64 factor = load_f64(f), weight = load_f64(c);
        store_f64(scale, scale2_f64((ce ? factor * weight : weight) * u.inverse, set_f64(0) - u.k));
        store_f64(value, factor * (set_f64(0) - weight * u.rest));
        for (int j = 0; j < m; j++) {
            const int64_t r = g + j;
            if (joins) to.out.p = out[j];
            if (!plain[j]) {
                S(general_row)(&to, r, scratch);
                continue;
            }
            if (ce && !unweighted && task->loss) {
                const double w = task->row_weight ? task->row_weight[r] : 1.0;
                const double loss = weight[j] != 0.0 ? weight[j] * u.nll[j] : 0.0; /* 0 * inf = 0 */
                task->loss[r - task->loss_from] = w != 0.0 && loss != 0.0 ? w * loss : 0.0;
            }
            if (task->lse) task->lse[r] = u.lse[j];
            if (!task->out.p) continue;
            const int directly = joins || !task->stream, ahead = !joins && (const STYPE *)out[j] != x[j];
            if (directly && keep && k[j] == 0.0 && u.k[j] >= 0.0 && u.k[j] <= 60.0) {
                S(write_row)((S(emission)){.kept = kept + j * step, .out = out[j], .n = v, .hole = t[j], .value = (REAL)value[j],
                                           .scale = F(set)((REAL)scale[j]), .shift = F(set)(0), .ahead = ahead}, FROM_KEPT);
                continue;
            }
            row_scalars s = scalars_of(&u, j);
            fnll_block row = {k[j], others[j]}, each = row;
            if (log && (k[j] != 0.0 || most[j] > 0.5 * others[j])) { /* else no lane has as much as such a class */
                t[j] = S(sure_class)(x[j], v, &each, &row, &s);
                value[j] = -s.nll;
            }
            S(emission) e;
            S(emit_set)(&to, x[j], keep ? kept + j * step : 0, &each, out[j], &s, t[j], ce ? f[j] * c[j] : 1.0, 0.0, value[j], &e);
            if (directly && log)
                S(write_row)(e, LOGARITHM);
            else
                S(emit_end)(&e);
        }
        if (joins) {
            S(emit_end)(&before);
            REAL *next = kept == sides[0] ? sides[1] : sides[0];
            waiting = S(join)(&before, (STYPE *)task->out.p + g * v, kept, m, v, step - v, waiting, next);
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
    if (task->stream && task->out.inner == task->v && (task->outer == 1 || task->out.outer == task->inner * task->v)) {
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
