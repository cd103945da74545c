/* The products of a chunk for one storage type: included with SNAME, STYPE, S_IS_16 and T set. */
#undef S
#undef PANEL
#undef S_TILES
#undef S_PAIRS
/* Products of float32 and bfloat16 go to tile registers where the table has them. */
#if defined(HAS_TILES) && !T_IS_F64
#define S_TILES CAT(TILES_, SNAME)
#else
#define S_TILES 0
#endif
/* Logits of bfloat16 go to an instruction that multiplies pairs where the table has it. */
#if defined(HAS_PAIRS) && !T_IS_F64
#define S_PAIRS CAT(PAIRS_, SNAME)
#else
#define S_PAIRS 0
#endif
#define S(name) CAT(name##_s, SNAME)

/* A row of n stored elements in the compute type: itself, or converted into `to`. */
#if S_IS_16
inline_always VEC S(convert)(const STYPE *p) { return CAT(SNAME, _load)(p); }
static const REAL *S(row)(const STYPE *p, int64_t n, REAL *to) {
    int64_t i = 0;
    for (; i + W <= n; i += W) F(store)(to + i, S(convert)(p + i));
    if (i < n) {
        STYPE e[W] = {0};
        REAL x[W];
        memcpy(e, p + i, (size_t)(n - i) * sizeof *e);
        F(store)(x, S(convert)(e));
        memcpy(to + i, x, (size_t)(n - i) * sizeof *x);
    }
    return to;
}
#else
inline_always const REAL *S(row)(const STYPE *p, int64_t n, REAL *to) {
    (void)n, (void)to;
    return p;
}
#endif

/* Features whose panels of hidden stay in the second-level cache while tiles pass: about 640 KB. */
static int64_t S(depth)(int64_t c, int64_t d) {
    int64_t k = (int64_t)(640 << 10) / (int64_t)sizeof(REAL) / (c > 0 ? c : 1) / 64 * 64;
    if (k < 256) k = 256;
    if (k >= d) return d;
    const int64_t parts = (d + k - 1) / k;
    return ((d + parts - 1) / parts + 15) / 16 * 16;
}

#if S_TILES
#include "tiles_products.h"
#endif

/* Around the products of a thread. */
inline_always void S(begin)(const fnll_linear *t) {
#if S_TILES
    if (S(on_tiles)(t)) tiles_on();
#endif
    (void)t;
}
inline_always void S(end)(const fnll_linear *t) {
#if S_TILES
    if (S(on_tiles)(t)) tiles_off();
#endif
    (void)t;
}

/* One panel more or less would map onto the same cache sets: a vector of padding moves them apart. */
#define PANEL(k) ((k) * NR + W)

/* What a thread needs beside a tile of G: panels of weights and an edge, or packed tiles. */
static int64_t S(room)(int64_t c, int64_t d) {
    int64_t room = F(round_up)(d) / NR * PANEL(TILE) + MR * NR;
#if S_TILES
    int64_t tiles[4];
    S(tiles_sizes)(c, d, tiles);
    if (c >= TILES_LEAST && tiles[3] > room) room = tiles[3];
#endif
    (void)c;
    return room;
}

static void S(sizes)(int64_t c, int64_t d, int filter, int64_t out[4]) {
    const int64_t cp = F(round_up)(c), dp = F(round_up)(d);
    out[0] = cp / NR * PANEL(d);
    out[1] = dp / NR * PANEL(c);
    out[2] = c * dp;
    int64_t first = TILE * cp + (S_IS_16 ? TILE * S(depth)(c, d) : 0), room = S(room)(c, d);
#if S_TILES
    if (c >= TILES_LEAST) {
        int64_t tiles[4];
        S(tiles_sizes)(c, d, tiles);
        for (int i = 0; i < 2; i++) out[i] = out[i] > tiles[i] ? out[i] : tiles[i];
        first = first > tiles[2] ? first : tiles[2];
    }
#endif
    const int64_t entries = filter ? 2 * (c * TILE / SPARSE_SHARE + W) * (int64_t)(sizeof(F(entry)) / sizeof(REAL)) + 3 * dp : 0;
    const int64_t last = c * (TILE + W) + room + entries;
    out[3] = (first > last ? first : last) + d + 2 * TILE + 2 * W + (filter ? 2 * c * (int64_t)(8 / sizeof(REAL)) : 0);
}

