"""The layouts of XLA's structs, as fastnll declares them, against jaxlib's own header."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import jax
import pytest

from fastnll.interop.jax import _ffi


def test_every_offset_is_that_of_the_header(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    header = Path(jax.ffi.include_dir()) / "xla/ffi/api/c_api.h"
    if compiler is None or not header.exists():
        pytest.skip("reading the header of this jaxlib needs a C compiler")
    wanted, lines = [], []
    for name, struct in _ffi.STRUCTS.items():
        for field in struct._fields_:
            wanted.append((name, field[0], getattr(struct, field[0]).offset, getattr(struct, field[0]).size))
            lines.append(f'printf("%zu %zu\\n", offsetof({name}, {field[0]}), sizeof((({name}*)0)->{field[0]}));')
    lines.append('printf("%d %d\\n", XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR);')
    typedefs = "\n".join(f"typedef struct {n} {n};" for n in ("XLA_FFI_Metadata_Extension",))
    source = tmp_path / "layout.c"
    source.write_text(
        f'#include <stdio.h>\n#include "{header}"\n{typedefs}\nint main(void) {{ {"".join(lines)} return 0; }}\n'
    )
    subprocess.run([compiler, "-std=c11", "-w", str(source), "-o", str(tmp_path / "layout")], check=True)
    printed = subprocess.run([tmp_path / "layout"], check=True, capture_output=True, text=True).stdout.splitlines()
    found = [tuple(map(int, line.split())) for line in printed]
    assert [(a, b) for *_, a, b in wanted] == found[:-1]
    assert found[-1][0] == _ffi.API_VERSION[0] and found[-1][1] >= _ffi.API_VERSION[1]
    assert ctypes.sizeof(ctypes.c_void_p) == 8
