/* Probes of the machine: how fast memory is read, copied and updated, and how fast exp is computed.
 *
 * They share nothing with the kernels on purpose: a ceiling that is measured with the code under test rises
 * and falls with that code and says nothing about it.
 *
 * Every probe cuts its array into one contiguous slice a thread, always the same slices for the same thread
 * count, so that the pages a thread touched first are the pages it later reads. `reps` repeats the sweep inside
 * the parallel region: small arrays are measured without the cost of starting it.
 */
#ifndef FASTNLL_PROBES_H
#define FASTNLL_PROBES_H

#include <stddef.h>

/* The loops of one instruction set, each over one thread's slice. */
typedef struct {
    const char *name;
    int has_stream; /* 0: `stream` is an ordinary copy, there is no non-temporal store to use */
    double (*read)(const float *x, ptrdiff_t n);
    void (*copy)(float *dst, const float *src, ptrdiff_t n);
    void (*stream)(float *dst, const float *src, ptrdiff_t n);
    void (*update)(float *x, float factor, ptrdiff_t n);
    double (*exp_f32)(const float *x, ptrdiff_t n);
    double (*exp_f64)(const double *x, ptrdiff_t n);
} fastnll_probe_table;

/* The tables this processor can run, from the plainest to the widest. */
int fastnll_probe_count(void);
const fastnll_probe_table *fastnll_probe_get(int index);

/* Threads that a region asked for `threads` really gets (1 without OpenMP). */
int fastnll_probe_threads(int threads);
int fastnll_probe_has_openmp(void);

/* The sum of the cross-entropies of n rows of v classes, computed as a textbook would: the loop that vector code is held against. */
double fastnll_probe_scalar(const float *x, const long long *t, ptrdiff_t n, ptrdiff_t v, int threads);

void fastnll_probe_fill(float *x, ptrdiff_t n, int threads);
double fastnll_probe_read(const fastnll_probe_table *table, const float *x, ptrdiff_t n, int reps, int threads);
void fastnll_probe_copy(const fastnll_probe_table *table, int stream, float *dst, const float *src, ptrdiff_t n,
                        int reps, int threads);
void fastnll_probe_update(const fastnll_probe_table *table, float *x, float factor, ptrdiff_t n, int reps,
                          int threads);
/* Every thread sums exp over the same n values (they stay in its first-level cache), reps times. */
double fastnll_probe_exp_f32(const fastnll_probe_table *table, const float *x, ptrdiff_t n, int reps, int threads);
double fastnll_probe_exp_f64(const fastnll_probe_table *table, const double *x, ptrdiff_t n, int reps, int threads);

#endif
