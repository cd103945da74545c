# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""The products of the linear head: tiles and slices of the vocabulary, cut by size, dealt to OpenMP threads."""

from cython.parallel cimport prange, threadid
from libc.stdint cimport int64_t
from libc.string cimport memset

import numpy as np

from fastnll import config
from fastnll.dtypes import float_type

cdef extern from "linear.h" nogil:
    enum:
        FNLL_SLICES
        FNLL_VALUE_SLICES

    ctypedef struct fnll_block:
        double k, sum

    ctypedef struct fnll_linear:
        const void *hidden
        const void *weight
        int64_t hidden_row, weight_row
        const int64_t *rows
        int64_t c, v, d
        void *logits
        int64_t logits_row
        const void *bias
        void *hidden_k
        void *hidden_d
        void *partial
        void *grad_hidden
        int64_t grad_row
        int grad_storage, add_hidden
        void *grad_weight
        int add_weight
        double *grad_bias
        int filter
        double threshold
        double *mass
        double *sums
        double *squares
        double *kept
        void *hidden_rows
        const int64_t *targets
        const double *factors
        double *target_logits
        double *loss
        unsigned char *careful
        fnll_block *states

    ctypedef struct fnll_products:
        int64_t tile
        void (*sizes)(int64_t, int64_t, int, int64_t *) noexcept nogil
        int64_t (*panels)(int64_t) noexcept nogil
        void (*pack)(const fnll_linear *, int64_t, int) noexcept nogil
        void (*logits)(const fnll_linear *, int64_t, int64_t, void *) noexcept nogil
        void (*grads)(const fnll_linear *, int64_t, int64_t, int64_t, void *) noexcept nogil
        void (*sum_hidden)(const fnll_linear *, int64_t, int64_t, int64_t) noexcept nogil
        void (*stats)(const fnll_linear *, int64_t, int64_t, fnll_block *, void *) noexcept nogil
        void (*losses)(const fnll_linear *, int64_t, int64_t, int64_t) noexcept nogil
        void (*spectrum)(const fnll_linear *, int64_t, int64_t, const double *, double *) noexcept nogil
        double (*farthest)(const fnll_linear *, int64_t, int64_t, const void *) noexcept nogil

    ctypedef struct fnll_linear_table:
        const char *name
        fnll_products storage[4]

    int fnll_linear_tables(const fnll_linear_table **, int)

cdef const fnll_linear_table *_tables[8]
cdef int _n_tables = fnll_linear_tables(_tables, 8)
cdef dict _index = {_tables[i].name.decode(): i for i in range(_n_tables)}


def isas():
    """Return the names of the tables this machine can run, the best last."""
    return tuple(_index)


cdef const fnll_products *_products(object dtype) except NULL:
    """Return the products of a storage dtype in the table that is pinned, else the best."""
    cdef object name = config.pinned_isa()
    cdef int table = _n_tables - 1
    if name is not None:
        if name not in _index:
            from fastnll.kernels import registry
            registry.isa_name()  # raises, with what there is
        table = _index[name]
    return &_tables[table].storage[<int>float_type(dtype).code]


cdef char *_address(object a) except? NULL:
    return <char *><size_t>a.ctypes.data


cdef int64_t _line(int64_t n):
    """Round bytes up to a cache line, and one more, so that neighbours never share one."""
    return (n + 63) // 64 * 64 + 64


