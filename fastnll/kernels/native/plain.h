/* Contiguous rows without transforms, in groups; one instance per storage dtype. */

/* What the plain loop knows: one target a row, no class weights beyond the target's, no details; and of transforms those that
 * leave every class alive or take no smoothing. */
static int S(is_plain_task)(const fnll_task *task) {
    if (task->op == FNLL_LSE || task->op == FNLL_SOFTMAX || task->op == FNLL_LOG_SOFTMAX) return 1;
    if (task->op != FNLL_CROSS_ENTROPY || !task->t.p || task->q.p || task->ids || task->entropy || task->argmax || task->rank ||
        task->lse || (task->smoothing != 0.0 && task->class_weight))
        return 0;
    if (!task->mask.p && task->temperature == 1.0 && task->softcap == 0.0) return 1;
    return !S_IS_16 && task->v <= FNLL_KEEP_MOST && !(task->mask.p && task->smoothing != 0.0);
}
/* What the loops over lanes and over pieces of a row know: that, without sums of logits. */
static int S(is_simple)(const fnll_task *task) {
    return S(is_plain_task)(task) && task->smoothing == 0.0 && task->z_loss == 0.0 &&
           (task->op != FNLL_CROSS_ENTROPY || (!task->mask.p && task->temperature == 1.0 && task->softcap == 0.0));
}

/* A row's loss and its gradient's three numbers, from finished scalars and the sum of its logits. */
typedef struct {
    double loss, scale, shift, value; /* gradient = scale p + shift, and value at the target */
} S(parts);

static S(parts) S(row_parts)(const fnll_task *task, int64_t r, const row_scalars *s, double sum) {
    const double c = task->target_weight ? task->target_weight[r] : 1.0, w = task->row_weight ? task->row_weight[r] : 1.0;
    const double eps = task->smoothing, kept = eps != 1.0 ? (1.0 - eps) * c : 0.0, n = (double)task->v;
    double loss = kept != 0.0 ? kept * s->nll : 0.0; /* 0 * inf = 0 */
    if (eps != 0.0) loss += eps * (s->lse - sum / n);
    if (task->z_loss != 0.0) loss += task->z_loss * s->lse * s->lse;
    S(parts) u = {w != 0.0 && loss != 0.0 ? w * loss : 0.0, 0.0, 0.0, 0.0};
    if (!task->out.p) return u;
    const double f = gradient_factor(task, r), more = eps + 2.0 * task->z_loss * s->lse;
    u.scale = f * (kept + more);
    u.shift = -f * eps / n;
    u.value = f * (more * s->e_t * s->inverse - kept * s->rest) + u.shift;
    return u;
}

/* Statistics of a row that is transformed on the way, block by block, to `to`. */
static fnll_block S(changed_stats)(const fnll_task *task, int64_t o, int64_t i, REAL *to, int64_t t, double *x_t, double *total,
                                   S(emission) *e) {
    fnll_block row = {-INFINITY, 0.0};
#if !S_IS_16
    for (int64_t b = 0; b < task->v; b += FNLL_BLOCK) {
        const int64_t m = task->v - b < FNLL_BLOCK ? task->v - b : FNLL_BLOCK;
        S(load_part)(task, o, i, b, b + m, to);
        row = merge_block(row, S(block)(to + b, m, t >= b && t < b + m ? t - b : -1, 0, total, e));
    }
    *x_t = to[t];
#endif
    return row;
}

/* Rows in groups: statistics of one group, and on the way the output of the group before. A group has as many rows as stay in
 * the cache from the first sweep to the second. */