static int64_t S(panels)(int64_t c) { return F(round_up)(c) / NR; }

/* hidden_k: panels of NR rows, feature after feature; hidden_d: panels of NR features, row after row. */
static void S(pack)(const fnll_linear *t, int64_t item, int for_grads) {
#if S_TILES
    if (S(on_tiles)(t)) {
        S(tiles_pack)(t, item, for_grads);
        return;
    }
#endif
    const int64_t d = t->d, c0 = item * NR, c1 = c0 + NR < t->c ? c0 + NR : t->c, dp = F(round_up)(d);
    REAL *k = (REAL *)t->hidden_k + item * PANEL(d), buffer[256];
    for (int64_t r = c0; r < c0 + NR; r++) {
        const STYPE *from = r < c1 ? (const STYPE *)t->hidden + t->rows[r] * t->hidden_row : 0;
        for (int64_t q = 0; q < d; q += 256) {
            const int64_t m = d - q < 256 ? d - q : 256;
            if (!from) {
                if (!for_grads)
                    for (int64_t j = 0; j < m; j++) k[(q + j) * NR + r - c0] = 0;
                continue;
            }
#if S_PAIRS
            if (!for_grads) {
                uint16_t *to = (uint16_t *)k + 2 * (r - c0); /* feature j: pair j / 2 */
                for (int64_t j = q; j < q + m; j++) to[j / 2 * 2 * NR + j % 2] = from[j];
                if ((q + m) % 2) to[(q + m) / 2 * 2 * NR + 1] = 0;
                continue;
            }
#endif
            const REAL *x = S(row)(from + q, m, buffer);
            if (for_grads && t->filter) {
                REAL *to = (REAL *)t->hidden_rows + r * dp + q;
                for (int64_t j = 0; j < m; j++) to[j] = x[j];
                for (int64_t j = m; q + j < dp && m < 256; j++) to[j] = 0;
            }
            if (!for_grads) {
                for (int64_t j = 0; j < m; j++) k[(q + j) * NR + r - c0] = x[j];
                continue;
            }
            for (int64_t j = 0; j < m; j += NR) { /* 256 is a multiple of NR */
                REAL *to = (REAL *)t->hidden_d + (q + j) / NR * PANEL(t->c) + r * NR;
                const int64_t n = m - j < NR ? m - j : NR;
                for (int64_t i = 0; i < n; i++) to[i] = x[j + i];
                for (int64_t i = n; i < NR; i++) to[i] = 0;
            }
        }
    }
}

/* hidden weight^T of a tile, as columns: tile[n][cp]. */
static void S(multiply)(const fnll_linear *t, int64_t v0, int64_t n, REAL *tile, REAL *converted) {
#if S_TILES
    if (S(on_tiles)(t)) {
        S(tiles_multiply)(t, v0, n, tile, converted);
        return;
    }
#endif
    const int64_t d = t->d, cp = F(round_up)(t->c), depth = S(depth)(t->c, d);
    for (int64_t k0 = 0; k0 < d; k0 += depth) {
        const int64_t k = d - k0 < depth ? d - k0 : depth;
        const STYPE *from = (const STYPE *)t->weight + v0 * t->weight_row + k0;
#if S_PAIRS
        const STYPE *a = from;
        const int64_t stride = t->weight_row;
        (void)converted;
#elif S_IS_16
        for (int64_t i = 0; i < n; i++) S(row)(from + i * t->weight_row, k, converted + i * k);
        const REAL *a = converted;
        const int64_t stride = k;
#else
        const REAL *a = from;
        const int64_t stride = t->weight_row;
        (void)converted;
#endif
        for (int64_t i = 0; i < n;) {
            const int64_t m = F(height)(n - i);
            for (int64_t j = 0; j < cp / NR; j++) {
                /* The first panel's turn fetches the weights of the next block. */
                const int first = j == 0;
#if S_PAIRS
                pairs_block(a + i * stride, stride, (const REAL *)t->hidden_k + j * PANEL(d) + k0 / 2 * NR, k,
                            tile + i * cp + j * NR, cp, k0 > 0, first ? a + (i + m) * stride : a, first ? m : 0, m);
#else
                F(block_rows)(a + i * stride, stride, (const REAL *)t->hidden_k + j * PANEL(d) + k0 * NR, k,
                              tile + i * cp + j * NR, cp, k0 > 0, first ? a + (i + m) * stride : a, first ? m : 0, m);
#endif
            }
            i += m;
        }
    }
}

