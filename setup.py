"""The compiled extensions; everything else about the package is in pyproject.toml.

Environment: ``FASTNLL_SANITIZE=1`` builds with the address and undefined-behaviour sanitizers.
"""

import glob
import os

from extension_helpers import add_openmp_flags_if_available
from setuptools import Extension, setup

NATIVE = "fastnll/kernels/native"
LINEAR_SOURCES = ("dispatch", "baseline", "avx2", "avx512", "avx512_bf16", "amx")
SOURCES = ("dispatch", "drive", "isa_baseline", "isa_avx2", "isa_avx512", "isa_avx512_bf16")

# No -march=native and no -ffast-math: the sources name their instruction sets themselves, and NaN, inf
# and signed zeros keep their meaning.
flags = ["-O3", "-g0", "-std=gnu11", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wno-psabi"]
link: list[str] = []
if os.environ.get("FASTNLL_SANITIZE", "") not in {"", "0"}:
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-g", "-fno-omit-frame-pointer"]
    flags[0] = "-O1"  # at -O3 the instrumented kernels take many minutes to compile
    flags += sanitize
    link += sanitize

# optional: where no compiler is found the install succeeds without them and runs on Numba.
extensions = [
    Extension(
        "fastnll.kernels.native._kernels",
        [f"{NATIVE}/_kernels.pyx", *(f"{NATIVE}/{name}.c" for name in SOURCES)],
        depends=glob.glob(f"{NATIVE}/*.h") + glob.glob(f"{NATIVE}/*.px[di]"),
        include_dirs=[NATIVE],
        extra_compile_args=flags,
        extra_link_args=link,
        optional=True,
    ),
    Extension(
        "fastnll.kernels.native._linear",
        [f"{NATIVE}/_linear.pyx", *(f"{NATIVE}/linear/{name}.c" for name in LINEAR_SOURCES)],
        depends=glob.glob(f"{NATIVE}/*.h") + glob.glob(f"{NATIVE}/linear/*.h"),
        include_dirs=[NATIVE, f"{NATIVE}/linear"],
        extra_compile_args=flags,
        extra_link_args=link,
        optional=True,
    ),
    Extension(
        "fastnll.profiling._probes",
        ["fastnll/profiling/_probes.pyx", "fastnll/profiling/probes.c"],
        depends=glob.glob("fastnll/profiling/*.h"),
        include_dirs=["fastnll/profiling"],
        extra_compile_args=flags,
        extra_link_args=link,
        optional=True,
    ),
    # What keeps XLA's threads out of an interpreter that has ended.
    Extension(
        "fastnll.interop.jax._gate",
        ["fastnll/interop/jax/_gate.pyx"],
        depends=["fastnll/interop/jax/gate.h"],
        include_dirs=["fastnll/interop/jax"],
        extra_compile_args=flags,
        extra_link_args=link,
        optional=True,
    ),
    # Rows for other compiled code: the kernels are found in _kernels, nothing of them is compiled again.
    Extension(
        "fastnll.rows",
        ["fastnll/rows.pyx"],
        depends=["fastnll/rows.pxd", f"{NATIVE}/native.h", f"{NATIVE}/_native.pxd"],
        include_dirs=[NATIVE],
        extra_compile_args=flags,
        extra_link_args=link,
        optional=True,
    ),
]
for extension in extensions:
    add_openmp_flags_if_available(extension)

# Side by side: most of the time goes into the tables of two of them.
setup(ext_modules=extensions, options={"build_ext": {"parallel": min(4, os.cpu_count() or 1)}})
