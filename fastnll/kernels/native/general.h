/* Rows of any kind, one at a time: any strides, every option, and rows whose logits are too large, infinite or NaN.
 *
 * The row's transformed logits a stand in scratch (or are the row itself where nothing changes them), and the
 * primitives of rows.h run on them. One instance per storage dtype.
 */

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

static void S(details)(const fnll_task *task, const REAL *a, int64_t r, int64_t t) {
    const int64_t n = task->v;
    if (!task->argmax && !task->rank) return;
    const VEC at = F(set)(t >= 0 && t < n ? a[t] : (REAL)INFINITY), zero = F(set)(0), one = F(set)(1);
    VEC top = F(set)(-INFINITY);
    IVEC bad = {};
    double above = 0.0;
    for (int64_t b = 0; b < n; b += FNLL_BLOCK) { /* counts of a block are exact in the compute type */
        const int64_t end = n - b < FNLL_BLOCK ? n : b + FNLL_BLOCK;
        VEC count = zero;
        for (int64_t j = b; j < end; j += W) {
            const VEC v = end - j >= W ? F(load)(a + j) : FS(ld_part)(a + j, end - j);
            top = F(max)(v, top);
            bad |= v != v;
            count += F(select)(v > at, one, zero);
        }
        above += CAT(sum_, T)(count);
    }
    if (task->rank) task->rank[r] = (int64_t)above;
    if (!task->argmax) return;
    REAL m = -INFINITY;
    int nan = 0;
    for (int l = 0; l < W; l++) {
        m = top[l] > m ? top[l] : m;
        nan |= bad[l] != 0;
    }
    /* The first place of the maximum, or of a NaN. */
    int64_t j = 0;
    const VEC best = F(set)(m);
    for (; j + W <= n; j += W) {
        const VEC v = F(load)(a + j);
        const IVEC hit = nan ? v != v : v == best;
        int any = 0;
        for (int l = 0; l < W; l++) any |= hit[l] != 0;
        if (any) break;
    }
    while (j < n && !(nan ? a[j] != a[j] : a[j] == m)) j++;
    task->argmax[r] = j < n ? j : 0;
}

/* What `cross_entropy_details` asks of a row, block by block while it is in the first-level cache. The entropy's sum is held
 * relative to the largest logit so far: all of its terms are positive, so confident rows keep their digits. */
typedef struct {
    double above, top, sum, k, at; /* logits above the target's; the largest; sum e (top - a) and sum e, relative to 2^k */
    int64_t block;                 /* where the largest stands */
    REAL target;
} S(look);

static void S(look_at)(const REAL *a, const REAL *e, int64_t from, int64_t m, fnll_block b, S(look) *u) {
    const VEC at = F(set)(u->target), zero = F(set)(0), one = F(set)(1);
    VEC top = F(set)(-INFINITY), count = zero, more = zero, sum = zero, rest = zero;
    int64_t j = 0;
    for (; j + 2 * W <= m; j += 2 * W) {
        const VEC v = F(load)(a + j), w = F(load)(a + j + W);
        top = F(max)(F(max)(v, w), top);
        count += F(select)(v > at, one, zero);
        more += F(select)(w > at, one, zero);
    }
    for (; j < m; j += W) {
        const VEC v = m - j >= W ? F(load)(a + j) : FS(ld_part)(a + j, m - j);
        top = F(max)(v, top);
        count += F(select)(v > at, one, zero);
    }
    u->above += CAT(sum_, T)(count + more);
    REAL best = -INFINITY;
    for (int l = 0; l < W; l++) best = top[l] > best ? top[l] : best;
    const double t = (double)best;
    if (t > u->top) { /* the sums so far, relative to the new one */
        if (u->sum > 0.0) u->at += u->sum * (t - u->top);
        u->top = t;
        u->block = from;
    }
    if (!(b.sum > 0.0)) return;
    const VEC high = F(set)(best), low = F(set)((REAL)-4 * LIMIT);
    for (j = 0; j + 2 * W <= m; j += 2 * W) {
        sum += F(load)(e + j) * (high - F(max)(low, F(load)(a + j)));
        rest += F(load)(e + j + W) * (high - F(max)(low, F(load)(a + j + W)));
    }
    for (; j < m; j += W) {
        const int64_t n = m - j < W ? m - j : W;
        const VEC v = F(max)(low, n == W ? F(load)(a + j) : FS(ld_part)(a + j, n));
        const VEC p = n == W ? F(load)(e + j) : FS(ld_part)(e + j, n);
        sum += F(select)(p > zero, p * (high - v), zero);
    }
    const double s = CAT(sum_, T)(sum + rest) + b.sum * (u->top - t);
    const double k = b.k > u->k ? b.k : u->k;
    u->at = u->at * power2(u->k - k) + s * power2(b.k - k);
    u->sum = u->sum * power2(u->k - k) + b.sum * power2(b.k - k);
    u->k = k;
}

