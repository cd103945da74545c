/* Rows in vector lanes: for a class axis that is not the last (neighbouring rows are neighbours in memory) and for
 * few classes (a tile of rows is transposed into a buffer first). No horizontal sums, no gathers.
 *
 * Up to FNLL_ROWS rows run side by side, class after class. Classes go in blocks of LANE_BLOCK: the block's maximum, then its
 * sum relative to it, both from cache; blocks are merged in float64. Each lane is independent of the others.
 */
#undef LANES
#undef LANE_BLOCK
#define LANES FNLL_ROWS
#define LANE_BLOCK 64

typedef struct {
    REAL target[LANES], factor[LANES], absent[LANES]; /* the target's id, -1 for none; gradient factor; 1 for rows of weight 0 */
    REAL k[LANES], rest[LANES], inverse[LANES], tail[LANES], nll[LANES], lse[LANES], bad[LANES], top[LANES];
    int special;                                      /* whether any lane is absent or bad */
    double weight[LANES];
} __attribute__((aligned(64))) S(lanes);

/* Statistics of m lanes. kept, if given and v <= LANE_BLOCK, receives exp(x) 2^-k. */
static void S(lane_stats)(const STYPE *x, int64_t stride, int64_t v, int64_t m, int hard, int log, REAL *kept, S(lanes) *u) {
    const VEC zero = F(set)(0), one = F(set)(1);
    for (int64_t i = 0; i < m; i += W) {
        const int64_t width = m - i < W ? m - i : W;
        const VEC t = F(load)(u->target + i);
        VEC k = F(set)(-3 * LIMIT), others = zero, x_t = zero;
        v_f64 sum[W / W_f64];
        for (int h = 0; h < W / W_f64; h++) sum[h] = set_f64(0);
        IVEC bad = {}, seen = {};
        for (int64_t b = 0; b < v; b += LANE_BLOCK) {
            const int64_t end = v - b < LANE_BLOCK ? v : b + LANE_BLOCK;
            VEC top = F(set)(-INFINITY);
            for (int64_t c = b; c < end; c++) top = F(max)(S(ld_lanes)(x + c * stride + i, width), top);
            bad |= top > LIMIT;
            const IVEC nothing = top < -2 * LIMIT; /* -inf and mask values alone: a block that adds nothing */
            top = F(max)(F(set)(-2 * LIMIT), top); /* for the arithmetic below */
            const VEC kb = F(select)(nothing, F(set)(-3 * LIMIT), (top * LOG2E + MAGIC) - MAGIC);
            VEC s = zero, id = F(set)((REAL)b);
            for (int64_t c = b; c < end; c++) {
                const VEC a = S(ld_lanes)(x + c * stride + i, width), e = F(exp2k)(a, kb);
                if (kept) F(store)(kept + c * LANES + i, e);
                if (hard) {
                    x_t = F(where)(t, id, a, x_t);
                    s += F(where)(t, id, zero, e);
                    id += one;
                } else if (log) { /* the largest is left out, of several the first: its log is -log1p(others / its own) */
                    const IVEC first = (IVEC)(a == top) & ~seen;
                    seen |= first;
                    x_t = F(select)(first, a, x_t);
                    s += F(select)(first, zero, e);
                } else {
                    s += e;
                }
            }
            bad |= s != s;
            s = F(select)(nothing, zero, s);
            if (v <= LANE_BLOCK) {
                k = kb;
                others = s;
            } else {
                const VEC up = F(max)(kb, k), old = F(scale2)(one, k - up), new = F(scale2)(s, kb - up);
                REAL eo[W], en[W];
                F(store)(eo, old);
                F(store)(en, new);
                for (int h = 0; h < W / W_f64; h++)
                    for (int j = 0; j < W_f64; j++)
                        sum[h][j] = sum[h][j] * (double)eo[h * W_f64 + j] + (double)en[h * W_f64 + j];
                k = up;
            }
        }
        if (v > LANE_BLOCK) {
            REAL e[W];
            for (int j = 0; j < W; j++) e[j] = (REAL)sum[j / W_f64][j % W_f64];
            others = F(load)(e);
        }
        VEC e_t = zero, s = others;
        if (hard) bad |= (x_t != x_t) | (x_t > LIMIT) | (t < zero);
        if (hard || log) {
            e_t = F(exp2k)(x_t, k);
            s = others + e_t;
        }
        bad |= ~((s > zero) & (k >= -LIMIT));
        s = F(select)(bad, one, s);
        const VEC log_s = F(log)(s), tail = k * LN2_LO + log_s, inverse = one / s;
        F(store)(u->k + i, k);
        F(store)(u->tail + i, tail);
        F(store)(u->inverse + i, inverse);
        F(store)(u->rest + i, others * inverse);
        F(store)(u->bad + i, F(select)(bad, one, zero));
        if (log) F(store)(u->top + i, x_t);
        if (hard || log) {
            const VEC ratio = others / e_t;
            F(store)(u->nll + i, F(select)(ratio < (REAL)0x1p20, F(log1p)(ratio), tail - F(less_k)(x_t, k)));
        }
        if (!hard) {
            F(store)(u->lse + i, tail - F(less_k)(zero, k));
        }
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
                         int64_t out_stride, REAL *kept, S(lanes) *u, REAL *scratch) {
    const int ce = task->op == FNLL_CROSS_ENTROPY;
    int64_t t[LANES];
    for (int64_t i = 0; i < LANES; i++) u->target[i] = 0, u->absent[i] = 0, u->factor[i] = 1;
    u->special = 0;
    if (ce) {
        read_targets(task, r0 / task->inner, r0 % task->inner, m, t);
        for (int64_t i = 0; i < m; i++) u->target[i] = t[i] >= 0 && t[i] < task->v ? (REAL)t[i] : (REAL)-1;
        for (int64_t i = 0; i < m; i++) u->weight[i] = task->target_weight ? task->target_weight[r0 + i] : 1.0;
        if (out)
            for (int64_t i = 0; i < m; i++) u->factor[i] = (REAL)(gradient_factor(task, r0 + i) * u->weight[i]);
        if (task->row_weight)
            for (int64_t i = 0; i < m; i++) {
                const double w = task->row_weight[r0 + i];
                u->absent[i] = w == 0.0;
                u->special |= w == 0.0;
                u->weight[i] = w == 0.0 ? 0.0 : u->weight[i] * w;
            }
    }
    S(lane_stats)(x, stride, task->v, m, ce, task->op == FNLL_LOG_SOFTMAX, out ? kept : 0, u);
    for (int64_t i = 0; i < m; i++) u->special |= u->bad[i] != 0;
    if (!u->special) {
        if (task->loss)
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
            if (task->loss) task->loss[r - task->loss_from] = u->weight[i] != 0.0 ? u->weight[i] * (double)u->nll[i] : 0.0;
            if (task->lse) task->lse[r] = u->lse[i];
        }
    }
    if (out) S(lane_emit)(task, x, stride, out, out_stride, m, kept, u);
}

