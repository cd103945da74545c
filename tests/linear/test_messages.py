"""Every message of the linear head: what is wrong, and what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastnll as fn
from tests.linear.problems import make_head

H, W, B, T = make_head(6, 4, 11)
F32 = W.astype(np.float32)


def call(h: Any = H, w: Any = W, t: Any = T, b: Any = B, **o: Any) -> Callable[[], Any]:
    return lambda: fn.linear_cross_entropy(h, w, t, b, **o)


def grad(h: Any = H, w: Any = W, t: Any = T, b: Any = B, **o: Any) -> Callable[[], Any]:
    return lambda: fn.linear_cross_entropy_value_and_grad(h, w, t, b, **o)


def out(h: Any = None, w: Any = None, b: Any = None) -> Any:
    return (
        np.zeros_like(H) if h is None else h,
        np.zeros_like(W) if w is None else w,
        np.zeros(11) if b is None else b,
    )


READ_ONLY = np.zeros_like(W)
READ_ONLY.setflags(write=False)

MESSAGES: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "hidden is a scalar": (call(1.0), fn.ShapeError, "hidden: expected at least one axis (the features), got a scalar"),
    "weight is a vector": (call(w=W[0]), fn.ShapeError, "weight: expected shape (V, D), one row per class, got (4,)"),
    "features differ": (call(H[:, :3]), fn.ShapeError,
        "hidden: expected 4 features (weight is (V, D) = (11, 4)), got shape (6, 3)"),
    "weight is transposed": (call(w=W.T), fn.ShapeError, "weight looks transposed: pass weight.T of shape (11, 4)"),
    "no classes": (call(w=W[:0], b=None), fn.ShapeError, "at least one class, got shape (0, 4)"),
    "no features": (call(H[:, :0], W[:, :0]), fn.ShapeError, "hidden: expected 0 features"),
    "dtypes differ": (call(w=F32), fn.DTypeError,
        "weight: expected dtype float64 (that of hidden), got float32; convert one of them"),
    "complex": (call(H + 0j), fn.DTypeError, "hidden: expected dtype float64, float32, bfloat16, float16"),
    "bias shape": (call(b=B[:5]), fn.ShapeError, "bias: expected shape (11,), one number per class, got (5,)"),
    "bias dtype": (call(b=B.astype(np.float32)), fn.DTypeError, "bias: expected dtype float64 or float64, got float32"),
    "targets shape": (call(t=T[:5]), fn.ShapeError, "targets: expected shape (6,)"),
    "target out of range": (call(t=T + 20), fn.LabelError, "targets: expected class ids from 0 to 10"),
    "axis": (call(axis=0), fn.OptionError, "axis: expected -1 (the last axis of hidden is the features), got 0"),
    "unknown option": (call(smoothing=0.1), TypeError, "unexpected option 'smoothing'"),
    "class weights": (call(class_weight=[1.0]), fn.ShapeError,
        "weight: expected shape (11,), one weight per class, got (1,)"),
    "max_memory no number": (call(max_memory="1 GB"), fn.OptionError,
        "max_memory: expected an integer number of bytes, got '1 GB'"),
    "max_memory zero": (call(max_memory=0), fn.OptionError,
        "max_memory: expected a number of bytes of at least 1, got 0"),
    "max_memory too small": (call(max_memory=10), fn.OptionError, "max_memory: expected at least"),
    "wrt": (grad(wrt=("weights",)), fn.OptionError,
        "wrt: expected some of 'hidden', 'weight', 'bias', got ('weights',)"),
    "wrt of nothing": (grad(wrt=()), fn.OptionError, "wrt: expected some of 'hidden', 'weight', 'bias', got ()"),
    "grad_dtype": (grad(grad_dtype="float32"), fn.OptionError,
        "grad_dtype: expected float64 for float64 inputs, got float32"),
    "grad_output shape": (grad(grad_output=np.ones(6)), fn.ShapeError, "grad_output: expected a scalar"),
    "out is an array": (grad(out=np.zeros_like(W)), fn.OptionError, "out: expected LinearGrads, or a tuple"),
    "out of two": (grad(out=(None, None)), fn.OptionError, "out: expected LinearGrads, or a tuple"),
    "out shape": (grad(out=out(w=np.zeros((4, 11)))), fn.ShapeError, "out.weight: expected shape (11, 4), got (4, 11)"),
    "out dtype": (grad(out=out(w=F32 * 0)), fn.DTypeError, "out.weight: expected dtype float64, got float32"),
    "out list": (grad(out=([[0.0]], None, None)), fn.DTypeError, "out.hidden: expected a numpy array, got list"),
    "out strides": (grad(out=out(w=np.zeros((4, 11)).T)), fn.DTypeError,
        "out.weight: expected a writeable C-contiguous array"),
    "out read-only": (grad(out=out(w=READ_ONLY)), fn.DTypeError, "out.weight: expected a writeable C-contiguous array"),
    "out is the input": (grad(out=out(w=W)), fn.OptionError, "out.weight: expected memory of its own"),
    "accumulate into nothing": (grad(accumulate=True), fn.OptionError,
        "out: expected buffers to add to beside accumulate=True, got none for hidden, weight, bias"),
    "accumulate into some": (grad(accumulate=True, out=(None, np.zeros_like(W), np.zeros(11))), fn.OptionError,
        "got none for hidden"),
    "filter": (grad(filter=2.0), fn.OptionError, "filter: expected an allowed relative error between 0 and 1, got 2.0"),
    "filter true": (grad(filter=True), fn.OptionError, "filter: expected an allowed relative error"),
    "filter and accumulate": (grad(filter=0.1, accumulate=True, out=out()), fn.OptionError,
        "filter: expected no accumulate=True beside it"),
    "filter and sgd": (grad(filter=0.1, sgd={"lr": 1.0}), fn.OptionError, "filter: expected no sgd beside it"),
    "sgd without lr": (grad(sgd={"momentum": 0.9}), fn.OptionError, "sgd: expected a mapping with 'lr'"),
    "sgd unknown": (grad(sgd={"lr": 0.1, "beta": 0.9}), fn.OptionError, "sgd: expected a mapping with 'lr'"),
    "sgd list": (grad(w=W.tolist(), sgd={"lr": 0.1}), fn.DTypeError,
        "weight: expected a writeable C-contiguous numpy array beside sgd"),
    "sgd buffer": (grad(sgd={"lr": 0.1, "momentum": 0.9, "momentum_buffer": np.zeros(3)}), fn.DTypeError,
        "sgd['momentum_buffer']: expected a writeable C-contiguous array of the weight's shape (11, 4) and dtype"),
    "plan shapes": (lambda: fn.memory_plan((6, 4), (11, 5)), fn.ShapeError,
        "hidden, weight: expected shapes (..., D) and (V, D), got (6, 4) and (11, 5)"),
    "plan dtype": (lambda: fn.memory_plan((6, 4), (11, 4), dtype="int8"), fn.OptionError, "'int8'"),
    "nonfinite": (call(H * np.nan, nonfinite="raise"), fn.VerificationError,
        "expected finite losses, got nan in row 0"),
}  # fmt: skip


@pytest.mark.parametrize("name", MESSAGES)
def test_message(name: str) -> None:
    run, kind, text = MESSAGES[name]
    with pytest.raises(kind, match=re.escape(text)):
        run()