static void S(logits)(const fnll_linear *t, int64_t v0, int64_t v1, void *memory) {
    const int64_t cp = F(round_up)(t->c);
    REAL *tile = memory;
    S(begin)(t);
    S(multiply)(t, v0, v1 - v0, tile, tile + TILE * cp);
    S(end)(t);
    for (int64_t r = 0; r < t->c; r += W)
        F(turn_rows)(t, tile, cp, v0, v1 - v0, r, (REAL *)t->logits + r * t->logits_row + v0, t->logits_row);
}

/* The mergeable state of every row over a slice: tile by tile, logits that never leave the cache. */
static void S(stats)(const fnll_linear *t, int64_t v0, int64_t v1, fnll_block *states, void *memory) {
    const int64_t cp = F(round_up)(t->c);
    REAL *tile = memory, buffer[W * TILE];
    const uint32_t mode = flush_on();
    S(begin)(t);
    for (int64_t r = 0; r < t->c; r++) states[r] = (fnll_block){-INFINITY, 0.0};
    for (int64_t at = v0; at < v1; at += TILE) {
        const int64_t n = v1 - at < TILE ? v1 - at : TILE;
        S(multiply)(t, at, n, tile, tile + TILE * cp);
        for (int64_t r0 = 0; r0 < t->c; r0 += W) {
            const int64_t r1 = t->c - r0 < W ? t->c : r0 + W;
            F(turn_rows)(t, tile, cp, at, n, r0, buffer, TILE);
            for (int64_t r = r0; r < r1; r++) {
                REAL *x = buffer + (r - r0) * TILE;
                const int64_t hit = t->targets[r] - at;
                if (hit >= 0 && hit < n) { /* the target's own term stays out of the sum, see rows.h */
                    t->target_logits[r] = (double)x[hit];
                    x[hit] = -INFINITY;
                }
                states[r] = merge_block(states[r], F(tile_sum)(x, n));
            }
        }
    }
    S(end)(t);
    flush_restore(mode);
}

/* The losses of rows r0 .. r1-1, from the states of all slices in order. */
static void S(losses)(const fnll_linear *t, int64_t r0, int64_t r1, int64_t slices) {
    for (int64_t g = r0; g < r1; g += FNLL_ROWS) {
        const int m = (int)(r1 - g < FNLL_ROWS ? r1 - g : FNLL_ROWS);
        fnll_block row[FNLL_ROWS];
        row_scalars s[FNLL_ROWS];
        for (int j = 0; j < m; j++) {
            row[j] = t->states[g + j];
            for (int64_t q = 1; q < slices; q++) row[j] = merge_block(row[j], t->states[q * t->c + g + j]);
            if (t->targets[g + j] < 0 || t->targets[g + j] >= t->v) row[j].k = NAN, t->target_logits[g + j] = 0.0;
        }
        finish(m, row, t->target_logits + g, 1, 0, s);
        for (int j = 0; j < m; j++) {
            const double factor = t->factors ? t->factors[g + j] : 1.0;
            t->careful[g + j] = !is_plain(row[j], t->target_logits[g + j], 1, (double)LIMIT);
            t->loss[g + j] = factor != 0.0 ? factor * s[j].nll : 0.0;
        }
    }
}

