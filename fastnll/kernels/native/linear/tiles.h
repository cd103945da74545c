/* Products on the tile registers of AMX (Sapphire Rapids and later): 16 x 32 bfloat16 times 32 x 16 to 16 x 16 float32.
 *
 * A float32 is the sum of three bfloat16, exactly: its leading 8 bits, those of what is left, and the rest. The product of two
 * takes the six products of parts of which no two are small; the three that are left out are below 2^-24 of it, as the roundings
 * of a sum in float32 are. A stored bfloat16 is one part. (G. Henry, P. T. P. Tang, A. Heinecke, "Leveraging the bfloat16
 * artificial intelligence datatype for higher-precision computations", ARITH 2019.)
 *
 * A part beyond the range of bfloat16, inf and NaN would spoil more than their own products: what packs them says so, and the
 * block is then multiplied without tiles.
 */

#define TILE_SIZE 512 /* elements of a packed tile: 16 rows of 32, or 16 pairs of rows of 16 */
#define SIDE 32       /* rows and columns of a block of results: two by two tiles */
#define G_PARTS 3     /* of a gradient, which is float32 whatever is stored */
/* Fewer rows than this are not worth the packing of the weights. */
#define TILES_LEAST 64

typedef uint16_t half;

/* All eight registers are whole tiles. */
inline_always void tiles_on(void) {
    struct __attribute__((aligned(64))) {
        uint8_t palette, start_row, zero[14];
        uint16_t row_bytes[16];
        uint8_t rows[16];
    } config = {.palette = 1};
    for (int i = 0; i < 8; i++) config.row_bytes[i] = 64, config.rows[i] = 16;
    _tile_loadconfig(&config);
}
inline_always void tiles_off(void) { _tile_release(); }

#define LOAD_A(p)                             \
    _tile_loadd(4, a + (p) * TILE_SIZE, 64);  \
    _tile_loadd(5, a + apart + (p) * TILE_SIZE, 64)
#define LOAD_B(p)                             \
    _tile_loadd(6, b + (p) * TILE_SIZE, 64);  \
    _tile_loadd(7, b + bpart + (p) * TILE_SIZE, 64)
#define MULTIPLY               \
    _tile_dpbf16ps(0, 4, 6);   \
    _tile_dpbf16ps(1, 4, 7);   \
    _tile_dpbf16ps(2, 5, 6);   \
    _tile_dpbf16ps(3, 5, 7)

/* c[32][32] (+)= a b over k tiles. A tile's parts lie one after the other, then the next tile along k; the second 16 rows of a
 * lie `apart` further, the second 16 columns of b `bpart`. */
inline_always void tiles_block(const half *a, int64_t apart, const half *b, int64_t bpart, int64_t k, float *c, int64_t ldc, int add,
                               const int a_parts, const int b_parts) {
    __asm__ volatile("" ::: "memory");
    if (add) {
        _tile_loadd(0, c, ldc * 4);
        _tile_loadd(1, c + 16, ldc * 4);
        _tile_loadd(2, c + 16 * ldc, ldc * 4);
        _tile_loadd(3, c + 16 * ldc + 16, ldc * 4);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t i = 0; i < k; i++, a += a_parts * TILE_SIZE, b += b_parts * TILE_SIZE) {
        LOAD_B(0);
        LOAD_A(0);
        MULTIPLY;
        if (a_parts == 3) {
            LOAD_A(1);
            MULTIPLY;
            LOAD_A(2);
            MULTIPLY;
        }
        if (b_parts == 3) {
            LOAD_B(1);
            LOAD_A(0);
            MULTIPLY;
            LOAD_A(1);
            MULTIPLY;
            LOAD_B(2);
            LOAD_A(0);
            MULTIPLY;
        }
    }
    _tile_stored(0, c, ldc * 4);
    _tile_stored(1, c + 16, ldc * 4);
    _tile_stored(2, c + 16 * ldc, ldc * 4);
    _tile_stored(3, c + 16 * ldc + 16, ldc * 4);
    __asm__ volatile("" ::: "memory");
}

