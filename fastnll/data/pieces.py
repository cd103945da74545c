"""A long stream as pieces of bounded length, with no prediction lost at the cuts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from fastnll.data.checks import integer, sequence_ids
from fastnll.data.packing import gather
from fastnll.data.running import RunningTotal
from fastnll.errors import OptionError

if TYPE_CHECKING:
    from fastnll.data.sequences import SequenceDataset
    from fastnll.data.tokenizers import Tokenizer

__all__ = ["Pieces"]


class Pieces:
    """Every sequence of a dataset cut into pieces of at most `max_tokens`; nothing is copied until `take`.

    Where a piece lies is computed when it is asked for (`bounds`): sixteen million pieces take no memory until
    `starts`, `stops`, `n_context`, `sequence` or `lengths` are wanted of all of them.

    Parameters
    ----------
    dataset : SequenceDataset
    max_tokens : int
        Tokens of a piece, its context included. Larger than `context`.
    context : int, default 1
        Tokens before the cut that a piece repeats, because its first prediction needs them: 0 for a model
        without context, 1 for a bigram, k for a model that looks k tokens back.

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
        self._step = self.max_tokens - self.context
        self._before = RunningTotal(len(dataset), self._counts)

    def _counts(self, low: int, high: int) -> np.ndarray:
        """Pieces of the sequences ``low`` to ``high``."""
        lengths = np.diff(self.dataset.offsets[low : high + 1])
        self.dataset.note_read(8 * lengths.size)
        counts: np.ndarray = 1 + np.maximum(lengths - self.max_tokens + self._step - 1, 0) // self._step
        return counts

    def bounds(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where some pieces start and stop in ``dataset.tokens``, and how many tokens each repeats.

        Parameters
        ----------
        ids : ndarray of int64, shape (K,)
            Each in ``[0, P)``.
        """
        sequence, before = self._before.locate(ids)
        rank = ids - before
        starts = self.dataset.offsets[sequence] + rank * self._step
        stops = np.minimum(starts + self.max_tokens, self.dataset.offsets[sequence + 1])
        # A page fault maps the pages around it too: 64 KiB on Linux.
        self.dataset.note_read(min(self.dataset.offsets.nbytes, ids.size << 16))
        return starts, stops, np.where(rank > 0, self.context, 0)

    def lengths_of(self, ids: np.ndarray) -> np.ndarray:
        """Tokens of some pieces, their context included, int64."""
        starts, stops, _ = self.bounds(ids)
        lengths: np.ndarray = stops - starts
        return lengths

    @cached_property
    def _all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.bounds(np.arange(self.n_sequences, dtype=np.int64))

    @property
    def starts(self) -> np.ndarray:
        """Where each piece starts in ``dataset.tokens``, int64, shape (P,)."""
        return self._all[0]

    @property
    def stops(self) -> np.ndarray:
        """Where each piece stops in ``dataset.tokens``, int64, shape (P,)."""
        return self._all[1]

    @property
    def n_context(self) -> np.ndarray:
        """How many leading tokens of each piece belong to the piece before, int64, shape (P,); 0 for a first one."""
        return self._all[2]

    @property
    def sequence(self) -> np.ndarray:
        """Which sequence each piece is cut from, int64, shape (P,)."""
        return self._before.locate(np.arange(self.n_sequences, dtype=np.int64))[0]

    @property
    def n_sequences(self) -> int:
        """P, the number of pieces."""
        return self._before.total

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
        starts, stops, _ = self.bounds(np.array([index % len(self)]))
        piece: np.ndarray = self.dataset.tokens[starts[0] : stops[0]]
        return piece

    def take(self, ids: Sequence[int] | np.ndarray) -> SequenceDataset:
        """Those pieces, in that order, as a packed copy whose ``n_context`` says what they repeat."""
        which = sequence_ids(ids, self.n_sequences)
        starts, stops, n_context = self.bounds(which)
        offsets = np.zeros(which.size + 1, np.int64)
        np.cumsum(stops - starts, out=offsets[1:])
        tokens = gather(self.dataset.tokens, starts, offsets)
        self.dataset.note_read(tokens.nbytes + which.size * (1 << 16))
        part = self.dataset._like(tokens, offsets)
        part.n_context = n_context
        return part

    def sha256(self) -> str:
        """Fingerprint of the uncut dataset and the cuts."""
        text = f"{self.dataset.sha256()} {self.max_tokens} {self.context}"
        return hashlib.sha256(text.encode()).hexdigest()

    def __repr__(self) -> str:
        return f"Pieces({self.n_sequences} of at most {self.max_tokens} tokens, of {self.dataset!r})"
