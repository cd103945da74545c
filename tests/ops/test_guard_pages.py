"""Kernels stay inside their arrays: each array ends where unreadable memory begins, or begins where it ends.

In a process of its own, because the failure is a segmentation fault.
"""

from __future__ import annotations

import sys

import pytest

from tests.cases import WIDTHS, Engine
from tests.ops.alone import run_alone

PROGRAM = """
    import ctypes, faulthandler, mmap, sys
    import ml_dtypes
    import numpy as np
    import fastnll as fn

    faulthandler.enable()
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    PAGE = mmap.PAGESIZE
    kept = []

    def guarded(a, at_end):
        pages = -(-max(a.nbytes, 1) // PAGE)
        memory = mmap.mmap(-1, (pages + 2) * PAGE)
        kept.append(memory)
        whole = np.frombuffer(memory, np.uint8)
        start = (pages + 1) * PAGE - a.nbytes if at_end else PAGE
        inside = whole[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
        inside[...] = a
        base = whole.ctypes.data
        for page in (base, base + (pages + 1) * PAGE):
            assert libc.mprotect(page, PAGE, 0) == 0, ctypes.get_errno()
        return inside

    rng = np.random.default_rng(0)
    done = 0
    for dtype in {dtypes}:
        dtype = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
        for v in {widths}:
            for n in (1, 3, 17):
                x = rng.standard_normal((n, v)).astype(dtype)
                t = rng.integers(0, v, n).astype(np.int16)
                want = fn.cross_entropy_value_and_grad(x, t)
                for at_end in (True, False):
                    gx, gt, out = guarded(x, at_end), guarded(t, at_end), guarded(x, at_end)
                    fn.logsumexp(gx)
                    fn.softmax(gx, out=out)
                    fn.log_softmax_vjp(fn.log_softmax(gx, out=out), gx, out=out)
                    fn.selected_log_probs(gx, gt)
                    fn.cross_entropy(gx, gt)
                    loss, grad = fn.cross_entropy_value_and_grad(gx, gt, out=out)
                    assert loss == want[0] and np.array_equal(grad, want[1])
                    fn.cross_entropy_value_and_grad(guarded(x.T, at_end), gt, axis=0, out=guarded(x.T, at_end))
                    fn.sgd_update(gx, out, guarded(x, at_end), lr=0.1, momentum=0.9, first_step=True)
                    done += 1
                    kept.clear()
    print(done)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mprotect is called as on Linux")
def test_nothing_beside_the_arrays_is_touched(engine: Engine) -> None:
    if engine.backend == "reference":
        pytest.skip("NumPy's own loops do not need this")
    dtypes = ("float64", "float32", "float16", "bfloat16") if engine.backend == "native" else ("float32",)
    widths = (*WIDTHS, 1000, 4097)
    said = run_alone(PROGRAM.format(dtypes=dtypes, widths=widths), engine)
    assert int(said) == len(dtypes) * len(widths) * 3 * 2
