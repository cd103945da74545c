/* The entry points of one storage dtype: which loop rows take, the split of long rows, vjp and SGD. */

/* K logits a row, minus its logsumexp. */
static void S(gather_rows)(const fnll_task *task, int64_t r0, int64_t r1, REAL *scratch) {
    for (int64_t r = r0; r < r1; r++) {
        const STYPE *x = (const STYPE *)task->x.p + r / task->inner * task->x.outer + r % task->inner * task->x.inner;
        fnll_block row = {NAN, 0.0};
        if (task->x.cls == 1) row = S(row_stats)(x, task->v, -1, 0, 0, 0, 0);
        if (!is_plain(row, 0.0, 0, 0.0)) {
            S(general_row)(task, r, scratch);
            continue;
        }
        row_scalars s;
        double none = 0.0;
        finish(1, &row, &none, 0, 1, &s);
        for (int64_t j = 0; j < task->k; j++) {
            const int64_t id = task->ids[r * task->k + j];
            task->picked[r * task->k + j] = id < 0 ? 0.0 : log_p(&s, (double)S(get)(x + id));
        }
    }
}

static void S(rows)(const fnll_task *task, int64_t r0, int64_t r1, void *memory) {
    REAL stack[4 * FNLL_STACK + 2 * FNLL_KEEP_BYTES / sizeof(REAL)] __attribute__((aligned(64)));
    REAL *scratch = task->v > FNLL_STACK ? memory : stack; /* of columns, memory has room for their exponentials behind it */
    const uint32_t mode = flush_on();
    if (task->op == FNLL_GATHER && task->v > 1)
        S(gather_rows)(task, r0, r1, scratch);
    else if (S(is_simple)(task) && fnll_is_columns(task))
        S(column_range)(task, r0, r1, scratch,
                        task->v <= FNLL_COLUMNS_KEEP ? (REAL *)((char *)memory + fnll_row_scratch(task->v)) : 0);
    else if (S(is_simple)(task) && task->v > 1 && task->v <= FNLL_SMALL)
        S(lane_range)(task, r0, r1, scratch);
    else if (S(is_simple)(task) && task->v > 1 && task->v <= SHORT && task->x.cls == 1 && (!task->out.p || task->out.cls == 1))
        S(short_rows)(task, r0, r1, scratch);
    else if (S(is_plain_task)(task) && task->v > 1 && task->x.cls == 1 && (!task->out.p || task->out.cls == 1))
        S(plain_rows)(task, r0, r1, scratch);
    else
        for (int64_t r = r0; r < r1; r++) S(general_row)(task, r, scratch);
    if (task->stream) stream_fence();
    flush_restore(mode);
}

/* A few long rows, cut into blocks that threads share. */
static void S(split_stats)(const fnll_task *task, int64_t r, int64_t b0, int64_t b1, fnll_block *blocks) {
    const int64_t o = r / task->inner, i = r % task->inner;
    const STYPE *x = (const STYPE *)task->x.p + o * task->x.outer + i * task->x.inner;
    const int64_t t = task->op == FNLL_CROSS_ENTROPY ? read_target(task, o, i) : -1;
    const uint32_t mode = flush_on();
    for (int64_t b = b0; b < b1; b++) {
        const int64_t at = b * FNLL_BLOCK, m = task->v - at < FNLL_BLOCK ? task->v - at : FNLL_BLOCK;
        blocks[b] = S(block)(x + at, m, t >= at && t < at + m ? t - at : -1, 0, 0, 0);
    }
    flush_restore(mode);
}

static int S(split_merge)(const fnll_task *task, int64_t r, fnll_block *blocks, double *coefficients) {
    const int ce = task->op == FNLL_CROSS_ENTROPY;
    const int64_t o = r / task->inner, i = r % task->inner, n = (task->v + FNLL_BLOCK - 1) / FNLL_BLOCK;
    int64_t t = ce ? read_target(task, o, i) : 0;
    if (t < 0 || t >= task->v) return 0;
    const double x_t = ce ? (double)S(get)((const STYPE *)task->x.p + o * task->x.outer + i * task->x.inner + t) : 0.0;
    fnll_block row = {-INFINITY, 0.0};
    for (int64_t b = 0; b < n; b++) row = merge_block(row, blocks[b]);
    if (!is_plain(row, x_t, ce, (double)LIMIT)) return 0;
    row_scalars s;
    finish(1, &row, &x_t, ce, 1, &s);
    const double c = ce && task->target_weight ? task->target_weight[r] : 1.0;
    const double w = ce && task->row_weight ? task->row_weight[r] : 1.0;
    if (task->loss) task->loss[r - task->loss_from] = w * c != 0.0 ? w * c * s.nll : 0.0;
    if (task->lse) task->lse[r] = s.lse;
    if (task->op == FNLL_LOG_SOFTMAX)
        t = S(sure_class)((const STYPE *)task->x.p + o * task->x.outer + i * task->x.inner, task->v, blocks, &row, &s);
    memcpy(coefficients, &s, sizeof s);
    coefficients[FNLL_COEFFICIENTS - 1] = (double)t;
    return 1;
}

