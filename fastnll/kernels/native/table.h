/* Everything for one instruction set: the including file sets TABLE, TABLE_NAME, VBYTES, HAS_FMA and the target; or BF16_ALONE in
 * place of the first two, for the kernels of bfloat16 alone, which round by the processor's own instruction. */
#define CAT_(a, b) a##b
#define CAT(a, b) CAT_(a, b)
#include "native.h"
#include "simd.h"

#define T f64
#define T_IS_F64 1
#include "vecmath.h"
#include "merge.h"
#undef T
#undef T_IS_F64
#define T f32
#define T_IS_F64 0
#include "vecmath.h"
#undef T
#undef T_IS_F64

#define S_IS_16 0
#ifndef BF16_ALONE
#define T f64
#define T_IS_F64 1
#define SNAME f64
#define STYPE double
#include "storage_all.h"
#undef T
#undef T_IS_F64
#undef SNAME
#undef STYPE
#endif

#define T f32
#define T_IS_F64 0
#define SNAME f32
#define STYPE float
#include "storage_all.h"
#undef SNAME
#undef STYPE
#undef S_IS_16

#define S_IS_16 1
#define STYPE uint16_t
#define SNAME bf16
#define S_NEG_INF 0xff80
#include "storage_all.h"
#ifdef BF16_ALONE
const fnll_kernels BF16_ALONE = KERNELS(bf16);
#else
#undef SNAME
#undef S_NEG_INF
#define SNAME f16
#define S_NEG_INF 0xfc00
#include "storage_all.h"

#include "scan.h"
const fnll_table TABLE = {TABLE_NAME, VBYTES, {KERNELS(f64), KERNELS(f32), KERNELS(bf16), KERNELS(f16)}, scan_targets};
#endif
