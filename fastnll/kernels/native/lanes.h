/* Rows in vector lanes: for a class axis that is not the last (neighbouring rows are neighbours in memory) and for
 * few classes (a tile of rows is transposed into a buffer first). No horizontal sums, no gathers.
 *
 * Up to FNLL_ROWS rows run side by side, class after class. Each lane is independent of the others.
 */
#undef LANES
#undef LANE_MOST
#define LANES FNLL_ROWS
/* Sums relative to 1 up to this: the inverse of a larger one times a small gradient factor would be flushed. */
#define LANE_MOST 0x1p40

typedef struct {
    REAL target[LANES], factor[LANES], absent[LANES]; /* the target's id, -1 for none; gradient factor; 1 for rows of weight 0 */
    REAL k[LANES], rest[LANES], inverse[LANES], tail[LANES], nll[LANES], lse[LANES], bad[LANES], top[LANES];
    int special;                                      /* whether any lane is absent or bad */
    double weight[LANES];
} __attribute__((aligned(64))) S(lanes);

/* Lines that are asked for while exponentials are computed: a tile's loads alone would wait for memory one after the other. W elements of
 * each for a class of W rows, which is all of them where rows lie one behind the other. */
typedef struct {
    const STYPE *read, *write; /* the next tile's logits, this one's output; NULL for none */
} S(lines);

/* Exponentials of W lanes relative to 2^k, class after class, two side by side: their sum without the target's (hard) or the largest's
 * (log; of several the first), whose logit goes to x_t. Lanes that are done keep what is kept of them. */
inline_always VEC S(lane_sum)(const STYPE *x, int64_t stride, int64_t v, int64_t width, VEC k, VEC t, VEC top, REAL *kept, IVEC done, VEC *x_t,
                              const S(lines) ask, const int shift, const int hard, const int log) {
    const VEC zero = F(set)(0), one = F(set)(1);
    VEC s = zero, at = zero, id = zero;
    IVEC seen = {};
    for (int64_t c = 0; c < v; c += 2) {
        const int pair = c + 1 < v;
        for (int q = 0; q < 2; q++) {
            __builtin_prefetch(ask.read + (c + q) * W);
            if (ask.write) __builtin_prefetch(ask.write + (c + q) * W, 1);
        }
        VEC a[2], e[2];
        a[0] = S(ld_lanes)(x + c * stride, width);
        a[1] = S(ld_lanes)(x + (c + pair) * stride, width);
        e[0] = a[0], e[1] = a[1];
        if (shift)
            F(exps2k)(e, k, 2);
        else
            F(exps)(e, 2);
        for (int q = 0; q <= pair; q++) {
            if (kept) {
                REAL *to = kept + (c + q) * LANES;
                F(store)(to, shift ? F(select)(done, F(load)(to), e[q]) : e[q]);
            }
            if (hard) {
                at = F(where)(t, id, a[q], at);
                s += F(where)(t, id, zero, e[q]);
                id += one;
            } else if (log) {
                const IVEC first = (IVEC)(a[q] == top) & ~seen;
                seen |= first;
                at = F(select)(first, a[q], at);
                s += F(select)(first, zero, e[q]);
            } else {
                s += e[q];
            }
        }
    }
    *x_t = at;
    return s;
}

/* log(s 2^k) = k LN2_HI + the result. s goes to [1, 2) first and k with it: a reference far from the sum costs k ln 2 + log s digits. */
inline_always VEC S(lane_tail)(VEC s, VEC *k) {
#if T_IS_F64
    const IVEC exponent = ((IVEC)s >> 52) - 1023;
    const VEC up = (VEC)(exponent + 0x4338000000000000LL) - MAGIC;
#else
    const IVEC exponent = ((IVEC)s >> 23) - 127;
    const VEC up = (VEC)(exponent + 0x4b400000) - MAGIC;
#endif
    *k += up;
    return *k * LN2_LO + F(log)(F(scale2)(s, F(set)(0) - up));
}