static void S(split_emit)(const fnll_task *task, int64_t r, int64_t b0, int64_t b1, const double *coefficients) {
    const int64_t o = r / task->inner, i = r % task->inner, at = b0 * FNLL_BLOCK;
    const int64_t end = b1 * FNLL_BLOCK < task->v ? b1 * FNLL_BLOCK : task->v;
    row_scalars s;
    memcpy(&s, coefficients, sizeof s);
    const int ce = task->op == FNLL_CROSS_ENTROPY;
    const double c = ce && task->target_weight ? task->target_weight[r] : 1.0;
    const double g = ce ? gradient_factor(task, r) * c : 1.0;
    const uint32_t mode = flush_on();
    fnll_task part = *task;
    part.v = end - at;
    const STYPE *x = (const STYPE *)task->x.p + o * task->x.outer + i * task->x.inner;
    STYPE *out = (STYPE *)task->out.p + o * task->out.outer + i * task->out.inner;
    const int log = task->op == FNLL_LOG_SOFTMAX;
    const int64_t t = ce || log ? (int64_t)coefficients[FNLL_COEFFICIENTS - 1] - at : -1;
    S(emission) e;
    S(emit_set)(&part, x + at, 0, 0, out + at, &s, t < end - at ? t : -1, g, 0.0, log ? -s.nll : -g * s.rest, &e);
    S(emit_end)(&e);
    if (task->stream) stream_fence();
    flush_restore(mode);
}

/* x holds y, q the incoming gradient; both and out of any strides. */
static void S(vjp)(const fnll_task *task, int log, int64_t r0, int64_t r1, void *memory) {
    REAL stack[3 * FNLL_STACK] __attribute__((aligned(64)));
    REAL *ys = memory ? memory : stack, *gs = ys + fnll_room(task->v);
    const int64_t n = task->v;
    const uint32_t mode = flush_on();
    for (int64_t r = r0; r < r1; r++) {
        const int64_t o = r / task->inner, i = r % task->inner;
        const STYPE *y = (const STYPE *)task->x.p + o * task->x.outer + i * task->x.inner;
        const STYPE *g = (const STYPE *)task->q.p + o * task->q.outer + i * task->q.inner;
        STYPE *out = (STYPE *)task->out.p + o * task->out.outer + i * task->out.inner;
        const int direct = task->x.cls == 1 && task->q.cls == 1 && task->out.cls == 1;
        if (!direct)
            for (int64_t j = 0; j < n; j++) {
                ys[j] = S(get)(y + j * task->x.cls);
                gs[j] = S(get)(g + j * task->q.cls);
            }
        double total = 0.0;
        for (int64_t b = 0; b < n; b += FNLL_BLOCK) {
            const int64_t end = n - b < FNLL_BLOCK ? n : b + FNLL_BLOCK;
            VEC a0 = F(set)(0), a1 = a0;
            int64_t j = b;
#define VJP_LOAD(array, buffer, m) (direct ? S(ld_lanes)(array + j, m) : m >= W ? F(load)(buffer + j) : FS(ld_part)(buffer + j, m))
            for (; j + 2 * W <= end; j += 2 * W) {
                VEC p = VJP_LOAD(g, gs, W), q;
                if (!log) p *= VJP_LOAD(y, ys, W);
                a0 += p;
                j += W;
                q = VJP_LOAD(g, gs, W);
                if (!log) q *= VJP_LOAD(y, ys, W);
                a1 += q;
                j -= W;
            }
            total += CAT(sum_, T)(a0 + a1);
            for (; j < end; j++) {
                const REAL a = direct ? S(get)(g + j) : gs[j], p = direct ? S(get)(y + j) : ys[j];
                total += log ? (double)a : (double)a * (double)p;
            }
        }
        const VEC sum = F(set)((REAL)total), zero = F(set)(0);
        for (int64_t j = 0; j < n; j += W) {
            const int64_t m = n - j < W ? n - j : W;
            VEC p = VJP_LOAD(y, ys, m), a = VJP_LOAD(g, gs, m), d;
            if (log)
                d = a - F(exp2k)(p, zero) * sum;
            else
                d = p * (a - sum);
            if (direct && m == W)
                S(st)(out + j, d);
            else if (direct)
                S(st_part)(out + j, d, m);
            else
                for (int q = 0; q < m; q++) S(put)(out + (j + q) * task->out.cls, d[q]);
        }
    }
    flush_restore(mode);
}
#undef VJP_LOAD

/* One sweep over each array; the branches are on constants of the call. */
static void S(sgd)(const fnll_sgd *u, void *param, const void *grad, void *buffer, int64_t n) {
    STYPE *p = param, *b = buffer;
    const STYPE *g = grad;
    const REAL sign = (REAL)(u->maximize ? -u->grad_scale : u->grad_scale), decay = (REAL)u->weight_decay;
    const REAL mu = (REAL)u->momentum, fresh = (REAL)(1.0 - u->dampening), lr = (REAL)u->lr;
    for (int64_t j = 0; j < n; j += W) {
        const int64_t m = n - j < W ? n - j : W;
        VEC w = S(ld_lanes)(p + j, m), d = S(ld_lanes)(g + j, m) * sign;
        if (decay != 0) d += w * decay;
        if (b) {
            VEC v = d;
            if (!u->first_step) v = S(ld_lanes)(b + j, m) * mu + d * fresh;
            if (m == W)
                S(st)(b + j, v);
            else
                S(st_part)(b + j, v, m);
            d = u->nesterov ? d + v * mu : v;
        }
        w = w - d * lr;
        if (m == W)
            S(st)(p + j, w);
        else
            S(st_part)(p + j, w, m);
    }
}

#define KERNELS(s) {rows_s##s, split_stats_s##s, split_merge_s##s, split_emit_s##s, vjp_s##s, sgd_s##s}
