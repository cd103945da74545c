"""A tokenizer of names separated by blanks, for sequences that are not text (opcodes, states, events)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastnll.data.checks import check_ids, check_text, smallest_unsigned
from fastnll.errors import DataError

__all__ = ["NameTokenizer"]


class NameTokenizer:
    """Names separated by blanks: for sequences that are not text (opcodes, states, events).

    Parameters
    ----------
    names : sequence of str
        The vocabulary, each name once and without blanks; its position is its id.

    Examples
    --------
    >>> NameTokenizer(["H", "T"]).encode("H T H H")
    array([0, 1, 0, 0], dtype=uint8)
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._ids = {name: i for i, name in enumerate(self.names)}
        for position, name in enumerate(self.names):
            if not isinstance(name, str) or name.split() != [name]:
                raise DataError(f"names: expected names without blanks, got {name!r} at position {position}")
        if not self.names or len(self._ids) < len(self.names):
            raise DataError(f"names: expected different names, got {len(self.names)} of which {len(self._ids)} differ")

    @property
    def vocab_size(self) -> int:
        """V, the number of names."""
        return len(self.names)

    def encode(self, text: str) -> np.ndarray:
        """Ids of the names in `text`; an unknown one is a :class:`DataError`."""
        check_text(text)
        words = text.split()
        bad = [i for i, word in enumerate(words) if word not in self._ids]
        if bad:
            raise DataError(
                f"text: expected names of the {self.vocab_size} this tokenizer knows, got {words[bad[0]]!r} "
                f"at word {bad[0]}; {len(bad)} of {len(words)} are unknown"
            )
        return np.array([self._ids[word] for word in words], smallest_unsigned(self.vocab_size))

    def decode(self, ids: Any) -> str:
        """The names of `ids`, separated by one blank."""
        return " ".join(self.names[i] for i in check_ids(ids, self.vocab_size).tolist())

    def token_bytes(self) -> None:
        """None: a name is a label, not a number of bytes of text."""

    def to_dict(self) -> dict[str, Any]:
        """``{"type": "names", "names": [...]}``."""
        return {"type": "names", "names": list(self.names)}

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> NameTokenizer:
        """The inverse of :meth:`to_dict`."""
        return cls(description["names"])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NameTokenizer) and other.names == self.names

    def __hash__(self) -> int:
        return hash(self.names)

    def __repr__(self) -> str:
        return f"NameTokenizer({self.vocab_size} names)"
