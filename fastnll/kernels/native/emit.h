/* The second primitive, emit, for rows that are contiguous and need no transform; one instance per storage dtype.
 *
 * An emission is a row whose scalars are known and whose output is still to be written: kept * scale + shift, or the same
 * with exponentials computed again, relative to 1 or to the row's 2^k, or log-probabilities; out[hole] = value. Or it is several rows
 * that are ready, whose output is one piece. It is written in units of four vectors, by the
 * sweep over the next row or at once.
 */
#undef NOTHING
#undef FROM_KEPT
#undef FROM_LOGITS
#undef RELATIVE
#undef CAPPED
#undef LOGARITHM
#undef JOINED
#define NOTHING 0
#define FROM_KEPT 1
#define FROM_LOGITS 2
#define RELATIVE 3
#define CAPPED 4
#define LOGARITHM 5
#define JOINED 6

/* Classes up to which exponentials are kept from the sums to the output; in float32, to compute them again costs less than a way
 * beyond the second-level cache and back. */
#undef KEEP_MOST
#define KEEP_MOST (S_IS_16 || T_IS_F64 ? FNLL_KEEP_MOST : 1 << 15)

typedef struct {
    const STYPE *x;
    const REAL *kept;
    STYPE *out;
    int64_t at, whole, n, hole; /* next element; where whole units end; elements; the target, -1 for none */
    VEC per_cap;                /* 1 / softcap */
    VEC k, scale, shift;        /* reference, factor, summand; for a logarithm the row's logsumexp in two parts */
    REAL value;
    int64_t row, gap, turn;     /* of rows joined: their length, what lies between two of them at `kept`, and where the next begins */
    int mode, bypass, ahead;    /* bypass: stores do not read their lines first; ahead: lines to write have not been read */
} S(emission);

/* Ask for lines to write to before they are due, far ahead no nearer than the second-level cache (see PREFETCH). */
inline_always void S(ask_to_write)(const STYPE *p) {
    __builtin_prefetch((const char *)p + PREFETCH_WRITE, 0, 2);
    __builtin_prefetch((const char *)p + PREFETCH, 1);
}

inline_always VEC S(emit_value)(const S(emission) *e, int64_t j, int64_t m, const int mode) {
    if (mode == FROM_KEPT) return (m == W ? F(load)(e->kept + j) : FS(ld_part)(e->kept + j, m)) * e->scale + e->shift;
    const VEC a = m == W ? S(ld)(e->x + j) : S(ld_part)(e->x + j, m);
    if (mode == FROM_LOGITS) return F(exp)(a) * e->scale + e->shift;
    if (mode == RELATIVE) return F(exp2k)(a, e->k) * e->scale + e->shift;
    if (mode == CAPPED) { /* a = cap tanh(x / cap) has the slope 1 - (a / cap)^2, and classes that are -inf have none */
        const VEC u = F(max)(F(set)((REAL)-1), a * e->per_cap);
        return (F(exp2k)(a, e->k) * e->scale + e->shift) * (F(set)((REAL)1) - u * u);
    }
    /* In float32 the logsumexp is at hand in float64 and goes off in two parts; in float64 k ln 2 goes off first, which is
     * exact for logits near the logsumexp. Rounding must not make a probability exceed 1. */
#if T_IS_F64
    return -F(max)(F(set)(0), e->shift - F(less_k)(a, e->k));
#else
    return -F(max)(F(set)(0), e->shift - (a - e->k));
#endif
}

/* `value` in one lane, if there is such a lane. */
inline_always VEC S(with)(VEC a, int64_t lane, REAL value) {
    IVEC l;
    for (int q = 0; q < W; q++) l[q] = q;
    return F(select)(l == (IVEC){} + (INT)(lane < 0 || lane >= W ? -1 : lane), F(set)(value), a);
}

