# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, freethreading_compatible=True
"""The row kernels for other compiled code; `rows.pxd` says what each function takes.

The kernels themselves are in `fastnll.kernels.native._kernels`, once: this module finds their table by name.
"""

import ctypes

from libc.stdint cimport int64_t, intptr_t
from libc.string cimport memset

from fastnll.kernels.native._native cimport *

# The types of the functions as native.h declares them: a change there that this file does not follow fails to compile.
cdef extern from *:
    """
    #include "native.h"
    typedef __typeof__(&fnll_tables) tables_function;
    typedef __typeof__(&fnll_run) run_function;
    typedef __typeof__(&fnll_run_vjp) run_vjp_function;
    """
    ctypedef int (*tables_function)(const fnll_table **, int) noexcept nogil
    ctypedef int (*run_function)(const fnll_kernels *, const fnll_task *, int, int, double *) noexcept nogil
    ctypedef int (*run_vjp_function)(const fnll_kernels *, const fnll_task *, int, int, int) noexcept nogil

cdef const fnll_table *_table = NULL
cdef run_function _run_rows = NULL
cdef run_vjp_function _run_vjp = NULL


cdef int _find_kernels() except -1:
    """Take the best table that the machine runs."""
    global _table, _run_rows, _run_vjp
    cdef const fnll_table *tables[8]
    cdef intptr_t at
    try:
        from fastnll.kernels.native import _kernels
    except ImportError:
        return 0
    library = ctypes.CDLL(_kernels.__file__)
    at = ctypes.cast(library.fnll_tables, ctypes.c_void_p).value
    _table = tables[(<tables_function>at)(tables, 8) - 1]
    at = ctypes.cast(library.fnll_run, ctypes.c_void_p).value
    _run_rows = <run_function>at
    at = ctypes.cast(library.fnll_run_vjp, ctypes.c_void_p).value
    _run_vjp = <run_vjp_function>at
    return 0


_find_kernels()

cdef int *_SIZES = [8, 4, 2, 2]


cdef int _check(const fastnll_rows *x, const fastnll_rows *other, int threads) noexcept nogil:
    if _table == NULL:
        return FASTNLL_NO_KERNELS
    if x.outer < 0 or x.inner < 0 or x.classes < 1 or x.type < 0 or x.type > 3 or threads < 1:
        return FASTNLL_BAD_ARGUMENT
    if other != NULL and (other.outer != x.outer or other.inner != x.inner or other.classes != x.classes):
        return FASTNLL_BAD_ARGUMENT
    return FASTNLL_OK


cdef void _place(fnll_array *to, const fastnll_rows *rows) noexcept nogil:
    to.p = rows.data
    to.outer = rows.outer_stride
    to.inner = rows.inner_stride
    to.cls = rows.class_stride


cdef void _start(fnll_task *c, const fastnll_rows *x, const fastnll_rows *out, int op) noexcept nogil:
    memset(c, 0, sizeof(fnll_task))
    c.op = op
    c.outer, c.inner, c.v = x.outer, x.inner, x.classes
    _place(&c.x, x)
    if out != NULL:
        _place(&c.out, out)
    c.grad_scale = c.temperature = 1.0


cdef int _run(fnll_task *c, int type, int threads) noexcept nogil:
    return FASTNLL_OK if _run_rows(&_table.storage[type], c, _SIZES[type], threads, NULL) else FASTNLL_NO_MEMORY


cdef fastnll_rows matrix_rows(void *data, int type, int64_t rows, int64_t classes) noexcept nogil:
    cdef fastnll_rows made
    made.data, made.type = data, type
    made.outer, made.inner, made.classes = 1, rows, classes
    made.outer_stride, made.inner_stride, made.class_stride = 0, classes, 1
    return made


cdef int logsumexp_rows(const fastnll_rows *x, double *lse, int threads) noexcept nogil:
    cdef fnll_task c
    cdef int status = _check(x, NULL, threads)
    if status != FASTNLL_OK:
        return status
    _start(&c, x, NULL, FNLL_LSE)
    c.lse = lse
    return _run(&c, x.type, threads)


cdef int softmax_rows(const fastnll_rows *x, const fastnll_rows *out, bint log, int threads) noexcept nogil:
    cdef fnll_task c
    cdef int status = _check(x, out, threads)
    if status != FASTNLL_OK or out.type != x.type:
        return status or FASTNLL_BAD_ARGUMENT
    _start(&c, x, out, FNLL_LOG_SOFTMAX if log else FNLL_SOFTMAX)
    return _run(&c, x.type, threads)


cdef int softmax_vjp_rows(const fastnll_rows *y, const fastnll_rows *grad, const fastnll_rows *out, bint log,
                              int threads) noexcept nogil:
    cdef fnll_task c
    cdef int status = _check(y, grad, threads) or _check(y, out, threads)
    if status != FASTNLL_OK or out.type != y.type or grad.type != y.type:
        return status or FASTNLL_BAD_ARGUMENT
    _start(&c, y, out, 0)
    _place(&c.q, grad)
    return FASTNLL_OK if _run_vjp(&_table.storage[y.type], &c, log, _SIZES[y.type], threads) else FASTNLL_NO_MEMORY


cdef int cross_entropy_rows(const fastnll_rows *x, const void *targets, int target_type, const double *weight,
                                double *loss, const fastnll_rows *grad, const double *grad_weight, double grad_scale,
                                int threads) noexcept nogil:
    cdef fnll_task c
    cdef int status = _check(x, grad, threads)
    if status != FASTNLL_OK or target_type < 0 or target_type > 7 or (grad != NULL and grad.type != x.type):
        return status or FASTNLL_BAD_ARGUMENT
    _start(&c, x, grad, FNLL_CROSS_ENTROPY)
    c.t.p = <void *>targets
    c.t.outer, c.t.inner = x.inner, 1
    c.t_code = target_type
    c.row_weight, c.grad_weight, c.grad_scale, c.loss = weight, grad_weight, grad_scale, loss
    return _run(&c, x.type, threads)


cdef int soft_cross_entropy_rows(const fastnll_rows *x, const fastnll_rows *probs, const double *weight,
                                     double *loss, const fastnll_rows *grad, const double *grad_weight,
                                     double grad_scale, int threads) noexcept nogil:
    cdef fnll_task c
    cdef int status = _check(x, grad, threads) or _check(x, probs, threads)
    if status != FASTNLL_OK or probs.type < 0 or probs.type > 3 or (grad != NULL and grad.type != x.type):
        return status or FASTNLL_BAD_ARGUMENT
    _start(&c, x, grad, FNLL_CROSS_ENTROPY)
    _place(&c.q, probs)
    c.q_code = probs.type
    c.row_weight, c.grad_weight, c.grad_scale, c.loss = weight, grad_weight, grad_scale, loss
    return _run(&c, x.type, threads)
