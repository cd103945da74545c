/* The three products on tiles for one storage type, float32 or bfloat16: what products.h calls where a chunk has rows enough. */
#undef PARTS
#define PARTS (S_IS_16 ? 1 : 3)

inline_always int S(on_tiles)(const fnll_linear *t) { return t->c >= TILES_LEAST; }

/* Tiles along n features or rows. */
inline_always int64_t S(along)(int64_t n) { return (n + 31) / 32; }
/* Elements of the compute type that packed tiles take, and that bring a pointer to a cache line. */
#define ROOM(tiles, parts) ((tiles) * (parts) * (TILE_SIZE / 2) + 16)
inline_always half *S(lined)(void *p) { return (half *)(((uintptr_t)p + 63) & ~(uintptr_t)63); }

/* Tiles along k that a block of 32 rows of weights, or of columns of G, keeps in the first-level cache. */
#define DEEP_LOGITS 16
#define DEEP_WEIGHT 16

static void S(tiles_sizes)(int64_t c, int64_t d, int64_t out[4]) {
    const int64_t cp = F(round_up)(c), dp = F(round_up)(d), kc = S(along)(c), kd = S(along)(d), flags = kc + 16;
    out[0] = ROOM(cp / 16 * kd, PARTS) + flags;
    out[1] = ROOM(dp / 16 * kc, PARTS) + flags;
    out[2] = TILE * cp + ROOM(2 * DEEP_LOGITS, PARTS);
    /* In grads: weights, a block of G, and results that do not fit where they go. */
    out[3] = ROOM(dp / 16 * (TILE / 32), PARTS) + ROOM(2 * DEEP_WEIGHT, G_PARTS) + SIDE * SIDE;
}

inline_always int *S(flags_k)(const fnll_linear *t) {
    return (int *)((REAL *)t->hidden_k + ROOM(F(round_up)(t->c) / 16 * S(along)(t->d), PARTS));
}
inline_always int *S(flags_d)(const fnll_linear *t) {
    return (int *)((REAL *)t->hidden_d + ROOM(F(round_up)(t->d) / 16 * S(along)(t->c), PARTS));
}

/* 32 rows of hidden from r on, NULL beyond the last. */
inline_always void S(hidden_at)(const fnll_linear *t, int64_t r, const void *rows[32]) {
    for (int i = 0; i < 32; i++) rows[i] = r + i < t->c ? (const STYPE *)t->hidden + t->rows[r + i] * t->hidden_row : 0;
}
inline_always void S(weight_at)(const fnll_linear *t, int64_t v, int64_t end, const void *rows[32]) {
    for (int i = 0; i < 32; i++) rows[i] = v + i < end ? (const STYPE *)t->weight + (v + i) * t->weight_row : 0;
}

/* 32 rows of hidden: columns of the first product's right side, or two tiles' height of the last one's. */
static void S(tiles_pack)(const fnll_linear *t, int64_t item, int for_grads) {
    const int64_t d = t->d, dp = F(round_up)(d), kd = S(along)(d), kc = S(along)(t->c);
    const void *rows[32];
    int large = 0;
    S(hidden_at)(t, 32 * item, rows);
    if (!for_grads) {
        half *to = S(lined)(t->hidden_k);
        for (int j = 0; j < 2; j++)
            for (int64_t k = 0; k < kd; k++)
                large |= pack_rows(rows + 16 * j, 32 * k, d - 32 * k, to + ((2 * item + j) * kd + k) * PARTS * TILE_SIZE, 1, PARTS, S_IS_16);
        S(flags_k)(t)[item] = large;
        return;
    }
    half *to = S(lined)(t->hidden_d);
    for (int64_t j = 0; j < dp / 16; j++)
        large |= pack_pairs(rows, 16 * j, d - 16 * j, to + (j * kc + item) * PARTS * TILE_SIZE, 0, PARTS, S_IS_16);
    S(flags_d)(t)[item] = large;
    if (!t->filter) return;
    for (int64_t r = 32 * item; r < t->c && r < 32 * item + 32; r++) {
        REAL *row = (REAL *)t->hidden_rows + r * dp;
        const REAL *x = S(row)(rows[r - 32 * item], d, row);
        if (x != row) memcpy(row, x, (size_t)d * sizeof *x);
        for (int64_t j = d; j < dp; j++) row[j] = 0;
    }
}

