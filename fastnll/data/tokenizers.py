"""Text to token ids and back: bytes and characters.

A tokenizer is immutable, turns into plain JSON with :meth:`to_dict` and comes back with
:func:`tokenizer_from_dict`; run folders and data files store it that way.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fastnll.data.bpe import BpeTokenizer
from fastnll.data.checks import CHUNK, check_ids, check_text, smallest_unsigned
from fastnll.data.names import NameTokenizer
from fastnll.errors import DataError, OptionError

__all__ = ["ByteTokenizer", "CharTokenizer", "Tokenizer", "make_tokenizer", "tokenizer_from_dict"]


@runtime_checkable
class Tokenizer(Protocol):
    """What a dataset expects of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """V: `encode` returns ids below it."""

    def encode(self, text: str) -> np.ndarray:
        """Ids of `text`, 1-D, in the smallest unsigned dtype that holds the vocabulary."""

    def decode(self, ids: Any) -> str:
        """The text of `ids`."""

    def token_bytes(self) -> np.ndarray | None:
        """UTF-8 bytes each id stands for, int64, shape (V,); None where ids do not stand for text."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready description, with its kind under ``"type"``."""


class ByteTokenizer:
    """Every byte of the UTF-8 text is a token: V = 256, and any text can be encoded.

    Examples
    --------
    >>> ids = ByteTokenizer().encode("né")
    >>> ids, ByteTokenizer().decode(ids)
    (array([110, 195, 169], dtype=uint8), 'né')
    """

    vocab_size = 256

    def encode(self, text: str) -> np.ndarray:
        """UTF-8 bytes of `text`, uint8; a lone surrogate has none and is a :class:`DataError`."""
        check_text(text)
        try:
            return np.frombuffer(text.encode("utf-8"), np.uint8)
        except UnicodeEncodeError as error:
            raise DataError(
                f"text: expected characters that UTF-8 can express, got the lone surrogate "
                f"U+{ord(text[error.start]):04X} at position {error.start}; "
                "read the file with errors='strict' or drop the character"
            ) from None

    def decode(self, ids: Any) -> str:
        """The text of `ids`; bytes that are not UTF-8 (a cut inside a character) become U+FFFD."""
        return check_ids(ids, 256).astype(np.uint8).tobytes().decode("utf-8", "replace")

    def token_bytes(self) -> np.ndarray:
        """One byte a token, shape (256,)."""
        return np.ones(256, np.int64)

    def to_dict(self) -> dict[str, Any]:
        """``{"type": "bytes"}``."""
        return {"type": "bytes"}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> ByteTokenizer:
        """The inverse of :meth:`to_dict`."""
        return cls()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByteTokenizer)

    def __hash__(self) -> int:
        return hash("bytes")

    def __repr__(self) -> str:
        return "ByteTokenizer()"


