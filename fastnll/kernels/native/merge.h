/* From block sums to a row's scalars, in float64, for several rows at once. Included once per table, after vecmath.h
 * for f64, whose constants it uses. */

typedef struct {
    double k, inverse, rest; /* reference exponent; 1 / s; others / s */
    double s, e_t, tail;     /* sum and target's term, relative to 2^k; lse = k LN2_HI + tail */
    double nll, lse;
} row_scalars;

/* Sums of as many vectors as one has lanes: lane j is sum_f64(rows[j]), to the bit. most: the largest lane of each. */
inline_always v_f64 sums_f64(v_f64 *rows, v_f64 *most) {
    v_f64 s;
#if HAS_TRANSPOSE
    transpose_f64(rows);
    s = sum_across_f64(rows);
    *most = rows[0];
    for (int j = 1; j < W_f64; j++) *most = max_f64(*most, rows[j]);
#else
    for (int j = 0; j < W_f64; j++) s[j] = (*most)[j] = sum_f64(rows[j]);
#endif
    return s;
}

inline_always double power2(double d) { /* 2^d for integers d <= 0 */
    if (d < -1020.0) return 0.0;
    int64_t bits = ((int64_t)d + 1023) << 52;
    double r;
    memcpy(&r, &bits, sizeof r);
    return r;
}

/* Add a block to a row. Shifting an exponent is exact, so any cut of the row into runs of blocks gives the same bits
 * as long as blocks are added in order. NaN in k stays. */
inline_always fnll_block merge_block(fnll_block row, fnll_block b) {
    if (row.k != row.k || b.sum == 0.0) return b.k != b.k ? b : row;
    if (b.k > row.k) return (fnll_block){b.k, row.sum * power2(row.k - b.k) + b.sum};
    return (fnll_block){row.k, row.sum + b.sum * power2(b.k - row.k)};
}

/* Whether a row can be finished from its blocks; the rest take the careful path. Blocks below -2 limit were dropped as
 * nothing, which they are beside a row above -limit. A NaN in k fails every comparison. */
inline_always int is_plain(fnll_block row, double x_t, int has_target, double limit) {
    return row.sum > 0.0 && row.k >= -limit && (!has_target || (x_t <= limit && x_t == x_t));
}

/* The scalars of as many rows as a vector has lanes, from sums above 0 relative to 2^k. Where has_target, x is the target's
 * logit and sums leave it out; lse and tail are then only set if they are wanted. */
typedef struct {
    v_f64 k, inverse, rest, s, e_t, tail, nll, lse;
} vector_scalars;

inline_always void finish_vector(v_f64 k, v_f64 others, v_f64 x, int has_target, int wants_lse, vector_scalars *u) {
    const v_f64 zero = set_f64(0);
    v_f64 e_t = zero;
    if (has_target) {
        v_f64 n_t;
        (void)exp_parts_f64(x, &n_t);
        v_f64 top = max_f64(n_t, k);
        others = scale2_f64(others, k - top);
        k = top;
        e_t = exp2k_f64(x, k);
    }
    v_f64 s = others + e_t;
    /* To s in [1, 2), exactly: a reference far from the sum would cost k ln 2 + log s digits. */
    const i_f64 exponent = (((i_f64)s >> 52) & 0x7ff) - 1023;
    const v_f64 up = (v_f64)(exponent + 0x4338000000000000LL) - 0x1.8p52;
    k += up;
    s = scale2_f64(s, zero - up);
    others = scale2_f64(others, zero - up);
    e_t = scale2_f64(e_t, zero - up);
    const v_f64 ratio = others / e_t, most = set_f64(0x1p40), inverse = 1.0 / s;
    v_f64 nll = zero, tail = zero, lse = zero;
    if (has_target) nll = log1p_f64(ratio);
    if (!has_target || wants_lse || any_above_f64(ratio, most)) {
        tail = k * LN2_LO + log_f64(s);
        lse = tail - less_k_f64(zero, k);
        nll = select_f64(ratio < most, nll, tail - less_k_f64(x, k));
    }
    *u = (vector_scalars){k, inverse, others * inverse, s, e_t, tail, nll, lse};
}

inline_always row_scalars scalars_of(const vector_scalars *u, int j) {
    return (row_scalars){u->k[j], u->inverse[j], u->rest[j], u->s[j], u->e_t[j], u->tail[j], u->nll[j], u->lse[j]};
}

/* Finish n <= FNLL_ROWS rows; those that are not plain get scalars without a meaning. */
static void finish(int n, const fnll_block *row, const double *x_t, int has_target, int wants_lse, row_scalars *out) {
    for (int i = 0; i < n; i += W_f64) {
        const int m = n - i < W_f64 ? n - i : W_f64;
        double ek[W_f64], eo[W_f64], ex[W_f64];
        for (int j = 0; j < W_f64; j++) {
            const int q = i + (j < m ? j : 0);
            const int ok = is_plain(row[q], has_target ? x_t[q] : 0.0, has_target, INFINITY);
            ek[j] = ok ? row[q].k : 0.0;
            eo[j] = ok ? row[q].sum : 1.0;
            ex[j] = has_target && ok ? x_t[q] : 0.0;
        }
        vector_scalars u;
        finish_vector(load_f64(ek), load_f64(eo), load_f64(ex), has_target, wants_lse, &u);
        for (int j = 0; j < m; j++) out[i + j] = scalars_of(&u, j);
    }
}

/* log p of a class from its logit. */
inline_always double log_p(const row_scalars *s, double x) {
#if HAS_FMA
    const double r = __builtin_fma(-s->k, LN2_HI, x) - s->tail;
#else
    const double r = (x - s->k * LN2_HI) - s->tail;
#endif
    return r > 0.0 ? 0.0 : r;
}

inline_always int64_t read_target(const fnll_task *task, int64_t o, int64_t i) {
    const int64_t at = o * task->t.outer + i * task->t.inner;
    switch (task->t_code) {
    case FNLL_U8: return ((const uint8_t *)task->t.p)[at];
    case FNLL_I8: return ((const int8_t *)task->t.p)[at];
    case FNLL_U16: return ((const uint16_t *)task->t.p)[at];
    case FNLL_I16: return ((const int16_t *)task->t.p)[at];
    case FNLL_U32: return ((const uint32_t *)task->t.p)[at];
    case FNLL_I32: return ((const int32_t *)task->t.p)[at];
    case FNLL_U64: {
        const uint64_t t = ((const uint64_t *)task->t.p)[at];
        return t > INT64_MAX ? -1 : (int64_t)t;
    }
    default: return ((const int64_t *)task->t.p)[at];
    }
}

/* The targets of m neighbouring rows of one outer index. */
static void read_targets(const fnll_task *task, int64_t o, int64_t i, int64_t m, int64_t *t) {
    if (task->t_code == FNLL_I64 && task->t.inner == 1) {
        memcpy(t, (const int64_t *)task->t.p + o * task->t.outer + i, (size_t)m * sizeof *t);
        return;
    }
    for (int64_t j = 0; j < m; j++) t[j] = read_target(task, o, i + j);
}

inline_always double gradient_factor(const fnll_task *task, int64_t r) {
    return task->grad_scale *
           (task->grad_weight ? task->grad_weight[r] : task->row_weight ? task->row_weight[r] : 1.0);
}
