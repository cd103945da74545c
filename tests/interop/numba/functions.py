"""Compiled callers, one a function and set of options: each compiles once, whatever the tests draw."""

from __future__ import annotations

import numba
import numpy as np

import fastnll as fn


@numba.njit
def logsumexp(x, axis):
    return fn.logsumexp(x, axis)


@numba.njit
def softmax(x, axis):
    return fn.softmax(x, axis=axis)


@numba.njit
def log_softmax(x, axis):
    return fn.log_softmax(x, axis)


@numba.njit
def softmax_into(x, out):
    return fn.softmax(x, out=out)


@numba.njit
def softmax_vjp(y, g, axis):
    return fn.softmax_vjp(y, g, axis)


@numba.njit
def log_softmax_vjp(y, g, axis):
    return fn.log_softmax_vjp(y, g, axis)


@numba.njit
def nll(x, t, w):
    return fn.nll_loss(x, t, weight=w), fn.nll_loss(x, t, reduction="none"), fn.nll_loss(x, t, reduction="sum")


@numba.njit
def nll_sum(x, t):
    return fn.nll_loss(x, t, reduction="sum")


@numba.njit
def selected(x, ids):
    return fn.selected_log_probs(x, ids)


@numba.njit
def selected_vjp(x, ids, g):
    return fn.selected_log_probs_vjp(x, ids, g)


@numba.njit
def plain(x, t, axis):
    return (
        fn.cross_entropy(x, t, axis=axis),
        fn.cross_entropy(x, t, reduction="sum", axis=axis),
        fn.cross_entropy(x, t, reduction="none", axis=axis),
    )


@numba.njit
def plain_grad(x, t, axis):
    return fn.cross_entropy_value_and_grad(x, t, axis=axis)


@numba.njit
def with_options(x, t, mask, token_weight, weight, smoothing, z_loss, softcap, temperature, grad_output):
    return fn.cross_entropy_value_and_grad(
        x,
        t,
        grad_output=grad_output,
        reduction="none",
        ignore_index=1,
        mask=mask,
        token_weight=token_weight,
        weight=weight,
        label_smoothing=smoothing,
        z_loss=z_loss,
        softcap=softcap,
        temperature=temperature,
    )


@numba.njit
def mean_with_options(x, t, mask, token_weight, weight, smoothing, grad_output):
    return fn.cross_entropy_value_and_grad(
        x,
        t,
        grad_output=grad_output,
        ignore_index=None,
        mask=mask,
        token_weight=token_weight,
        weight=weight,
        label_smoothing=smoothing,
    )


@numba.njit
def details(x, t, axis):
    return fn.cross_entropy_details(x, t, axis=axis)


@numba.njit
def details_with_options(x, t, mask, token_weight, softcap, temperature):
    return fn.cross_entropy_details(
        x, t, ignore_index=1, mask=mask, token_weight=token_weight, softcap=softcap, temperature=temperature
    )


@numba.njit
def in_place(x, t):
    return fn.cross_entropy_value_and_grad(x, t, out=x)


@numba.njit
def linear(h, w, t, b, class_weight):
    return fn.linear_cross_entropy_value_and_grad(h, w, t, b, class_weight=class_weight)


@numba.njit
def linear_none(h, w, t):
    return fn.linear_cross_entropy(h, w, t, reduction="none")


@numba.njit
def sgd(p, g, b, lr, momentum, dampening, nesterov, decay, maximize, scale, first):
    fn.sgd_update(
        p,
        g,
        b,
        lr=lr,
        momentum=momentum,
        dampening=dampening,
        nesterov=nesterov,
        weight_decay=decay,
        maximize=maximize,
        grad_scale=scale,
        first_step=first,
    )


@numba.njit
def plain_sgd(p, g, lr):
    fn.sgd_update(p, g, lr=lr)


@numba.njit(nogil=True, parallel=True)
def losses_in_parallel(x, t):
    out = np.empty(x.shape[0])
    for i in numba.prange(x.shape[0]):
        out[i] = fn.cross_entropy(x[i], t[i])
    return out
