/* The table every machine of this architecture can run: SSE2 on x86-64, NEON on arm64. */
#define TABLE fnll_linear_baseline
#define TABLE_NAME "baseline"
#define VBYTES 16
#if defined(__aarch64__)
#define HAS_FMA 1
#else
#define HAS_FMA 0
#endif
#include "products_table.h"
