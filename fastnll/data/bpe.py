"""Byte-level byte-pair encoding, trained here with the `tokenizers` package (extra ``bpe``).

Sennrich, Haddow and Birch, Neural machine translation of rare words with subword units, ACL 2016; over bytes, so that
any text can be encoded and comes back exactly.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from fastnll.data.checks import check_ids, check_text, integer, smallest_unsigned
from fastnll.errors import DataError

__all__ = ["BpeTokenizer"]


def _tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise DataError(
            "tokenizer: expected the package tokenizers for byte-pair encoding, got no such package; "
            "pip install 'fastnll[bpe]'"
        ) from None
    return tokenizers


class BpeTokenizer:
    """Byte-level BPE: ids 0 to 255 are the bytes, every further one is two earlier ones joined.

    Parameters
    ----------
    model : str
        The JSON that the `tokenizers` package writes (``Tokenizer.to_str()``), of a byte-level BPE.

    Examples
    --------
    ``BpeTokenizer.train(texts, 8192)`` makes one. Its ids can be counted and measured without the package:

    >>> BpeTokenizer('{"model": {"vocab": {"l": 0, "o": 1, "w": 2, "lo": 3, "low": 4}}}').token_bytes()
    array([1, 1, 1, 2, 3])
    """

    def __init__(self, model: str) -> None:
        self.model = model
        try:
            vocabulary = json.loads(model)["model"]["vocab"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"model: expected the JSON of a tokenizers BPE model, got an error: {error!r}") from None
        self.vocab_size = len(vocabulary)
        # In the byte-level alphabet one printable character stands for one byte.
        self._widths = np.zeros(self.vocab_size, np.int64)
        for token, number in vocabulary.items():
            self._widths[number] = len(token)

    @classmethod
    def train(cls, texts: str | Iterable[str], vocab_size: int = 8192) -> BpeTokenizer:
        """Learn the merges from texts.

        Parameters
        ----------
        texts : str or iterable of str
        vocab_size : int, default 8192
            At least 256. A small text may yield fewer.

        Raises
        ------
        OptionError
            A vocabulary too small for the bytes.
        DataError
            The package tokenizers is not installed.
        """
        size = integer("vocab_size", vocab_size, 256)
        tokenizers = _tokenizers()
        tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = tokenizers.decoders.ByteLevel()
        trainer = tokenizers.trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[],
            initial_alphabet=sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        tokenizer.train_from_iterator([texts] if isinstance(texts, str) else texts, trainer)
        return cls(tokenizer.to_str())

    @cached_property
    def _tokenizer(self) -> Any:
        # Made when first used: ids can be read and counted where the package is not installed.
        return _tokenizers().Tokenizer.from_str(self.model)

    def encode(self, text: str) -> np.ndarray:
        """Ids of `text`, in the smallest unsigned dtype that holds the vocabulary."""
        check_text(text)
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            # The package says of these only that the text is no str.
            raise DataError(
                f"text: expected characters that UTF-8 can express, got a lone surrogate at position {error.start}"
            ) from None
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        return np.array(ids, smallest_unsigned(self.vocab_size))

    def decode(self, ids: Any) -> str:
        """The text of `ids`; bytes that are not UTF-8 (a cut inside a character) become U+FFFD."""
        text: str = self._tokenizer.decode(check_ids(ids, self.vocab_size).tolist(), skip_special_tokens=False)
        return text

    def token_bytes(self) -> np.ndarray:
        """Bytes of each token, int64, shape (V,)."""
        return self._widths

    def to_dict(self) -> dict[str, Any]:
        """``{"type": "bpe", "model": ...}``."""
        return {"type": "bpe", "model": json.loads(self.model)}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> BpeTokenizer:
        """The inverse of :meth:`to_dict`."""
        return cls(json.dumps(description["model"]))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BpeTokenizer) and json.loads(other.model) == json.loads(self.model)

    def __hash__(self) -> int:
        return hash(("bpe", self.vocab_size))

    def __repr__(self) -> str:
        return f"BpeTokenizer({self.vocab_size} tokens)"
