"""Tokenizers: exact round trips, the smallest dtype, and the first character that is unknown."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastnll.data import ByteTokenizer, CharTokenizer, NameTokenizer, Tokenizer, tokenizer_from_dict
from fastnll.errors import DataError, DTypeError

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(texts)
def test_bytes_round_trip(text: str) -> None:
    ids = ByteTokenizer().encode(text)
    assert ids.dtype == np.uint8
    assert bytes(ids) == text.encode()
    assert ByteTokenizer().decode(ids) == text


@given(st.text(min_size=1, max_size=60))
def test_characters_round_trip_with_surrogates_and_all_planes(text: str) -> None:
    tokenizer = CharTokenizer.train(text)
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.vocab_size == len(set(text))
    assert int(ids.max()) < tokenizer.vocab_size
    assert list(tokenizer.characters) == sorted(set(text))
    assert int(tokenizer.token_bytes()[ids].sum()) == len(text.encode("utf-8", "surrogatepass"))


def test_large_vocabularies_get_a_wider_dtype_and_long_texts_are_cut_in_blocks(monkeypatch) -> None:
    many = "".join(map(chr, range(300)))
    tokenizer = CharTokenizer.train([many[:200], many[200:]])
    assert tokenizer.encode(many).dtype == np.uint16
    monkeypatch.setattr("fastnll.data.tokenizers.CHUNK", 7)
    assert tokenizer.encode(many).tolist() == list(range(300))


def test_an_unknown_character_is_named_with_its_place() -> None:
    tokenizer = CharTokenizer("abc")
    words = (
        "text: expected characters of the 3 this tokenizer knows, got 'é' (U+00E9) at position 2; 2 of 5 are unknown"
    )
    with pytest.raises(DataError, match=re.escape(words)):
        tokenizer.encode("abéc\U0001f600")
    assert tokenizer.encode("").size == 0


@pytest.mark.parametrize(
    ("characters", "words"),
    [("", "at least one"), ("aba", "'a' twice"), (["ab"], "single characters, got 'ab' at position 0")],
)
def test_vocabularies_that_are_none(characters: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        CharTokenizer(characters)  # type: ignore[arg-type]


def test_training_on_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="texts: expected at least one character"):
        CharTokenizer.train(["", ""])
    with pytest.raises(DTypeError, match="text: expected str, got bytes"):
        CharTokenizer.train([b"ab"])  # type: ignore[list-item]


def test_bytes_of_a_lone_surrogate_and_of_no_text() -> None:
    with pytest.raises(DataError, match=re.escape("the lone surrogate U+D800 at position 1")):
        ByteTokenizer().encode("a\ud800")
    with pytest.raises(DTypeError, match="text: expected str, got bytes; decode bytes first"):
        ByteTokenizer().encode(b"a")  # type: ignore[arg-type]
    assert ByteTokenizer().decode([195]) == "\ufffd"
    assert ByteTokenizer().decode([]) == ""


@pytest.mark.parametrize("tokenizer", [ByteTokenizer(), CharTokenizer("ba\ud800"), NameTokenizer(["H", "T"])])
def test_tokenizers_survive_json(tokenizer: Tokenizer) -> None:
    again = tokenizer_from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert again == tokenizer
    assert hash(again) == hash(tokenizer)
    assert isinstance(again, Tokenizer)
    assert again.vocab_size == tokenizer.vocab_size


@pytest.mark.parametrize(
    ("description", "words"),
    [
        ({"type": "morse"}, "got 'morse'"),
        ({}, "got None"),
        ([], "got None"),
        ({"type": "chars"}, "complete description of type 'chars'"),
        ({"type": "names", "names": 3}, "complete description of type 'names'"),
    ],
)
def test_descriptions_of_nothing_known_are_refused(description: object, words: str) -> None:
    with pytest.raises(DataError, match=words):
        tokenizer_from_dict(description)  # type: ignore[arg-type]


def test_ids_that_decode_to_nothing_are_refused() -> None:
    for tokenizer in (ByteTokenizer(), CharTokenizer("ab"), NameTokenizer(["x", "y"])):
        size = tokenizer.vocab_size
        with pytest.raises(DataError, match=re.escape(f"[0, {size}), got {size} at position 1; 2 of 3 are outside")):
            tokenizer.decode([0, size, -1])
        with pytest.raises(DTypeError, match="ids: expected a 1-D array of integers"):
            tokenizer.decode([0.5])


def test_names() -> None:
    tokenizer = NameTokenizer(["H", "T"])
    assert tokenizer.decode([0, 1]) == "H T"
    assert tokenizer.encode("  T\nH ").tolist() == [1, 0]
    assert tokenizer.token_bytes() is None
    with pytest.raises(DataError, match="got 'X' at word 1; 1 of 2"):
        tokenizer.encode("H X")
    for names in ([], ["a", "a"], ["a b"], [""]):
        with pytest.raises(DataError, match="names: expected"):
            NameTokenizer(names)
