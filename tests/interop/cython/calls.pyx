# The functions of fastnll/rows.pxd for the tests: each array as (address, type, (outer, inner, classes), strides).

from fastnll.rows cimport (
    cross_entropy_rows, fastnll_rows, logsumexp_rows, matrix_rows, soft_cross_entropy_rows, softmax_rows,
    softmax_vjp_rows,
)
from libc.stdint cimport int64_t, uintptr_t


cdef fastnll_rows taken(array):
    cdef fastnll_rows rows
    address, rows.type, (rows.outer, rows.inner, rows.classes), strides = array
    rows.data = <void *><uintptr_t>address
    rows.outer_stride, rows.inner_stride, rows.class_stride = strides
    return rows


cdef void *pointer(address):
    return <void *><uintptr_t>address


def matrix(uintptr_t data, int type, int64_t rows, int64_t classes):
    cdef fastnll_rows x = matrix_rows(<void *>data, type, rows, classes)
    return <uintptr_t>x.data, x.type, (x.outer, x.inner, x.classes), (x.outer_stride, x.inner_stride, x.class_stride)


def logsumexp(x, lse, int threads):
    cdef fastnll_rows rows = taken(x)
    return logsumexp_rows(&rows, <double *>pointer(lse), threads)


def softmax(x, out, bint log, int threads):
    cdef fastnll_rows rows = taken(x), results = taken(out)
    return softmax_rows(&rows, &results, log, threads)


def softmax_vjp(y, grad, out, bint log, int threads):
    cdef fastnll_rows rows = taken(y), upstream = taken(grad), results = taken(out)
    return softmax_vjp_rows(&rows, &upstream, &results, log, threads)


def cross_entropy(x, targets, int target_type, weight, loss, grad, grad_weight, double grad_scale, int threads):
    cdef fastnll_rows rows = taken(x), results
    if grad is not None:
        results = taken(grad)
    return cross_entropy_rows(
        &rows, pointer(targets), target_type, <double *>pointer(weight), <double *>pointer(loss),
        NULL if grad is None else &results, <double *>pointer(grad_weight), grad_scale, threads,
    )


def soft_cross_entropy(x, probs, weight, loss, grad, grad_weight, double grad_scale, int threads):
    cdef fastnll_rows rows = taken(x), expected = taken(probs), results
    if grad is not None:
        results = taken(grad)
    return soft_cross_entropy_rows(
        &rows, &expected, <double *>pointer(weight), <double *>pointer(loss), NULL if grad is None else &results,
        <double *>pointer(grad_weight), grad_scale, threads,
    )
