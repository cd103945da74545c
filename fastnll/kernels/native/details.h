/* What `cross_entropy_details` asks of a row beyond its loss: argmax, rank of the target, entropy. One instance per storage dtype. */

/* All of a row at once: for rows that take the careful path. */

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

#undef LOOK_BLOCK
#define LOOK_BLOCK 1024
/* What `cross_entropy_details` asks of a row, block by block while it is in the first-level cache. The entropy's sum is held
 * relative to the largest logit so far: all of its terms are positive, so confident rows keep their digits. */
typedef struct {
    double above, top, sum, k, at; /* logits above the target's; the largest; sum e (top - a) and sum e, relative to 2^k */
    int64_t block;                 /* where the largest stands */
    REAL target;
} S(look);

static void S(look_at)(const REAL *a, const REAL *e, int64_t from, int64_t m, fnll_block b, S(look) *u) {
    const VEC at = F(set)(u->target), zero = F(set)(0), one = F(set)(1);
    VEC top = F(set)(-INFINITY), next = top, count = zero, more = zero, sum = zero, rest = zero;
    int64_t j = 0;
    for (; j + 2 * W <= m; j += 2 * W) {
        const VEC v = F(load)(a + j), w = F(load)(a + j + W);
        top = F(max)(v, top);
        next = F(max)(w, next);
        count += F(select)(v > at, one, zero);
        more += F(select)(w > at, one, zero);
    }
    for (; j < m; j += W) {
        const VEC v = m - j >= W ? F(load)(a + j) : FS(ld_part)(a + j, m - j);
        top = F(max)(v, top);
        count += F(select)(v > at, one, zero);
    }
    u->above += CAT(sum_, T)(count + more);
    count = more = zero;
    REAL best = -INFINITY;
    top = F(max)(next, top);
    for (int l = 0; l < W; l++) best = top[l] > best ? top[l] : best;
    const double t = (double)best;
    if (t > u->top) { /* the sums so far, relative to the new one */
        if (u->sum > 0.0) u->at += u->sum * (t - u->top);
        u->top = t;
        u->block = from;
    }
    if (!(b.sum > 0.0)) return;
    const VEC high = F(set)(best), low = F(set)((REAL)-4 * LIMIT);
    for (j = 0; j + 4 * W <= m; j += 4 * W) {
        sum += F(load)(e + j) * (high - F(load)(a + j));
        rest += F(load)(e + j + W) * (high - F(load)(a + j + W));
        more += F(load)(e + j + 2 * W) * (high - F(load)(a + j + 2 * W));
        count += F(load)(e + j + 3 * W) * (high - F(load)(a + j + 3 * W));
    }
    const VEC all = (sum + rest) + (more + count);
    sum = all;
    if (!(CAT(sum_, T)(all) < INFINITY)) j = 0, sum = zero; /* classes at -inf: 0 times infinity */
    for (; j < m; j += W) {
        const int64_t n = m - j < W ? m - j : W;
        const VEC v = F(max)(low, n == W ? F(load)(a + j) : FS(ld_part)(a + j, n));
        const VEC p = n == W ? F(load)(e + j) : FS(ld_part)(e + j, n);
        sum += F(select)(p > zero, p * (high - v), zero);
    }
    const double s = CAT(sum_, T)(sum) + b.sum * (u->top - t);
    const double k = b.k > u->k ? b.k : u->k;
    u->at = u->at * power2(u->k - k) + s * power2(b.k - k);
    u->sum = u->sum * power2(u->k - k) + b.sum * power2(b.k - k);
    u->k = k;
}

static void S(look_finish)(const fnll_task *task, const REAL *a, int64_t r, const row_scalars *s, double x_t, int hard, const S(look) *u) {
    if (task->rank) task->rank[r] = (int64_t)u->above;
    if (task->entropy) {
        const double by = s->inverse * (u->k <= s->k ? power2(u->k - s->k) : 1.0 / power2(s->k - u->k));
        task->entropy[r] = (u->at + u->sum * (s->lse - u->top)) * by + (hard && s->e_t > 0.0 ? s->e_t * s->inverse * (s->lse - x_t) : 0.0); /* 0 * inf = 0 */
    }
    if (!task->argmax) return;
    int64_t j = u->block;
    while (j < task->v && !(a[j] == (REAL)u->top)) j++;
    task->argmax[r] = j < task->v ? j : 0;
}