/* What the large elements of a tile add to the gradients: found row after row, sorted column after column. */
static void S(sparse)(const fnll_linear *t, const F(entry) *found, const F(entry) *sorted, int64_t count, int64_t at, int64_t n,
                      REAL *sum, REAL *weights, REAL *row) {
    const int64_t d = t->d, dp = F(round_up)(d);
    if (t->grad_hidden) {
#if S_IS_16
        const int copy = 1;
#else
        const int copy = d % W != 0; /* to whole vectors */
#endif
        const REAL *w = weights;
        if (copy) {
            for (int64_t v = 0; v < n; v++) {
                const STYPE *from = (const STYPE *)t->weight + (at + v) * t->weight_row;
                const REAL *x = S(row)(from, d, weights + v * dp);
                if (x != weights + v * dp) memcpy(weights + v * dp, x, (size_t)d * sizeof *x);
                for (int64_t j = d; j < dp; j++) weights[v * dp + j] = 0;
            }
        } else {
            w = (const REAL *)t->weight + at * t->weight_row;
        }
        for (int64_t i = 0, end; i < count; i = end) {
            for (end = i + 1; end < count && found[end].row == found[i].row;) end++;
            F(combine_columns)(sum + found[i].row * dp, found + i, end - i, w, copy ? dp : t->weight_row, d);
        }
    }
    if (!t->grad_weight) return;
    for (int64_t i = 0, end; i < count; i = end) {
        for (end = i + 1; end < count && sorted[end].column == sorted[i].column;) end++;
        REAL *to = (REAL *)t->grad_weight + (at + sorted[i].column) * d, *out = d % W ? row : to;
        if (out != to) memcpy(row, to, (size_t)d * sizeof *to);
        F(combine_rows)(out, sorted + i, end - i, (const REAL *)t->hidden_rows, dp, d);
        if (out != to) memcpy(to, row, (size_t)d * sizeof *to);
    }
}

/* sum[c][dp] (+)= G weight of a tile. */
static void S(hidden_product)(const fnll_linear *t, const REAL *g, int64_t ld, int64_t at, int64_t n, REAL *sum, int later,
                              REAL *panels, REAL *buffer) {
#if S_TILES
    if (S(on_tiles)(t)) {
        S(tiles_hidden)(t, g, ld, at, n, sum, later, panels);
        return;
    }
#endif
    const int64_t c = t->c, d = t->d, dp = F(round_up)(d);
    for (int64_t i = 0; i < n; i++) {
        const REAL *x = S(row)((const STYPE *)t->weight + (at + i) * t->weight_row, d, buffer);
        int64_t q = 0;
        REAL *to = panels + i * NR;
        for (; q + NR <= d; q += NR, to += PANEL(TILE)) {
            F(store)(to, F(load)(x + q));
            F(store)(to + W, F(load)(x + q + W));
        }
        if (q < d)
            for (int64_t j = 0; j < NR; j++) to[j] = q + j < d ? x[q + j] : 0;
    }
    for (int64_t p = 0; p < dp / NR; p++)
        for (int64_t r = 0; r < c;) {
            const int64_t m = F(height)(c - r);
            F(block_rows)(g + r * ld, ld, panels + p * PANEL(TILE), n, sum + r * dp + p * NR, dp, later, g, 0, m);
            r += m;
        }
}

/* Rows at .. at+n-1 of dW (+)= G^T hidden. */
static void S(weight_product)(const fnll_linear *t, const REAL *g, int64_t ld, int64_t at, int64_t n, REAL *panels) {
#if S_TILES
    if (S(on_tiles)(t)) {
        S(tiles_weight)(t, g, ld, at, n, panels);
        return;
    }
#endif
    const int64_t c = t->c, d = t->d, dp = F(round_up)(d);
    REAL *edge = panels + dp / NR * PANEL(TILE);
    REAL *to = (REAL *)t->grad_weight + at * d;
    for (int64_t i = 0; i < n;) {
        const int64_t m = F(height)(n - i);
        for (int64_t p = 0; p < dp / NR; p++) {
            const REAL *b = (const REAL *)t->hidden_d + p * PANEL(c);
            const int64_t width = d - p * NR < NR ? d - p * NR : NR;
            REAL *out = to + i * d + p * NR;
            if (width == NR) {
                F(block_columns)(g + i, ld, b, c, out, d, t->add_weight, g, 0, m);
            } else {
                F(block_columns)(g + i, ld, b, c, edge, NR, 0, g, 0, m);
                for (int64_t r = 0; r < m; r++)
                    for (int64_t j = 0; j < width; j++)
                        out[r * d + j] = edge[r * NR + j] + (t->add_weight ? out[r * d + j] : 0);
            }
        }
        i += m;
    }
}

