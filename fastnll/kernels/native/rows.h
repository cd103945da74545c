/* The two row primitives for rows that are contiguous and need no transform; one instance per storage dtype.
 *
 * stats: a row is read once, block by block. A block's sum of exponentials is held relative to 2^k; k = 0 is
 * tried first, and only a block whose sum that leaves out of range is done again with its true maximum. Block sums are merged in float64, in block order, by shifts of the exponent. The target's own term
 * is left out of its block: loss = log1p(others / e_t) and p_t - 1 = -others / (others + e_t) then keep their
 * relative accuracy for confident rows.
 * emit: one more sweep, from cache, writes probabilities, log-probabilities or the gradient.
 */

inline_always VEC S(ld_lanes)(const STYPE *p, int64_t m) { return m >= W ? S(ld)(p) : S(ld_part)(p, m); }

/* The first m elements, but -inf in lane `skip`; any other number skips none. */
inline_always VEC S(ld_skip)(const STYPE *p, int64_t m, int64_t skip) {
    const VEC a = m >= W ? S(ld)(p) : S(ld_part)(p, m);
    IVEC lane;
    for (int l = 0; l < W; l++) lane[l] = l;
    const IVEC hole = lane == (IVEC){} + (skip < 0 || skip >= W ? -1 : (int)skip);
    return F(select)(hole, F(set)(-INFINITY), a);
}

/* kept, where given, receives the exponentials: a second sweep then only scales them. */
inline_always double S(block_sum)(const STYPE *x, int64_t n, REAL k, int64_t skip, REAL *kept) {
    const VEC kk = F(set)(k);
    VEC a0 = F(set)(0), a1 = a0, a2 = a0, a3 = a0, b0 = a0, b1 = a0, b2 = a0, b3 = a0, e;
    const int64_t whole = n - n % (4 * W);
    int64_t hole = skip < 0 ? whole : skip - skip % (4 * W);
    if (hole > whole) hole = whole;
    int64_t i = 0;
#define ADD(to, load, at)        \
    e = F(exp2k)(load, kk);      \
    if (kept) F(store)(kept + (at), e); \
    to += e
    for (int part = 0; part < 2; part++) {
        const int64_t end = part ? whole : hole;
        while (i < end) {
            /* Runs of 16 additions: a term that is most of the sum must not round each of the others that its lane takes. */
            const int64_t run = i + 64 * W < end ? i + 64 * W : end;
            for (; i < run; i += 4 * W) {
                for (int q = 0; q < 4; q++) __builtin_prefetch((const char *)(x + i + q * W) + PREFETCH);
                ADD(a0, S(ld)(x + i), i);
                ADD(a1, S(ld)(x + i + W), i + W);
                ADD(a2, S(ld)(x + i + 2 * W), i + 2 * W);
                ADD(a3, S(ld)(x + i + 3 * W), i + 3 * W);
            }
            b0 += a0, b1 += a1, b2 += a2, b3 += a3;
            a0 = a1 = a2 = a3 = F(set)(0);
        }
        if (!part && i < whole)
            for (int j = 0; j < 4; j++, i += W) {
                ADD(a0, S(ld_skip)(x + i, W, skip - i), i);
            }
    }
    for (; i < n; i += W) {
        const int64_t m = n - i < W ? n - i : W;
        e = F(exp2k)(skip >= i && skip < i + W ? S(ld_skip)(x + i, m, skip - i) : m == W ? S(ld)(x + i) : S(ld_part)(x + i, m), kk);
        if (kept) FS(st_part)(kept + i, e, m);
        a1 += e;
    }
#undef ADD
    return CAT(sum_, T)(((a0 + b0) + (a1 + b1)) + (b2 + b3));
}

