# cython: boundscheck=False, wraparound=False
"""Greedy decoding of a bigram model in one C loop: log-probabilities a row at a time, without Python or its lock.

A call of a Python function costs more than a row of some hundred classes takes; here a step is one C call.
"""

from fastnll.rows cimport (
    FASTNLL_FLOAT32, FASTNLL_INT64, FASTNLL_OK, cross_entropy_rows, fastnll_rows, matrix_rows, softmax_rows,
)
from libc.stdint cimport int64_t

import numpy as np


def greedy(float[:, ::1] logits, int64_t start, int64_t steps):
    """Return the likeliest continuation of `start` under softmax(logits[token]), and its log-probability."""
    cdef int64_t v = logits.shape[1], token = start, best, i, c
    cdef float[::1] row = np.empty(v, np.float32)
    cdef int64_t[::1] path = np.empty(steps, np.int64)
    cdef fastnll_rows x, out = matrix_rows(&row[0], FASTNLL_FLOAT32, 1, v)
    cdef double total = 0.0
    cdef int status = FASTNLL_OK
    if logits.shape[0] != v or not 0 <= start < v:
        raise ValueError(f"logits: expected (V, V) and a start below V, got ({logits.shape[0]}, {v}) and {start}")
    with nogil:
        for i in range(steps):
            x = matrix_rows(&logits[token, 0], FASTNLL_FLOAT32, 1, v)
            status = softmax_rows(&x, &out, True, 1)
            if status != FASTNLL_OK:
                break
            best = 0
            for c in range(1, v):
                if row[c] > row[best]:
                    best = c
            total += row[best]
            path[i] = token = best
    if status != FASTNLL_OK:
        raise RuntimeError(f"fastnll's kernels answered {status}")
    return np.asarray(path), total


def losses(float[:, ::1] logits, int64_t[::1] targets, double[::1] weights, int threads=1):
    """Return the loss of each row and the gradient of their weighted sum."""
    cdef int64_t n = logits.shape[0], v = logits.shape[1]
    cdef double[::1] loss = np.empty(n)
    cdef float[:, ::1] grad = np.empty((n, v), np.float32)
    cdef fastnll_rows x, g
    cdef int status = FASTNLL_OK
    if targets.shape[0] != n or weights.shape[0] != n:
        raise ValueError(f"targets, weights: expected {n}, got {targets.shape[0]} and {weights.shape[0]}")
    if n:
        x = matrix_rows(&logits[0, 0], FASTNLL_FLOAT32, n, v)
        g = matrix_rows(&grad[0, 0], FASTNLL_FLOAT32, n, v)
        with nogil:
            status = cross_entropy_rows(&x, &targets[0], FASTNLL_INT64, &weights[0], &loss[0], &g, NULL, 1.0, threads)
    if status != FASTNLL_OK:
        raise RuntimeError(f"fastnll's kernels answered {status}")
    return np.asarray(loss), np.asarray(grad)
