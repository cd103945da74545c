/* The two row primitives for rows that are contiguous and need no transform; one instance per storage dtype.
 *
 * stats: a row is read once, block by block. A block's sum of exponentials is held relative to 2^k; k = 0 is
 * tried first, and only a block whose sum that leaves out of range is done again with its true maximum. Block sums are merged in float64, in block order, by shifts of the exponent. The target's own term
 * is left out of its block: loss = log1p(others / e_t) and p_t - 1 = -others / (others + e_t) then keep their
 * relative accuracy for confident rows.
 * emit: one more sweep, from cache, writes probabilities, log-probabilities or the gradient (emit.h). It rides along with
 * the stats of the next row: one waits for memory where the other computes.
 */

inline_always VEC S(ld_lanes)(const STYPE *p, int64_t m) { return m >= W ? S(ld)(p) : S(ld_part)(p, m); }

/* Ask for the lines to read before they are due; far: where other lines are on their way beside them, and in rows that are one block.
 * Every vector asks, the target's and a row's last too: a few lines that nobody had asked for took a tenth of the time of 1000 classes. */
inline_always void S(ask)(const STYPE *p, const int far) {
    if (far) __builtin_prefetch((const char *)p + PREFETCH_FAR, 0, 2);
    __builtin_prefetch((const char *)p + PREFETCH);
}

/* What one sweep over a block does; returns its sum in lanes. keep: its exponentials go to `kept`; total: its elements are added
 * up; mode and bypass: what `e`, the row before, still has to write. All but the data are constants to the compiler. */
inline_always v_f64 S(block_lanes)(const STYPE *x, int64_t n, REAL k, int64_t skip, REAL *kept, double *sum, S(emission) *e,
                                   const int shift, const int keep, const int total, const int mode, const int bypass) {
    const VEC kk = F(set)(k), zero = F(set)(0);
    VEC a0 = zero, a1 = zero, a2 = zero, a3 = zero, b0 = zero, b1 = zero, b2 = zero, b3 = zero, c0 = zero, c1 = zero;
    double added = 0.0;
    S(emission) row;
    if (mode) row = *e;
    const int64_t whole = n - n % (4 * W);
    const int far = keep || mode != NOTHING || n < FNLL_BLOCK;
    int64_t i = 0;
    /* Four vectors at x + i. */
#define ADD(change)                                                              \
    do {                                                                         \
        VEC p[4];                                                                \
        for (int q = 0; q < 4; q++) p[q] = S(ld)(x + i + q * W);                 \
        if (total) c0 += p[0], c1 += p[1], c0 += p[2], c1 += p[3];               \
        if (shift)                                                               \
            F(exps2k_of_4)(p, kk);                                               \
        else                                                                     \
            F(exps_of_4)(p);                                                     \
        change;                                                                  \
        for (int q = 0; q < 4; q++)                                              \
            if (keep) F(store)(kept + i + q * W, p[q]);                          \
        a0 += p[0], a1 += p[1], a2 += p[2], a3 += p[3];                          \
    } while (0)
    if (whole <= MASKED) {
        /* Short rows: a mask for each lane costs less than a branch that is mispredicted once a row. */
        const REAL *live = F(all_but)(skip < 0 || skip >= whole ? -1 : skip);
        for (; i < whole; i += 4 * W) {
            for (int q = 0; q < 4; q++) S(ask)(x + i + q * W, far);
            ADD(for (int q = 0; q < 4; q++) p[q] = (VEC)((IVEC)p[q] & (IVEC)F(load)(live + i + q * W)));
            if (mode) S(emit_unit)(&row, mode, bypass);
        }
    } else {
        const int64_t hole = skip < 0 || skip >= whole ? whole : skip - skip % (4 * W);
        for (int part = 0; part < 2; part++) {
            const int64_t end = part ? whole : hole;
            while (i < end) {
                /* Runs of 16 additions: a term that is most of the sum must not round each of the others that its lane takes. */
                const int64_t run = i + 64 * W < end ? i + 64 * W : end;
                for (; i < run; i += 4 * W) {
                    for (int q = 0; q < 4; q++) S(ask)(x + i + q * W, far);
                    ADD();
                    if (mode) S(emit_unit)(&row, mode, bypass);
                }
                b0 += a0, b1 += a1, b2 += a2, b3 += a3;
                a0 = a1 = a2 = a3 = zero;
                if (total) added += CAT(sum_, T)(c0 + c1), c0 = c1 = zero;
            }
            if (!part && i < whole) {
                for (int q = 0; q < 4; q++) S(ask)(x + i + q * W, far);
                ADD(for (int q = 0; q < 4; q++) p[q] = S(with)(p[q], skip - i - q * W, 0));
                i += 4 * W;
            }
        }
    }
    for (; i < n; i += W) {
        const int64_t m = n - i < W ? n - i : W;
        S(ask)(x + i, far);
        const VEC v = m == W ? S(ld)(x + i) : S(ld_part)(x + i, m);
        VEC p = shift ? F(exp2k)(v, kk) : F(exp)(v);
        p = S(with)(p, skip - i, 0);
        if (keep) FS(st_part)(kept + i, p, m);
        a1 += p;
        if (total && m == W) c0 += v;
        if (total && m < W)
            for (int64_t q = 0; q < m; q++) added += S(get)(x + i + q);
    }
#undef ADD
    if (mode) e->at = row.at, e->kept = row.kept, e->turn = row.turn;
    if (total) *sum += added + CAT(sum_, T)(c0 + c1);
    return F(halves)(((a0 + b0) + (a1 + b1)) + ((a2 + b2) + (a3 + b3)));
}