/* Statistics of m lanes. kept, if given, receives exp(x) 2^-k; probabilities: whether the output needs more than the loss. */
inline_always void S(lane_stats)(const STYPE *x, int64_t stride, int64_t v, int64_t m, const int hard, const int log, const int probabilities,
                                 REAL *kept, S(lanes) *u, S(lines) ask) {
    const VEC zero = F(set)(0), one = F(set)(1);
    for (int64_t i = 0; i < m; i += W) {
        const int64_t width = m - i < W ? m - i : W;
        const S(lines) lines = {ask.read ? ask.read + i * v : x, ask.write ? ask.write + i * v : 0};
        const VEC t = F(load)(u->target + i);
        REAL *to = kept ? kept + i : 0;
        VEC k = zero, x_t = zero, others = zero, e_t = zero;
        IVEC bad = {}, done = {};
        /* 2^0 is tried first, see rows.h; the largest of a row has to be looked for anyway where it is left out. Where a row's own
         * reference is below, probabilities relative to 1 would be flushed that are normal numbers. */
        if (!log) {
            others = S(lane_sum)(x + i, stride, v, width, k, t, zero, to, done, &x_t, lines, 0, hard, 0);
            e_t = hard ? F(exp)(x_t) : zero;
            const VEC s = others + e_t;
            done = (others >= F(set)(LEAST)) & (s <= F(set)((REAL)LANE_MOST)) & (t >= zero);
            if (probabilities) done &= s >= one;
        }
        if (F(any_above)(F(select)(done, zero, one), zero)) {
            VEC top = F(set)(-INFINITY);
            for (int64_t c = 0; c < v; c++) top = F(max)(S(ld_lanes)(x + c * stride + i, width), top);
            bad |= top > LIMIT;
            const IVEC nothing = top < -2 * LIMIT; /* -inf and mask values alone */
            const VEC high = F(max)(F(set)(-2 * LIMIT), top); /* for the arithmetic below */
            const VEC kb = F(select)(nothing, F(set)(-3 * LIMIT), (high * LOG2E + MAGIC) - MAGIC);
            VEC s = S(lane_sum)(x + i, stride, v, width, kb, t, high, to, done, &x_t, lines, 1, hard, log);
            bad |= s != s;
            s = F(select)(nothing, zero, s);
            k = F(select)(done, k, kb);
            others = F(select)(done, others, s);
            e_t = F(select)(done, e_t, hard || log ? F(exp2k)(x_t, kb) : zero);
        }
        if (hard) bad |= (x_t != x_t) | (x_t > LIMIT) | (t < zero);
        VEC s = others + e_t;
        bad |= ~((s > zero) & (k >= -LIMIT));
        s = F(select)(bad, one, s);
        if (F(any_above)(F(select)(bad, one, zero), zero)) u->special = 1;
        F(store)(u->bad + i, F(select)(bad, one, zero));
        F(store)(u->k + i, k);
        if (probabilities) {
            const VEC inverse = one / s;
            F(store)(u->inverse + i, inverse);
            F(store)(u->rest + i, others * inverse);
        }
        if (!hard && !log) {
            const VEC tail = S(lane_tail)(s, &k);
            F(store)(u->lse + i, tail - F(less_k)(zero, k));
            continue;
        }
        const VEC ratio = others / e_t, near = F(set)((REAL)0x1p20);
        VEC nll = F(log1p)(ratio);
        if (log || F(any_above)(ratio, near)) {
            const VEC tail = S(lane_tail)(s, &k);
            nll = F(select)(ratio < near, nll, tail - F(less_k)(x_t, k));
            if (log) {
                F(store)(u->k + i, k);
                F(store)(u->tail + i, tail);
                F(store)(u->lse + i, tail - F(less_k)(zero, k));
                F(store)(u->top + i, x_t);
            }
        }
        F(store)(u->nll + i, nll);
    }
}

