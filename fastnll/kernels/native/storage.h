/* Loads and stores of one storage dtype: included with SNAME, STYPE and T defined. Values are computed in T. */
#include "real.h"

#undef S
#undef NEG_INF
#undef FS
#define S(name) CAT(name##_s, SNAME)
#define FS(name) CAT(name##_s, T)

#if S_IS_16
#define NEG_INF S_NEG_INF
inline_always VEC S(ld)(const STYPE *p) { return CAT(SNAME, _load)(p); }
inline_always void S(st)(STYPE *p, VEC a) { CAT(SNAME, _store)(p, a); }
#else
#define NEG_INF ((REAL)-INFINITY)
inline_always VEC S(ld)(const STYPE *p) { return F(load)(p); }
inline_always void S(st)(STYPE *p, VEC a) { F(store)(p, a); }
#endif

/* The first m <= W elements; the other lanes hold -inf, whose exponential is 0. */
#if !S_IS_16
inline_always VEC S(ld_part)(const STYPE *p, int64_t m) { return CAT(part_, T)(p, m); }
inline_always void S(st_part)(STYPE *p, VEC a, int64_t m) { CAT(put_part_, T)(p, a, m); }
#else
inline_always VEC S(ld_part)(const STYPE *p, int64_t m) {
    STYPE e[W];
    for (int i = 0; i < W; i++) e[i] = NEG_INF;
    for (int64_t i = 0; i < m; i++) e[i] = p[i];
    return S(ld)(e);
}
inline_always void S(st_part)(STYPE *p, VEC a, int64_t m) {
    STYPE e[W];
    S(st)(e, a);
    for (int64_t i = 0; i < m; i++) p[i] = e[i];
}
#endif
inline_always REAL S(get)(const STYPE *p) {
#if S_IS_16
    return S(ld_part)(p, 1)[0];
#else
    return *p;
#endif
}
inline_always void S(put)(STYPE *p, REAL a) {
#if S_IS_16
    S(st_part)(p, F(set)(a), 1);
#else
    *p = a;
#endif
}
