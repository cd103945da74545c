/* The two row primitives for rows that are contiguous and need no transform; one instance per storage dtype.
 *
 * stats: a row is read once, block by block. A block's sum of exponentials is held relative to 2^k; k comes
 * from four samples of the block, is checked afterwards, and only a block that overflowed is done again with
 * its true maximum. Block sums are merged in float64, in block order, by shifts of the exponent. The target's own term
 * is left out of its block: loss = log1p(others / e_t) and p_t - 1 = -others / (others + e_t) then keep their
 * relative accuracy for confident rows.
 * emit: one more sweep, from cache, writes probabilities, log-probabilities or the gradient.
 */

inline_always VEC S(ld_skip)(const STYPE *p, int64_t m, int64_t skip) {
    REAL e[W];
    F(store)(e, m >= W ? S(ld)(p) : S(ld_part)(p, m));
    if (skip >= 0 && skip < W) e[skip] = -INFINITY;
    return F(load)(e);
}

static double S(block_sum)(const STYPE *x, int64_t n, REAL k, int64_t skip) {
    const VEC kk = F(set)(k);
    VEC a0 = F(set)(0), a1 = a0, a2 = a0, a3 = a0;
    const int64_t whole = n - n % (4 * W);
    int64_t hole = skip < 0 ? whole : skip - skip % (4 * W);
    if (hole > whole) hole = whole;
    int64_t i = 0;
    for (int part = 0; part < 2; part++) {
        const int64_t end = part ? whole : hole;
        for (; i < end; i += 4 * W) {
            a0 += F(exp2k)(S(ld)(x + i), kk);
            a1 += F(exp2k)(S(ld)(x + i + W), kk);
            a2 += F(exp2k)(S(ld)(x + i + 2 * W), kk);
            a3 += F(exp2k)(S(ld)(x + i + 3 * W), kk);
        }
        if (!part && i < whole)
            for (int j = 0; j < 4; j++, i += W) a0 += F(exp2k)(S(ld_skip)(x + i, W, skip - i), kk);
    }
    if (skip < whole) {
        for (; i + W <= n; i += W) a1 += F(exp2k)(S(ld)(x + i), kk);
        if (i < n) a2 += F(exp2k)(S(ld_part)(x + i, n - i), kk);
    } else {
        for (; i < n; i += W) a1 += F(exp2k)(S(ld_skip)(x + i, n - i, skip - i), kk);
    }
    return CAT(sum_, T)((a0 + a1) + (a2 + a3));
}

static REAL S(block_max)(const STYPE *x, int64_t n) {
    VEC m = F(set)(-INFINITY);
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        VEC a = S(ld)(x + i);
        m = F(max)(a, m);
    }
    if (i < n) {
        VEC a = S(ld_part)(x + i, n - i);
        m = F(max)(a, m);
    }
    REAL e[W], r = -INFINITY;
    F(store)(e, m);
    for (int j = 0; j < W; j++) r = e[j] > r ? e[j] : r;
    return r;
}

static int S(has_nan)(const STYPE *x, int64_t n) {
    IVEC bad = {};
    int64_t i = 0;
    for (; i + W <= n; i += W) {
        VEC a = S(ld)(x + i);
        bad |= a != a;
    }
    VEC a = S(ld_part)(x + i, n - i);
    bad |= a != a;
    for (int j = 0; j < W; j++)
        if (bad[j]) return 1;
    return 0;
}

/* One block, without element skip (or -1). k = NaN asks for the careful path; sum = 0 says "nothing here". */
static fnll_block S(block)(const STYPE *x, int64_t n, int64_t skip) {
    REAL m = S(get)(x), b = S(get)(x + n / 3), c = S(get)(x + 2 * n / 3), d = S(get)(x + n - 1);
    m = b > m ? b : m;
    c = d > c ? d : c;
    m = c > m ? c : m;
    for (int again = 0; again < 2; again++) {
        if (m >= -2 * LIMIT && m <= LIMIT) {
            const REAL k = (m * (REAL)LOG2E + MAGIC) - MAGIC;
            const double s = S(block_sum)(x, n, k, skip);
            if (s >= 0.0 && s < (double)SPECULATE) return (fnll_block){k, s};
        }
        if (!again) m = S(block_max)(x, n);
    }
    if (m < -2 * LIMIT) { /* nothing but -inf and mask values, or NaN among them */
        return (fnll_block){S(has_nan)(x, n) ? (REAL)NAN : 0, 0.0};
    }
    return (fnll_block){NAN, 0.0};
}