/* a in the lanes before `lane`, b from there. */
inline_always VEC S(where_before)(int64_t lane, VEC a, VEC b) {
    IVEC l;
    for (int q = 0; q < W; q++) l[q] = q;
    return F(select)(l < (IVEC){} + (INT)lane, a, b);
}

/* Four vectors, if as many are left before the end of whole units. */
inline_always void S(emit_unit)(S(emission) *e, const int mode, const int bypass) {
    const int64_t j = e->at;
    if (j >= e->whole) return;
    VEC a[4];
#if !S_IS_16
    if (mode == JOINED) {
        for (int q = 0; q < 4; q++) {
            const REAL *from = e->kept + j + q * W;
            VEC b = F(load)(from);
            if (j + q * W + W > e->turn) { /* the row ends in this vector; a row is longer than one */
                b = S(where_before)(e->turn - j - q * W, b, F(load)(from + e->gap));
                e->kept += e->gap, e->turn += e->row;
            }
            stream(e->out + j + q * W, (v_f32)b);
        }
        e->at = j + 4 * W;
        return;
    }
#endif
    for (int q = 0; q < 4; q++) a[q] = S(emit_value)(e, j + q * W, W, mode);
#if !S_IS_16
    if (bypass) {
        /* The target's value goes into its vector: a store to the line afterwards would fetch it from memory. */
        if ((uint64_t)(e->hole - j) < 4 * W)
            for (int q = 0; q < 4; q++) a[q] = S(with)(a[q], e->hole - j - q * W, e->value);
        for (int q = 0; q < 4; q++) stream(e->out + j + q * W, (v_f32)a[q]);
    } else
#endif
    {
        for (int q = 0; q < 4; q++) {
            if (e->ahead) S(ask_to_write)(e->out + j + q * W);
            S(st)(e->out + j + q * W, a[q]);
        }
        if ((uint64_t)(e->hole - j) < 4 * W) S(put)(e->out + e->hole, e->value);
    }
    e->at = j + 4 * W;
}

/* Less than a vector, where vectors bypass the caches: a line that is written in both ways is fetched from memory in between. */
inline_always void S(stream_part)(STYPE *p, VEC a, int64_t m) {
    STYPE e[W];
    S(st)(e, a);
    for (int64_t i = 0; i < m;) {
        const int64_t done = stream_few(p + i, e + i, (m - i) * (int64_t)sizeof(STYPE)) / (int64_t)sizeof(STYPE);
        if (!done) p[i] = e[i];
        i += done ? done : 1;
    }
}

/* Bring the output to a vector boundary where stores bypass the cache, or would be computed from logits at the same place: vectors that
 * straddle two lines cost more than a part of one. Say where whole units end. */
static void S(emit_begin)(S(emission) *e) {
    const int starts = e->bypass || (!S_IS_16 && e->mode != FROM_KEPT && e->n >= FNLL_BLOCK);
    int64_t head = starts ? (int64_t)((-(uintptr_t)e->out & (VBYTES - 1)) / sizeof(STYPE)) : 0;
    if (head > e->n) head = e->n;
    e->at = head;
    e->whole = head + (e->n - head) / (4 * W) * (4 * W);
    if (!head) return;
    const VEC a = e->mode == FROM_KEPT     ? S(emit_value)(e, 0, head, FROM_KEPT)
                  : e->mode == FROM_LOGITS ? S(emit_value)(e, 0, head, FROM_LOGITS)
                  : e->mode == RELATIVE    ? S(emit_value)(e, 0, head, RELATIVE)
                  : e->mode == CAPPED      ? S(emit_value)(e, 0, head, CAPPED)
                                           : S(emit_value)(e, 0, head, LOGARITHM);
    if (e->bypass)
        S(stream_part)(e->out, S(with)(a, e->hole, e->value), head);
    else
        S(st_part)(e->out, S(with)(a, e->hole, e->value), head);
}