/* One function for each combination that occurs: exponentials relative to 2^k, alone, and relative to 1, with or without the
 * row before. */
#define INSTANCE(name, shift, keep, total, mode, bypass)                                                                    \
    static double S(name)(const STYPE *x, int64_t n, REAL k, int64_t skip, REAL *kept, double *sum, S(emission) *e) {     \
        return sum_f64(S(block_lanes)(x, n, k, skip, kept, sum, e, shift, keep, total, mode, bypass));                      \
    }
#define INSTANCES(name, mode, bypass)             \
    INSTANCE(name, 0, 0, 0, mode, bypass)         \
    INSTANCE(name##_total, 0, 0, 1, mode, bypass) \
    INSTANCE(name##_keep, 0, 1, 0, mode, bypass)  \
    INSTANCE(name##_keep_total, 0, 1, 1, mode, bypass)
INSTANCE(sum_shifted, 1, 0, 0, NOTHING, 0)
INSTANCE(sum_shifted_keep, 1, 1, 0, NOTHING, 0)
INSTANCES(sum, NOTHING, 0)
INSTANCES(sum_kept, FROM_KEPT, 0)
INSTANCES(sum_logits, FROM_LOGITS, 0)
INSTANCES(sum_relative, RELATIVE, 0)
INSTANCE(sum_capped, 0, 0, 0, CAPPED, 0)
INSTANCE(sum_capped_total, 0, 0, 1, CAPPED, 0)
INSTANCE(sum_log, 0, 0, 0, LOGARITHM, 0)
#if !S_IS_16
INSTANCES(sum_kept_stream, FROM_KEPT, 1)
INSTANCES(sum_logits_stream, FROM_LOGITS, 1)
INSTANCES(sum_relative_stream, RELATIVE, 1)
INSTANCE(sum_capped_stream, 0, 0, 0, CAPPED, 1)
INSTANCE(sum_capped_stream_total, 0, 0, 1, CAPPED, 1)
INSTANCE(sum_log_stream, 0, 0, 0, LOGARITHM, 1)
#endif
#undef INSTANCE
#undef INSTANCES

typedef double (*S(summing))(const STYPE *, int64_t, REAL, int64_t, REAL *, double *, S(emission) *);

/* Sum of a block relative to 1, and as much of the row before as fits beside it. */
static double S(sum_beside)(const STYPE *x, int64_t n, int64_t skip, REAL *kept, double *sum, S(emission) *e) {
#define FOUR(name) {S(name), S(name##_total), S(name##_keep), S(name##_keep_total)}
    static const S(summing) table[][4] = {
        FOUR(sum), FOUR(sum_kept), FOUR(sum_logits), FOUR(sum_relative), {S(sum_capped), S(sum_capped_total)}, {S(sum_log)},
#if !S_IS_16
        FOUR(sum_kept_stream), FOUR(sum_logits_stream), FOUR(sum_relative_stream), {S(sum_capped_stream), S(sum_capped_stream_total)}, {S(sum_log_stream)},
#endif
    };
#undef FOUR
    const int mode = e && e->at < e->whole ? e->mode + (e->bypass ? LOGARITHM : 0) : NOTHING;
    return table[mode][2 * (kept != 0) + (sum != 0)](x, n, 0, skip, kept, sum, e);
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

/* One block, without element skip (or -1). k = NaN asks for the careful path; sum = 0 says "nothing here". `total`, where
 * given, takes the sum of the elements; `e`, where given, is a row to write on the way. */
static fnll_block S(block)(const STYPE *x, int64_t n, int64_t skip, REAL *kept, double *total, S(emission) *e) {
    /* Any reference serves whose powers stay in range, and most logits are near 0: try 1 first, which waits for no element, and
     * only where the sum is then very small or large one below the maximum. The sum does not depend on the choice, for
     * references differ by powers of two. */
    double added = 0.0, s = S(sum_beside)(x, n, skip, kept, total ? &added : 0, e);
    if (total) *total += added;
    if (s >= LEAST && s < (double)SPECULATE) return (fnll_block){0, s};
    const REAL m = S(block_max)(x, n);
    if (m >= -2 * LIMIT && m <= LIMIT) {
        const REAL k = ((m * (REAL)LOG2E + MAGIC) - MAGIC) - 1;
        s = (kept ? S(sum_shifted_keep) : S(sum_shifted))(x, n, k, skip, kept, 0, 0);
        if (s >= 0.0 && s < (double)SPECULATE) return (fnll_block){k, s};
    }
    if (m < -2 * LIMIT) { /* nothing but -inf and mask values, or NaN among them */
        return (fnll_block){S(has_nan)(x, n) ? (REAL)NAN : 0, 0.0};
    }
    return (fnll_block){NAN, 0.0};
}

/* `each`, where given, takes the state of each block. */
static fnll_block S(row_stats)(const STYPE *x, int64_t n, int64_t skip, REAL *kept, fnll_block *each, double *total,
                               S(emission) *e) {
    fnll_block row = {-INFINITY, 0.0};
    for (int64_t i = 0; i < n; i += FNLL_BLOCK) {
        const int64_t m = n - i < FNLL_BLOCK ? n - i : FNLL_BLOCK, s = skip - i;
        const fnll_block b = S(block)(x + i, m, s >= 0 && s < m ? s : -1, kept ? kept + i : 0, total, e);
        if (each) each[i / FNLL_BLOCK] = b;
        row = merge_block(row, b);
    }
    return row;
}

/* A class that takes most of a row's probability: its log is -log1p(others / its own), which the logsumexp, rounded to 1 part in
 * 2^24, cannot give where it is near 0. Returns the class and finishes the row without its term, or -1. */
static int64_t S(sure_class)(const STYPE *x, int64_t n, fnll_block *each, fnll_block *row, row_scalars *s) {
    const int64_t blocks = (n + FNLL_BLOCK - 1) / FNLL_BLOCK;
    int64_t b = 0;
    /* Its block has at least half of the sum. */
    while (b < blocks - 1 && each[b].sum * power2(each[b].k - row->k) < 0.5 * row->sum) b++;
    const int64_t from = b * FNLL_BLOCK, m = n - from < FNLL_BLOCK ? n - from : FNLL_BLOCK;
    const REAL top = S(block_max)(x + from, m);
    if (!((double)top > s->lse - 0.69)) return -1;
    int64_t t = from;
    while (t < from + m - 1 && S(get)(x + t) != top) t++;
    each[b] = S(block)(x + from, m, t - from, 0, 0, 0);
    *row = (fnll_block){-INFINITY, 0.0};
    for (b = 0; b < blocks; b++) *row = merge_block(*row, each[b]);
    const double x_t = (double)top;
    if (row->sum > 0.0)
        finish(1, row, &x_t, 1, 1, s);
    else
        s->nll = 0.0;
    return t;
}
