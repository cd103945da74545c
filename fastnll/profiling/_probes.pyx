# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""The machine probes in C, called with the GIL released.

Each function sweeps whole arrays `reps` times on `threads` threads; the caller holds the clock. `isa` is an index
into :func:`isas`. The loops allocate nothing and check nothing, so the checks are here.
"""

cdef extern from "probes.h" nogil:
    ctypedef struct fastnll_probe_table:
        const char *name
        int has_stream
    int fastnll_probe_count()
    const fastnll_probe_table *fastnll_probe_get(int index)
    int fastnll_probe_threads(int threads)
    int fastnll_probe_has_openmp()
    double fastnll_probe_scalar(const float *x, const long long *t, Py_ssize_t n, Py_ssize_t v, int threads)
    void fastnll_probe_fill(float *x, Py_ssize_t n, int threads)
    double fastnll_probe_read(const fastnll_probe_table *table, const float *x, Py_ssize_t n, int reps, int threads)
    void fastnll_probe_copy(const fastnll_probe_table *table, int stream, float *dst, const float *src,
                            Py_ssize_t n, int reps, int threads)
    void fastnll_probe_update(const fastnll_probe_table *table, float *x, float factor, Py_ssize_t n, int reps,
                              int threads)
    double fastnll_probe_exp_f32(const fastnll_probe_table *table, const float *x, Py_ssize_t n, int reps,
                                 int threads)
    double fastnll_probe_exp_f64(const fastnll_probe_table *table, const double *x, Py_ssize_t n, int reps,
                                 int threads)

# The exp loops take whole groups of four 64-byte vectors.
cdef enum:
    EXP_GROUP_F32 = 64
    EXP_GROUP_F64 = 32


cdef const fastnll_probe_table *_table(int isa) except NULL:
    if not 0 <= isa < fastnll_probe_count():
        raise ValueError(f"isa: expected an index below {fastnll_probe_count()}, got {isa}")
    return fastnll_probe_get(isa)


cdef int _check(int reps, int threads) except -1:
    if reps < 1:
        raise ValueError(f"reps: expected at least 1, got {reps}")
    if threads < 1:
        raise ValueError(f"threads: expected at least 1, got {threads}")
    return 0


def isas():
    """Names of the instruction sets this processor can run, the widest last.

    >>> "baseline" in isas()
    True
    """
    return tuple(fastnll_probe_get(i).name.decode() for i in range(fastnll_probe_count()))


def has_stream(int isa):
    """Whether that table has non-temporal stores."""
    return bool(_table(isa).has_stream)


def has_openmp():
    """Whether the probes were built with OpenMP; without it every probe runs on one thread."""
    return bool(fastnll_probe_has_openmp())


def team(int threads):
    """The number of threads that a probe asked for `threads` really gets."""
    _check(1, threads)
    return fastnll_probe_threads(threads)


def fill(float[::1] x not None, int threads=1):
    """Write 0, 1, .. 7, 0, .. to x: every thread the slice it will use later (first touch)."""
    _check(1, threads)
    if x.shape[0] == 0:
        return
    with nogil:
        fastnll_probe_fill(&x[0], x.shape[0], threads)


def read(const float[::1] x not None, int isa=0, int reps=1, int threads=1):
    """Sum x, reps times over; returns the sum of all sweeps."""
    cdef const fastnll_probe_table *table = _table(isa)
    cdef double total = 0.0
    _check(reps, threads)
    if x.shape[0]:
        with nogil:
            total = fastnll_probe_read(table, &x[0], x.shape[0], reps, threads)
    return total


def copy(float[::1] dst not None, const float[::1] src not None, bint stream=False, int isa=0, int reps=1,
         int threads=1):
    """Copy src to dst, with non-temporal stores if `stream`."""
    cdef const fastnll_probe_table *table = _table(isa)
    _check(reps, threads)
    if dst.shape[0] != src.shape[0]:
        raise ValueError(f"dst: expected {src.shape[0]} elements as in src, got {dst.shape[0]}")
    if stream and not table.has_stream:
        raise ValueError(f"stream: {table.name.decode()} has no non-temporal store in this build")
    if dst.shape[0]:
        with nogil:
            fastnll_probe_copy(table, stream, &dst[0], &src[0], dst.shape[0], reps, threads)


def update(float[::1] x not None, float factor=1.0, int isa=0, int reps=1, int threads=1):
    """Multiply x by factor, in place."""
    cdef const fastnll_probe_table *table = _table(isa)
    _check(reps, threads)
    if x.shape[0]:
        with nogil:
            fastnll_probe_update(table, &x[0], factor, x.shape[0], reps, threads)


def scalar_cross_entropy(const float[:, ::1] x not None, const long long[::1] t not None, int threads=1):
    """Mean cross-entropy of the rows of x, one logit at a time with the C library's expf: what vector code is held against."""
    cdef Py_ssize_t i
    cdef double total
    _check(1, threads)
    if t.shape[0] != x.shape[0] or x.shape[0] == 0 or x.shape[1] == 0:
        raise ValueError(f"t: expected {x.shape[0]} targets of a matrix that is not empty, got {t.shape[0]}")
    for i in range(t.shape[0]):
        if not 0 <= t[i] < x.shape[1]:
            raise ValueError(f"t: expected class ids below {x.shape[1]}, got {t[i]}")
    with nogil:
        total = fastnll_probe_scalar(&x[0, 0], &t[0], x.shape[0], x.shape[1], threads)
    return total / x.shape[0]


def exp_f32(const float[::1] x not None, int isa=0, int reps=1, int threads=1):
    """Sum exp(x) on every thread, reps times; returns the sum over threads and repetitions.

    The length of x must be a multiple of 64.
    """
    cdef const fastnll_probe_table *table = _table(isa)
    cdef double total
    _check(reps, threads)
    if x.shape[0] == 0 or x.shape[0] % EXP_GROUP_F32:
        raise ValueError(f"x: expected a positive multiple of {EXP_GROUP_F32} elements, got {x.shape[0]}")
    with nogil:
        total = fastnll_probe_exp_f32(table, &x[0], x.shape[0], reps, threads)
    return total


def exp_f64(const double[::1] x not None, int isa=0, int reps=1, int threads=1):
    """As :func:`exp_f32`, in double precision; the length must be a multiple of 32."""
    cdef const fastnll_probe_table *table = _table(isa)
    cdef double total
    _check(reps, threads)
    if x.shape[0] == 0 or x.shape[0] % EXP_GROUP_F64:
        raise ValueError(f"x: expected a positive multiple of {EXP_GROUP_F64} elements, got {x.shape[0]}")
    with nogil:
        total = fastnll_probe_exp_f64(table, &x[0], x.shape[0], reps, threads)
    return total
