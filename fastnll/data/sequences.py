"""The in-memory form of every dataset: one array of tokens, one array of offsets.

Sequence i is ``tokens[offsets[i]:offsets[i + 1]]``, the ragged layout of Arrow's LargeListArray. Tokens keep
the dtype they come in: a corpus of 10**9 ids below 65536 is 2 GB here and nowhere widened to 8.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np

from fastnll.data import scans
from fastnll.data.checks import integer, sequence_ids
from fastnll.data.mapping import MappedFile
from fastnll.data.packing import SequencePacker, gather
from fastnll.data.pieces import Pieces
from fastnll.data.ragged import Ragged, read_only
from fastnll.data.tokenizers import ByteTokenizer, Tokenizer
from fastnll.errors import OptionError

__all__ = ["SequenceDataset"]


class SequenceDataset(Ragged):
    """Sequences of token ids of any lengths, packed one after the other.

    Parameters
    ----------
    tokens : array of int, shape (M,)
        The ids of all sequences. Any integer dtype; kept as it is, without a copy, and read-only from here.
        A memory-mapped file is fine. Lists get the smallest unsigned dtype that holds them.
    offsets : array of int, shape (B + 1,), optional
        Where each sequence starts, then where the last one ends. They never fall and lie in ``[0, M]``; the
        first may be larger than 0 (a view into a larger array) and equal neighbours are an empty sequence.
        Default: all tokens are one sequence.
    vocab_size : int, optional
        V: every id is in ``[0, V)``. Default: the largest id plus one.
    tokenizer : Tokenizer, optional
        What made the tokens, for decoding them and for counting the bytes they stand for.
    n_bytes : int, optional
        Bytes of the source, for bits per byte. Default: counted through the tokenizer, where it can.
    source : str, optional
        One line that says where the data come from.
    check : bool, default True
        Scan all tokens for ids outside the vocabulary now. A reader of large files passes False and leaves
        it to :func:`fastnll.data.validate`.
    mapping : MappedFile, optional
        The memory-mapped file that `tokens` is a view of.

    Attributes
    ----------
    tokens : ndarray, shape (M,), read-only
    offsets : ndarray of int64, shape (B + 1,), read-only
    tokenizer, source, mapping
        As given.
    n_context : ndarray of int64, shape (B,), or None
        Leading tokens of each sequence that are only context: set by :meth:`Pieces.take`.

    Raises
    ------
    ShapeError, DTypeError
        Tokens or offsets that are not 1-D arrays of integers.
    DataError
        Offsets that fall or leave the tokens; an id outside the vocabulary (first one, and how many).
    OptionError
        A vocabulary size that is not an integer of at least 1.

    Notes
    -----
    A dataset of no sequences, and sequences of no tokens, are legal: they add nothing to a sum. What cannot
    be computed from nothing (an entropy, a mean) refuses there.

    Examples
    --------
    >>> ds = SequenceDataset([3, 1, 4, 1, 5], [0, 2, 2, 5])
    >>> len(ds), ds.n_tokens, ds.vocab_size, ds.tokens.dtype
    (3, 5, 6, dtype('uint8'))
    >>> ds[2]
    array([4, 1, 5], dtype=uint8)
    >>> ds.take([2, 0]).tokens
    array([4, 1, 5, 3, 1], dtype=uint8)
    """

    def __init__(
        self,
        tokens: Any,
        offsets: Any = None,
        *,
        vocab_size: int | None = None,
        tokenizer: Tokenizer | None = None,
        n_bytes: int | None = None,
        source: str | None = None,
        check: bool = True,
        mapping: MappedFile | None = None,
    ) -> None:
        super().__init__(tokens, offsets, mapping)
        self.tokenizer = tokenizer
        self.source = source
        self.n_context: np.ndarray | None = None
        self._n_bytes = None if n_bytes is None else integer("n_bytes", n_bytes, 0)
        if vocab_size is None and tokenizer is not None:
            vocab_size = tokenizer.vocab_size
        self._vocab_size = None if vocab_size is None else integer("vocab_size", vocab_size, 1)
        if check:
            self.check_tokens()
            if self.n_tokens:
                self._vocab_size = self.vocab_size

    @classmethod
    def from_sequences(
        cls, sequences: Iterable[Any], vocab_size: int | None = None, dtype: Any = None, **info: Any
    ) -> SequenceDataset:
        """Pack an iterable of integer sequences (arrays, lists, rows of a table, a generator).

        Parameters
        ----------
        sequences : iterable of 1-D integer arrays or lists
            Read once, in order.
        vocab_size : int, optional
            Default: the largest id plus one.
        dtype : dtype, optional
            Stored dtype. Default: the smallest unsigned one that holds the vocabulary.
        **info
            `tokenizer`, `n_bytes`, `source`, as for the class.

        Raises
        ------
        ShapeError, DTypeError
            A sequence that is not 1-D or not of integers, by its position.
        DataError
            An id that is negative, outside the vocabulary, or does not fit in `dtype`.

        Examples
        --------
        >>> SequenceDataset.from_sequences([[1, 2, 3], [], [300]])
        SequenceDataset(3 sequences, 4 tokens of uint16, vocabulary of 301)
        """
        if vocab_size is not None:
            vocab_size = integer("vocab_size", vocab_size, 1)
        packer = SequencePacker(vocab_size=vocab_size, dtype=dtype)
        packer.extend(sequences)
        tokens, offsets = packer.finish()
        # The packer has compared every id with the vocabulary as it came by.
        if vocab_size is None and tokens.size:
            vocab_size = packer.largest + 1
        return cls(tokens, offsets, vocab_size=vocab_size, check=False, **info)

    @classmethod
    def from_text(
        cls, text: str | Iterable[str], tokenizer: Tokenizer | None = None, *, source: str | None = None
    ) -> SequenceDataset:
        """Tokenise one text, or several texts as one sequence each.

        Parameters
        ----------
        text : str or iterable of str
        tokenizer : Tokenizer, optional
            Default: :class:`ByteTokenizer`, which encodes any other text as well.
        source : str, optional

        Raises
        ------
        DataError
            A character the tokenizer has no id for.
        DTypeError
            Something that is not a str.

        Examples
        --------
        >>> SequenceDataset.from_text(["abc", "de"]).n_bytes
        5
        """
        tokenizer = ByteTokenizer() if tokenizer is None else tokenizer
        texts = [text] if isinstance(text, str) else text
        return cls.from_sequences(
            (tokenizer.encode(one) for one in texts), tokenizer.vocab_size, tokenizer=tokenizer, source=source
        )

    @property
    def vocab_size(self) -> int:
        """V: every id is in ``[0, V)``. Scanned for at the first call where it was not given."""
        if self._vocab_size is None:
            largest = scans.largest_token(self)
            if largest < 0:
                raise OptionError("vocab_size: expected to be given for a dataset without tokens, got None")
            self._vocab_size = largest + 1
        return self._vocab_size

    @property
    def vocab_known(self) -> bool:
        """Whether `vocab_size` was given or scanned for, so that asking for it costs nothing."""
        return self._vocab_size is not None

    @property
    def vocab_limit(self) -> int:
        """What every id has to be below: V where it is known, else one above what the dtype can hold."""
        known = self._vocab_size
        return int(np.iinfo(self.tokens.dtype).max) + 1 if known is None else known

    @property
    def n_bytes(self) -> int | None:
        """Bytes of the source text, or None where neither the reader nor the tokenizer can tell."""
        if self._n_bytes is None and self.tokenizer is not None:
            widths = self.tokenizer.token_bytes()
            self._n_bytes = None if widths is None else scans.count_bytes(self, widths)
        return self._n_bytes

    @overload
    def __getitem__(self, index: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, index: slice) -> SequenceDataset: ...
    def __getitem__(self, index: int | slice) -> np.ndarray | SequenceDataset:
        """Sequence `index` as a view; for a slice of step 1, those sequences as a dataset of views."""
        if isinstance(index, slice):
            low, high, step = index.indices(self.n_sequences)
            if step != 1:
                raise OptionError(f"index: expected a slice of step 1, got step {step}; use take(ids)")
            return self._like(self.tokens, self.offsets[low : max(low, high) + 1])
        if index < 0:
            index += self.n_sequences
        if not 0 <= index < self.n_sequences:
            # IndexError and nothing else ends a for loop over the dataset.
            raise IndexError(f"index: expected a sequence id below {self.n_sequences}, got {index}")
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[i] for i in range(self.n_sequences))

    def __repr__(self) -> str:
        # A size that is not known yet is a scan of the file away: too much to ask of a repr.
        size = "" if self._vocab_size is None else f", vocabulary of {self._vocab_size}"
        counts = f"{self.n_sequences} sequences, {self.n_tokens} tokens of {self.tokens.dtype}"
        return f"SequenceDataset({counts}{size})"

    def take(self, ids: Sequence[int] | np.ndarray) -> SequenceDataset:
        """Those sequences, in that order, copied into a packed dataset of the same dtype and vocabulary.

        Parameters
        ----------
        ids : array of int, shape (K,)
            Sequence ids in ``[0, B)``; repetitions are legal.

        Raises
        ------
        DataError
            An id out of range: the first one, and how many.
        """
        which = sequence_ids(ids, self.n_sequences)
        starts = self.offsets[which]
        lengths = self.offsets[which + 1] - starts
        offsets = np.zeros(which.size + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        tokens = gather(self.tokens, starts, offsets)
        # A page fault maps the pages around it too: 64 KiB on Linux.
        self.note_read(tokens.nbytes + which.size * (1 << 16))
        return self._like(tokens, offsets)

    def pieces(self, max_tokens: int, context: int = 1) -> Pieces:
        """Cut into :class:`Pieces` of at most `max_tokens`, each with `context` tokens before its cut."""
        return Pieces(self, max_tokens, context)

    def _like(self, tokens: np.ndarray, offsets: np.ndarray) -> SequenceDataset:
        """A part of this dataset: the checks have been made, the byte count has to be made again."""
        size = self._vocab_size if self._vocab_size is not None or not self.n_tokens else self.vocab_size
        part = object.__new__(SequenceDataset)
        part.tokens, part.offsets = read_only(tokens), read_only(offsets)
        part.tokenizer, part.source = self.tokenizer, self.source
        part.mapping = self.mapping if tokens is self.tokens else None
        part.n_context, part._vocab_size, part._n_bytes = None, size, None
        return part

    def check_tokens(self) -> None:
        """Raise :class:`DataError` for the first id outside ``[0, vocab_size)``, with how many there are."""
        scans.check_tokens(self, self.vocab_limit)

    def sha256(self) -> str:
        """A fingerprint of the sequences and the vocabulary size, whatever the dtype and the first offset.

        Returns
        -------
        str
            64 hexadecimal digits: SHA-256 over V, B and M, the sequence lengths, and the ids as little-endian
            32-bit words (64-bit where V is above 2**32).
        """
        return scans.fingerprint(self, self.vocab_size if self.n_tokens or self._vocab_size else 0)
