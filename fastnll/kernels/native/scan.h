/* The scan of targets: how many are ignored, how many are no class, and where the first of those is. Included once per table, for it
 * compares as many at a time as a vector has: a target takes 8 bytes, and a row of ten classes no more than 40.
 */

/* Vectors compared in one go: a lane counts to no more, which fits 8 bits. */
#define ROUND 64

/* A class id is bad if, as an unsigned number, it is not below v: one comparison covers both ends. `most` is v where the type has such
 * numbers, else the first that it has not. */
#define SCAN(name, type, unsigned_type, wide, end_of_type)                                                                  \
    static inline int name##_is_bad(type x, int64_t v) { return (uint64_t)(wide)x >= (uint64_t)v; }                         \
    /* Whether a full round has bad ids beside those that are ignored, which it counts. */                                 \
    static int name##_round(const type *row, int64_t v, int has, type ignore, int64_t *ignored) {                          \
        typedef unsigned_type ids __attribute__((vector_size(VBYTES)));                                                    \
        const int lanes = VBYTES / sizeof(type), all_fit = (uint64_t)v > (uint64_t)(end_of_type);                           \
        const unsigned_type most = (unsigned_type)v;                                                                        \
        ids bad = {}, skipped = {};                                                                                         \
        for (int i = 0; i < ROUND; i++) {                                                                                   \
            ids x;                                                                                                          \
            memcpy(&x, row + i * lanes, sizeof x);                                                                          \
            const ids skip = has ? (ids)(x == (unsigned_type)ignore) : (ids){};                                             \
            skipped -= skip;                                                                                                \
            if ((type)-1 < 0 && all_fit) /* the negative ones */                                                            \
                bad |= (ids)(x > (unsigned_type)(end_of_type)) & ~skip;                                                     \
            else if (!all_fit)                                                                                              \
                bad |= (ids)(x >= most) & ~skip;                                                                            \
        }                                                                                                                   \
        uint64_t any = 0;                                                                                                   \
        for (int j = 0; j < lanes; j++) any |= bad[j], *ignored += (int64_t)skipped[j];                                     \
        return any != 0;                                                                                                    \
    }                                                                                                                       \
    static void name(const fnll_array *t, int64_t outer, int64_t inner, int64_t v, int has, int64_t ignore,                 \
                     int64_t *n_ignored, int64_t *n_bad, int64_t *first) {                                                  \
        const int64_t full = ROUND * (int64_t)(VBYTES / sizeof(type));                                                      \
        for (int64_t o = 0; o < outer; o++) {                                                                               \
            const type *row = (const type *)t->p + o * t->outer;                                                            \
            for (int64_t b = 0, end; b < inner; b = end) {                                                                  \
                end = inner - b < full ? inner : b + full;                                                                  \
                int64_t skipped = 0;                                                                                        \
                if (t->inner == 1 && end - b == full && !name##_round(row + b, v, has, (type)ignore, &skipped)) {           \
                    *n_ignored += skipped;                                                                                  \
                    continue;                                                                                               \
                }                                                                                                           \
                for (int64_t i = b; i < end; i++) {                                                                         \
                    const type x = row[i * t->inner];                                                                       \
                    const int skip = has & (x == (type)ignore), bad = name##_is_bad(x, v) & !skip;                          \
                    *n_ignored += skip;                                                                                     \
                    if (bad && (*n_bad)++ == 0) *first = o * inner + i;                                                     \
                }                                                                                                           \
            }                                                                                                               \
        }                                                                                                                   \
    }
SCAN(scan_u8, uint8_t, uint8_t, uint64_t, UINT8_MAX)
SCAN(scan_i8, int8_t, uint8_t, int64_t, INT8_MAX)
SCAN(scan_u16, uint16_t, uint16_t, uint64_t, UINT16_MAX)
SCAN(scan_i16, int16_t, uint16_t, int64_t, INT16_MAX)
SCAN(scan_u32, uint32_t, uint32_t, uint64_t, UINT32_MAX)
SCAN(scan_i32, int32_t, uint32_t, int64_t, INT32_MAX)
SCAN(scan_u64, uint64_t, uint64_t, uint64_t, INT64_MAX)
SCAN(scan_i64, int64_t, uint64_t, int64_t, INT64_MAX)
#undef SCAN
#undef ROUND

static void scan_targets(const fnll_array *t, int code, int64_t outer, int64_t inner, int64_t v, int has_ignore, int64_t ignore,
                         int64_t *n_ignored, int64_t *n_bad, int64_t *first) {
    static void (*const scans[])(const fnll_array *, int64_t, int64_t, int64_t, int, int64_t, int64_t *, int64_t *,
                                 int64_t *) = {scan_u8,  scan_i8,  scan_u16, scan_i16,
                                               scan_u32, scan_i32, scan_u64, scan_i64};
    *n_ignored = *n_bad = 0, *first = -1;
    scans[code](t, outer, inner, v, has_ignore, ignore, n_ignored, n_bad, first);
}