class CharTokenizer:
    """Every character (Unicode code point) is a token; the vocabulary is the characters it was trained on.

    Parameters
    ----------
    characters : str or sequence of str
        The vocabulary, each character once; its position is its id.

    Raises
    ------
    DataError
        No character, an entry that is not one character, or a character twice.

    Examples
    --------
    >>> tokenizer = CharTokenizer.train("hello")
    >>> tokenizer.characters, tokenizer.encode("hole")
    ('ehlo', array([1, 3, 2, 0], dtype=uint8))
    >>> tokenizer.encode("help")     # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    fastnll.errors.DataError: text: expected characters of the 4 this tokenizer knows, got 'p' (U+0070) at ...
    """

    def __init__(self, characters: str | Sequence[str]) -> None:
        for position, entry in enumerate(characters):
            if not isinstance(entry, str) or len(entry) != 1:
                raise DataError(f"characters: expected single characters, got {entry!r} at position {position}")
        self.characters = "".join(characters)
        if not self.characters:
            raise DataError("characters: expected at least one character, got none")
        self._codes = _code_points(self.characters)
        if np.unique(self._codes).size != self._codes.size:
            twice = next(c for i, c in enumerate(self.characters) if c in self.characters[:i])
            raise DataError(f"characters: expected every character once, got {twice!r} twice or more")
        # Code point -> id, with one slot past the largest known one for everything above; -1 is unknown.
        self._ids = np.full(int(self._codes.max()) + 2, -1, np.int32)
        self._ids[self._codes] = np.arange(self._codes.size, dtype=np.int32)

    @classmethod
    def train(cls, texts: str | Iterable[str]) -> CharTokenizer:
        """The tokenizer of all characters in a text, or in several, sorted by code point."""
        seen: set[str] = set()
        for text in [texts] if isinstance(texts, str) else texts:
            check_text(text)
            seen.update(text)
        if not seen:
            raise DataError("texts: expected at least one character to train on, got none")
        return cls(sorted(seen))

    @property
    def vocab_size(self) -> int:
        """V, the number of characters."""
        return len(self.characters)

    def encode(self, text: str) -> np.ndarray:
        """Ids of the characters; one that is not in the vocabulary is a :class:`DataError`."""
        check_text(text)
        out = np.empty(len(text), smallest_unsigned(self.vocab_size))
        for low, codes in _code_blocks(text):
            ids = self._ids[np.minimum(codes, self._ids.size - 1)]
            if ids.size and int(ids.min()) < 0:
                self._refuse(text)
            out[low : low + ids.size] = ids
        return out

    def _refuse(self, text: str) -> None:
        known = set(self.characters)
        unknown = [i for i, c in enumerate(text) if c not in known]
        first = text[unknown[0]]
        raise DataError(
            f"text: expected characters of the {self.vocab_size} this tokenizer knows, got {first!r} "
            f"(U+{ord(first):04X}) at position {unknown[0]}; {len(unknown)} of {len(text)} are unknown: "
            "train the tokenizer on this text too, or use ByteTokenizer"
        )

    def decode(self, ids: Any) -> str:
        """The text of `ids`."""
        codes: np.ndarray = self._codes[check_ids(ids, self.vocab_size)]
        return codes.tobytes().decode("utf-32-le", "surrogatepass")

    def token_bytes(self) -> np.ndarray:
        """UTF-8 bytes of each character (1 to 4), shape (V,)."""
        return np.array([len(c.encode("utf-8", "surrogatepass")) for c in self.characters], np.int64)

    def to_dict(self) -> dict[str, Any]:
        """``{"type": "chars", "characters": ...}``."""
        return {"type": "chars", "characters": self.characters}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> CharTokenizer:
        """The inverse of :meth:`to_dict`."""
        return cls(description["characters"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CharTokenizer) and other.characters == self.characters

    def __hash__(self) -> int:
        return hash(self.characters)

    def __repr__(self) -> str:
        return f"CharTokenizer({self.vocab_size} characters)"


def tokenizer_from_dict(description: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that `description` (what its ``to_dict`` gave) describes.

    Raises
    ------
    DataError
        A description of no known tokenizer.

    Examples
    --------
    >>> tokenizer_from_dict({"type": "chars", "characters": "ab"})
    CharTokenizer(2 characters)
    """
    kinds: dict[str, Any] = {
        "bytes": ByteTokenizer,
        "chars": CharTokenizer,
        "names": NameTokenizer,
        "bpe": BpeTokenizer,
    }
    kind = description.get("type") if isinstance(description, Mapping) else None
    if kind not in kinds:
        raise DataError(f"tokenizer: expected a description of type {sorted(kinds)}, got {kind!r}")
    try:
        tokenizer: Tokenizer = kinds[kind].from_dict(description)
    except (KeyError, TypeError) as error:
        raise DataError(f"tokenizer: expected a complete description of type {kind!r}, got an error: {error}") from None
    return tokenizer


def make_tokenizer(kind: Tokenizer | str | None, texts: Iterable[str]) -> Tokenizer:
    """A tokenizer by its name, trained on texts where it has to be.

    Parameters
    ----------
    kind : Tokenizer, "bytes", "chars", "bpe" or "bpe:V"
        A tokenizer is returned as it is; None is "bytes"; V is the vocabulary size of a byte-pair encoding, 8192.
    texts : iterable of str
        What to train on; read once. An empty list is no text.

    Raises
    ------
    OptionError
        Another name.
    DataError
        No text to train on.

    Examples
    --------
    >>> make_tokenizer("chars", ["to be", "or not"])
    CharTokenizer(7 characters)
    """
    if kind is None:
        return ByteTokenizer()
    if not isinstance(kind, str):
        return kind
    name, _, size = kind.partition(":")
    if name not in ("bytes", "chars", "bpe") or (size and (name != "bpe" or not size.isdecimal())):
        raise OptionError(f"tokenizer: expected 'bytes', 'chars', 'bpe' or 'bpe:V', got {kind!r}")
    if name == "bytes":
        return ByteTokenizer()
    if not texts:
        raise DataError(f"tokenizer: expected text to train {kind!r} on, got none; pass a trained tokenizer")
    return CharTokenizer.train(texts) if name == "chars" else BpeTokenizer.train(texts, int(size or 8192))


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _code_blocks(text: str) -> Iterator[tuple[int, np.ndarray]]:
    """Code points of about a million characters at a time: UTF-32 takes four bytes for each."""
    for low in range(0, len(text), CHUNK):
        yield low, _code_points(text[low : low + CHUNK])
