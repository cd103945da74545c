/* The products for one instruction set: the including file sets TABLE, TABLE_NAME, VBYTES, HAS_FMA and the target. */
#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)
#include "linear.h"
#include "simd.h"

#define T f64
#define T_IS_F64 1
#include "micro.h"
#include "merge.h"
#define SNAME f64
#define STYPE double
#define S_IS_16 0
#include "products.h"
#undef T
#undef T_IS_F64
#undef SNAME
#undef STYPE

#define T f32
#define T_IS_F64 0
#include "micro.h"
#ifdef HAS_TILES
#include "tiles.h"
#define TILES_f32 1
#define TILES_bf16 1
#define TILES_f16 0
#endif
#ifdef HAS_PAIRS
#include "pairs.h"
#define PAIRS_f32 0
#define PAIRS_bf16 1
#define PAIRS_f16 0
#endif
#define SNAME f32
#define STYPE float
#include "products.h"
#undef SNAME
#undef STYPE
#undef S_IS_16

#define S_IS_16 1
#define STYPE uint16_t
#define SNAME bf16
#include "products.h"
#undef SNAME
#define SNAME f16
#include "products.h"

const fnll_linear_table TABLE = {TABLE_NAME, {PRODUCTS(f64), PRODUCTS(f32), PRODUCTS(bf16), PRODUCTS(f16)}};