inline_always void S(emit_all)(S(emission) *to, const int mode, const int bypass) {
    S(emission) e = *to;
    while (e.at < e.whole) S(emit_unit)(&e, mode, bypass);
    for (; e.at < e.n; e.at += W) {
        const int64_t m = e.n - e.at < W ? e.n - e.at : W;
        const VEC a = S(with)(S(emit_value)(&e, e.at, m, mode), e.hole - e.at, e.value);
        if (m < W && bypass)
            S(stream_part)(e.out + e.at, a, m);
        else if (m < W)
            S(st_part)(e.out + e.at, a, m);
#if !S_IS_16
        else if (bypass)
            stream(e.out + e.at, (v_f32)a);
#endif
        else
            S(st)(e.out + e.at, a);
    }
    to->at = e.n;
}

/* Write what is left of a row. */
static void S(emit_end)(S(emission) *e) {
    if (e->at >= e->n) return;
    if (e->mode == JOINED)
        while (e->at < e->whole) S(emit_unit)(e, JOINED, 1);
    else if (e->mode == LOGARITHM)
        e->bypass ? S(emit_all)(e, LOGARITHM, 1) : S(emit_all)(e, LOGARITHM, 0);
    else if (e->mode == FROM_KEPT)
        e->bypass ? S(emit_all)(e, FROM_KEPT, 1) : S(emit_all)(e, FROM_KEPT, 0);
    else if (e->mode == RELATIVE)
        e->bypass ? S(emit_all)(e, RELATIVE, 1) : S(emit_all)(e, RELATIVE, 0);
    else if (e->mode == CAPPED)
        e->bypass ? S(emit_all)(e, CAPPED, 1) : S(emit_all)(e, CAPPED, 0);
    else
        e->bypass ? S(emit_all)(e, FROM_LOGITS, 1) : S(emit_all)(e, FROM_LOGITS, 0);
}

static void S(fill)(STYPE *out, int64_t stride, int64_t n, REAL a) {
    STYPE e;
    S(put)(&e, a);
    for (int64_t i = 0; i < n; i++) out[i * stride] = e;
}

/* Set an emission up: scale * p + shift with its value at the target, or the log-probabilities with that of the sure class. */
static void S(emit_set)(const fnll_task *task, const STYPE *x, const REAL *kept, const fnll_block *each, STYPE *out, const row_scalars *s,
                        int64_t t, double scale, double shift, double value, S(emission) *e) {
    e->x = x, e->out = out, e->n = task->v, e->hole = t, e->value = (REAL)value, e->kept = kept;
    e->bypass = !S_IS_16 && task->stream == FNLL_STREAM_ROWS;
    e->ahead = (const STYPE *)out != x;
    if (task->op == FNLL_LOG_SOFTMAX) {
        e->mode = LOGARITHM;
#if T_IS_F64
        e->k = F(set)(s->k), e->shift = F(set)(s->tail);
#else
        e->k = F(set)((REAL)s->lse), e->shift = F(set)((REAL)(s->lse - (double)(REAL)s->lse));
#endif
    } else {
        /* Relative to 1 nothing is flushed that would have been a normal result, if the row's reference is not below. */
        const int one = s->k >= 0.0 && s->k <= 60.0;
        int all = kept != 0 && one;
        for (int64_t b = 0; all && b < (e->n + FNLL_BLOCK - 1) / FNLL_BLOCK; b++) all = each[b].k == 0.0;
        e->mode = all ? FROM_KEPT : one ? FROM_LOGITS : RELATIVE;
        if (task->op == FNLL_CROSS_ENTROPY && task->softcap != 0.0) {
            e->mode = CAPPED;
            e->per_cap = F(set)((REAL)(1.0 / task->softcap));
        }
        e->k = F(set)((REAL)s->k), e->shift = F(set)((REAL)shift);
        e->scale = F(set)((REAL)(scale * s->inverse * (e->mode == FROM_KEPT || e->mode == FROM_LOGITS ? power2(-s->k) : 1.0)));
    }
    S(emit_begin)(e);
}
