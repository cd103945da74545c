"""Where a subcommand's sequences come from: files of any format, or an embedded dataset by name."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from fastnll.cli.parsing import meant
from fastnll.data import SequenceDataset, Tokenizer, make_tokenizer, opcodes, open_dataset, python_docs
from fastnll.data.checks import smallest_unsigned
from fastnll.data.formats import Texts, holds_text, recognise
from fastnll.errors import DataError, OptionError

__all__ = ["DATASETS", "concatenated", "embedded", "load_dataset", "shared_tokenizer", "tokenizer_kind", "which_text"]

DATASETS: dict[str, Callable[..., SequenceDataset]] = {
    "python_docs": python_docs,
    "opcodes": opcodes,
}
_KINDS = ("bytes", "chars", "bpe")


def tokenizer_kind(text: str) -> str:
    """An argparse type: what `fastnll.data.make_tokenizer` knows by name.

    Examples
    --------
    >>> tokenizer_kind("bpe:8192")
    'bpe:8192'
    """
    if _is_kind(text):
        return text
    name, colon, size = text.partition(":")
    near = meant(name.lower(), _KINDS)
    kind = f"bpe{colon}{size}" if near == "bpe" else str(near)
    advice = f"; did you mean {kind}?" if _is_kind(kind) else ""
    raise argparse.ArgumentTypeError(
        f"expected bytes, chars, bpe or bpe:V with V from 256 to 2**24, got {text!r}{advice}"
    )


def _is_kind(text: str) -> bool:
    name, _, size = text.partition(":")
    # The 256 bytes come first; the tokenizers package allocates 66 bytes for each of V before it looks at the text.
    return text in _KINDS or (name == "bpe" and size.isdecimal() and 256 <= int(size) <= 1 << 24)


def load_dataset(
    files: Sequence[str], name: str | None, tokenizer: Tokenizer | str | None, *, trained: bool = False
) -> tuple[SequenceDataset, list[str]]:
    """The dataset of some files, or the embedded one of a name.

    Parameters
    ----------
    files : sequence of str
        Any that `fastnll.data.open_dataset` reads. Files of text are one sequence each (a line or a row of JSON
        Lines, Arrow and Parquet is one too); files of ids keep their sequences. One file of ids is mapped to memory;
        several are read into it.
    name : str or None
        Key of `DATASETS`; used if there are no files.
    tokenizer : Tokenizer, "bytes", "chars", "bpe", "bpe:V" or None
        What encodes text; trained on it if it has to be. None: characters.
    trained : bool, default False
        Whether `tokenizer` is that of a model, which nothing may differ from; None where that has none.

    Returns
    -------
    dataset : SequenceDataset
    names : list of str
        What to call the sequences, where each is a file of text; else empty.

    Raises
    ------
    OptionError
        Files and a name, text and ids together, or a tokenizer by name for data that are not text.
    DataError
        A file that is missing, torn, foreign or of a newer version; a character that the tokenizer does not know;
        ids that another tokenizer made.
    """
    if files and name:
        raise OptionError(
            f"--data: expected files or an embedded dataset, got --data {name} and {files[0]!r}; leave one out"
        )
    if not files:
        assert name is not None
        return embedded(name, tokenizer, trained=trained), []
    if which_text(files):
        if trained and tokenizer is None:
            raise DataError(f"{files[0]}: expected ids, for the model was not trained on text, got text")
        texts = Texts(files)
        encoder = make_tokenizer("chars" if tokenizer is None else tokenizer, texts)
        plain = all(recognise(file) == "text" for file in files)
        return SequenceDataset.from_text(texts, encoder, source=_called(files)), list(files) if plain else []
    if isinstance(tokenizer, str):
        raise OptionError(f"--tokenizer: expected none for {files[0]}, which holds ids and not text, got {tokenizer}")
    dataset = concatenated([open_dataset(file) for file in files], _called(files))
    if tokenizer is not None and dataset.tokenizer is None and dataset.n_tokens:
        # Ids alone say nothing of what made them; those beyond its vocabulary are refused here.
        dataset = SequenceDataset(
            dataset.tokens, dataset.offsets, tokenizer=tokenizer, source=dataset.source, mapping=dataset.mapping
        )
    if trained and dataset.tokenizer != tokenizer:
        raise DataError(
            f"{files[0]}: expected ids of the tokenizer that the model was trained with, {tokenizer!r}, "
            f"got those of {dataset.tokenizer!r}"
        )
    return dataset, []


def embedded(name: str, tokenizer: Tokenizer | str | None, *, trained: bool = False) -> SequenceDataset:
    """The embedded dataset of a name.

    Raises
    ------
    OptionError
        A text tokenizer for data that are not text.
    DataError
        Data that another tokenizer made than the model's.
    """
    if name != "opcodes":
        if isinstance(tokenizer, str):
            documents = DATASETS[name]()
            assert documents.tokenizer is not None
            tokenizer = make_tokenizer(tokenizer, [documents.tokenizer.decode(ids) for ids in documents])
        return DATASETS[name](tokenizer)
    if isinstance(tokenizer, str):
        raise OptionError(f"--tokenizer: expected none for --data opcodes, which is not text, got {tokenizer}")
    dataset = opcodes()
    if (trained or tokenizer is not None) and dataset.tokenizer != tokenizer:
        raise DataError("opcodes: expected the opcodes the model was trained on, got those of another Python version")
    return dataset


def which_text(files: Iterable[str], **options: Any) -> bool:
    """Whether files hold text: all of them, or none.

    Raises
    ------
    OptionError
        Some do, some hold ids.
    """
    kinds = {file: holds_text(file, **options) for file in files}
    if len(set(kinds.values())) > 1:
        text, ids = (next(file for file, kind in kinds.items() if kind is wanted) for wanted in (True, False))
        raise OptionError(f"FILE: expected files of text or files of ids, got both: {text} is text, {ids} holds ids")
    return all(kinds.values())


def shared_tokenizer(datasets: Sequence[SequenceDataset]) -> Tokenizer | None:
    """The tokenizer that made all of some datasets, or None.

    Raises
    ------
    DataError
        Two that differ: the same id would mean two things.
    """
    known = [dataset for dataset in datasets if dataset.tokenizer is not None]
    for other in known[1:]:
        if other.tokenizer != known[0].tokenizer:
            raise DataError(
                f"{other.source}: expected ids of one tokenizer in all files, {known[0].tokenizer!r} as in "
                f"{known[0].source}, got those of {other.tokenizer!r}"
            )
    return known[0].tokenizer if known else None


def concatenated(datasets: Sequence[SequenceDataset], source: str) -> SequenceDataset:
    """The sequences of datasets of ids, one after the other; a single one as it is.

    Raises
    ------
    DataError
        Ids of different tokenizers.
    """
    if len(datasets) == 1:
        datasets[0].source = datasets[0].source or source
        return datasets[0]
    tokenizer = shared_tokenizer(datasets)
    for dataset in datasets:
        # Signed and unsigned 64-bit ids have no common integer dtype; checked ids fit in the smallest one.
        dataset.check_tokens()
    size = max((dataset.vocab_size for dataset in datasets if dataset.n_tokens or dataset.vocab_known), default=1)
    parts = [dataset.tokens[slice(*dataset.span)] for dataset in datasets]
    tokens = np.concatenate(parts, dtype=smallest_unsigned(size), casting="unsafe")
    offsets = np.concatenate([[0], np.cumsum(np.concatenate([dataset.lengths for dataset in datasets]))])
    sizes = [dataset.n_bytes for dataset in datasets]
    n_bytes = None if None in sizes else sum(size for size in sizes if size is not None)
    return SequenceDataset(tokens, offsets, vocab_size=size, tokenizer=tokenizer, n_bytes=n_bytes, source=source)


def _called(files: Sequence[str]) -> str:
    return files[0] if len(files) == 1 else f"{len(files)} files, {files[0]} to {files[-1]}"
