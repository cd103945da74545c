# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""The native backend: tasks of `fastnll.kernels.spec` turned into C tasks, which ``drive.c`` deals to OpenMP threads.

Everything that touches data is C behind a table per instruction set.
"""

from cpython.buffer cimport PyBUF_STRIDES, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t
from libc.string cimport memset

from fastnll.kernels.native._native cimport *

import math
import os

import numpy as np

from fastnll import buffers, config, events
from fastnll.dtypes import INTEGERS, float_type
from fastnll.kernels.spec import TargetScan

cdef enum:
    MAX_TABLES = 8
    # Output of at least this many bytes bypasses the caches: it would not stay in them anyway.
    STREAM_BYTES = 1 << 25
    # Rows shorter than this share too many lines with their neighbours, unless they start on line boundaries.
    STREAM_ROW = 1 << 12
    STREAM_ALIGNED_ROW = 1 << 9

cdef const fnll_table *_tables[MAX_TABLES]
cdef int _n_tables = fnll_tables(_tables, MAX_TABLES)
cdef dict _table_index = {_tables[i].name.decode(): i for i in range(_n_tables)}
cdef object _int64 = np.dtype(np.int64)
cdef bint _default_env = not (os.environ.get("FASTNLL_BACKEND") or os.environ.get("FASTNLL_ISA"))
cdef object _float32 = np.dtype(np.float32)
cdef object _float64 = np.dtype(np.float64)
cdef dict _integer_codes = {np.dtype(name): code for code, name in enumerate(INTEGERS)}
cdef list _integer_ranges = [(np.iinfo(name).min, np.iinfo(name).max) for name in INTEGERS]


cdef int _float_code(object dtype) except -1:
    return float_type(dtype).code


cdef const fnll_table *_table() except NULL:
    """Return the table that `using` or the environment pins, else the best."""
    cdef object name = config.pinned_isa()
    if name is None:
        return _tables[_n_tables - 1]
    if name not in _table_index:
        from fastnll.kernels import registry
        registry.isa_name()  # raises, with what there is, unless it is AMX: that is for matrix products alone
        return _tables[_n_tables - 1]
    return _tables[<int>_table_index[name]]


cdef int _fill(fnll_array *to, object a, bint writable) except -1:
    """Read the pointer and element strides of an array of 1 to 3 axes. The task keeps the array alive."""
    cdef Py_buffer view
    cdef Py_ssize_t size
    if a.dtype.kind == "V":  # bfloat16 of ml_dtypes has no buffer of its own
        a = a.view(np.uint16)
    PyObject_GetBuffer(a, &view, PyBUF_STRIDES | (PyBUF_WRITABLE if writable else 0))
    size = view.itemsize
    to.p = view.buf
    to.outer = view.strides[0] // size
    to.inner = view.strides[1] // size if view.ndim > 1 else 0
    to.cls = view.strides[2] // size if view.ndim > 2 else 0
    PyBuffer_Release(&view)
    return 0


cdef void *_pointer(object a) except? NULL:
    cdef fnll_array to
    if a is None:
        return NULL
    _fill(&to, a, False)
    return to.p


cdef object _double(object a):
    """Return a float64 array to write to in place of `a`: itself where it is one."""
    return a if a is None or a.dtype == np.float64 else np.empty(a.shape)


cdef int _copy_back(object a, object buffer) except -1:
    """Round a float64 buffer to the array it stands for; losses beyond float32 become inf, as they would have been there."""
    cdef const double *wide
    cdef float *rounded
    cdef int64_t i, n
    if buffer is a:
        return 0
    if a.dtype is _float32 and a.flags.c_contiguous:
        wide, rounded, n = <const double *>_pointer(buffer), <float *>_pointer(a), a.size
        for i in range(n):
            rounded[i] = <float>wide[i]
        return 0
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        a[...] = buffer
    return 0


cdef int _shape(fnll_task *c, object x) except -1:
    memset(c, 0, sizeof(fnll_task))
    c.outer, c.inner, c.v = x.shape
    _fill(&c.x, x, False)
    c.grad_scale = c.temperature = 1.0
    return 0


cdef int _set_out(fnll_task *c, object out, object x, bint fresh) except -1:
    if out is None:
        return 0
    _fill(&c.out, out, True)
    cdef int64_t size = x.itemsize, row = c.v * size
    cdef bint aligned
    # The pages of a new array are zeroed through the caches as they are touched: bypassing those would pay twice. Lines that
    # were read are written back without being read again; others are better streamed.
    if (fresh and not buffers.was_used(out)) or c.out.p == c.x.p or c.out.cls != 1 or (
            c.outer * c.inner * row < STREAM_BYTES):
        return 0
    aligned = <size_t>c.out.p % 64 == 0 and c.out.inner * size % 64 == 0 and c.out.outer * size % 64 == 0
    if row >= (STREAM_ALIGNED_ROW if aligned else STREAM_ROW):
        c.stream = FNLL_STREAM_ROWS
    elif c.out.inner == c.v and (c.outer == 1 or c.out.outer == c.inner * c.v):
        c.stream = FNLL_STREAM_JOINED
    return 0


cdef int _run(const fnll_kernels *kernels, fnll_task *c, int itemsize, int threads, double *block_sums) except -1:
    """Deal the rows of a task to threads."""
    cdef int done
    with nogil:
        done = fnll_run(kernels, c, itemsize, threads, block_sums)
    if not done:
        raise MemoryError()
    return 0


cdef int _softmax(object task, int op) except -1:
    cdef fnll_task c
    cdef object x = task.x, lse = _double(task.lse)
    _shape(&c, x)
    c.op = op
    _set_out(&c, task.out, x, task.fresh)
    c.lse = <double *>_pointer(lse)
    _run(&_table().storage[_float_code(x.dtype)], &c, x.itemsize, task.threads, NULL)
    if lse is not None:
        _copy_back(task.lse, lse)
    return 0


def logsumexp(task):
    """Run a `SoftmaxTask` for its logsumexp."""
    _softmax(task, FNLL_LSE)


def softmax(task):
    """Run a `SoftmaxTask` for its output."""
    _softmax(task, FNLL_LOG_SOFTMAX if task.log else FNLL_SOFTMAX)


def softmax_vjp(task):
    """Run a `VjpTask`."""
    cdef fnll_task c
    cdef object y = task.y
    cdef int log = task.log, threads = task.threads, size = y.itemsize, done
    cdef const fnll_kernels *kernels = &_table().storage[_float_code(y.dtype)]
    _shape(&c, y)
    _fill(&c.q, task.grad, False)
    _fill(&c.out, task.out, True)
    with nogil:
        done = fnll_run_vjp(kernels, &c, log, size, threads)
    if not done:
        raise MemoryError()


def cross_entropy(task):
    """Run a `CrossEntropyTask`."""
    cdef fnll_task c
    cdef object x = task.x, targets = task.targets, probs = task.probs, mask = task.class_mask
    cdef object weight_real, loss = _double(task.loss), lse = _double(task.lse), entropy = _double(task.entropy)
    _shape(&c, x)
    c.op = FNLL_CROSS_ENTROPY
    _set_out(&c, task.grad, x, task.fresh)
    if targets is not None:
        _fill(&c.t, targets, False)
        c.t_code = _integer_codes[targets.dtype]
    if probs is not None:
        _fill(&c.q, probs, False)
        c.q_code = _float_code(probs.dtype)
    if task.ids is not None:
        c.k = task.ids.shape[1]
        c.ids = <const int64_t *>_pointer(task.ids)
        c.id_probs = <const double *>_pointer(task.id_probs)
    if mask is not None:
        _fill(&c.mask, mask, False)
        if mask.shape[0] == 1:
            c.mask.outer = 0
        if mask.shape[1] == 1:
            c.mask.inner = 0
    c.class_weight = <const double *>_pointer(task.class_weight)
    if task.class_weight is not None:
        weight_real = np.ascontiguousarray(task.class_weight, dtype=float_type(x.dtype).compute)
        c.weight_real = _pointer(weight_real)
    c.row_weight = <const double *>_pointer(task.row_weight)
    c.target_weight = <const double *>_pointer(task.target_weight)
    c.grad_weight = <const double *>_pointer(task.grad_weight)
    c.grad_scale = task.grad_scale
    c.smoothing = task.smoothing
    c.z_loss = task.z_loss
    c.temperature = task.temperature
    c.softcap = task.softcap
    c.loss = <double *>_pointer(loss)
    c.lse = <double *>_pointer(lse)
    c.entropy = <double *>_pointer(entropy)
    c.argmax = <int64_t *>_pointer(task.argmax)
    c.rank = <int64_t *>_pointer(task.rank)
    _run(&_table().storage[_float_code(x.dtype)], &c, x.itemsize, task.threads,
         <double *>_pointer(task.block_sums))
    for result, buffer in ((task.loss, loss), (task.lse, lse), (task.entropy, entropy)):
        if result is not None:
            _copy_back(result, buffer)


def gather(task):
    """Run a `GatherTask`."""
    cdef fnll_task c
    cdef object x = task.x, picked
    if task.normalised:
        from fastnll.kernels import reference
        reference.gather(task)  # K reads a row: nothing to compute
        return
    picked = _double(task.out)
    _shape(&c, x)
    c.op = FNLL_GATHER
    c.k = task.ids.shape[1]
    c.ids = <const int64_t *>_pointer(task.ids)
    c.picked = <double *>_pointer(picked)
    _run(&_table().storage[_float_code(x.dtype)], &c, x.itemsize, task.threads, NULL)
    _copy_back(task.out, picked)


def sgd_update(task):
    """Run an `SgdTask`."""
    cdef fnll_sgd u
    cdef object p = task.param
    cdef char *param = <char *>_pointer(p)
    cdef char *grad = <char *>_pointer(task.grad)
    cdef char *buffer = <char *>_pointer(task.buffer)
    cdef int64_t n = p.size, size = p.itemsize
    cdef int threads = task.threads
    cdef const fnll_kernels *kernels = &_table().storage[_float_code(p.dtype)]
    u.lr, u.momentum, u.dampening = task.lr, task.momentum, task.dampening
    u.weight_decay, u.grad_scale = task.weight_decay, task.grad_scale
    u.nesterov, u.maximize, u.first_step = task.nesterov, task.maximize, task.first_step
    with nogil:
        fnll_run_sgd(kernels, &u, param, grad, buffer, n, size, threads)


def scan_targets(targets, n_classes, ignore, threads=1):
    """Count ignored targets and those outside 0 .. n_classes - 1, in one pass."""
    cdef fnll_array t
    cdef int64_t outer = 1, inner = 1, skip = 0, v = n_classes, size = targets.itemsize
    cdef int64_t found[3]
    cdef int code = _integer_codes[targets.dtype], has = ignore is not None, many = threads, done
    cdef tuple shape
    cdef const fnll_table *table
    if targets.ndim > 2:
        targets = targets.reshape(-1, targets.shape[targets.ndim - 1])  # wraparound is off
    elif targets.ndim < 2:
        targets = targets.reshape(1, -1)
    shape = targets.shape
    outer, inner = shape
    if outer * inner == 0:
        return TargetScan(0, 0, -1)
    if has:
        # An id outside the targets' own range marks nothing.
        least, most = _integer_ranges[code]
        has = least <= ignore <= most
        skip = ignore if has and code != 6 else (<int64_t><unsigned long long>ignore if has else 0)
    _fill(&t, targets, False)
    table = _table()
    with nogil:
        done = fnll_run_scan(table, &t, code, size, outer, inner, v, has, skip, many, found)
    if not done:
        raise MemoryError()
    return TargetScan(found[0], found[1], found[2])


include "_short.pxi"