/* Outputs of m lanes, class after class. Lanes that are absent get 0; lanes that were bad keep what is there. */
static void S(lane_emit)(const fnll_task *task, const STYPE *x, int64_t stride, STYPE *out, int64_t out_stride,
                         int64_t m, const REAL *kept, const S(lanes) *u) {
    const int hard = task->op == FNLL_CROSS_ENTROPY, log = task->op == FNLL_LOG_SOFTMAX;
    const VEC zero = F(set)(0), one = F(set)(1);
    for (int64_t i = 0; i < m; i += W) {
        const int64_t width = m - i < W ? m - i : W;
        const VEC t = F(load)(u->target + i), k = F(load)(u->k + i), tail = F(load)(u->tail + i);
        const VEC factor = hard ? F(load)(u->factor + i) : one, scale = factor * F(load)(u->inverse + i);
        const VEC at_t = -factor * F(load)(u->rest + i);
        const IVEC absent = F(load)(u->absent + i) != zero, bad = F(load)(u->bad + i) != zero;
        VEC id = zero;
        for (int64_t c = 0; c < task->v; c++) {
            STYPE *to = out + c * out_stride + i;
            VEC g;
            if (log) {
                const VEC a = S(ld_lanes)(x + c * stride + i, width);
                g = -F(max)(zero, tail - F(less_k)(a, k));
                g = F(where)(a, F(load)(u->top + i), -F(load)(u->nll + i), g);
            } else {
                g = kept ? F(load)(kept + c * LANES + i) : F(exp2k)(S(ld_lanes)(x + c * stride + i, width), k);
                g = g * scale;
                if (hard) {
                    g = F(where)(t, id, at_t, g);
                    id += one;
                }
            }
            if (u->special) {
                g = F(select)(absent, zero, g);
                g = F(select)(bad, S(ld_lanes)(to, width), g);
            }
            if (width == W)
                S(st)(to, g);
            else
                S(st_part)(to, g, width);
        }
    }
}

/* Rows r0 .. r0+m-1, all of one outer index; x and out point at the first of them, kept at room for exponentials or NULL. */
static void S(lane_rows)(const fnll_task *task, int64_t r0, int64_t m, const STYPE *x, int64_t stride, STYPE *out,
                         int64_t out_stride, REAL *kept, S(lanes) *u, S(lines) ask, REAL *scratch) {
    const int ce = task->op == FNLL_CROSS_ENTROPY, log = task->op == FNLL_LOG_SOFTMAX, weighted = task->row_weight || task->target_weight;
    for (int64_t i = 0; i < LANES; i++) u->target[i] = 0, u->absent[i] = 0, u->factor[i] = 1;
    u->special = 0;
    if (ce) {
        int64_t t[LANES];
        read_targets(task, r0 / task->inner, r0 % task->inner, m, t);
        for (int64_t i = 0; i < m; i++) u->target[i] = (uint64_t)t[i] < (uint64_t)task->v ? (REAL)t[i] : (REAL)-1;
        if (weighted)
            for (int64_t i = 0; i < m; i++) u->weight[i] = task->target_weight ? task->target_weight[r0 + i] : 1.0;
        if (out)
            for (int64_t i = 0; i < m; i++) u->factor[i] = (REAL)(gradient_factor(task, r0 + i) * (weighted ? u->weight[i] : 1.0));
        if (task->row_weight)
            for (int64_t i = 0; i < m; i++) {
                const double w = task->row_weight[r0 + i];
                u->absent[i] = w == 0.0;
                u->special |= w == 0.0;
                u->weight[i] = w == 0.0 ? 0.0 : u->weight[i] * w;
            }
    }
    if (ce)
        out ? S(lane_stats)(x, stride, task->v, m, 1, 0, 1, kept, u, ask) : S(lane_stats)(x, stride, task->v, m, 1, 0, 0, 0, u, ask);
    else if (log)
        S(lane_stats)(x, stride, task->v, m, 0, 1, 0, 0, u, ask);
    else
        S(lane_stats)(x, stride, task->v, m, 0, 0, 1, out ? kept : 0, u, ask);
    if (!u->special) {
        if (task->loss && !weighted)
            for (int64_t i = 0; i < m; i++) task->loss[r0 + i - task->loss_from] = (double)u->nll[i];
        else if (task->loss)
            for (int64_t i = 0; i < m; i++)
                task->loss[r0 + i - task->loss_from] = u->weight[i] != 0.0 ? u->weight[i] * (double)u->nll[i] : 0.0;
        if (task->lse)
            for (int64_t i = 0; i < m; i++) task->lse[r0 + i] = u->lse[i];
    }
    for (int64_t i = 0; u->special && i < m; i++) {
        const int64_t r = r0 + i;
        if (u->absent[i] != 0) {
            u->bad[i] = 0;
            if (task->loss) task->loss[r - task->loss_from] = 0.0;
        } else if (u->bad[i] != 0) {
            S(general_row)(task, r, scratch);
        } else {
            const double w = weighted ? u->weight[i] : 1.0;
            if (task->loss) task->loss[r - task->loss_from] = w != 0.0 ? w * (double)u->nll[i] : 0.0;
            if (task->lse) task->lse[r] = u->lse[i];
        }
    }
    if (out) S(lane_emit)(task, x, stride, out, out_stride, m, kept, u);
}