static void S(grads)(const fnll_linear *t, int64_t v0, int64_t v1, int64_t slice, void *memory) {
    const int64_t c = t->c, d = t->d, dp = F(round_up)(d), ld = TILE + W;
    REAL *g = memory, *panels = g + c * ld, *buffer = panels + S(room)(c, d);
    REAL *sum = (REAL *)t->partial + slice * c * dp;
    F(entry) *found = 0, *sorted = 0;
    double *lost = 0;
    REAL *row = 0;
    int later = 0;
    S(begin)(t);
    if (t->filter) {
        row = buffer + d + 2 * TILE;
        lost = (double *)(((uintptr_t)(row + dp + W) + 7) & ~(uintptr_t)7);
        found = (F(entry) *)(lost + 2 * c);
        sorted = found + c * TILE / SPARSE_SHARE + W;
        memset(sum, 0, (size_t)(c * dp) * sizeof *sum);
        memset(t->mass + slice * c, 0, (size_t)c * sizeof(double));
        memset(t->sums + slice * c, 0, (size_t)c * sizeof(double));
        t->squares[slice] = t->kept[slice] = 0.0;
        later = 1;
    }
    for (int64_t at = v0; at < v1; at += TILE, later = 1) {
        const int64_t n = v1 - at < TILE ? v1 - at : TILE;
        const REAL *from = (const REAL *)t->logits + at;
        for (int64_t r = 0; r < c; r++) {
            const REAL *x = from + r * t->logits_row;
            if (r + 4 < c)
                for (int64_t j = 0; j < n; j += 64 / (int64_t)sizeof(REAL)) __builtin_prefetch(x + 4 * t->logits_row + j);
            memcpy(g + r * ld, x, (size_t)n * sizeof *g);
            for (int64_t j = n; j % W; j++) g[r * ld + j] = 0;
        }
        if (t->grad_bias) {
            double *to = t->grad_bias + at;
            for (int64_t r0 = 0; r0 < c; r0 += 64) {
                const int64_t r1 = r0 + 64 < c ? r0 + 64 : c;
                for (int64_t j = 0; j < n; j++) buffer[j] = g[r0 * ld + j];
                for (int64_t r = r0 + 1; r < r1; r++)
                    for (int64_t j = 0; j < n; j++) buffer[j] += g[r * ld + j];
                for (int64_t j = 0; j < n; j++) to[j] += (double)buffer[j];
            }
        }
        if (t->filter) {
            double squares;
            const int64_t count = F(collect)(g, ld, c, n, (REAL)t->threshold, found, sorted, lost, lost + c, &squares);
            if (count >= 0) {
                if (t->grad_weight && !t->add_weight) memset((REAL *)t->grad_weight + at * d, 0, (size_t)(n * d) * sizeof *g);
                S(sparse)(t, found, sorted, count, at, n, sum, panels, row);
                for (int64_t r = 0; r < c; r++) t->mass[slice * c + r] += lost[r], t->sums[slice * c + r] += lost[c + r];
                t->squares[slice] += squares;
                t->kept[slice] += (double)count;
                continue;
            }
            t->kept[slice] += (double)(c * n);
        }
        if (t->grad_hidden) S(hidden_product)(t, g, ld, at, n, sum, later, panels, buffer);
        if (t->grad_weight) S(weight_product)(t, g, ld, at, n, panels);
    }
    S(end)(t);
}