static double S(sum_only)(const STYPE *x, int64_t n, REAL k, int64_t skip) { return S(block_sum)(x, n, k, skip, 0); }
static double S(sum_kept)(const STYPE *x, int64_t n, REAL k, int64_t skip, REAL *kept) {
    return S(block_sum)(x, n, k, skip, kept);
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
static fnll_block S(block)(const STYPE *x, int64_t n, int64_t skip, REAL *kept) {
    /* Any reference serves whose powers stay in range, and most logits are near 0: try 2^0, which waits for no element, and
     * only where the sum is below 1/2 (terms that matter could have been flushed) or too large the maximum. The bits do not depend on the choice, for references differ by powers of two. */
    REAL m = 0;
    for (int again = 0; again < 2; again++) {
        if (m >= -2 * LIMIT && m <= LIMIT) {
            const REAL k = again ? (m * (REAL)LOG2E + MAGIC) - MAGIC : 0;
            const double s = kept ? S(sum_kept)(x, n, k, skip, kept) : S(sum_only)(x, n, k, skip);
            if (s >= (again ? 0.0 : 0.5) && s < (double)SPECULATE) return (fnll_block){k, s};
        }
        if (!again) m = S(block_max)(x, n);
    }
    if (m < -2 * LIMIT) { /* nothing but -inf and mask values, or NaN among them */
        return (fnll_block){S(has_nan)(x, n) ? (REAL)NAN : 0, 0.0};
    }
    return (fnll_block){NAN, 0.0};
}

/* kept and its blocks' references ks are both given or both NULL. */
static fnll_block S(row_stats)(const STYPE *x, int64_t n, int64_t skip, REAL *kept, double *ks) {
    fnll_block row = {-INFINITY, 0.0};
    for (int64_t i = 0; i < n; i += FNLL_BLOCK) {
        const int64_t m = n - i < FNLL_BLOCK ? n - i : FNLL_BLOCK, s = skip - i;
        const fnll_block b = S(block)(x + i, m, s >= 0 && s < m ? s : -1, kept ? kept + i : 0);
        if (ks) ks[i / FNLL_BLOCK] = b.sum > 0.0 ? b.k : -INFINITY;
        row = merge_block(row, b);
    }
    return row;
}

/* out = exp(x) 2^-k * scale, or kept * scale where the exponentials were kept; out[t] = at where t >= 0. With `bypass` stores
 * do not read their lines first; out is then brought to a vector boundary, and a target inside such a line goes with it. */
inline_always void S(emit_exp)(const STYPE *x, const REAL *kept, STYPE *out, int64_t n, REAL k, REAL scale, int64_t t, REAL at,
                               int bypass) {
    const VEC kk = F(set)(k), ss = F(set)(scale);
    int64_t i = 0;
#define VALUE(j) ((kept ? F(load)(kept + (j)) : F(exp2k)(S(ld)(x + (j)), kk)) * ss)
#define VALUE_PART(j, m) ((kept ? FS(ld_part)(kept + (j), m) : F(exp2k)(S(ld_part)(x + (j), m), kk)) * ss)
#if !S_IS_16
    if (bypass) {
        const int64_t head = (int64_t)((-(uintptr_t)out & (VBYTES - 1)) / sizeof(STYPE));
        if (head && head < n) S(st_part)(out, VALUE_PART(0, head), head);
        const int64_t hole = t < head ? -1 : head + (t - head) / W * W;
        for (i = head < n ? head : 0; head < n && i + W <= n; i += W) {
            VEC a = VALUE(i);
            if (i == hole) {
                REAL e[W];
                F(store)(e, a);
                e[t - i] = at;
                a = F(load)(e);
            }
            stream(out + i, (v_f32)a);
        }
        if (t >= head && t < i) t = -1; /* it went with its line */
    }
#else
    (void)bypass;
#endif
    for (; i + 2 * W <= n; i += 2 * W) {
        /* Ask for the lines to write to before they are due; where out is x they are here already. */
        __builtin_prefetch((const char *)(out + i) + PREFETCH_WRITE, 1);
        __builtin_prefetch((const char *)(out + i + W) + PREFETCH_WRITE, 1);
        VEC a = VALUE(i), b = VALUE(i + W);
        S(st)(out + i, a);
        S(st)(out + i + W, b);
    }
    for (; i + W <= n; i += W) S(st)(out + i, VALUE(i));
    if (i < n) S(st_part)(out + i, VALUE_PART(i, n - i), n - i);
    if (t >= 0) S(put)(out + t, at);
#undef VALUE
#undef VALUE_PART
}

static void S(emit_again)(const STYPE *x, STYPE *out, int64_t n, REAL k, REAL scale, int64_t t, REAL at, int bypass) {
    S(emit_exp)(x, 0, out, n, k, scale, t, at, bypass);
}

/* Block by block from kept exponentials; each block's own reference is shifted to the row's. */
static void S(emit_kept)(const STYPE *x, const REAL *kept, const double *ks, STYPE *out, int64_t n, double k, REAL scale, int64_t t,
                         REAL at, int bypass) {
    for (int64_t i = 0; i < n; i += FNLL_BLOCK) {
        const int64_t m = n - i < FNLL_BLOCK ? n - i : FNLL_BLOCK, s = t >= i && t < i + m ? t - i : -1;
        const double shift = ks[i / FNLL_BLOCK] - k;
        /* Beyond this the factor would leave the normal range before the products do. */
        if (shift > -100.0 && shift < 100.0)
            S(emit_exp)(x + i, kept + i, out + i, m, 0, scale * (REAL)(shift <= 0.0 ? power2(shift) : 1.0 / power2(-shift)), s, at, bypass);
        else
            S(emit_again)(x + i, out + i, m, (REAL)k, scale, s, at, bypass);
    }
}

/* out = log p from the row's scalars. In float32 the logsumexp is at hand in float64 and goes off in two parts; in float64
 * k ln 2 goes off first, which is exact for logits near the logsumexp. Rounding must not make a probability exceed 1. */
static void S(emit_log)(const STYPE *x, STYPE *out, int64_t n, const row_scalars *s, int bypass) {
#if T_IS_F64
    const VEC k = F(set)(s->k), tail = F(set)(s->tail);
#define LOG_P(a) (-F(max)(F(set)(0), tail - F(less_k)(a, k)))
#else
    const VEC hi = F(set)((REAL)s->lse), lo = F(set)((REAL)(s->lse - (double)(REAL)s->lse));
#define LOG_P(a) (-F(max)(F(set)(0), lo - (a - hi)))
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
    for (; i + W <= n; i += W) {
        __builtin_prefetch((const char *)(out + i) + PREFETCH_WRITE, 1);
        S(st)(out + i, LOG_P(S(ld)(x + i)));
    }
    if (i < n) S(st_part)(out + i, LOG_P(S(ld_part)(x + i, n - i)), n - i);
#undef LOG_P
}

static void S(fill)(STYPE *out, int64_t stride, int64_t n, REAL a) {
    STYPE e;
    S(put)(&e, a);
    for (int64_t i = 0; i < n; i++) out[i * stride] = e;
}

/* Write one row's output from its finished scalars; g is the gradient's factor, t the target, -1 for none. */
static void S(emit_row)(const fnll_task *task, const STYPE *x, const REAL *kept, const double *ks, STYPE *out, const row_scalars *s,
                        int64_t t, double g) {
    if (task->op == FNLL_LOG_SOFTMAX)
        S(emit_log)(x, out, task->v, s, task->stream);
    else if (kept)
        S(emit_kept)(x, kept, ks, out, task->v, s->k, (REAL)(g * s->inverse), t, (REAL)(-g * s->rest), task->stream);
    else
        S(emit_again)(x, out, task->v, (REAL)s->k, (REAL)(g * s->inverse), t, (REAL)(-g * s->rest), task->stream);
}
