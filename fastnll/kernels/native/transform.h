/* Logits as they enter the loss: temperature, softcap, class mask, dense targets, any strides. One instance per storage dtype. */

/* Whether the row stands as it is. */
inline_always int S(as_it_is)(const fnll_task *task) {
    return !S_IS_16 && task->x.cls == 1 &&
           !(task->op == FNLL_CROSS_ENTROPY && (task->temperature != 1.0 || task->softcap != 0.0 || task->mask.p));
}

/* scratch[j0 .. j1-1] = a = softcap(x / temperature), -inf where the class mask says so. */
static void S(load_part)(const fnll_task *task, int64_t o, int64_t i, int64_t j0, int64_t j1, REAL *scratch) {
    const STYPE *x = (const STYPE *)task->x.p + o * task->x.outer + i * task->x.inner;
    const int64_t stride = task->x.cls;
    const int ce = task->op == FNLL_CROSS_ENTROPY;
    const REAL temperature = (REAL)task->temperature, inverse = (REAL)1 / temperature, cap = (REAL)(ce ? task->softcap : 0.0);
    const VEC none = F(set)(-INFINITY), t = F(set)(temperature), per_cap = F(set)((REAL)(cap != 0 ? 1.0 / task->softcap : 1.0));
    for (int64_t j = j0; j < j1; j += W) {
        const int64_t m = j1 - j < W ? j1 - j : W;
        VEC a;
        if (stride == 1) {
            __builtin_prefetch((const char *)(x + j) + PREFETCH);
            a = S(ld_lanes)(x + j, m);
        } else {
            STYPE e[W];
            for (int q = 0; q < W; q++) e[q] = q < m ? x[(j + q) * stride] : NEG_INF;
            a = S(ld)(e);
        }
        const VEC raw = a;
        if (ce && temperature != 1) { /* a / t by its inverse and one correction, for a division takes as long as an exponential */
            VEC quotient = a * inverse;
            const VEC left = F(fnma)(quotient, t, a);
            quotient = quotient + F(select)(left == left, left, F(set)(0)) * inverse;
            a = quotient;
        }
        if (cap != 0) a = F(select)(raw == none, none, F(tanh)(a * per_cap) * cap);
        if (m == W)
            F(store)(scratch + j, a);
        else
            FS(st_part)(scratch + j, a, m);
    }
    if (ce && task->mask.p) {
        const uint8_t *mask = (const uint8_t *)task->mask.p + o * task->mask.outer + i * task->mask.inner;
        if (task->mask.cls == 1)
            for (int64_t j = j0; j < j1; j++) scratch[j] = mask[j] ? scratch[j] : (REAL)-INFINITY;
        else
            for (int64_t j = j0; j < j1; j++)
                if (!mask[j * task->mask.cls]) scratch[j] = -INFINITY;
    }
}

/* Dense targets of one row in the compute type. */
static const REAL *S(load_probs)(const fnll_task *task, int64_t o, int64_t i, REAL *scratch) {
    const int64_t at = o * task->q.outer + i * task->q.inner;
    if (task->q_code == FNLL_F64) {
        for (int64_t j = 0; j < task->v; j++)
            scratch[j] = (REAL)((const double *)task->q.p)[at + j * task->q.cls];
    } else if (task->q_code == FNLL_F32) {
        for (int64_t j = 0; j < task->v; j++)
            scratch[j] = (REAL)((const float *)task->q.p)[at + j * task->q.cls];
    } else {
        for (int64_t j = 0; j < task->v; j++) {
            const uint16_t *p = (const uint16_t *)task->q.p + at + j * task->q.cls;
            uint16_t e[W_f32] = {*p};
            scratch[j] = (REAL)(task->q_code == FNLL_BF16 ? bf16_load(e) : f16_load(e))[0];
        }
    }
    return scratch;
}

/* da/dx at a transformed logit. */
inline_always double S(slope)(const fnll_task *task, double a) {
    if (task->temperature == 1.0 && task->softcap == 0.0) return 1.0;
    if (a == -INFINITY) return 0.0;
    const double u = task->softcap != 0.0 ? a / task->softcap : 0.0;
    return (1.0 - u * u) / task->temperature;
}
