/* What Cython and the C kernels agree on: the task struct and the table of functions.
 *
 * A task holds pointers and element strides that fastnll/arrays.py has checked. Kernels read and write only
 * through it; they never allocate, raise or lock. Rows are numbered r = o * inner + i.
 */
#ifndef FASTNLL_NATIVE_H
#define FASTNLL_NATIVE_H

#include <stdint.h>

enum { FNLL_F64, FNLL_F32, FNLL_BF16, FNLL_F16, FNLL_STORAGES };        /* codes of fastnll.dtypes.FLOATS */
enum { FNLL_U8, FNLL_I8, FNLL_U16, FNLL_I16, FNLL_U32, FNLL_I32, FNLL_U64, FNLL_I64 }; /* and of INTEGERS */
enum { FNLL_LSE, FNLL_SOFTMAX, FNLL_LOG_SOFTMAX, FNLL_CROSS_ENTROPY, FNLL_GATHER };

/* Whether the compiler knows the instructions for bfloat16 of AVX-512. */
#if defined(__x86_64__) && (defined(__clang__) || __GNUC__ >= 10)
#define FNLL_HAS_BF16 1
#endif

/* Elements whose exponentials share one reference; also the grid on which few long rows are split. */
#define FNLL_BLOCK 2048
/* Rows handled together: the unit of fastnll.kernels.spec.ROW_BLOCK. */
#define FNLL_ROWS 64
/* Classes up to which rows go into vector lanes. */
#define FNLL_SMALL 48
/* Bytes ahead of the sum that lines are asked for: exponentials fill the window in which the core would otherwise see its next
 * misses. The first-level cache has few places for lines on their way, and one from memory holds its place long: further ahead lines
 * are asked for as far as the second level. Measured on EPYC (family 25): with the far one, rows written beside those read
 * take 0.85 of the time, rows of 256 classes 0.8; values of long rows gain nothing. */
#define PREFETCH 2048
#define PREFETCH_FAR 12288
/* The far one for lines that are written without having been read. */
#define PREFETCH_WRITE 8192
/* Rows up to this length keep their scratch on the stack. */
#define FNLL_STACK 2048
/* Exponentials kept between the two sweeps: this much for rows that go in groups, this long a row for one alone. */
#define FNLL_KEEP_BYTES (1 << 16)
#define FNLL_KEEP_MOST (1 << 17)

/* Neighbouring rows that run side by side where the class axis is not the last, and classes up to which their exponentials are
 * kept: 1 MB of float32. */
#define FNLL_COLUMNS 256
#define FNLL_COLUMNS_KEEP 1024

typedef struct {
    void *p;
    int64_t outer, inner, cls; /* element strides */
} fnll_array;

/* Which stores bypass the caches: none; those of whole lines of a row; those of rows that lie one behind the other, joined. */
enum { FNLL_STREAM_NONE, FNLL_STREAM_ROWS, FNLL_STREAM_JOINED };

typedef struct {
    int op, stream;             /* stream: one of the three above */
    int64_t outer, inner, v, k; /* rows = outer * inner, classes, ids per row */
    fnll_array x, out, q, mask; /* logits; gradient or result; dense targets; class mask */
    int q_code, t_code;
    fnll_array t;               /* integer targets; .cls unused */
    const int64_t *ids;         /* (N, k) */
    const double *id_probs;     /* (N, k) */
    const double *class_weight; /* (v,) */
    const void *weight_real;    /* the same in the compute type */
    const double *row_weight, *target_weight, *grad_weight;
    double grad_scale, smoothing, z_loss, temperature, softcap;
    double *loss, *lse, *entropy, *picked; /* (N,), and (N, k) */
    int64_t loss_from;                     /* row r's loss goes to loss[r - loss_from] */
    int64_t *argmax, *rank;
} fnll_task;

/* One block's sum of exponentials: sum * 2^k; k is NaN where the block needs the careful path. */
typedef struct {
    double k, sum;
} fnll_block;

typedef struct {
    double lr, momentum, dampening, weight_decay, grad_scale;
    int nesterov, maximize, first_step;
} fnll_sgd;

typedef struct {
    /* Rows r0 .. r1-1 of any op; scratch is of the task's size (drive.c), or NULL where that is 0. */
    void (*rows)(const fnll_task *, int64_t r0, int64_t r1, void *scratch);
    /* One row cut into blocks b0 .. b1-1: its block sums (the target's own term left out), then its output. */
    void (*split_stats)(const fnll_task *, int64_t row, int64_t b0, int64_t b1, fnll_block *);
    /* Merge all blocks of a row and write its scalars; returns 0 where the row needs the careful path. */
    int (*split_merge)(const fnll_task *, int64_t row, fnll_block *, double *coefficients);
    void (*split_emit)(const fnll_task *, int64_t row, int64_t b0, int64_t b1, const double *coefficients);
    void (*vjp)(const fnll_task *, int log, int64_t r0, int64_t r1, void *scratch); /* x: y, q: grad */
    void (*sgd)(const fnll_sgd *, void *param, const void *grad, void *buffer, int64_t n);
} fnll_kernels;

typedef struct {
    const char *name;
    int vector_bytes;
    fnll_kernels storage[FNLL_STORAGES];
    /* Counts ignored targets and those outside 0 .. v-1; first is the first of the latter, or -1. */
    void (*scan)(const fnll_array *t, int code, int64_t outer, int64_t inner, int64_t v, int has_ignore, int64_t ignore,
                 int64_t *n_ignored, int64_t *n_bad, int64_t *first);
} fnll_table;

#define FNLL_COEFFICIENTS 9

/* Calls as a whole: their work cut into items and dealt to threads. 0 where memory is short. `sums`, where given, receives the sum of
 * the losses of each FNLL_ROWS rows. */
int fnll_run(const fnll_kernels *, const fnll_task *, int itemsize, int threads, double *sums);
int fnll_run_vjp(const fnll_kernels *, const fnll_task *, int log, int itemsize, int threads);
void fnll_run_sgd(const fnll_kernels *, const fnll_sgd *, char *param, const char *grad, char *buffer, int64_t n, int64_t itemsize,
                  int threads);
/* found: how many targets are ignored, how many are outside 0 .. v-1, the first of these or -1. */
int fnll_run_scan(const fnll_table *, const fnll_array *t, int code, int64_t itemsize, int64_t outer, int64_t inner, int64_t v, int has_ignore,
                  int64_t ignore, int threads, int64_t found[3]);

/* The tables this machine can run, the best last; fills at most `most` and returns how many there are. */
int fnll_tables(const fnll_table **tables, int most);
/* Elements of scratch for v classes: whole cache lines, for vectors that straddle two of them take a fifth of a row's time. */
static inline int64_t fnll_room(int64_t v) { return (v + 15) / 16 * 16; }
/* Bytes of scratch of a row. */
int64_t fnll_row_scratch(int64_t v);
#ifdef _OPENMP
#include <omp.h>
#define fnll_thread() omp_get_thread_num()
#else
#define fnll_thread() 0
#endif
/* Whether neighbouring rows are neighbours in memory and classes are not. */
static inline int fnll_is_columns(const fnll_task *task) {
    return task->v > 1 && task->x.cls != 1 && task->x.inner == 1 && (!task->out.p || task->out.inner == 1);
}

#endif
