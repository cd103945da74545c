"""Real data that every CPython carries: its language reference, its library source, its opcodes.

They differ between Python versions: results name ``ds.source`` and ``ds.sha256()`` beside any figure.
"""

from __future__ import annotations

import platform
import sysconfig
import types
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fastnll.data.names import NameTokenizer
from fastnll.data.packing import SequencePacker
from fastnll.data.sequences import SequenceDataset
from fastnll.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer
from fastnll.errors import DataError

__all__ = ["opcodes", "python_docs", "python_source"]

# Tests are not shipped everywhere, and the two package folders hold what a user installed.
_SKIPPED = frozenset({"test", "tests", "site-packages", "dist-packages", "__pycache__"})


def python_docs(tokenizer: Tokenizer | None = None) -> SequenceDataset:
    """The Python language reference as ``pydoc_data.topics`` ships it: one document, one sequence.

    Parameters
    ----------
    tokenizer : Tokenizer, optional
        Default: a :class:`CharTokenizer` of the documents' own characters.

    Returns
    -------
    SequenceDataset
        About 80 sequences, half a million characters, a vocabulary of about 100. Where `pydoc_data` is
        left out, the sources of the standard library's top-level modules instead; ``source`` says which.

    Raises
    ------
    DataError
        Neither the reference nor any library source is installed.

    Examples
    --------
    >>> ds = python_docs()
    >>> ds.n_bytes >= ds.n_tokens > 100_000
    True
    """
    texts, source = _documents()
    tokenizer = CharTokenizer.train(texts) if tokenizer is None else tokenizer
    return SequenceDataset.from_text(texts, tokenizer, source=source)


def _documents() -> tuple[list[str], str]:
    try:
        from pydoc_data.topics import topics
    except ImportError:
        texts = [_decode(path) for path in _library_files() if path.parent == _library_root()]
        return texts, f"top-level module sources of {_python()} (it has no pydoc_data.topics)"
    # Sorted, because the order of the file is nobody's promise.
    return [topics[name] for name in sorted(topics)], f"pydoc_data.topics of {_python()}"


def python_source(tokenizer: Tokenizer | None = None) -> SequenceDataset:
    """The standard library's Python source, one file a sequence, in the order of their paths (about 12 MB).

    Parameters
    ----------
    tokenizer : Tokenizer, optional
        Default: :class:`ByteTokenizer`.

    Raises
    ------
    DataError
        An installation without source files.
    """
    texts = (_decode(path) for path in _library_files())
    source = f"standard library source of {_python()}"
    return SequenceDataset.from_text(texts, ByteTokenizer() if tokenizer is None else tokenizer, source=source)


def opcodes() -> SequenceDataset:
    """Opcode sequences of the standard library: every code object that its files compile to is one sequence.

    Returns
    -------
    SequenceDataset
        About 20 000 ragged sequences (median 20 tokens, a few above 10 000), a vocabulary of about 100: the
        opcodes that occur, in the order of their numbers. ``ds.tokenizer.decode(ds[0])`` names them.

    Raises
    ------
    DataError
        An installation without source files.

    Notes
    -----
    A file's sequences come in the order in which code objects nest: the module, then each function or class
    body found in its constants, depth first. Inline cache entries are not instructions and are left out.

    Examples
    --------
    >>> ds = opcodes()
    >>> ds.n_sequences > 1000, "RETURN_VALUE" in ds.tokenizer.names
    (True, True)
    """
    import dis

    cache = dis.opmap.get("CACHE", -1)
    packer = SequencePacker(vocab_size=256)
    for path in _library_files():
        for code in _code_objects(path):
            # Instructions are pairs of bytes: opcode, argument.
            numbers = np.frombuffer(code.co_code, np.uint8)[::2]
            packer.append(numbers[numbers != cache])
    numbers, offsets = packer.finish()
    used, ids = np.unique(numbers, return_inverse=True)
    names = NameTokenizer([dis.opname[number].replace(" ", "_") for number in used.tolist()])
    source = f"opcodes of the standard library of {_python()}"
    return SequenceDataset(ids.astype(np.uint8), offsets, tokenizer=names, source=source)


def _code_objects(path: Path) -> Iterator[types.CodeType]:
    try:
        with warnings.catch_warnings():
            # Old modules hold invalid escapes: a warning about the library is no news to its reader.
            warnings.simplefilter("ignore")
            # optimize=0: the same code under python -O.
            module = compile(path.read_bytes(), path.name, "exec", dont_inherit=True, optimize=0)
    except (SyntaxError, ValueError):
        # Some distributions add files of other Python versions (lib2to3's samples).
        return
    stack = [module]
    while stack:
        code = stack.pop()
        yield code
        stack.extend(c for c in reversed(code.co_consts) if isinstance(c, types.CodeType))


def _library_root() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _library_files() -> list[Path]:
    root = _library_root()
    found = [path for path in root.rglob("*.py") if not _SKIPPED.intersection(path.relative_to(root).parts)]
    if not found:
        raise DataError(
            f"{root}: expected the standard library's .py files, got none; "
            "this Python ships compiled files only, pass text files of your own"
        )
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def _decode(path: Path) -> str:
    import tokenize

    with tokenize.open(path) as stream:
        return stream.read()


def _python() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"