/* Some of the columns of a tile of logits, number by number. */
static void S(careful_multiply)(const fnll_linear *t, int64_t v0, int64_t n, int64_t r0, int64_t r1, REAL *tile, int64_t cp) {
    REAL a[256], b[256];
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = r0; r < r1; r++) {
            const STYPE *w = (const STYPE *)t->weight + (v0 + i) * t->weight_row;
            const STYPE *h = (const STYPE *)t->hidden + t->rows[r] * t->hidden_row;
            REAL sum = 0;
            for (int64_t q = 0; q < t->d; q += 256) {
                const int64_t m = t->d - q < 256 ? t->d - q : 256;
                const REAL *x = S(row)(w + q, m, a), *y = S(row)(h + q, m, b);
                for (int64_t j = 0; j < m; j++) sum += x[j] * y[j];
            }
            tile[i * cp + r] = sum;
        }
}

/* hidden weight^T of a tile, as columns: tile[n][cp]. */
static void S(tiles_multiply)(const fnll_linear *t, int64_t v0, int64_t n, REAL *tile, REAL *work) {
    const int64_t d = t->d, cp = F(round_up)(t->c), kd = S(along)(d), step = PARTS * TILE_SIZE;
    const half *b = S(lined)(t->hidden_k);
    half *a = S(lined)(work);
    int large = 0;
    for (int64_t k0 = 0; k0 < kd; k0 += DEEP_LOGITS) {
        const int64_t k = kd - k0 < DEEP_LOGITS ? kd - k0 : DEEP_LOGITS;
        for (int64_t i = 0; i < n; i += SIDE) {
            const void *rows[32];
            S(weight_at)(t, v0 + i, v0 + n, rows);
            for (int64_t q = 0; q < 2 * k; q++)
                large |= pack_rows(rows + 16 * (q / k), 32 * (k0 + q % k), d - 32 * (k0 + q % k), a + q * step, 0, PARTS, S_IS_16);
            for (int64_t j = 0; j < cp / 16; j += 2)
                tiles_block(a, k * step, b + (j * kd + k0) * step, kd * step, k, tile + i * cp + 16 * j, cp, k0 > 0, PARTS, PARTS);
        }
    }
    for (int64_t j = 0; j < cp / NR; j++)
        if (large || S(flags_k)(t)[j])
            S(careful_multiply)(t, v0, n, j * NR, (j + 1) * NR < t->c ? (j + 1) * NR : t->c, tile, cp);
}

/* Copy or add a part of a block of results to where it belongs. */
inline_always void S(put_block)(const REAL *block, int64_t m, int64_t width, REAL *to, int64_t ld, int add) {
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < width; j++) to[i * ld + j] = block[i * SIDE + j] + (add ? to[i * ld + j] : 0);
}

/* sum[c][dp] (+)= G weight of a tile. */
static void S(tiles_hidden)(const fnll_linear *t, const REAL *g, int64_t ld, int64_t at, int64_t n, REAL *sum, int later, REAL *work) {
    const int64_t c = t->c, d = t->d, dp = F(round_up)(d), k = S(along)(n), step = PARTS * TILE_SIZE;
    half *b = S(lined)(work), *a = S(lined)(work + ROOM(dp / 16 * (TILE / 32), PARTS));
    REAL *edge = work + ROOM(dp / 16 * (TILE / 32), PARTS) + ROOM(2 * DEEP_WEIGHT, G_PARTS);
    const void *rows[32];
    int large = 0;
    for (int64_t q = 0; q < k; q++) {
        S(weight_at)(t, at + 32 * q, at + n, rows);
        for (int64_t j = 0; j < dp / 16; j++)
            large |= pack_pairs(rows, 16 * j, d - 16 * j, b + (j * k + q) * step, 0, PARTS, S_IS_16);
    }
    for (int64_t r = 0; r < c; r += SIDE) {
        const int64_t m = c - r < SIDE ? c - r : SIDE;
        int block_large = large;
        for (int i = 0; i < 32; i++) rows[i] = i < m ? g + (r + i) * ld : 0;
        for (int64_t q = 0; q < 2 * k; q++)
            block_large |= pack_rows(rows + 16 * (q / k), 32 * (q % k), n - 32 * (q % k), a + q * G_PARTS * TILE_SIZE, 0, G_PARTS, 0);
        REAL *to = sum + r * dp;
        if (block_large) {
            if (!later) memset(to, 0, (size_t)(m * dp) * sizeof *to);
            REAL buffer[256];
            for (int64_t v = 0; v < n; v++)
                for (int64_t j = 0; j < d; j += 256) {
                    const int64_t width = d - j < 256 ? d - j : 256;
                    const REAL *x = S(row)((const STYPE *)t->weight + (at + v) * t->weight_row + j, width, buffer);
                    for (int64_t i = 0; i < m; i++)
                        for (int64_t l = 0; l < width; l++) to[i * dp + j + l] += g[(r + i) * ld + v] * x[l];
                }
            continue;
        }
        for (int64_t j = 0; j < dp / 16; j += 2) {
            if (m == SIDE) {
                tiles_block(a, k * G_PARTS * TILE_SIZE, b + j * k * step, k * step, k, to + 16 * j, dp, later, G_PARTS, PARTS);
            } else {
                tiles_block(a, k * G_PARTS * TILE_SIZE, b + j * k * step, k * step, k, edge, SIDE, 0, G_PARTS, PARTS);
                S(put_block)(edge, m, SIDE, to + 16 * j, dp, later);
            }
        }
    }
}

