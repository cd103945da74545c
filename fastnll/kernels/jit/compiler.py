"""How the kernels are compiled: the two decorators, and what kind of CPU they are compiled for."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any, TypeVar, cast, overload

import llvmlite.binding as llvm
import numba
from numba.core import config as numba_config
from numba.extending import intrinsic

__all__ = ["HAS_AVX512", "HAS_FMA", "IS_X86", "VECTOR_BYTES", "helper", "instruction", "kernel"]

F = TypeVar("F", bound=Callable[..., Any])

config: Any = numba_config  # its names are set when it is imported

# Sums may be reordered (that is what a vector accumulator does); nothing may assume that NaN, infinity
# or a sign of zero do not occur. Only functions that ask for it get even that.
SUMS = {"reassoc", "nsz"}


@overload
def helper(function: F, /) -> F: ...
@overload
def helper(*, sums: bool = False, inline: bool = False, paste: bool = False) -> Callable[[F], F]: ...
def helper(function: Any = None, /, *, sums: bool = False, inline: bool = False, paste: bool = False) -> Any:
    """Compile a function that kernels call; it is part of their machine code and not cached by itself.

    Numba's cache compares the file of the function alone, not the files of what it calls; a helper that
    was cached could be stale inside a kernel that is not.

    Parameters
    ----------
    sums : bool
        Whether sums may be reordered, which a vector accumulator needs.
    inline : bool
        Whether LLVM must put it into its callers.
    paste : bool
        Whether Numba pastes its source into the caller: one compilation less for what has one caller.
    """
    # Fast-math is named even where it is off: a function that says nothing inherits the flags of its caller,
    # and reordering would undo what `exp_from` and `minus_pair` do in a fixed order.
    options: dict[str, Any] = {
        "error_model": "numpy",
        "fastmath": SUMS if sums else False,
        # Nobody calls it from Python, and the wrappers are a third of the time to compile it.
        "no_cpython_wrapper": True,
        "no_cfunc_wrapper": True,
    }
    if inline:
        options["forceinline"] = True
    if paste:
        options["inline"] = "always"
    decorate: Any = numba.njit(**options)
    return decorate if function is None else decorate(function)


def kernel(function: F) -> F:
    """Compile an op's loop without the interpreter's lock, and keep the machine code for the next process.

    Where no folder can be written (a read-only installation and no home), it is compiled in each process.
    """
    options: dict[str, Any] = {"error_model": "numpy", "nogil": True, "fastmath": False}
    compiled: Any
    try:
        compiled = numba.njit(cache=True, **options)(function)
    except RuntimeError:
        compiled = numba.njit(**options)(function)
    return cast("F", compiled)


def instruction(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of Numba's typing context and types an intrinsic."""
    made: Any = intrinsic(function)
    return cast("Callable[..., Any]", made)


def _has(feature: str) -> bool:
    """Return whether the CPU that Numba compiles for has a feature, by LLVM's name."""
    if config.CPU_NAME or config.CPU_FEATURES is not None:
        return f"+{feature}" in (config.CPU_FEATURES or "").split(",")
    return bool(llvm.get_host_cpu_features().get(feature, False))


IS_X86 = platform.machine().lower() in {"x86_64", "amd64"}
# Whether a * b + c is one instruction.
HAS_FMA = platform.machine().lower() in {"arm64", "aarch64"} or _has("fma")
HAS_AVX512 = IS_X86 and _has("avx512f") and _has("avx512dq")
# Of the widest registers.
VECTOR_BYTES = 64 if HAS_AVX512 else 32 if IS_X86 and _has("avx2") else 16