#define GROUP 16
static void S(plain_rows)(const fnll_task *task, int64_t r0, int64_t r1, REAL *scratch) {
    const int ce = task->op == FNLL_CROSS_ENTROPY, log = task->op == FNLL_LOG_SOFTMAX && task->v <= FNLL_KEEP_MOST, sums = ce && task->smoothing != 0.0;
    const int64_t v = task->v, room = fnll_room(v), blocks = (v + FNLL_BLOCK - 1) / FNLL_BLOCK;
    int64_t group = task->out.p ? (int64_t)FNLL_KEEP_BYTES / (room * (int64_t)sizeof(REAL)) : GROUP;
    group = group < 1 ? 1 : group > GROUP ? GROUP : group;
    const int changed = !S_IS_16 && ce && !S(as_it_is)(task);
    const int keep = !changed && task->out.p && task->op != FNLL_LOG_SOFTMAX && v <= KEEP_MOST;
    REAL *kept[2] = {scratch + 4 * room, scratch + (4 + group) * room};
    fnll_block each[2][GROUP + FNLL_KEEP_MOST / FNLL_BLOCK]; /* of rows beyond, the whole is one */
    S(emission) waiting[GROUP];
    int n_waiting = 0, side = 0;
    for (int64_t g = r0; g < r1; g += group, side ^= 1) {
        const int m = (int)(r1 - g < group ? r1 - g : group);
        fnll_block row[GROUP];
        double x_t[GROUP], sum[GROUP];
        int64_t t[GROUP];
        row_scalars s[GROUP];
        int64_t o = g / task->inner, i = g % task->inner;
        const int64_t o0 = o, i0 = i;
        for (int j = 0; j < m; j++) {
            const STYPE *x = (const STYPE *)task->x.p + o * task->x.outer + i * task->x.inner;
            const int absent = ce && task->row_weight && task->row_weight[g + j] == 0.0;
            S(emission) *e = j < n_waiting ? waiting + j : 0;
            t[j] = ce && !absent ? read_target(task, o, i) : -1;
            row[j] = (fnll_block){NAN, 0.0};
            x_t[j] = sum[j] = 0.0;
            if (!absent && (!ce || (t[j] >= 0 && t[j] < v))) {
                REAL *to = kept[side] + j * room;
                if (changed) {
                    row[j] = S(changed_stats)(task, o, i, to, t[j], &x_t[j], sums ? sum + j : 0, e);
                } else {
                    row[j] = S(row_stats)(x, v, t[j], keep ? to : 0, keep || log ? each[side] + j * blocks : 0, sums ? sum + j : 0, e);
                    if (ce) x_t[j] = S(get)(x + t[j]);
                }
            }
            if (e) S(emit_end)(e);
            if (++i == task->inner) i = 0, o++;
        }
        for (int j = m; j < n_waiting; j++) S(emit_end)(waiting + j);
        n_waiting = 0;
        finish(m, row, x_t, ce, !ce || task->smoothing != 0.0 || task->z_loss != 0.0, s);
        o = o0, i = i0;
        for (int j = 0; j < m; j++) {
            const int64_t r = g + j, o_r = o, i_r = i;
            if (++i == task->inner) i = 0, o++;
            if (!is_plain(row[j], x_t[j], ce, (double)LIMIT) || !(sum[j] - sum[j] == 0.0)) {
                S(general_row)(task, r, scratch);
                continue;
            }
            S(parts) u = {0.0, 1.0, 0.0, 0.0};
            if (ce) u = S(row_parts)(task, r, &s[j], sum[j]);
            if (log) {
                t[j] = S(sure_class)((const STYPE *)task->x.p + o_r * task->x.outer + i_r * task->x.inner, v,
                                     each[side] + j * blocks, &row[j], &s[j]);
                u.value = -s[j].nll;
            }
            if (task->loss) task->loss[r - task->loss_from] = u.loss;
            if (task->lse) task->lse[r] = s[j].lse;
            if (!task->out.p) continue;
            const STYPE *x = changed ? (const STYPE *)(kept[side] + j * room)
                                     : (const STYPE *)task->x.p + o_r * task->x.outer + i_r * task->x.inner;
            if (changed) { /* da/dx: 1 / temperature here, the rest of the cap's slope at each logit */
                u.scale /= task->temperature, u.shift /= task->temperature;
                u.value *= S(slope)(task, x_t[j]);
            }
            S(emit_set)(task, x, keep ? kept[side] + j * room : 0,
                        each[side] + j * blocks, (STYPE *)task->out.p + o_r * task->out.outer + i_r * task->out.inner, &s[j], t[j],
                        u.scale, u.shift, u.value, &waiting[n_waiting++]);
        }
    }
    for (int j = 0; j < n_waiting; j++) S(emit_end)(waiting + j);
}
