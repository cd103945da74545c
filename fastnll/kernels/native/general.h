/* Rows of any kind, one at a time: any strides, every option, and rows whose logits are too large, infinite or NaN.
 *
 * The row's transformed logits a stand in scratch (or are the row itself where nothing changes them), and the
 * primitives of rows.h run on them. One instance per storage dtype.
 */

/* A row that fastnll defines to be NaN, and the few of its results that are not. */
static void S(nan_row)(const fnll_task *task, int64_t r, STYPE *out, double lse) {
    if (out) S(fill)(out, task->out.cls, task->v, (REAL)NAN);
    if (task->loss) task->loss[r - task->loss_from] = NAN;
    if (task->lse) task->lse[r] = lse;
    if (task->entropy) task->entropy[r] = NAN;
    for (int64_t j = 0; task->picked && j < task->k; j++)
        task->picked[r * task->k + j] = task->ids[r * task->k + j] < 0 ? 0.0 : NAN;
}

static void S(absent_row)(const fnll_task *task, int64_t r, STYPE *out) {
    if (out) S(fill)(out, task->out.cls, task->v, 0);
    if (task->loss) task->loss[r - task->loss_from] = 0.0;
    if (task->lse) task->lse[r] = 0.0;
    if (task->entropy) task->entropy[r] = 0.0;
    if (task->argmax) task->argmax[r] = -1;
    if (task->rank) task->rank[r] = -1;
}
/* Statistics of a row of any kind, transformed block by block; a is where it stands afterwards. */
static fnll_block S(general_stats)(const fnll_task *task, int64_t o, int64_t i, const REAL *a, REAL *scratch, int64_t t, REAL *kept,
                                   fnll_block *each, S(look) *u) {
    fnll_block row = {-INFINITY, 0.0};
    REAL e[LOOK_BLOCK];
    /* Details sweep a block twice more: shorter ones, so that memory does not wait that long for the next. */
    const int64_t n = task->v, step = u ? LOOK_BLOCK : FNLL_BLOCK;
    for (int64_t b = 0; b < n; b += step) {
        const int64_t m = n - b < step ? n - b : step, skip = t >= b && t < b + m ? t - b : -1;
        if (a == scratch) S(load_part)(task, o, i, b, b + m, scratch);
        const fnll_block part = FS(block)(a + b, m, skip, u ? e : kept ? kept + b : 0, 0, 0);
        if (each) each[b / FNLL_BLOCK] = part;
        if (u) S(look_at)(a + b, e, b, m, part, u);
        row = merge_block(row, part);
    }
    return row;
}

/* Write the gradient from a: f (A p - (1 - eps) w q - smooth w [a > -inf]) da/dx; point terms are put right after. p comes
 * from kept exponentials and their blocks' references where there are any. */
