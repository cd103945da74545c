"""The data inside every CPython: real, deterministic, and replaced where a distribution leaves it out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastnll.data import ByteTokenizer, CharTokenizer, datasets, opcodes, python_docs, python_source
from fastnll.errors import DataError

from .strategies import real


def test_python_docs_are_one_sequence_a_document() -> None:
    topics = pytest.importorskip("pydoc_data.topics", reason="this Python ships no pydoc_data").topics
    ds = python_docs()
    assert len(ds) == len(topics)
    assert ds.tokens.dtype == np.uint8
    assert isinstance(ds.tokenizer, CharTokenizer)
    assert [ds.tokenizer.decode(s) for s in ds] == [topics[name] for name in sorted(topics)]
    assert ds.n_bytes == sum(len(text.encode()) for text in topics.values())
    assert ds.vocab_size == len(set("".join(topics.values())))
    assert "pydoc_data" in (ds.source or "")


def test_python_docs_through_another_tokenizer() -> None:
    ds = python_docs(ByteTokenizer())
    assert ds.vocab_size == 256
    assert ds.n_bytes == ds.n_tokens == python_docs().n_bytes


def test_without_pydoc_data_the_library_stands_in(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    ds = python_docs()
    assert ds.n_tokens > 100_000
    assert len(ds) > 50
    assert "it has no pydoc_data.topics" in (ds.source or "")
    assert any("def " in ds.tokenizer.decode(s) for s in ds if s.size)


def test_without_any_source_it_is_said(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(datasets, "_library_root", lambda: tmp_path)
    for make in (opcodes, python_source):
        with pytest.raises(DataError, match=r"expected the standard library's \.py files, got none"):
            make()


def small_library(root: Path) -> None:
    (root / "b.py").write_text("def f(x):\n    return (lambda y: y + 1)(x)\n\nclass C:\n    def g(self): pass\n")
    (root / "a.py").write_text("import os\nos.getcwd()\n")
    (root / "old.py").write_text("print 'two'\n")
    (root / "zero.py").write_bytes(b"x = 1\0\n")
    (root / "latin.py").write_bytes(b"# coding: latin-1\nx = '\xe9'\n")
    for skipped in ("test", "site-packages", "__pycache__"):
        (root / skipped).mkdir()
        (root / skipped / "c.py").write_text("y = 2\n")


def test_opcodes_walk_nested_code_in_order_without_caches(monkeypatch, tmp_path: Path) -> None:
    import dis

    small_library(tmp_path)
    monkeypatch.setattr(datasets, "_library_root", lambda: tmp_path)
    ds = opcodes()

    def expected(code) -> list[list[str]]:
        # dis hides caches and shows extended arguments: an independent reading of the same bytes.
        mine = [i.opname for i in dis.get_instructions(code)]
        return [mine] + [one for c in code.co_consts if hasattr(c, "co_code") for one in expected(c)]

    wanted = []
    for name in ("a.py", "b.py", "latin.py"):
        wanted += expected(compile((tmp_path / name).read_bytes(), name, "exec", optimize=0))
    assert len(wanted) == 7
    assert [ds.tokenizer.decode(s).split() for s in ds] == wanted
    assert ds.n_bytes is None
    texts = python_source()
    assert texts.n_sequences == 5
    assert "é" in texts.tokenizer.decode(texts[2])


def test_opcodes_are_ragged_real_sequences() -> None:
    ds = real(opcodes)
    assert ds.n_sequences > 5000
    assert ds.n_tokens > 100_000
    assert 50 < ds.vocab_size < 256
    assert ds.lengths.min() >= 1
    assert ds.lengths.max() > 20 * np.median(ds.lengths)
    assert "CACHE" not in ds.tokenizer.names
    assert np.unique(ds.tokens).size == ds.vocab_size


def test_another_process_sees_the_same_data_and_so_does_python_without_asserts() -> None:
    code = "from fastnll.data import opcodes, python_docs; print(opcodes().sha256(), python_docs().sha256())"
    out = subprocess.run([sys.executable, "-O", "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert out.stdout.split() == [real(opcodes).sha256(), real(python_docs).sha256()]
