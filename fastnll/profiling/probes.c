/* One source, one extension, every instruction set: probes_isa.h is included once per target and the widest
 * table the processor can run is picked when it is asked for. */
#include "probes.h"

#include <math.h>
#include <stdint.h>
#ifdef _OPENMP
#include <omp.h>
#endif

#if defined(__x86_64__) || defined(__i386__)
#define PROBE_X86 1
#include <immintrin.h>
#endif

/* Minimax polynomials of exp on [-ln2/2, ln2/2], fitted by benchmarks/fit_exp.py (Remez, relative error):
 * degree 5 to 7.5e-8, degree 10 to 2.1e-16. One constant for ln 2 is enough for the float: a rate is measured,
 * on arguments of a few units. */
#define EXP_F32_LOG2E 0x1.715476p+0f
#define EXP_F32_LN2 0x1.62e43p-1f
#define EXP_F32_C0 0x1.000002p+0f
#define EXP_F32_C1 0x1.fffff6p-1f
#define EXP_F32_C2 0x1.fffd1ap-2f
#define EXP_F32_C3 0x1.555a18p-3f
#define EXP_F32_C4 0x1.575eeep-5f
#define EXP_F32_C5 0x1.0fe5c8p-7f
#define EXP_F64_LOG2E 0x1.71547652b82fep+0
#define EXP_F64_LN2_HIGH 0x1.62e42fefa3800p-1
#define EXP_F64_LN2_LOW 0x1.ef35793c76730p-45
#define EXP_F64_C0 0x1.0p+0
#define EXP_F64_C1 0x1.000000000001dp+0
#define EXP_F64_C2 0x1.ffffffffffe17p-2
#define EXP_F64_C3 0x1.555555554bc09p-3
#define EXP_F64_C4 0x1.55555555933bdp-5
#define EXP_F64_C5 0x1.1111112d49716p-7
#define EXP_F64_C6 0x1.6c16c0c0ada40p-10
#define EXP_F64_C7 0x1.a0197a4ead9afp-13
#define EXP_F64_C8 0x1.a01b6ce166ed4p-16
#define EXP_F64_C9 0x1.72f98534906f0p-19
#define EXP_F64_C10 0x1.2727aa61795a4p-22

/* The plain table: 16-byte vectors, which is SSE2 on x86-64 and NEON on arm64. */
#define PROBE_BYTES 16
#define PROBE_NAME(stem) stem##_baseline
#define PROBE_LABEL "baseline"
#if defined(PROBE_X86) && defined(__SSE2__)
#define PROBE_STREAM(p, v) _mm_stream_ps((p), (__m128)(v))
#define PROBE_FENCE() _mm_sfence()
#elif defined(__clang__)
#define PROBE_STREAM(p, v) __builtin_nontemporal_store((v), (vf_baseline *)(p))
#define PROBE_FENCE() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#endif
#include "probes_isa.h"

#ifdef PROBE_X86

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif
#define PROBE_BYTES 32
#define PROBE_NAME(stem) stem##_avx2
#define PROBE_LABEL "avx2"
#define PROBE_STREAM(p, v) _mm256_stream_ps((p), (__m256)(v))
#define PROBE_FENCE() _mm_sfence()
#include "probes_isa.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
#endif
#define PROBE_BYTES 64
#define PROBE_NAME(stem) stem##_avx512
#define PROBE_LABEL "avx512"
#define PROBE_STREAM(p, v) _mm512_stream_ps((p), (__m512)(v))
#define PROBE_FENCE() _mm_sfence()
#define PROBE_SCALE_F32(p, n) ((vf_avx512)_mm512_scalef_ps((__m512)(p), (__m512)(n)))
#define PROBE_SCALE_F64(p, n) ((vd_avx512)_mm512_scalef_pd((__m512d)(p), (__m512d)(n)))
#include "probes_isa.h"
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

#endif /* PROBE_X86 */

static const fastnll_probe_table *const all_tables[] = {
    &table_baseline,
#ifdef PROBE_X86
    &table_avx2,
    &table_avx512,
#endif
};

int fastnll_probe_count(void)
{
#ifdef PROBE_X86
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 1;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512dq") ||
        !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512vl"))
        return 2;
    return 3;
#else
    return 1;
#endif
}

const fastnll_probe_table *fastnll_probe_get(int index) { return all_tables[index]; }

int fastnll_probe_has_openmp(void)
{
#ifdef _OPENMP
    return 1;
#else
    return 0;
#endif
}