static void S(emit_gradient)(const fnll_task *task, const REAL *a, const REAL *kept, const fnll_block *each, const REAL *q, REAL *o,
                             STYPE *out, double shift, const row_scalars *s, double total, double smooth, double f) {
    const int64_t n = task->v;
    const VEC kk = F(set)((REAL)s->k), ff = F(set)((REAL)f);
    const VEC sm = F(set)((REAL)(smooth * f)), none = F(set)(-INFINITY), zero = F(set)(0), sh = F(set)((REAL)shift);
    const REAL keep = (REAL)(1.0 - task->smoothing), slower = (REAL)(1.0 / task->temperature);
    const REAL per_cap = (REAL)(task->softcap ? 1.0 / task->softcap : 0.0), *w = task->weight_real;
    const int slopes = task->temperature != 1.0 || task->softcap != 0.0;
    const double by = total * s->inverse * f;
    for (int64_t b = 0; b < n; b += FNLL_BLOCK) {
        const int64_t end = n - b < FNLL_BLOCK ? n : b + FNLL_BLOCK;
        const double move = kept ? each[b / FNLL_BLOCK].k - s->k : 0.0;
        const int again = !kept || !(move > -100.0 && move <= 0.0); /* above, small ones could have been flushed */
        const VEC scale = F(set)((REAL)(again ? by : by * power2(move)));
        int64_t m;
        for (int64_t j = b; j < end; j += m) {
            m = end - j < W ? end - j : W;
#if !S_IS_16
            if (task->stream == FNLL_STREAM_ROWS && !o) { /* up to the next vector boundary of out */
                const int64_t head = (int64_t)((-(uintptr_t)(out + j) & (VBYTES - 1)) / sizeof(STYPE));
                if (head && head < m) m = head;
            }
#endif
            VEC av = m == W ? F(load)(a + j) : FS(ld_part)(a + j, m), part = sm;
            VEC g = (again ? F(exp2k)(av, kk) : m == W ? F(load)(kept + j) : FS(ld_part)(kept + j, m)) * scale;
            if (w) part *= m == W ? F(load)(w + j) : FS(ld_part)(w + j, m);
            if (smooth != 0.0) g -= F(select)(av > none, part, zero);
            if (q) {
                VEC c = (m == W ? F(load)(q + j) : FS(ld_part)(q + j, m)) * keep * ff;
                if (w) c *= m == W ? F(load)(w + j) : FS(ld_part)(w + j, m);
                g -= c;
            }
            if (slopes) {
                VEC u = (av + sh) * per_cap;
                VEC d = g * (((REAL)1 - u * u) * slower);
                g = F(select)(av > none, d, zero);
            }
            if (o) {
                if (m == W)
                    F(store)(o + j, g);
                else
                    FS(st_part)(o + j, g, m);
                continue;
            }
#if !S_IS_16
            if (task->stream == FNLL_STREAM_ROWS && m == W && ((uintptr_t)(out + j) & (VBYTES - 1)) == 0) {
                stream(out + j, (v_f32)g);
                continue;
            }
#endif
            S(ask_to_write)(out + j);
            if (m == W)
                S(st)(out + j, g);
            else
                S(st_part)(out + j, g, m);
        }
    }
}

static void S(put_row)(const fnll_task *task, const REAL *o, STYPE *out) {
    for (int64_t j = 0; j < task->v; j++) S(put)(out + j * task->out.cls, o[j]);
}

/* The loss' sums over the row that the plain path does not need, relative to lse and to shifted logits. */
typedef struct {
    double target, mass, smooth, smooth_mass; /* sum c (lse - a), sum c; the same of the smoothing term */
    int64_t live;
} S(sums);

static S(sums) S(row_sums)(const fnll_task *task, const REAL *a, const REAL *q, int64_t r, double lse) {
    S(sums) u = {0, 0, 0, 0, 0};
    const double *w = task->class_weight;
    for (int64_t b = 0; b < task->v; b += FNLL_BLOCK) {
        const int64_t end = task->v - b < FNLL_BLOCK ? task->v : b + FNLL_BLOCK;
        if (task->smoothing != 0.0) {
            if (!w) {
                VEC total, count = F(set)(0), none = F(set)(-INFINITY), zero = F(set)(0), one = F(set)(1);
                const VEC l = F(set)((REAL)lse);
                int64_t j = b;
                while (j + W <= end) { /* short runs: these terms do not shrink as exponentials do */
                    const int64_t stop = j + 32 * W < end ? j + 32 * W : end;
                    total = zero;
                    for (; j + W <= stop; j += W) {
                        VEC av = F(load)(a + j), d = l - av;
                        total += F(select)(av == none, zero, d);
                        count += F(select)(av == none, zero, one);
                    }
                    u.smooth += CAT(sum_, T)(total);
                }
                u.live += (int64_t)CAT(sum_, T)(count);
                for (; j < end; j++)
                    if (a[j] != (REAL)-INFINITY) u.smooth += (REAL)lse - a[j], u.live++;
                /* The rounding of lse to REAL, put back once for every term. */
            } else {
                const REAL *wr = task->weight_real;
                const VEC l = F(set)((REAL)lse), none = F(set)(-INFINITY), zero = F(set)(0), one = F(set)(1);
                const double low = lse - (double)(REAL)lse;
                for (int64_t j = b; j < end;) {
                    const int64_t stop = j + 32 * W < end ? j + 32 * W : end;
                    VEC total = zero, mass = zero, count = zero;
                    for (; j < stop; j += W) {
                        const int64_t m = stop - j < W ? stop - j : W;
                        const VEC av = m == W ? F(load)(a + j) : FS(ld_part)(a + j, m);
                        const VEC wv = m == W ? F(load)(wr + j) : FS(ld_part)(wr + j, m);
                        const IVEC live = av > none;
                        mass += F(select)(live, wv, zero);
                        total += F(select)(live & (wv != zero), wv * (l - av), zero);
                        count += F(select)(live, one, zero);
                    }
                    const double sum = CAT(sum_, T)(mass);
                    u.smooth_mass += sum;
                    u.smooth += CAT(sum_, T)(total) + low * sum;
                    u.live += (int64_t)CAT(sum_, T)(count);
                }
            }
        }
        if (q)
            for (int64_t j = b; j < end; j++) {
                const double c = w ? q[j] * w[j] : q[j];
                u.mass += c;
                if (c != 0.0) u.target += c * (lse - a[j]);
            }
    }
    if (task->smoothing != 0.0 && !w) {
        u.smooth_mass = (double)u.live;
        u.smooth += (lse - (double)(REAL)lse) * (double)u.live;
    }
    for (int64_t j = 0; task->ids && task->op == FNLL_CROSS_ENTROPY && j < task->k; j++) {
        const int64_t id = task->ids[r * task->k + j];
        const double c = task->id_probs[r * task->k + j] * (w ? w[id] : 1.0);
        u.mass += c;
        if (c != 0.0) u.target += c * (lse - a[id]);
    }
    return u;
}

