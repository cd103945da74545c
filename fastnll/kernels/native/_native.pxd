# The declarations of native.h for Cython.

from libc.stdint cimport int64_t

cdef extern from "native.h" nogil:
    enum:
        FNLL_LSE
        FNLL_SOFTMAX
        FNLL_LOG_SOFTMAX
        FNLL_CROSS_ENTROPY
        FNLL_GATHER
        FNLL_STREAM_ROWS
        FNLL_STREAM_JOINED
        FNLL_ROWS
        FNLL_STACK

    ctypedef struct fnll_array:
        void *p
        int64_t outer, inner, cls

    ctypedef struct fnll_task:
        int op, stream
        int64_t outer, inner, v, k
        fnll_array x, out, q, mask
        int q_code, t_code
        fnll_array t
        const int64_t *ids
        const double *id_probs
        const double *class_weight
        const void *weight_real
        const double *row_weight
        const double *target_weight
        const double *grad_weight
        double grad_scale, smoothing, z_loss, temperature, softcap
        double *loss
        double *lse
        double *entropy
        double *picked
        int64_t loss_from
        int64_t *argmax
        int64_t *rank

    ctypedef struct fnll_block:
        double k, sum

    ctypedef struct fnll_sgd:
        double lr, momentum, dampening, weight_decay, grad_scale
        int nesterov, maximize, first_step

    ctypedef struct fnll_kernels:
        void (*rows)(const fnll_task *, int64_t, int64_t, void *) noexcept nogil
        void (*split_stats)(const fnll_task *, int64_t, int64_t, int64_t, fnll_block *) noexcept nogil
        int (*split_merge)(const fnll_task *, int64_t, fnll_block *, double *) noexcept nogil
        void (*split_emit)(const fnll_task *, int64_t, int64_t, int64_t, const double *) noexcept nogil
        void (*vjp)(const fnll_task *, int, int64_t, int64_t, void *) noexcept nogil
        void (*sgd)(const fnll_sgd *, void *, const void *, void *, int64_t) noexcept nogil

    ctypedef struct fnll_table:
        const char *name
        int vector_bytes
        fnll_kernels storage[4]
        void (*scan)(const fnll_array *, int, int64_t, int64_t, int64_t, int, int64_t, int64_t *, int64_t *, int64_t *) noexcept nogil

    int fnll_tables(const fnll_table **, int)
    int fnll_run(const fnll_kernels *, const fnll_task *, int, int, double *)
    int fnll_run_vjp(const fnll_kernels *, const fnll_task *, int, int, int)
    void fnll_run_sgd(const fnll_kernels *, const fnll_sgd *, char *, const char *, char *, int64_t, int64_t, int)
    int fnll_run_scan(const fnll_table *, const fnll_array *, int, int64_t, int64_t, int64_t, int64_t, int, int64_t, int, int64_t *)