static void S(look_finish)(const fnll_task *task, const REAL *a, int64_t r, const row_scalars *s, double x_t, int hard, const S(look) *u) {
    if (task->rank) task->rank[r] = (int64_t)u->above;
    if (task->entropy) {
        const double by = s->inverse * (u->k <= s->k ? power2(u->k - s->k) : 1.0 / power2(s->k - u->k));
        task->entropy[r] = (u->at + u->sum * (s->lse - u->top)) * by + (hard ? s->e_t * s->inverse * (s->lse - x_t) : 0.0);
    }
    if (!task->argmax) return;
    int64_t j = u->block;
    while (j < task->v && !(a[j] == (REAL)u->top)) j++;
    task->argmax[r] = j < task->v ? j : 0;
}

/* Statistics of a row of any kind, transformed block by block; a is where it stands afterwards. */
static fnll_block S(general_stats)(const fnll_task *task, int64_t o, int64_t i, const REAL *a, REAL *scratch, int64_t t, REAL *kept,
                                   double *ks, S(look) *u) {
    fnll_block row = {-INFINITY, 0.0};
    REAL e[FNLL_BLOCK];
    const int64_t n = task->v;
    for (int64_t b = 0; b < n; b += FNLL_BLOCK) {
        const int64_t m = n - b < FNLL_BLOCK ? n - b : FNLL_BLOCK, skip = t >= b && t < b + m ? t - b : -1;
        if (a == scratch) S(load_part)(task, o, i, b, b + m, scratch);
        const fnll_block part = FS(block)(a + b, m, skip, u ? e : kept ? kept + b : 0, 0, 0);
        if (kept) ks[b / FNLL_BLOCK] = part.sum > 0.0 ? part.k : -INFINITY;
        if (u) S(look_at)(a + b, e, b, m, part, u);
        row = merge_block(row, part);
    }
    return row;
}

/* Write the gradient from a: f (A p - (1 - eps) w q - smooth w [a > -inf]) da/dx; point terms are put right after. p comes
 * from kept exponentials and their blocks' references where there are any. */