static fnll_block S(row_stats)(const STYPE *x, int64_t n, int64_t skip) {
    fnll_block row = {-INFINITY, 0.0};
    for (int64_t i = 0; i < n; i += FNLL_BLOCK) {
        const int64_t m = n - i < FNLL_BLOCK ? n - i : FNLL_BLOCK;
        const int64_t s = skip - i;
        row = merge_block(row, S(block)(x + i, m, s >= 0 && s < m ? s : -1));
    }
    return row;
}

/* out = exp(x) 2^-k * scale. With `aligned` stores bypass the cache; out is then brought to a vector boundary. */
static void S(emit_exp)(const STYPE *x, STYPE *out, int64_t n, REAL k, REAL scale, int bypass) {
    const VEC kk = F(set)(k), ss = F(set)(scale);
    int64_t i = 0;
#if !S_IS_16
    if (bypass) {
        int64_t head = (int64_t)((-(uintptr_t)out & (VBYTES - 1)) / sizeof(STYPE));
        if (head > n) head = n;
        if (head) S(st_part)(out, F(exp2k)(S(ld_part)(x, head), kk) * ss, head);
        for (i = head; i + W <= n; i += W) stream(out + i, (v_f32)(F(exp2k)(S(ld)(x + i), kk) * ss));
    }
#else
    (void)bypass;
#endif
    for (; i + 2 * W <= n; i += 2 * W) {
        VEC a = F(exp2k)(S(ld)(x + i), kk) * ss, b = F(exp2k)(S(ld)(x + i + W), kk) * ss;
        S(st)(out + i, a);
        S(st)(out + i + W, b);
    }
    for (; i + W <= n; i += W) S(st)(out + i, F(exp2k)(S(ld)(x + i), kk) * ss);
    if (i < n) S(st_part)(out + i, F(exp2k)(S(ld_part)(x + i, n - i), kk) * ss, n - i);
}

/* out = log p from the row's scalars. In float32 the logsumexp is at hand in float64 and goes off in two parts; in float64
 * k ln 2 goes off first, which is exact for logits near the logsumexp. */
static void S(emit_log)(const STYPE *x, STYPE *out, int64_t n, const row_scalars *s, int bypass) {
#if T_IS_F64
    const VEC k = F(set)(s->k), tail = F(set)(s->tail);
#define LOG_P(a) (F(less_k)(a, k) - tail)
#else
    const VEC hi = F(set)((REAL)s->lse), lo = F(set)((REAL)(s->lse - (double)(REAL)s->lse));
#define LOG_P(a) ((a - hi) - lo)
#endif
    int64_t i = 0;
#if !S_IS_16
    if (bypass) {
        int64_t head = (int64_t)((-(uintptr_t)out & (VBYTES - 1)) / sizeof(STYPE));
        if (head > n) head = n;
        if (head) S(st_part)(out, LOG_P(S(ld_part)(x, head)), head);
        for (i = head; i + W <= n; i += W) stream(out + i, (v_f32)LOG_P(S(ld)(x + i)));
    }
#else
    (void)bypass;
#endif
    for (; i + W <= n; i += W) S(st)(out + i, LOG_P(S(ld)(x + i)));
    if (i < n) S(st_part)(out + i, LOG_P(S(ld_part)(x + i, n - i)), n - i);
#undef LOG_P
}

static void S(fill)(STYPE *out, int64_t stride, int64_t n, REAL a) {
    STYPE e;
    S(put)(&e, a);
    for (int64_t i = 0; i < n; i++) out[i * stride] = e;
}

/* Write one row's output from its finished scalars; g is the gradient's factor, t the target. */
static void S(emit_row)(const fnll_task *task, const STYPE *x, STYPE *out, const row_scalars *s, int64_t t, double g) {
    if (task->op == FNLL_LOG_SOFTMAX) {
        S(emit_log)(x, out, task->v, s, task->stream);
        return;
    }
    S(emit_exp)(x, out, task->v, (REAL)s->k, (REAL)(g * s->inverse), task->stream);
    if (task->op == FNLL_CROSS_ENTROPY) S(put)(out + t, (REAL)(-g * s->rest));
}