/* Rows to lanes and back, W by W in registers where classes are contiguous. */
static void S(tile_in)(const STYPE *from, int64_t row, int64_t cls, int64_t m, int64_t v, STYPE *x) {
    int64_t j = 0;
#if HAS_TRANSPOSE && !S_IS_16
    for (; cls == 1 && j + W <= m; j += W)
        for (int64_t c = 0; c < v; c += W) {
            const int64_t width = v - c < W ? v - c : W;
            VEC a[W];
#pragma GCC unroll 16
            for (int r = 0; r < W; r++) {
                if (v >= 8) __builtin_prefetch(from + (j + r + LANES) * row + c); /* the same rows of the next tile */
                a[r] = S(ld_part)(from + (j + r) * row + c, width);
            }
            F(transpose)(a);
            for (int l = 0; l < width; l++) S(st)(x + (c + l) * LANES + j, a[l]);
        }
#endif
    for (; j < m; j++)
        for (int64_t c = 0; c < v; c++) x[c * LANES + j] = from[j * row + c * cls];
}

static void S(tile_out)(const STYPE *y, int64_t row, int64_t cls, int64_t m, int64_t v, const REAL *bad, STYPE *to) {
    int64_t j = 0;
#if HAS_TRANSPOSE && !S_IS_16
    for (; cls == 1 && j + W <= m; j += W)
        for (int64_t c = 0; c < v; c += W) {
            const int64_t width = v - c < W ? v - c : W;
            VEC a[W];
#pragma GCC unroll 16
            for (int l = 0; l < W; l++) a[l] = l < width ? S(ld)(y + (c + l) * LANES + j) : F(set)(0);
            F(transpose)(a);
#pragma GCC unroll 16
            for (int r = 0; r < W; r++)
                if (bad[j + r] == 0) S(st_part)(to + (j + r) * row + c, a[r], width);
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
    S(tile_in)(from, task->x.inner, task->x.cls, m, v, x);
    S(lane_rows)(task, r0, m, x, LANES, task->out.p ? y : 0, LANES, kept, &u, scratch);
    if (!task->out.p) return;
    STYPE *to = (STYPE *)task->out.p + o * task->out.outer + i * task->out.inner;
    S(tile_out)(y, task->out.inner, task->out.cls, m, v, u.bad, to);
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
