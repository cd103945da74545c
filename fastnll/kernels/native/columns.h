/* Rows beside each other in memory: a class axis that is not the last. A tile of neighbouring rows runs class after class, each
 * row a lane, so memory is read in runs; exponentials are kept beside each other until the sums are known, so it is read once.
 * One instance per storage dtype.
 */
#undef COLUMNS_K
#undef COLUMNS_FAR
#undef COLUMNS_NEAR
#define COLUMNS_FAR 32 /* classes ahead that lines are asked for as far as the second-level cache, and all the way */
#define COLUMNS_NEAR 4
#define COLUMNS_K (-32) /* first reference: sums from 2^-32 to 2^68 need no other, and flush nothing that would have been a normal result */

typedef struct {
    REAL sum[FNLL_COLUMNS], k[FNLL_COLUMNS], target[FNLL_COLUMNS], scale[FNLL_COLUMNS], value[FNLL_COLUMNS], tail[FNLL_COLUMNS];
    REAL top[FNLL_COLUMNS];   /* the largest element, for log-probabilities */
    REAL leave[FNLL_COLUMNS]; /* 1: a row of weight 0, 2: one that is already written */
    double total[FNLL_COLUMNS];
} __attribute__((aligned(64))) S(columns);

/* Ask for a class of a tile as far as the second-level cache. */
inline_always void S(ask_columns)(const STYPE *p, int64_t m) {
    for (int64_t i = 0; i < m; i += 64 / (int64_t)sizeof(STYPE)) __builtin_prefetch(p + i, 0, 2);
}

/* Sums of m lanes, each relative to its own 2^k without its target's term; kept receives terms, or elements for a logarithm. Lines are
 * asked for some classes ahead, beyond the last those of the tile at `next`: a tile that lies in one piece is read in advance by the
 * processor itself, one in steps of hundreds of bytes is not. */
inline_always void S(column_sums)(const STYPE *x, int64_t stride, int64_t v, int64_t m, REAL *kept, S(columns) *u, const STYPE *next,
                                  const int keep, const int log) {
    const int64_t far = v < COLUMNS_FAR ? v : COLUMNS_FAR;
    memset(u->total, 0, sizeof u->total);
    for (int64_t i = 0; log && i < FNLL_COLUMNS; i++) u->top[i] = -INFINITY;
    for (int64_t b = 0; b < v; b += 64) { /* short runs, added up in float64 */
        const int64_t end = v - b < 64 ? v : b + 64;
        memset(u->sum, 0, sizeof u->sum);
        for (int64_t c = b; c < end; c++) {
            const VEC id = F(set)((REAL)c), zero = F(set)(0);
            if (stride > FNLL_COLUMNS) S(ask_columns)(c + far < v ? x + (c + far) * stride : next + (c + far - v) * stride, m);
            for (int64_t i = 0; i < m; i += W) {
                const STYPE *from = x + c * stride + i;
                __builtin_prefetch(from + COLUMNS_NEAR * stride);
                const VEC a = m - i >= W ? S(ld)(from) : S(ld_part)(from, m - i), e = F(exp2k)(a, F(load)(u->k + i));
                if (keep) F(store)(kept + c * FNLL_COLUMNS + i, log ? a : e);
                if (log) F(store)(u->top + i, F(max)(a, F(load)(u->top + i)));
                F(store)(u->sum + i, F(load)(u->sum + i) + F(where)(F(load)(u->target + i), id, zero, e));
            }
        }
        for (int64_t i = 0; i < m; i++) u->total[i] += (double)u->sum[i];
    }
}

/* References one below the maximum for lanes whose sum the first one left out of range. */
static void S(column_references)(const STYPE *x, int64_t stride, int64_t v, int64_t m, S(columns) *u) {
    REAL *top = u->sum;
    for (int64_t i = 0; i < FNLL_COLUMNS; i++) top[i] = -INFINITY;
    for (int64_t c = 0; c < v; c++)
        for (int64_t i = 0; i < m; i++) {
            const REAL a = S(get)(x + c * stride + i);
            if (a > top[i]) top[i] = a;
        }
    for (int64_t i = 0; i < m; i++)
        if (!(u->total[i] >= 1.0 && u->total[i] < (double)SPECULATE) && top[i] >= -LIMIT && top[i] <= LIMIT)
            u->k[i] = ((top[i] * (REAL)LOG2E + MAGIC) - MAGIC) - 1;
}