#ifdef _OPENMP
#define PARALLEL _Pragma("omp parallel num_threads(threads)")
#define PARALLEL_SUM _Pragma("omp parallel num_threads(threads) reduction(+ : total)")
#define THREAD_ID omp_get_thread_num()
#define THREAD_COUNT omp_get_num_threads()
#else
#define PARALLEL
#define PARALLEL_SUM
#define THREAD_ID 0
#define THREAD_COUNT 1
#endif

int fastnll_probe_threads(int threads)
{
    int got = 1;
    (void)threads;
    PARALLEL
    {
        if (THREAD_ID == 0) got = THREAD_COUNT;
    }
    return got;
}

/* First element of thread `id`'s slice; slices begin on multiples of 1024 floats (a 4 KB page), so that no line
 * and no page has two writers. */
static ptrdiff_t slice_start(ptrdiff_t n, int id, int count)
{
    ptrdiff_t pages = n / 1024;
    return id == count ? n : pages / count * id * 1024 + (pages % count) * id / count * 1024;
}

#if defined(__GNUC__) && !defined(__clang__)
__attribute__((optimize("no-tree-vectorize", "no-tree-slp-vectorize")))
#endif
static double scalar_row(const float *x, long long t, ptrdiff_t v)
{
    float m = x[0];
    double s = 0.0;
    for (ptrdiff_t i = 1; i < v; i++)
        m = x[i] > m ? x[i] : m;
    for (ptrdiff_t i = 0; i < v; i++)
        s += expf(x[i] - m);
    return (double)m - x[t] + log(s);
}

double fastnll_probe_scalar(const float *x, const long long *t, ptrdiff_t n, ptrdiff_t v, int threads)
{
    double total = 0.0;
#ifdef _OPENMP
#pragma omp parallel for num_threads(threads) reduction(+ : total) schedule(static)
#endif
    for (ptrdiff_t i = 0; i < n; i++)
        total += scalar_row(x + i * v, t[i], v);
    (void)threads;
    return total;
}

void fastnll_probe_fill(float *x, ptrdiff_t n, int threads)
{
    (void)threads;
    PARALLEL
    {
        ptrdiff_t stop = slice_start(n, THREAD_ID + 1, THREAD_COUNT);
        for (ptrdiff_t i = slice_start(n, THREAD_ID, THREAD_COUNT); i < stop; i++) x[i] = (float)(i & 7);
    }
}

double fastnll_probe_read(const fastnll_probe_table *table, const float *x, ptrdiff_t n, int reps, int threads)
{
    double total = 0.0;
    (void)threads;
    PARALLEL_SUM
    {
        ptrdiff_t start = slice_start(n, THREAD_ID, THREAD_COUNT);
        ptrdiff_t stop = slice_start(n, THREAD_ID + 1, THREAD_COUNT);
        for (int rep = 0; rep < reps; rep++) total += table->read(x + start, stop - start);
    }
    return total;
}

void fastnll_probe_copy(const fastnll_probe_table *table, int stream, float *dst, const float *src, ptrdiff_t n,
                        int reps, int threads)
{
    (void)threads;
    PARALLEL
    {
        ptrdiff_t start = slice_start(n, THREAD_ID, THREAD_COUNT);
        ptrdiff_t stop = slice_start(n, THREAD_ID + 1, THREAD_COUNT);
        for (int rep = 0; rep < reps; rep++)
            (stream ? table->stream : table->copy)(dst + start, src + start, stop - start);
    }
}

void fastnll_probe_update(const fastnll_probe_table *table, float *x, float factor, ptrdiff_t n, int reps,
                          int threads)
{
    (void)threads;
    PARALLEL
    {
        ptrdiff_t start = slice_start(n, THREAD_ID, THREAD_COUNT);
        ptrdiff_t stop = slice_start(n, THREAD_ID + 1, THREAD_COUNT);
        for (int rep = 0; rep < reps; rep++) table->update(x + start, factor, stop - start);
    }
}

double fastnll_probe_exp_f32(const fastnll_probe_table *table, const float *x, ptrdiff_t n, int reps, int threads)
{
    double total = 0.0;
    (void)threads;
    PARALLEL_SUM
    {
        for (int rep = 0; rep < reps; rep++) total += table->exp_f32(x, n);
    }
    return total;
}

double fastnll_probe_exp_f64(const fastnll_probe_table *table, const double *x, ptrdiff_t n, int reps, int threads)
{
    double total = 0.0;
    (void)threads;
    PARALLEL_SUM
    {
        for (int rep = 0; rep < reps; rep++) total += table->exp_f64(x, n);
    }
    return total;
}