static void S(general_row)(const fnll_task *task, int64_t r, REAL *scratch) {
    const int64_t n = task->v, o = r / task->inner, i = r % task->inner;
    STYPE *out = task->out.p ? (STYPE *)task->out.p + o * task->out.outer + i * task->out.inner : 0;
    const int ce = task->op == FNLL_CROSS_ENTROPY, log = task->op == FNLL_LOG_SOFTMAX && n <= FNLL_KEEP_MOST;
    if (ce && task->row_weight && task->row_weight[r] == 0.0) {
        S(absent_row)(task, r, out);
        return;
    }
    const int hard = ce && task->t.p != 0;
    const int64_t t = hard ? read_target(task, o, i) : -1;
    const int as_it_is = S(as_it_is)(task), wanted = task->entropy || task->argmax || task->rank;
    const REAL *a = as_it_is ? (const REAL *)((const STYPE *)task->x.p + o * task->x.outer + i * task->x.inner) : scratch;
    const REAL *q = ce && task->q.p ? S(load_probs)(task, o, i, scratch + fnll_room(n)) : 0;
    const int valid = !hard || (t >= 0 && t < n);
    REAL a_t = 0; /* the target's logit, before the gradient overwrites it */
    if (hard && valid) {
        if (!as_it_is) S(load_part)(task, o, i, t, t + 1, scratch);
        a_t = a[t];
    }
    /* Exponentials are kept for the second sweep where one follows. */
    REAL *kept = ce && !wanted && n <= KEEP_MOST && out ? scratch + 3 * fnll_room(n) : 0;
    fnll_block each[FNLL_KEEP_MOST / FNLL_BLOCK];
    S(look) look = {0.0, -INFINITY, 0.0, -INFINITY, 0.0, 0, hard && valid ? a_t : (REAL)INFINITY};
    fnll_block row = S(general_stats)(task, o, i, a, scratch, hard && valid ? t : -1, kept, kept || log ? each : 0, wanted ? &look : 0);
    if (!valid) {
        S(details)(task, a, r, t);
        S(nan_row)(task, r, out, NAN);
        return;
    }
    double shift = 0.0, x_t = (double)a_t;
    int looked = wanted;
    if (n == 1 || !is_plain(row, x_t, hard, (double)LIMIT)) {
        /* The careful path: off with the maximum, which also makes a row of one class exact. What is then below 2^-126 of the row's sum is 0. */
        S(details)(task, a, r, t);
        looked = 0;
        const REAL m = FS(block_max)(a, n);
        if (FS(has_nan)(a, n) || m == (REAL)INFINITY || m == (REAL)-INFINITY) {
            S(nan_row)(task, r, out, FS(has_nan)(a, n) ? NAN : (double)m);
            return;
        }
        for (int64_t j = 0; j < n; j++) scratch[j] = a[j] - m;
        a = scratch;
        shift = m;
        x_t = hard ? (double)a[t] : 0.0;
        kept = 0;
        row = FS(row_stats)(a, n, hard ? t : -1, 0, log ? each : 0, 0, 0);
        if (!(row.sum > 0.0)) row = (fnll_block){0.0, 0.0}; /* all of the mass is the target's */
    }
    row_scalars s;
    if (row.sum > 0.0) {
        finish(1, &row, &x_t, hard, 1, &s);
    } else {
        s = (row_scalars){0.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0};
    }
    if (task->lse) task->lse[r] = s.lse + shift;
    if (looked)
        S(look_finish)(task, a, r, &s, x_t, hard, &look);
    else if (task->entropy)
        task->entropy[r] = S(row_entropy)(a, n, &s);
    for (int64_t j = 0; task->picked && j < task->k; j++) {
        const int64_t id = task->ids[r * task->k + j];
        task->picked[r * task->k + j] = id < 0 ? 0.0 : log_p(&s, (double)a[id]);
    }
    if (!ce) {
        if (!out) return;
        REAL *to = scratch + 2 * fnll_room(n);
        fnll_task rows = *task;
        rows.stream = 0;
#if !S_IS_16
        if (task->out.cls == 1) to = out;
#endif
        FS(emission) e;
        const int64_t sure = log ? FS(sure_class)(a, n, each, &row, &s) : -1;
        FS(emit_set)(&rows, a, 0, 0, to, &s, sure, 1.0, 0.0, -s.nll, &e);
        FS(emit_end)(&e);
#if !S_IS_16
        if (task->out.cls == 1) return;
#endif
        S(put_row)(task, to, out);
        return;
    }
    const double eps = task->smoothing, weight = task->row_weight ? task->row_weight[r] : 1.0;
    S(sums) u = S(row_sums)(task, a, q, r, s.lse);
    const double c_t = hard ? (task->target_weight ? task->target_weight[r] : 1.0) : 0.0;
    const double lse = s.lse + shift, live = u.live ? (double)u.live : 1.0;
    double loss = hard ? (c_t != 0.0 ? c_t * s.nll : 0.0) : u.target;
    loss = eps != 1.0 ? (1.0 - eps) * loss : 0.0; /* 0 * inf = 0 */
    if (eps != 0.0) loss += eps / live * u.smooth;
    if (task->z_loss != 0.0) loss += task->z_loss * lse * lse;
    if (task->loss) task->loss[r - task->loss_from] = weight * loss;
    if (!out) return;

    const double f = gradient_factor(task, r), mass = hard ? c_t : u.mass;
    const double total = (1.0 - eps) * mass + eps / live * u.smooth_mass + 2.0 * task->z_loss * lse;
    const int direct = !task->ids && task->out.cls == 1;
    REAL *to = direct ? 0 : scratch + 2 * fnll_room(n);
    const double smooth = eps / live;
    a_t = hard ? a[t] : 0; /* the gradient may overwrite it */
    S(emit_gradient)(task, a, kept, each, q, to, out, shift, &s, total, smooth, f);
    if (task->ids) {
        for (int64_t j = 0; j < task->k; j++) {
            const int64_t id = task->ids[r * task->k + j];
            const double c = task->id_probs[r * task->k + j] * (task->class_weight ? task->class_weight[id] : 1.0);
            to[id] -= (REAL)(f * (1.0 - eps) * c * S(slope)(task, a[id] + shift));
        }
    }
    if (hard) {
        const double c = (1.0 - eps) * c_t, w_t = task->class_weight ? task->class_weight[t] : 1.0;
        double g = -c * s.rest + (total - c) * s.e_t * s.inverse;
        if (eps != 0.0 && a_t > (REAL)-INFINITY) g -= smooth * w_t;
        g *= f * S(slope)(task, (double)a_t + shift);
        if (to)
            to[t] = (REAL)g;
        else
            S(put)(out + t, (REAL)g);
    }
    if (to) S(put_row)(task, to, out);
}