/* 16 numbers of a row of float32 or bfloat16, as bits of float32; 0 beyond the mask. */
inline_always __m512i tiles_load(const void *row, int64_t at, __mmask16 m, const int is16) {
    if (!is16) return _mm512_maskz_loadu_epi32(m, (const uint32_t *)row + at);
    return _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(m, (const uint16_t *)row + at)), 16);
}
inline_always __mmask16 lanes_below(int64_t n) { return n >= 16 ? 0xffff : n <= 0 ? 0 : (__mmask16)((1u << n) - 1); }

/* The next part of x, rounded, in the upper half of each lane; x keeps what is left. */
inline_always __m512i next_part(__m512i *x) {
    const __m512i h = _mm512_and_si512(_mm512_add_epi32(*x, _mm512_set1_epi32(0x8000)), _mm512_set1_epi32((int)0xffff0000));
    *x = (__m512i)_mm512_sub_ps((__m512)*x, (__m512)h);
    return h;
}
/* Lanes too large for parts. */
inline_always __mmask16 too_large(__m512i x) {
    return _mm512_cmpge_epu32_mask(_mm512_and_si512(x, _mm512_set1_epi32(0x7fffffff)), _mm512_set1_epi32(0x7f000000));
}

inline_always void transpose_tile(half *tile) {
    v_f32 rows[16];
    for (int i = 0; i < 16; i++) rows[i] = load_f32((const float *)tile + 16 * i);
    transpose_f32(rows);
    for (int i = 0; i < 16; i++) store_f32((float *)tile + 16 * i, rows[i]);
}

/* The parts of 16 rows (NULL: zeros) from column `at` on, n of which are there: rows of 32 elements, or turned to pairs of rows
 * of 16. Returns whether some are too large. */
inline_always int pack_rows(const void *const *row, int64_t at, int64_t n, half *to, const int turn, const int parts, const int is16) {
    static const uint16_t upper[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                       33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
    const __m512i uppers = _mm512_loadu_si512(upper);
    const __mmask16 m0 = lanes_below(n), m1 = lanes_below(n - 16);
    __mmask16 large = 0;
    for (int i = 0; i < 16; i++) {
        __m512i x = {}, y = {};
        if (row[i]) x = tiles_load(row[i], at, m0, is16), y = tiles_load(row[i], at + 16, m1, is16);
        large |= too_large(x) | too_large(y);
        for (int p = 0; p < parts; p++) {
            const __m512i h = next_part(&x), l = next_part(&y);
            _mm512_storeu_si512(to + p * TILE_SIZE + 32 * i, _mm512_permutex2var_epi16(h, uppers, l));
        }
    }
    if (turn)
        for (int p = 0; p < parts; p++) transpose_tile(to + p * TILE_SIZE);
    return large != 0;
}

/* The parts of 32 rows (NULL: zeros), 16 columns of each: pairs of rows of 16, or turned to 16 rows of 32. */
inline_always int pack_pairs(const void *const *row, int64_t at, int64_t n, half *to, const int turn, const int parts, const int is16) {
    const __mmask16 m = lanes_below(n);
    __mmask16 large = 0;
    for (int i = 0; i < 16; i++) {
        __m512i x = {}, y = {};
        if (row[2 * i]) x = tiles_load(row[2 * i], at, m, is16);
        if (row[2 * i + 1]) y = tiles_load(row[2 * i + 1], at, m, is16);
        large |= too_large(x) | too_large(y);
        for (int p = 0; p < parts; p++) {
            const __m512i h = next_part(&x), l = next_part(&y);
            _mm512_storeu_si512(to + p * TILE_SIZE + 32 * i, _mm512_or_si512(_mm512_srli_epi32(h, 16), l));
        }
    }
    if (turn)
        for (int p = 0; p < parts; p++) transpose_tile(to + p * TILE_SIZE);
    return large != 0;
}
