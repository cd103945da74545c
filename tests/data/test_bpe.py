"""Byte-level BPE: trained here, exact, the same every time, and readable without its package."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnll.data import (
    BpeTokenizer,
    SequenceDataset,
    make_tokenizer,
    open_dataset,
    python_docs,
    tokenizer_from_dict,
    write_dataset,
)
from fastnll.errors import DataError, OptionError

pytest.importorskip("tokenizers", reason="needs tokenizers, extra bpe")


@pytest.fixture(scope="module")
def texts() -> list[str]:
    docs = python_docs()
    return [docs.tokenizer.decode(s) for s in docs]


@pytest.fixture(scope="module")
def tokenizer(texts: list[str]) -> BpeTokenizer:
    return BpeTokenizer.train(texts, vocab_size=8192)


def test_8192_tokens_of_the_embedded_text(texts: list[str], tokenizer: BpeTokenizer) -> None:
    ds = SequenceDataset.from_text(texts, tokenizer)
    assert (ds.vocab_size, ds.tokens.dtype) == (8192, np.uint16)
    assert [tokenizer.decode(s) for s in ds] == texts
    assert ds.n_bytes == sum(len(t.encode()) for t in texts)
    # What BPE is for: three and more bytes a token.
    assert ds.n_tokens < ds.n_bytes / 3


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40))
def test_any_text_comes_back(tokenizer: BpeTokenizer, text: str) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert int(tokenizer.token_bytes()[ids].sum()) == len(text.encode())


def test_training_is_repeatable_and_survives_json(texts: list[str], tokenizer: BpeTokenizer) -> None:
    small = [BpeTokenizer.train(texts[:9], vocab_size=600) for _ in range(2)]
    assert small[0] == small[1] != tokenizer
    again = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert again == tokenizer
    assert hash(again) == hash(tokenizer)
    assert again.encode(texts[0]).tolist() == tokenizer.encode(texts[0]).tolist()


def test_ids_are_read_and_counted_without_the_package(tmp_path: Path, texts: list[str], monkeypatch) -> None:
    (tmp_path / "a.txt").write_text(texts[0])
    ds = open_dataset(tmp_path / "a.txt", tokenizer="bpe:300")
    assert 256 < ds.vocab_size <= 300
    path = write_dataset(tmp_path / "a.fnll", ds)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    again = open_dataset(path)
    assert again.n_bytes == len(texts[0].encode())
    with pytest.raises(DataError, match=r"expected the package tokenizers .*; pip install 'fastnll\[bpe\]'"):
        again.tokenizer.decode([1])


def test_refusals(tokenizer: BpeTokenizer) -> None:
    with pytest.raises(OptionError, match="vocab_size: expected an integer of at least 256, got 100"):
        BpeTokenizer.train("abc", vocab_size=100)
    with pytest.raises(OptionError, match="got 'bpe:many'"):
        make_tokenizer("bpe:many", ["a"])
    with pytest.raises(DataError, match="expected text to train 'bpe' on, got none"):
        make_tokenizer("bpe", [])
    with pytest.raises(DataError, match="expected the JSON of a tokenizers BPE model"):
        BpeTokenizer("{}")
    with pytest.raises(DataError, match="a lone surrogate at position 1"):
        tokenizer.encode("a\ud800")
    with pytest.raises(DataError, match=r"ids in \[0, 8192\), got 8192"):
        tokenizer.decode([8192])
    assert tokenizer.encode("").size == 0
    assert repr(tokenizer) == "BpeTokenizer(8192 tokens)"