/* Rows at .. at+n-1 of dW (+)= G^T hidden. */
static void S(tiles_weight)(const fnll_linear *t, const REAL *g, int64_t ld, int64_t at, int64_t n, REAL *work) {
    const int64_t c = t->c, d = t->d, dp = F(round_up)(d), kc = S(along)(c), step = PARTS * TILE_SIZE;
    const half *b = S(lined)(t->hidden_d);
    half *a = S(lined)(work + ROOM(dp / 16 * (TILE / 32), PARTS));
    REAL *edge = work + ROOM(dp / 16 * (TILE / 32), PARTS) + ROOM(2 * DEEP_WEIGHT, G_PARTS);
    for (int64_t k0 = 0; k0 < kc; k0 += DEEP_WEIGHT) {
        const int64_t k = kc - k0 < DEEP_WEIGHT ? kc - k0 : DEEP_WEIGHT, end = 32 * (k0 + k) < c ? 32 * (k0 + k) : c;
        const int add = t->add_weight || k0 > 0;
        int hidden_large = 0;
        for (int64_t q = k0; q < k0 + k; q++) hidden_large |= S(flags_d)(t)[q];
        for (int64_t i = 0; i < n; i += SIDE) {
            const int64_t m = n - i < SIDE ? n - i : SIDE;
            int large = hidden_large;
            for (int64_t q = 0; q < k; q++) {
                const void *rows[32];
                for (int l = 0; l < 32; l++) rows[l] = 32 * (k0 + q) + l < c ? g + (32 * (k0 + q) + l) * ld : 0;
                for (int h = 0; h < 2; h++)
                    large |= pack_pairs(rows, i + 16 * h, n - i - 16 * h, a + (h * k + q) * G_PARTS * TILE_SIZE, 1, G_PARTS, 0);
            }
            REAL *to = (REAL *)t->grad_weight + (at + i) * d;
            if (large) {
                if (!add) memset(to, 0, (size_t)(m * d) * sizeof *to);
                REAL buffer[256];
                for (int64_t r = 32 * k0; r < end; r++)
                    for (int64_t j = 0; j < d; j += 256) {
                        const int64_t width = d - j < 256 ? d - j : 256;
                        const REAL *x = S(row)((const STYPE *)t->hidden + t->rows[r] * t->hidden_row + j, width, buffer);
                        for (int64_t v = 0; v < m; v++)
                            for (int64_t l = 0; l < width; l++) to[v * d + j + l] += g[r * ld + i + v] * x[l];
                    }
                continue;
            }
            for (int64_t j = 0; j < dp / 16; j += 2) {
                const int64_t width = d - 16 * j < SIDE ? d - 16 * j : SIDE;
                const half *from = b + (j * kc + k0) * step;
                if (m == SIDE && width == SIDE) {
                    tiles_block(a, k * G_PARTS * TILE_SIZE, from, kc * step, k, to + 16 * j, d, add, G_PARTS, PARTS);
                } else {
                    tiles_block(a, k * G_PARTS * TILE_SIZE, from, kc * step, k, edge, SIDE, 0, G_PARTS, PARTS);
                    S(put_block)(edge, m, width, to + 16 * j, d, add);
                }
            }
        }
    }
}
