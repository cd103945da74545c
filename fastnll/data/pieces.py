"""A long stream as pieces of bounded length, with no prediction lost at the cuts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastnll.data.checks import integer, sequence_ids
from fastnll.data.packing import gather
from fastnll.errors import OptionError

if TYPE_CHECKING:
    from fastnll.data.sequences import SequenceDataset
    from fastnll.data.tokenizers import Tokenizer

__all__ = ["Pieces"]


class Pieces:
    """Every sequence of a dataset cut into pieces of at most `max_tokens`; nothing is copied until `take`.

    Parameters
    ----------
    dataset : SequenceDataset
    max_tokens : int
        Tokens of a piece, its context included. Larger than `context`.
    context : int, default 1
        Tokens before the cut that a piece repeats, because its first prediction needs them: 0 for a model
        without context, 1 for a bigram, k for a model that looks k tokens back.

    Attributes
    ----------
    starts, stops : ndarray of int64, shape (P,)
        Piece p is ``dataset.tokens[starts[p]:stops[p]]``.
    n_context : ndarray of int64, shape (P,)
        How many of its leading tokens belong to the piece before (0 for the first of a sequence).
    sequence : ndarray of int64, shape (P,)
        Which sequence a piece is cut from.

    Raises
    ------
    OptionError
        `max_tokens` that leaves no room beside the context.

    Notes
    -----
    A piece predicts its tokens from ``n_context`` on. A first piece predicts what the model predicts of any
    sequence: all tokens (context 0) or all but the first (context >= 1). So the predictions of all pieces,
    one after the other, are exactly those of the uncut dataset. For contexts 0 and 1 that is what a model
    does with a piece anyway. For k > 1 a model would also predict the tokens 1 .. n_context - 1 again, from
    less context: a consumer ignores these rows. With ``context=1`` nothing has to be ignored for any k, but
    the first k - 1 predictions of a piece then see less context than in the uncut sequence (how GPT-style
    training reads its windows).

    Examples
    --------
    >>> from fastnll.data import SequenceDataset
    >>> pieces = SequenceDataset([0, 1, 2, 3, 4, 5, 6]).pieces(3, context=1)
    >>> [piece.tolist() for piece in pieces]
    [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    >>> pieces.take([2]).tokens
    array([4, 5, 6], dtype=uint8)
    """

    def __init__(self, dataset: SequenceDataset, max_tokens: int, context: int = 1) -> None:
        self.dataset = dataset
        self.context = integer("context", context, 0)
        self.max_tokens = integer("max_tokens", max_tokens, 1)
        if self.max_tokens <= self.context:
            raise OptionError(
                f"max_tokens: expected more than the context of {self.context} tokens, got {self.max_tokens}"
            )
        # The first piece is all new tokens; each later one repeats `context` and adds `step`.
        step = self.max_tokens - self.context
        lengths = dataset.lengths
        counts = 1 + np.maximum(lengths - self.max_tokens + step - 1, 0) // step
        self.sequence = np.repeat(np.arange(lengths.size, dtype=np.int64), counts)
        rank = np.arange(self.sequence.size, dtype=np.int64) - np.repeat(np.cumsum(counts) - counts, counts)
        self.starts: np.ndarray = dataset.offsets[self.sequence] + rank * step
        self.stops: np.ndarray = np.minimum(self.starts + self.max_tokens, dataset.offsets[self.sequence + 1])
        self.n_context = np.where(rank > 0, self.context, 0)

    @property
    def n_sequences(self) -> int:
        """P, the number of pieces."""
        return int(self.starts.size)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each piece, its context included, int64, shape (P,)."""
        lengths: np.ndarray = self.stops - self.starts
        return lengths

    @property
    def n_tokens(self) -> int:
        """Tokens of the uncut dataset: repeated context is not counted twice."""
        return self.dataset.n_tokens

    @property
    def vocab_size(self) -> int:
        """V of the uncut dataset."""
        return self.dataset.vocab_size

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of the uncut dataset."""
        return self.dataset.tokenizer

    @property
    def n_bytes(self) -> int | None:
        """Bytes of the uncut dataset."""
        return self.dataset.n_bytes

    def __len__(self) -> int:
        return self.n_sequences

    def __getitem__(self, index: int) -> np.ndarray:
        """Piece `index`, its context included, as a view."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index: expected a piece id below {len(self)}, got {index}")
        piece: np.ndarray = self.dataset.tokens[self.starts[index] : self.stops[index]]
        return piece

    def take(self, ids: Sequence[int] | np.ndarray) -> SequenceDataset:
        """Those pieces, in that order, as a packed copy whose ``n_context`` says what they repeat."""
        which = sequence_ids(ids, self.n_sequences)
        offsets = np.zeros(which.size + 1, np.int64)
        np.cumsum(self.stops[which] - self.starts[which], out=offsets[1:])
        tokens = gather(self.dataset.tokens, self.starts[which], offsets)
        self.dataset.note_read(tokens.nbytes + which.size * (1 << 16))
        part = self.dataset._like(tokens, offsets)
        part.n_context = self.n_context[which]
        return part

    def sha256(self) -> str:
        """Fingerprint of the uncut dataset and the cuts."""
        text = f"{self.dataset.sha256()} {self.max_tokens} {self.context}"
        return hashlib.sha256(text.encode()).hexdigest()

    def __repr__(self) -> str:
        return f"Pieces({self.n_sequences} of at most {self.max_tokens} tokens, of {self.dataset!r})"