static void S(emit_gradient)(const fnll_task *task, const REAL *a, const REAL *kept, const double *ks, const REAL *q, REAL *o,
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
        const double move = kept ? ks[b / FNLL_BLOCK] - s->k : 0.0;
        const int again = !kept || !(move > -100.0 && move <= 0.0); /* above, small ones could have been flushed */
        const VEC scale = F(set)((REAL)(again ? by : by * power2(move)));
        int64_t m;
        for (int64_t j = b; j < end; j += m) {
            m = end - j < W ? end - j : W;
#if !S_IS_16
            if (task->stream && !o) { /* up to the next vector boundary of out */
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
            if (task->stream && m == W && ((uintptr_t)(out + j) & (VBYTES - 1)) == 0) {
                stream(out + j, (v_f32)g);
                continue;
            }
#endif
            __builtin_prefetch((const char *)(out + j) + PREFETCH_WRITE, 1);
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

static double S(row_entropy)(const REAL *a, int64_t n, const row_scalars *s) {
    double total = 0.0;
    const VEC kk = F(set)((REAL)s->k), l = F(set)((REAL)s->lse), zero = F(set)(0);
    for (int64_t b = 0; b < n; b += FNLL_BLOCK) {
        const int64_t end = n - b < FNLL_BLOCK ? n : b + FNLL_BLOCK;
        VEC sum = F(set)(0);
        for (int64_t j = b; j < end; j += W) {
            const VEC av = end - j >= W ? F(load)(a + j) : FS(ld_part)(a + j, end - j), e = F(exp2k)(av, kk);
            sum += F(select)(e > zero, e * (l - av), zero);
        }
        total += CAT(sum_, T)(sum);
    }
    return total * s->inverse + (s->lse - (double)(REAL)s->lse);
}

static void S(general_row)(const fnll_task *task, int64_t r, REAL *scratch) {
    const int64_t n = task->v, o = r / task->inner, i = r % task->inner;
    STYPE *out = task->out.p ? (STYPE *)task->out.p + o * task->out.outer + i * task->out.inner : 0;
    const int ce = task->op == FNLL_CROSS_ENTROPY;
    if (ce && task->row_weight && task->row_weight[r] == 0.0) {
        S(absent_row)(task, r, out);
        return;
    }
    const int hard = ce && task->t.p != 0;
    const int64_t t = hard ? read_target(task, o, i) : -1;
    const int as_it_is = S(as_it_is)(task), wanted = task->entropy || task->argmax || task->rank;
    const REAL *a = as_it_is ? (const REAL *)((const STYPE *)task->x.p + o * task->x.outer + i * task->x.inner) : scratch;
    const REAL *q = ce && task->q.p ? S(load_probs)(task, o, i, scratch + n) : 0;
    const int valid = !hard || (t >= 0 && t < n);
    REAL a_t = 0; /* the target's logit, before the gradient overwrites it */
    if (hard && valid) {
        if (!as_it_is) S(load_part)(task, o, i, t, t + 1, scratch);
        a_t = a[t];
    }
    /* Exponentials are kept for the second sweep where one follows, the row is not too long for the caches, and they cost more
     * than the way there and back. */
    REAL *kept = ce && !wanted && n <= FNLL_KEEP_MOST && out && (S_IS_16 || T_IS_F64) ? scratch + 3 * n : 0;
    double ks[FNLL_KEEP_MOST / FNLL_BLOCK];
    S(look) look = {0.0, -INFINITY, 0.0, -INFINITY, 0.0, 0, hard && valid ? a_t : (REAL)INFINITY};
    fnll_block row = S(general_stats)(task, o, i, a, scratch, hard && valid ? t : -1, kept, ks, wanted ? &look : 0);
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
        row = FS(row_stats)(a, n, hard ? t : -1, 0, 0, 0, 0);
        if (!(row.sum > 0.0)) row = (fnll_block){0.0, 0.0}; /* all of the mass is the target's */
    }
    row_scalars s;
    if (row.sum > 0.0) {
        finish(1, &row, &x_t, hard, &s);
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
        REAL *to = scratch + 2 * n;
        fnll_task rows = *task;
        rows.stream = 0;
#if !S_IS_16
        if (task->out.cls == 1) to = out;
#endif
        FS(emission) e;
        FS(emit_set)(&rows, a, 0, 0, to, &s, -1, 1.0, 0.0, 0.0, &e);
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
    REAL *to = direct ? 0 : scratch + 2 * n;
    const double smooth = eps / live;
    a_t = hard ? a[t] : 0; /* the gradient may overwrite it */
    S(emit_gradient)(task, a, kept, ks, q, to, out, shift, &s, total, smooth, f);
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