/* Rows to lanes and back, W by W in registers where classes are contiguous. */
#undef HIDE
#define HIDE(p) __asm__("" : "+r"(p))
static void S(tile_in)(const STYPE *from, int64_t row, int64_t cls, int64_t m, int64_t v, STYPE *x) {
    int64_t j = 0;
#if HAS_TRANSPOSE && !S_IS_16
    for (; cls == 1 && j + W <= m; j += W)
        for (int64_t c = 0; c < v; c += W) {
            const int64_t width = v - c < W ? v - c : W;
            VEC a[W];
            const STYPE *p = from + j * row + c; /* one pointer, for compilers keep one for each row where they can */
#pragma GCC unroll 16
            for (int r = 0; r < W; r++, p += row) {
                HIDE(p);
                a[r] = S(ld_part)(p, width);
            }
            F(transpose)(a);
            for (int l = 0; l < width; l++) S(st)(x + (c + l) * LANES + j, a[l]);
        }
#endif
    for (; j < m; j++)
        for (int64_t c = 0; c < v; c++) x[c * LANES + j] = from[j * row + c * cls];
}

static void S(tile_out)(const STYPE *y, int64_t row, int64_t cls, int64_t m, int64_t v, int special, const REAL *bad, STYPE *to) {
    int64_t j = 0;
#if HAS_TRANSPOSE && !S_IS_16
    for (; cls == 1 && j + W <= m; j += W)
        for (int64_t c = 0; c < v; c += W) {
            const int64_t width = v - c < W ? v - c : W;
            VEC a[W];
#pragma GCC unroll 16
            for (int l = 0; l < W; l++) a[l] = l < width ? S(ld)(y + (c + l) * LANES + j) : F(set)(0);
            F(transpose)(a);
            STYPE *p = to + j * row + c;
#pragma GCC unroll 16
            for (int r = 0; r < W; r++, p += row) {
                HIDE(p);
                if (special && bad[j + r] != 0) continue;
                if (width == W)
                    S(st)(p, a[r]);
                else
                    S(st_part)(p, a[r], width);
            }
        }
#endif
    for (; j < m; j++)
        for (int64_t c = 0; c < v && bad[j] == 0; c++) to[j * row + c * cls] = y[c * LANES + j];
}

/* Few classes in the last axis: transpose a tile, run it, transpose the result back. */
static void S(tile_rows)(const fnll_task *task, int64_t r0, int64_t m, REAL *scratch) {
    STYPE x[FNLL_SMALL * LANES] __attribute__((aligned(64))), y[FNLL_SMALL * LANES] __attribute__((aligned(64)));
    REAL kept[FNLL_SMALL * LANES] __attribute__((aligned(64)));
    S(lanes) u;
    const int64_t v = task->v, o = r0 / task->inner, i = r0 % task->inner;
    const STYPE *from = (const STYPE *)task->x.p + o * task->x.outer + i * task->x.inner;
    STYPE *to = task->out.p ? (STYPE *)task->out.p + o * task->out.outer + i * task->out.inner : 0;
    const int dense = task->x.inner == v && task->x.cls == 1, dense_out = task->out.inner == v && task->out.cls == 1;
    const S(lines) ask = {dense ? from + m * v : 0, to && dense_out && to != from ? to : 0};
    S(tile_in)(from, task->x.inner, task->x.cls, m, v, x);
    S(lane_rows)(task, r0, m, x, LANES, to ? y : 0, LANES, kept, &u, ask, scratch);
    if (!to) return;
    S(tile_out)(y, task->out.inner, task->out.cls, m, v, u.special, u.bad, to);
}

static void S(lane_range)(const fnll_task *task, int64_t r0, int64_t r1, REAL *scratch) {
    while (r0 < r1) {
        const int64_t left = task->inner - r0 % task->inner;
        int64_t m = left < r1 - r0 ? left : r1 - r0;
        if (m > LANES) m = LANES;
        S(tile_rows)(task, r0, m, scratch);
        r0 += m;
    }
}