def linear_sizes(dtype, c, d, v, filter=False):
    """Return the bytes that a chunk of c rows takes beside its logits: for rows and sums, and for each thread.

    Parameters
    ----------
    dtype : numpy.dtype
        Of hidden and weight.
    c, d, v : int
        Rows, features, classes.
    filter : bool
        Whether gradients may be filtered.
    """
    cdef const fnll_products *f = _products(dtype)
    cdef int64_t n[4]
    cdef int64_t size = float_type(dtype).compute.itemsize
    f.sizes(c, d, filter, n)
    slices = min(<int64_t>FNLL_SLICES, (<int64_t>v + f.tile - 1) // f.tile)
    sums = (slices + 1 if filter else slices) * _line(n[2] * size)
    return _line(n[0] * size) + _line(n[1] * size) + sums, _line(n[3] * size)


cdef int _fill(object task, fnll_linear *t, const fnll_products *f, char **scratch, int64_t *each) except -1:
    """Read the arrays of a task; lay its buffers out in its workspace."""
    cdef object hidden = task.hidden, weight = task.weight, logits = task.logits
    cdef int64_t n[4]
    cdef int64_t size = logits.itemsize, item = hidden.itemsize, slices
    cdef char *work
    memset(t, 0, sizeof(fnll_linear))
    t.hidden, t.weight = <void *>_address(hidden), <void *>_address(weight)
    t.hidden_row, t.weight_row = hidden.strides[0] // item, weight.strides[0] // item
    t.rows = <const int64_t *>_address(task.rows)
    t.c, t.v = logits.shape
    t.d = weight.shape[1]
    t.logits = <void *>_address(logits)
    t.logits_row = logits.strides[0] // size
    if task.bias is not None:
        t.bias = <void *>_address(task.bias)
    if task.grad_hidden is not None:
        t.grad_hidden = <void *>_address(task.grad_hidden)
        t.grad_row = task.grad_hidden.strides[0] // task.grad_hidden.itemsize
        t.grad_storage = task.grad_hidden.dtype != logits.dtype
        t.add_hidden = task.add_hidden
    if task.grad_weight is not None:
        t.grad_weight = <void *>_address(task.grad_weight)
        t.add_weight = task.add_weight
    if task.grad_bias is not None:
        t.grad_bias = <double *>_address(task.grad_bias)
    if task.threshold is not None:
        t.filter, t.threshold = 1, task.threshold
        t.mass, t.squares = <double *>_address(task.mass), <double *>_address(task.squares)
        t.sums, t.kept = <double *>_address(task.sums), <double *>_address(task.kept)
    f.sizes(t.c, t.d, t.filter, n)
    slices = min(<int64_t>FNLL_SLICES, (t.v + f.tile - 1) // f.tile)
    work = _address(task.workspace)
    work += -<size_t>work % 64
    t.hidden_k = work
    work += _line(n[0] * size)
    t.hidden_d = work
    work += _line(n[1] * size)
    t.partial = work
    work += slices * n[2] * size
    if t.filter:
        t.hidden_rows = work
        work += n[2] * size
    scratch[0] = work + -<size_t>work % 64
    each[0] = _line(n[3] * size)
    return 0


cdef _workspace(task):
    """Give the task a workspace where it came without one."""
    if task.workspace is None:
        filter = task.threshold is not None
        shape = (task.logits.shape[0], task.weight.shape[1], task.logits.shape[1])
        rows, each = linear_sizes(task.hidden.dtype, *shape, filter)
        task.workspace = np.empty(rows + task.threads * each + 64, np.uint8)


def linear_logits(task):
    """Run a `LinearTask` for its logits."""
    cdef fnll_linear t
    cdef const fnll_products *f = _products(task.hidden.dtype)
    cdef char *scratch = NULL
    cdef int64_t each = 0, item, tiles, panels
    cdef int threads = task.threads
    _workspace(task)
    _fill(task, &t, f, &scratch, &each)
    if t.c == 0:
        return
    tiles, panels = (t.v + f.tile - 1) // f.tile, f.panels(t.c)
    with nogil:
        if threads == 1:
            for item in range(panels):
                f.pack(&t, item, 0)
            for item in range(tiles):
                f.logits(&t, item * f.tile, min(t.v, (item + 1) * f.tile), scratch)
        else:
            for item in prange(panels, num_threads=threads, schedule="static"):
                f.pack(&t, item, 0)
            for item in prange(tiles, num_threads=threads, schedule="dynamic"):
                f.logits(&t, item * f.tile, min(t.v, (item + 1) * f.tile), scratch + threadid() * each)


def linear_grads(task):
    """Run a `LinearTask` for the gradients."""
    cdef fnll_linear t
    cdef const fnll_products *f = _products(task.hidden.dtype)
    cdef char *scratch = NULL
    cdef int64_t each = 0, item, tiles, panels, slices, rows
    cdef int threads = task.threads
    _workspace(task)
    _fill(task, &t, f, &scratch, &each)
    if t.c == 0:
        return
    tiles, panels = (t.v + f.tile - 1) // f.tile, f.panels(t.c)
    slices = min(<int64_t>FNLL_SLICES, tiles)
    rows = (t.c + 15) // 16
    with nogil:
        for item in prange(panels, num_threads=threads, schedule="static"):
            f.pack(&t, item, 1)
        for item in prange(slices, num_threads=threads, schedule="dynamic"):
            f.grads(&t, tiles * item // slices * f.tile, min(t.v, tiles * (item + 1) // slices * f.tile),
                    item, scratch + threadid() * each)
        if t.grad_hidden != NULL:
            for item in prange(rows, num_threads=threads, schedule="static"):
                f.sum_hidden(&t, item * 16, min(t.c, (item + 1) * 16), slices)


def linear_value_sizes(dtype, c, d, v):
    """Return the bytes that `linear_losses` takes for c rows at a time: for rows and states, and for each thread."""
    cdef const fnll_products *f = _products(dtype)
    cdef int64_t n[4]
    cdef int64_t size = float_type(dtype).compute.itemsize
    f.sizes(c, d, 0, n)
    slices = min(<int64_t>FNLL_VALUE_SLICES, (<int64_t>v + f.tile - 1) // f.tile)
    return _line(n[0] * size) + slices * c * <int64_t>sizeof(fnll_block), _line(n[3] * size)


def linear_losses(task):
    """Run a `LinearLossTask`: the losses of some rows, without their logits."""
    cdef fnll_linear t
    cdef object hidden = task.hidden, weight = task.weight
    cdef const fnll_products *f = _products(hidden.dtype)
    cdef int64_t n[4]
    cdef int64_t size = float_type(hidden.dtype).compute.itemsize, item, tiles, panels, slices, each, rows
    cdef int threads = task.threads
    cdef char *work
    cdef char *scratch
    memset(&t, 0, sizeof(t))
    t.hidden, t.weight = <void *>_address(hidden), <void *>_address(weight)
    t.hidden_row, t.weight_row = hidden.strides[0] // hidden.itemsize, weight.strides[0] // hidden.itemsize
    t.rows, t.targets = <const int64_t *>_address(task.rows), <const int64_t *>_address(task.targets)
    t.c, t.v, t.d = task.rows.shape[0], weight.shape[0], weight.shape[1]
    t.bias = NULL if task.bias is None else <void *>_address(task.bias)
    t.factors = NULL if task.factors is None else <const double *>_address(task.factors)
    t.target_logits, t.loss = <double *>_address(task.target_logits), <double *>_address(task.loss)
    t.careful = <unsigned char *>_address(task.careful)
    if t.c == 0:
        return
    f.sizes(t.c, t.d, 0, n)
    tiles, panels = (t.v + f.tile - 1) // f.tile, f.panels(t.c)
    slices = min(<int64_t>FNLL_VALUE_SLICES, tiles)
    work = _address(task.workspace)
    work += -<size_t>work % 64
    t.hidden_k = work
    work += _line(n[0] * size)
    t.states = <fnll_block *>work
    scratch = work + slices * t.c * <int64_t>sizeof(fnll_block)
    each, rows = _line(n[3] * size), (t.c + 63) // 64
    with nogil:
        for item in prange(panels, num_threads=threads, schedule="static"):
            f.pack(&t, item, 0)
        for item in prange(slices, num_threads=threads, schedule="dynamic"):
            f.stats(&t, tiles * item // slices * f.tile, min(t.v, tiles * (item + 1) // slices * f.tile),
                    t.states + item * t.c, scratch + threadid() * each)
        for item in prange(rows, num_threads=threads, schedule="static"):
            f.losses(&t, item * 64, min(t.c, (item + 1) * 64), slices)


def linear_slices(dtype, v):
    """Return how many slices `linear_grads` cuts a vocabulary into."""
    cdef const fnll_products *f = _products(dtype)
    return min(<int64_t>FNLL_SLICES, (<int64_t>v + f.tile - 1) // f.tile)


def linear_spectrum(task, rows, thresholds):
    """Return what lies below thresholds in some rows of a `LinearTask`'s gradient.

    Returns
    -------
    (R, 1 + 2 K) float64 array
        A row's squares; for each of K thresholds the sum of the absolute values below it, then of their squares.
    """
    cdef fnll_linear t
    cdef const fnll_products *f = _products(task.hidden.dtype)
    cdef int64_t n = thresholds.shape[0], count = rows.shape[0], item
    cdef int threads = task.threads
    cdef const int64_t *which = <const int64_t *>_address(rows)
    cdef const double *limits = <const double *>_address(thresholds)
    cdef double *to
    out = np.empty((count, 1 + 2 * n))
    to = <double *>_address(out)
    memset(&t, 0, sizeof(t))
    t.v, t.logits = task.logits.shape[1], <void *>_address(task.logits)
    t.logits_row = task.logits.strides[0] // task.logits.itemsize
    with nogil:
        for item in prange(count, num_threads=threads, schedule="static"):
            f.spectrum(&t, which[item], n, limits, to + item * (1 + 2 * n))
    return out


def linear_farthest(weight, center, threads):
    """Return the largest distance of a row of a weight from a center, which is of the compute dtype."""
    cdef fnll_linear t
    cdef const fnll_products *f = _products(weight.dtype)
    cdef int64_t v = weight.shape[0], items = (v + 1023) // 1024, item
    cdef int many = threads
    cdef const void *middle = <const void *>_address(center)
    cdef double *to
    out = np.zeros(items)
    to = <double *>_address(out)
    memset(&t, 0, sizeof(t))
    t.d, t.weight, t.weight_row = weight.shape[1], <void *>_address(weight), weight.strides[0] // weight.itemsize
    with nogil:
        for item in prange(items, num_threads=many, schedule="static"):
            to[item] = f.farthest(&t, item * 1024, min(v, (item + 1) * 1024), middle)
    return float(np.sqrt(out.max()))
