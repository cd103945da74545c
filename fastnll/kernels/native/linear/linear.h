/* The products of a linear head, as Cython sees them: one table of functions per instruction set.
 *
 * A tile is a run of classes that one thread works on at a time; a slice is a run of tiles, and owns a partial sum of the
 * hidden gradient. Both are cut by size alone. The three products of a chunk of c rows run
 *   logits[c, V]  = hidden[c, D] weight[V, D]^T   tile after tile, in any order;
 *   dW[V, D]     += G[c, V]^T hidden[c, D]        tile after tile: no two touch the same rows of dW;
 *   dH[c, D]      = G[c, V] weight[V, D]          slice after slice, whose sums are then added in order.
 */
#ifndef FASTNLL_LINEAR_H
#define FASTNLL_LINEAR_H

#include "native.h"

#define FNLL_SLICES 16
/* Slices of the value alone, whose state is three numbers a row. */
#define FNLL_VALUE_SLICES 64

typedef struct {
    const void *hidden, *weight; /* (N, D) and (V, D), storage type */
    int64_t hidden_row, weight_row; /* element strides between rows */
    const int64_t *rows;         /* (c,): which rows of hidden */
    int64_t c, v, d;
    void *logits;                /* (c, V) compute type, rows logits_row apart */
    int64_t logits_row;
    const void *bias;            /* (V,) compute type, or NULL */
    void *hidden_k, *hidden_d;   /* hidden in panels, as the first and the last product read it */
    void *partial;               /* a (c, D padded) sum for each slice */
    void *grad_hidden;           /* (N, D), or NULL */
    int64_t grad_row;
    int grad_storage, add_hidden; /* whether grad_hidden is of the storage type; whether it is added to */
    void *grad_weight;           /* (V, D) compute type, contiguous, or NULL */
    int add_weight;
    double *grad_bias;           /* (V,), or NULL */
    /* With filter set, elements of G of at most `threshold` may be left out of the products, tile by tile. Slice s adds up
     * what it left out: absolute values of row r in mass[s c + r], the values themselves in sums[s c + r], and all squares in
     * squares[s]; kept[s] counts what it multiplied. */
    int filter;
    double threshold;
    double *mass, *sums, *squares, *kept;
    void *hidden_rows;           /* hidden row after row, (c, D padded) */
    const int64_t *targets;      /* (c,), for the value alone; then the following, too */
    const double *factors;       /* (c,) of each row's loss, or NULL */
    double *target_logits, *loss; /* (c,) */
    uint8_t *careful;            /* (c,): rows that need a whole row of logits, for lack of a finite maximum */
    fnll_block *states;          /* (slices, c) */
} fnll_linear;

typedef struct {
    int64_t tile;                /* classes of a tile */
    /* Elements of the compute type: hidden_k, hidden_d, one partial (and hidden_rows), one thread's scratch. */
    void (*sizes)(int64_t c, int64_t d, int filter, int64_t out[4]);
    int64_t (*panels)(int64_t c); /* items of pack */
    void (*pack)(const fnll_linear *, int64_t item, int for_grads);
    void (*logits)(const fnll_linear *, int64_t v0, int64_t v1, void *scratch);
    void (*grads)(const fnll_linear *, int64_t v0, int64_t v1, int64_t slice, void *scratch);
    void (*sum_hidden)(const fnll_linear *, int64_t r0, int64_t r1, int64_t slices);
    void (*stats)(const fnll_linear *, int64_t v0, int64_t v1, fnll_block *states, void *scratch);
    void (*losses)(const fnll_linear *, int64_t r0, int64_t r1, int64_t slices);
    /* Of row r of G: its squares, and for each of n thresholds the sums of the elements below, and of their squares. */
    void (*spectrum)(const fnll_linear *, int64_t r, int64_t n, const double *thresholds, double *out);
    /* The largest square of the distance of rows v0 .. v1-1 of the weight from a center (D, compute type). */
    double (*farthest)(const fnll_linear *, int64_t v0, int64_t v1, const void *center);
} fnll_products;

typedef struct {
    const char *name;
    fnll_products storage[4]; /* by the codes of fastnll.dtypes.FLOATS */
} fnll_linear_table;

int fnll_linear_tables(const fnll_linear_table **tables, int most);

#endif
