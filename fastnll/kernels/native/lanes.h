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
    int64_t t[LANES];         /* target of each lane, -1 for none */
    double weight[LANES], factor[LANES];
    uint8_t absent[LANES], bad[LANES];
    REAL k[LANES], rest[LANES], scale[LANES], tail[LANES], nll[LANES], lse[LANES];
} S(lanes);

inline_always VEC S(ld_lanes)(const STYPE *p, int64_t m) { return m >= W ? S(ld)(p) : S(ld_part)(p, m); }

/* Statistics of m lanes. kept, if given and v <= LANE_BLOCK, receives exp(x) 2^-k. */
static void S(lane_stats)(const STYPE *x, int64_t stride, int64_t v, int64_t m, int hard, REAL *kept, S(lanes) *u) {
    for (int64_t i = 0; i < m; i += W) {
        const int64_t width = m - i < W ? m - i : W;
        REAL target[W], logit[W];
        for (int j = 0; j < W; j++) {
            const int64_t t = j < width ? u->t[i + j] : -1;
            const int inside = hard && t >= 0 && t < v;
            target[j] = inside ? (REAL)t : (REAL)-1;
            logit[j] = inside ? S(get)(x + t * stride + i + j) : 0;
        }
        const VEC t = F(load)(target), x_t = F(load)(logit);
        VEC k = F(set)(-3 * LIMIT), others = F(set)(0);
        v_f64 sum[W / W_f64];
        for (int h = 0; h < W / W_f64; h++) sum[h] = set_f64(0);
        IVEC bad = {};
        for (int64_t b = 0; b < v; b += LANE_BLOCK) {
            const int64_t end = v - b < LANE_BLOCK ? v : b + LANE_BLOCK;
            VEC top = F(set)(-INFINITY);
            for (int64_t c = b; c < end; c++) {
                VEC a = S(ld_lanes)(x + c * stride + i, width);
                top = F(max)(a, top);
            }
            bad |= top > LIMIT;
            const IVEC nothing = top < -2 * LIMIT; /* -inf and mask values alone: a block that adds nothing */
            top = F(max)(F(set)(-2 * LIMIT), top); /* for the arithmetic below */
            const VEC kb = F(select)(nothing, F(set)(-3 * LIMIT), (top * LOG2E + MAGIC) - MAGIC);
            VEC s = F(set)(0);
            for (int64_t c = b; c < end; c++) {
                VEC e = F(exp2k)(S(ld_lanes)(x + c * stride + i, width), kb);
                if (kept) F(store)(kept + c * LANES + i, e);
                s += F(select)((IVEC)(t == (REAL)c), F(set)(0), e);
            }
            bad |= s != s;
            s = F(select)(nothing, F(set)(0), s);
            if (v <= LANE_BLOCK) {
                k = kb;
                others = s;
            } else {
                const VEC up = F(max)(kb, k), old = F(scale2)(F(set)(1), k - up), new = F(scale2)(s, kb - up);
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
        VEC e_t = F(set)(0), s = others;
        if (hard) {
            bad |= (x_t != x_t) | (x_t > LIMIT) | (t < (REAL)0);
            e_t = F(exp2k)(x_t, k);
            s = others + e_t;
        }
        bad |= ~((s > (REAL)0) & (k >= -LIMIT));
        s = F(select)(bad, F(set)(1), s);
        const VEC log_s = F(log)(s), tail = k * LN2_LO + log_s, inverse = (REAL)1 / s, rest = others * inverse;
        const VEC lse = tail - F(less_k)(F(set)(0), k);
        VEC nll = F(set)(0);
        if (hard) {
            const VEC ratio = others / e_t;
            nll = F(log1p)(ratio);
            nll = F(select)(ratio < (REAL)0x1p20, nll, tail - F(less_k)(x_t, k));
        }
        for (int64_t j = 0; j < width; j++) {
            const int64_t r = i + j;
            u->bad[r] = bad[j] != 0;
            u->k[r] = k[j];
            u->rest[r] = rest[j];
            u->scale[r] = inverse[j];
            u->tail[r] = tail[j];
            u->nll[r] = nll[j];
            u->lse[r] = lse[j];
        }
    }
}

/* Outputs of m lanes, class after class. Lanes that are absent get 0; lanes that were bad keep what is there. */
static void S(lane_emit)(const fnll_task *task, const STYPE *x, int64_t stride, STYPE *out, int64_t out_stride,
                         int64_t m, const REAL *kept, const S(lanes) *u) {
    const int hard = task->op == FNLL_CROSS_ENTROPY, log = task->op == FNLL_LOG_SOFTMAX;
    for (int64_t i = 0; i < m; i += W) {
        const int64_t width = m - i < W ? m - i : W;
        REAL target[W], factor[W], fix[W], off[W], keep_old[W];
        int special = 0;
        for (int j = 0; j < W; j++) {
            const int64_t r = i + (j < width ? j : 0);
            const double g = hard ? u->factor[r] : 1.0;
            target[j] = (REAL)(hard ? u->t[r] : -1);
            factor[j] = (REAL)(g * (double)u->scale[r]);
            fix[j] = (REAL)(-g * (double)u->rest[r]);
            off[j] = u->absent[r];
            keep_old[j] = u->bad[r];
            special |= u->absent[r] | u->bad[r];
        }
        REAL ek[W], et[W];
        for (int j = 0; j < W; j++) {
            const int64_t r = i + (j < width ? j : 0);
            ek[j] = u->k[r];
            et[j] = u->tail[r];
        }
        const VEC t = F(load)(target), scale = F(load)(factor), at_t = F(load)(fix), k = F(load)(ek), tail = F(load)(et);
        const VEC absent = F(load)(off), bad = F(load)(keep_old);
        for (int64_t c = 0; c < task->v; c++) {
            STYPE *to = out + c * out_stride + i;
            VEC g;
            if (log) {
                g = F(less_k)(S(ld_lanes)(x + c * stride + i, width), k) - tail;
            } else {
                g = kept ? F(load)(kept + c * LANES + i) : F(exp2k)(S(ld_lanes)(x + c * stride + i, width), k);
                g = g * scale;
                if (hard) g = F(select)((IVEC)(t == (REAL)c), at_t, g);
            }
            if (special) {
                g = F(select)((IVEC)(absent != (REAL)0), F(set)(0), g);
                g = F(select)((IVEC)(bad != (REAL)0), S(ld_lanes)(to, width), g);
            }
            if (width == W)
                S(st)(to, g);
            else
                S(st_part)(to, g, width);
        }
    }
}

/* Rows r0 .. r0+m-1, all of one outer index; x and out point at the first of them. `tile` says that they stand in a transposed
 * buffer, whose bad rows the caller leaves alone. */
static void S(lane_rows)(const fnll_task *task, int64_t r0, int64_t m, const STYPE *x, int64_t stride, STYPE *out,
                         int64_t out_stride, REAL *kept, S(lanes) *u, REAL *scratch) {
    const int ce = task->op == FNLL_CROSS_ENTROPY;
    for (int64_t i = 0; i < m; i++) {
        const int64_t r = r0 + i, o = r / task->inner;
        const double w = ce && task->row_weight ? task->row_weight[r] : 1.0;
        const double c = ce && task->target_weight ? task->target_weight[r] : 1.0;
        u->absent[i] = w == 0.0;
        u->t[i] = ce && w != 0.0 ? read_target(task, o, r - o * task->inner) : 0;
        u->weight[i] = w * c;
        u->factor[i] = ce ? gradient_factor(task, r) * c : 1.0;
    }
    S(lane_stats)(x, stride, task->v, m, ce, out ? kept : 0, u);
    for (int64_t i = 0; i < m; i++) {
        const int64_t r = r0 + i;
        if (u->absent[i]) {
            u->bad[i] = 0;
            u->k[i] = u->tail[i] = u->scale[i] = 0;
            if (task->loss) task->loss[r - task->loss_from] = 0.0;
        } else if (u->bad[i]) {
            S(general_row)(task, r, scratch);
        } else {
            if (task->loss) task->loss[r - task->loss_from] = u->weight[i] != 0.0 ? u->weight[i] * (double)u->nll[i] : 0.0;
            if (task->lse) task->lse[r] = u->lse[i];
        }
    }
    if (out) S(lane_emit)(task, x, stride, out, out_stride, m, kept, u);
}

/* Few classes in the last axis: transpose a tile, run it, transpose the result back. */
static void S(tile_rows)(const fnll_task *task, int64_t r0, int64_t m, REAL *scratch) {
    STYPE x[FNLL_SMALL * LANES] __attribute__((aligned(64))), y[FNLL_SMALL * LANES] __attribute__((aligned(64)));
    REAL kept[FNLL_SMALL * LANES] __attribute__((aligned(64)));
    S(lanes) u;
    const int64_t v = task->v, o = r0 / task->inner, i = r0 % task->inner;
    const STYPE *from = (const STYPE *)task->x.p + o * task->x.outer + i * task->x.inner;
    for (int64_t j = 0; j < m; j++)
        for (int64_t c = 0; c < v; c++) x[c * LANES + j] = from[j * task->x.inner + c * task->x.cls];
    S(lane_rows)(task, r0, m, x, LANES, task->out.p ? y : 0, LANES, kept, &u, scratch);
    if (!task->out.p) return;
    STYPE *to = (STYPE *)task->out.p + o * task->out.outer + i * task->out.inner;
    for (int64_t j = 0; j < m; j++)
        for (int64_t c = 0; c < v && !u.bad[j]; c++) to[j * task->out.inner + c * task->out.cls] = y[c * LANES + j];
}

static void S(lane_range)(const fnll_task *task, int64_t r0, int64_t r1, REAL *scratch, int tiled) {
    while (r0 < r1) {
        const int64_t o = r0 / task->inner, i = r0 % task->inner;
        int64_t m = task->inner - i < r1 - r0 ? task->inner - i : r1 - r0;
        if (m > LANES) m = LANES;
        if (tiled) {
            S(tile_rows)(task, r0, m, scratch);
        } else {
            S(lanes) u;
            S(lane_rows)(task, r0, m, (const STYPE *)task->x.p + o * task->x.outer + i * task->x.inner, task->x.cls,
                         task->out.p ? (STYPE *)task->out.p + o * task->out.outer + i * task->out.inner : 0,
                         task->out.cls, 0, &u, scratch);
        }
        r0 += m;
    }
}