/* For log-probabilities: lanes in which one class takes most leave it out of their sum (see sure_class); returns whether any does. */
static int S(column_sure)(const STYPE *x, int64_t stride, int64_t v, int64_t m, S(columns) *u) {
    int any = 0;
    REAL e[FNLL_COLUMNS];
    for (int64_t i = 0; i < m; i += W) F(store)(e + i, F(exp2k)(F(load)(u->top + i), F(load)(u->k + i)));
    for (int64_t i = 0; i < m; i++) any |= (double)e[i] > 0.5 * u->total[i] && u->total[i] < (double)SPECULATE;
    if (!any) return 0;
    for (int64_t c = 0; c < v; c++)
        for (int64_t i = 0; i < m; i++)
            if ((double)e[i] > 0.5 * u->total[i] && u->target[i] < 0 && S(get)(x + c * stride + i) == u->top[i]) u->target[i] = (REAL)c;
    return 1;
}

inline_always void S(column_emit)(const fnll_task *task, const STYPE *x, STYPE *out, int64_t m, const REAL *kept, const S(columns) *u,
                                  const STYPE *next, const int keep, const int log, const int leave) {
    const VEC zero = F(set)(0), one = F(set)(1);
    const int64_t far = task->v < COLUMNS_FAR ? task->v : COLUMNS_FAR;
    for (int64_t c = 0; c < task->v; c++) {
        const VEC id = F(set)((REAL)c);
        if (task->out.cls > FNLL_COLUMNS && out != x) /* else they were read */
            S(ask_columns)(c + far < task->v ? out + (c + far) * task->out.cls : next + (c + far - task->v) * task->out.cls, m);
        if (task->x.cls > FNLL_COLUMNS && !keep && c + far < task->v) S(ask_columns)(x + (c + far) * task->x.cls, m);
        for (int64_t i = 0; i < m; i += W) {
            STYPE *to = out + c * task->out.cls + i;
            const STYPE *from = x + c * task->x.cls + i;
            const int64_t width = m - i < W ? m - i : W;
            __builtin_prefetch(to + COLUMNS_NEAR * task->out.cls, 1);
            VEC g = keep ? F(load)(kept + c * FNLL_COLUMNS + i) : width == W ? S(ld)(from) : S(ld_part)(from, width);
            if (log) {
                g = -F(max)(zero, F(load)(u->tail + i) - F(less_k)(g, F(load)(u->k + i)));
                g = F(where)(F(load)(u->target + i), id, F(load)(u->value + i), g);
            } else {
                if (!keep) g = F(exp2k)(g, F(load)(u->k + i));
                g = F(where)(F(load)(u->target + i), id, F(load)(u->value + i), g * F(load)(u->scale + i));
            }
            if (leave) {
                const VEC l = F(load)(u->leave + i);
                g = F(select)((IVEC)(l == one), zero, g);
                g = F(select)((IVEC)(l > one), width == W ? S(ld)(to) : S(ld_part)(to, width), g);
            }
            if (width == W)
                S(st)(to, g);
            else
                S(st_part)(to, g, width);
        }
    }
}

/* Scalars of m lanes: losses, and what the second sweep needs. Returns whether any lane is to be left out of it. */
static int S(column_scalars)(const fnll_task *task, int64_t r0, int64_t m, const STYPE *x, S(columns) *u, REAL *scratch) {
    const int ce = task->op == FNLL_CROSS_ENTROPY, log = task->op == FNLL_LOG_SOFTMAX;
    int left = 0;
    for (int64_t i = 0; i < m; i += GROUP) {
        const int n = (int)(m - i < GROUP ? m - i : GROUP);
        fnll_block row[GROUP];
        double x_t[GROUP];
        row_scalars s[GROUP];
        for (int j = 0; j < n; j++) {
            row[j] = (fnll_block){u->k[i + j], u->total[i + j]};
            if (!(row[j].sum < INFINITY)) row[j].k = NAN;
            x_t[j] = u->target[i + j] >= 0 ? (double)S(get)(x + (int64_t)u->target[i + j] * task->x.cls + i + j) : log ? -INFINITY : 0.0;
        }
        finish(n, row, x_t, ce || log, !ce, s);
        for (int j = 0; j < n; j++) {
            const int64_t l = i + j, r = r0 + l;
            if (u->leave[l] == 1) {
                left = 1;
                if (task->loss) task->loss[r - task->loss_from] = 0.0;
                continue;
            }
            if ((ce && u->target[l] < 0) || !is_plain(row[j], x_t[j], ce || log, (double)LIMIT)) {
                u->leave[l] = 2;
                left = 1;
                S(general_row)(task, r, scratch);
                continue;
            }
            S(parts) p = {0.0, 1.0, 0.0, 0.0};
            if (ce) p = S(row_parts)(task, r, &s[j], 0.0);
            if (task->loss) task->loss[r - task->loss_from] = p.loss;
            if (task->lse) task->lse[r] = s[j].lse;
            const double up = s[j].k - (double)u->k[l]; /* exact powers that would leave the range went to general_row */
            u->scale[l] = (REAL)(p.scale * s[j].inverse * (up >= 0.0 ? power2(-up) : 1.0 / power2(up)));
            u->value[l] = (REAL)(log ? -s[j].nll : p.value);
            u->tail[l] = (REAL)s[j].tail;
            if (log) u->k[l] = (REAL)s[j].k;
        }
    }
    return left;
}

