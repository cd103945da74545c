# fastnll's kernels for other compiled code: rows of logits in memory, no Python, no interpreter lock.
#
#     from fastnll.rows cimport FASTNLL_FLOAT32, cross_entropy_rows, fastnll_rows, matrix_rows
#
# Nothing is linked and no header is needed: the functions are found in the module, which is imported with yours. Every one
# returns FASTNLL_OK, or one of the codes below and has then written nothing. Results do not depend on `threads`, to the
# bit; they are those of the Python functions with an `out` of the same strides. Threads share out rows, and the
# classes of few long rows. Arrays may not overlap, except that a result may be its input, with the same strides.
# examples/cython_rows is a project that uses them.

from libc.stdint cimport int64_t

cdef enum fastnll_float:
    FASTNLL_FLOAT64 = 0
    FASTNLL_FLOAT32 = 1
    FASTNLL_BFLOAT16 = 2
    FASTNLL_FLOAT16 = 3

cdef enum fastnll_integer:
    FASTNLL_UINT8 = 0
    FASTNLL_INT8 = 1
    FASTNLL_UINT16 = 2
    FASTNLL_INT16 = 3
    FASTNLL_UINT32 = 4
    FASTNLL_INT32 = 5
    FASTNLL_UINT64 = 6
    FASTNLL_INT64 = 7

cdef enum fastnll_status:
    FASTNLL_OK = 0
    FASTNLL_NO_MEMORY = 1
    FASTNLL_BAD_ARGUMENT = 2  # a negative size, no classes, a type that is none of the above, threads below 1
    FASTNLL_NO_KERNELS = 3  # fastnll was installed where no compiler was found

# outer * inner rows of `classes` numbers; row r is (r / inner, r % inner). Strides count elements and may be negative.
ctypedef struct fastnll_rows:
    void *data
    int type  # fastnll_float
    int64_t outer, inner, classes
    int64_t outer_stride, inner_stride, class_stride

# N rows, one after the other: what a C-contiguous (N, V) array is.
cdef fastnll_rows matrix_rows(void *data, int type, int64_t rows, int64_t classes) noexcept nogil

# lse: N numbers.
cdef int logsumexp_rows(const fastnll_rows *x, double *lse, int threads) noexcept nogil

# out, of x's shape and type, receives probabilities, or log-probabilities where `log`.
cdef int softmax_rows(const fastnll_rows *x, const fastnll_rows *out, bint log, int threads) noexcept nogil

# The vector-Jacobian product of either: y is what softmax_rows wrote, grad the gradient with respect to it.
cdef int softmax_vjp_rows(
    const fastnll_rows *y, const fastnll_rows *grad, const fastnll_rows *out, bint log, int threads
) noexcept nogil

# The loss of each row and its gradient, either of which may be NULL.
#   targets: N class ids of a fastnll_integer type, contiguous. One that is no class gives a NaN row.
#   weight: N factors of the losses, or NULL for 1; rows of weight 0 are never read: loss 0, gradient 0.
#   grad_weight: N factors of the gradients, or NULL for `weight`. grad_scale: a factor of all of them.
cdef int cross_entropy_rows(
    const fastnll_rows *x, const void *targets, int target_type, const double *weight, double *loss,
    const fastnll_rows *grad, const double *grad_weight, double grad_scale, int threads
) noexcept nogil

# The same for targets that are numbers of x's shape: -sum_v q_v log softmax(x)_v.
cdef int soft_cross_entropy_rows(
    const fastnll_rows *x, const fastnll_rows *probs, const double *weight, double *loss,
    const fastnll_rows *grad, const double *grad_weight, double grad_scale, int threads
) noexcept nogil