/* The sums of all slices, in order, to rows r0 .. r1-1 of the gradient. */
static void S(sum_hidden)(const fnll_linear *t, int64_t r0, int64_t r1, int64_t slices) {
    const int64_t d = t->d, dp = F(round_up)(d), each = t->c * dp;
    for (int64_t r = r0; r < r1; r++) {
        const REAL *from = (const REAL *)t->partial + r * dp;
        for (int64_t j = 0; j < d; j += W) {
            const int64_t n = d - j < W ? d - j : W;
            VEC s = F(load)(from + j);
            for (int64_t q = 1; q < slices; q++) s += F(load)(from + q * each + j);
            REAL e[W];
#if S_IS_16
            if (t->grad_storage) {
                STYPE *to = (STYPE *)t->grad_hidden + t->rows[r] * t->grad_row + j, h[W] = {0};
                if (t->add_hidden) {
                    memcpy(h, to, (size_t)n * sizeof *h);
                    s += S(convert)(h);
                }
                CAT(SNAME, _store)(h, s);
                memcpy(to, h, (size_t)n * sizeof *h);
                continue;
            }
#endif
            REAL *to = (REAL *)t->grad_hidden + t->rows[r] * t->grad_row + j;
            F(store)(e, s);
            if (t->add_hidden)
                for (int64_t i = 0; i < n; i++) to[i] += e[i];
            else
                memcpy(to, e, (size_t)n * sizeof *e);
        }
    }
}

static void S(spectrum)(const fnll_linear *t, int64_t r, int64_t n, const double *thresholds, double *out) {
    const REAL *x = (const REAL *)t->logits + r * t->logits_row;
    for (int64_t i = 0; i < 1 + 2 * n; i++) out[i] = 0.0;
    for (int64_t v = 0; v < t->v; v += 2048) {
        const int64_t end = t->v - v < 2048 ? t->v : v + 2048;
        REAL block[2048];
        memcpy(block, x + v, (size_t)(end - v) * sizeof *x);
        for (int64_t j = end - v; j % W; j++) block[j] = 0;
        for (int64_t i = -1; i < n; i++) { /* the first time all of them */
            const VEC limit = F(set)(i < 0 ? INFINITY : (REAL)thresholds[i]);
            VEC mass = F(set)(0), squares = mass;
            for (int64_t j = 0; j < end - v; j += W) {
                const VEC a = F(load)(block + j), size = F(max)(a, -a);
                const VEC e = F(select)((IVEC)(size <= limit), size, F(set)(0));
                mass += e;
                squares += e * e;
            }
            if (i >= 0) out[1 + i] += CAT(sum_, T)(mass);
            out[i < 0 ? 0 : 1 + n + i] += CAT(sum_, T)(squares);
        }
    }
}

static double S(farthest)(const fnll_linear *t, int64_t v0, int64_t v1, const void *center) {
    REAL buffer[256];
    double most = 0.0;
    for (int64_t v = v0; v < v1; v++) {
        double sum = 0.0;
        for (int64_t q = 0; q < t->d; q += 256) {
            const int64_t m = t->d - q < 256 ? t->d - q : 256;
            const REAL *x = S(row)((const STYPE *)t->weight + v * t->weight_row + q, m, buffer), *from = (const REAL *)center + q;
            VEC s = F(set)(0);
            int64_t j = 0;
            for (; j + W <= m; j += W) {
                const VEC a = F(load)(x + j) - F(load)(from + j);
                s += a * a;
            }
            sum += CAT(sum_, T)(s);
            for (; j < m; j++) sum += ((double)x[j] - from[j]) * ((double)x[j] - from[j]);
        }
        if (!(sum <= most)) most = sum;
    }
    return most;
}

#define PRODUCTS(s) \
    {TILE, sizes_s##s, panels_s##s, pack_s##s, logits_s##s, grads_s##s, sum_hidden_s##s, stats_s##s, losses_s##s, spectrum_s##s, farthest_s##s}