/* Rows r0 .. r0+m-1 of one outer index; `kept` has room for v * FNLL_COLUMNS numbers or is NULL. */
static void S(column_tile)(const fnll_task *task, int64_t r0, int64_t m, REAL *scratch, REAL *kept) {
    S(columns) u;
    const int ce = task->op == FNLL_CROSS_ENTROPY, log = task->op == FNLL_LOG_SOFTMAX;
    const int64_t o = r0 / task->inner, i0 = r0 % task->inner, v = task->v, stride = task->x.cls;
    const STYPE *x = (const STYPE *)task->x.p + o * task->x.outer + i0 * task->x.inner;
    STYPE *out = task->out.p ? (STYPE *)task->out.p + o * task->out.outer + i0 * task->out.inner : 0;
    int64_t o1 = o, i1 = i0 + FNLL_COLUMNS; /* the next tile, or this one where there is none */
    if (i1 >= task->inner) i1 = 0, o1++;
    if (o1 >= task->outer) i1 = i0, o1 = o;
    const STYPE *next = (const STYPE *)task->x.p + o1 * task->x.outer + i1 * task->x.inner;
    const STYPE *next_out = out ? (STYPE *)task->out.p + o1 * task->out.outer + i1 * task->out.inner : 0;
    int64_t t[FNLL_COLUMNS];
    if (!out) kept = 0;
    for (int64_t i = 0; i < FNLL_COLUMNS; i++) u.k[i] = COLUMNS_K, u.target[i] = -1, u.scale[i] = u.value[i] = u.tail[i] = u.leave[i] = 0;
    if (ce) {
        read_targets(task, o, i0, m, t);
        for (int64_t i = 0; i < m; i++) {
            if (t[i] >= 0 && t[i] < v) u.target[i] = (REAL)t[i];
            if (task->row_weight && task->row_weight[r0 + i] == 0.0) u.leave[i] = 1, u.target[i] = -1;
        }
    }
    for (int again = 0; again < 2; again++) {
        if (!kept)
            log ? S(column_sums)(x, stride, v, m, 0, &u, next, 0, 1) : S(column_sums)(x, stride, v, m, 0, &u, next, 0, 0);
        else
            log ? S(column_sums)(x, stride, v, m, kept, &u, next, 1, 1) : S(column_sums)(x, stride, v, m, kept, &u, next, 1, 0);
        int bad = 0;
        for (int64_t i = 0; i < m && !again; i++) bad |= !(u.total[i] >= 1.0 && u.total[i] < (double)SPECULATE) && u.leave[i] == 0;
        if (!bad) break;
        S(column_references)(x, stride, v, m, &u);
    }
    if (log && S(column_sure)(x, stride, v, m, &u)) S(column_sums)(x, stride, v, m, 0, &u, next, 0, 1);
    const int left = S(column_scalars)(task, r0, m, x, &u, scratch);
    if (!out) return;
#define EMIT(keep, log) left ? S(column_emit)(task, x, out, m, kept, &u, next_out, keep, log, 1) : S(column_emit)(task, x, out, m, kept, &u, next_out, keep, log, 0)
    if (kept)
        log ? (EMIT(1, 1)) : (EMIT(1, 0));
    else
        log ? (EMIT(0, 1)) : (EMIT(0, 0));
#undef EMIT
}

static void S(column_range)(const fnll_task *task, int64_t r0, int64_t r1, REAL *scratch, REAL *kept) {
    while (r0 < r1) {
        const int64_t left = task->inner - r0 % task->inner;
        int64_t m = left < r1 - r0 ? left : r1 - r0;
        if (m > FNLL_COLUMNS) m = FNLL_COLUMNS;
        S(column_tile)(task, r0, m, scratch, kept);
        r0 += m;
    }
}
