"""A seeded order that is the same on every machine and under every NumPy.

NumPy keeps the right to change the streams of its Generator between versions, and a run that is resumed
elsewhere must see the same batches. So each sequence id gets a 64-bit key from a counter-based hash, and the
order is the stable sort of the keys. More ids than `_SORTED` are not sorted, which takes 16 bytes for each: their order
is a permutation that is computed where it is asked for, one part at a time.
"""

from __future__ import annotations

import numpy as np

from fastnll.data.checks import integer

__all__ = ["Order", "hash_keys", "shuffled"]

# Up to here an order is an array (32 MiB).
_SORTED = 1 << 22
# Rounds of the network, and ids that go through it at a time (1 MiB, which stays in the cache).
_ROUNDS, _PART = 6, 1 << 17

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


def _mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    return z ^ (z >> 31)


def hash_keys(seed: int, epoch: int, ids: np.ndarray) -> np.ndarray:
    """One 64-bit key for each id: SplitMix64 at position `id` of the stream of (seed, epoch).

    Parameters
    ----------
    seed, epoch : int
        At least 0, of any size.
    ids : array of int64, shape (K,)

    Returns
    -------
    ndarray of uint64, shape (K,)

    Notes
    -----
    SplitMix64 (Steele, Lea and Flood, Fast splittable pseudorandom number generators, OOPSLA 2014) adds an
    odd constant to a counter and mixes the sum by two multiply-xorshift rounds, a bijection of 64-bit words:
    keys of one stream never collide.

    Examples
    --------
    >>> [hex(key) for key in hash_keys(0, 0, np.array([0, 1])).tolist()]
    ['0x32d27c10a7f02ef3', '0xbaae22d6613d17f2']
    """
    state = 0
    for number in (integer("seed", seed, 0), integer("epoch", epoch, 0)):
        # Word by word, so that no two seeds of any size share a stream by being cut to 64 bits.
        while True:
            state = _mix((state + _GAMMA + (number & _MASK)) & _MASK)
            number >>= 64
            if not number:
                break
        state = _mix((state + _MIX_1) & _MASK)
    return _stream(state, ids)


def _stream(state: int, ids: np.ndarray) -> np.ndarray:
    """Outputs number `ids` (from 0) of SplitMix64 started at `state`."""
    # Unsigned arrays wrap around in NumPy, silently and by definition.
    z = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(_GAMMA) + np.uint64(state)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX_1)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX_2)
    return z ^ (z >> np.uint64(31))


def shuffled(count: int, *, seed: int = 0, epoch: int = 0) -> np.ndarray:
    """The numbers 0 .. count - 1 in the order of their keys, int64, shape (count,).

    Examples
    --------
    >>> sorted(shuffled(5, seed=1).tolist())
    [0, 1, 2, 3, 4]
    """
    keys = hash_keys(seed, epoch, np.arange(count, dtype=np.int64))
    return np.argsort(keys, kind="stable").astype(np.int64, copy=False)


class Order:
    """A seeded order of the numbers 0 .. count - 1, of which any part can be asked for.

    Parameters
    ----------
    count : int
    seed, epoch : int

    Notes
    -----
    Up to 2**22 numbers: `shuffled`. Above: a Feistel network on the bits of the position, which is a bijection whatever
    its round function is, with SplitMix64 keyed by round, seed and epoch for that; a result of `count` or more goes
    through the network again until it is below (the walk along a cycle of a permutation cannot miss). See R. Mitchell,
    D. Stokes, E. Frank and G. Holmes, "Bandwidth-optimal random shuffling for GPUs", ACM TOPC 9 (2022).

    Examples
    --------
    >>> Order(5, seed=1).part(1, 3).tolist() == shuffled(5, seed=1)[1:3].tolist()
    True
    """

    def __init__(self, count: int, *, seed: int = 0, epoch: int = 0) -> None:
        self.count = count
        self._whole = shuffled(count, seed=seed, epoch=epoch) if count <= _SORTED else None
        # The keys behind those of the numbers themselves.
        self._keys = hash_keys(seed, epoch, np.arange(_ROUNDS, dtype=np.int64) + count).tolist()
        bits = max(2, (count - 1).bit_length())
        self._low = bits // 2
        self._masks = ((1 << (bits - self._low)) - 1, (1 << self._low) - 1)

    def part(self, low: int, high: int) -> np.ndarray:
        """The numbers at the places ``low`` to ``high``, int64."""
        if self._whole is not None:
            return self._whole[low:high]
        numbers = np.empty(high - low, np.int64)
        for start in range(low, high, _PART):
            stop = min(start + _PART, high)
            part = self._network(np.arange(start, stop, dtype=np.uint64))
            while (outside := np.flatnonzero(part >= self.count)).size:
                part[outside] = self._network(part[outside])
            numbers[start - low : stop - low] = part
        return numbers

    def _network(self, x: np.ndarray) -> np.ndarray:
        high, low = x >> np.uint64(self._low), x & np.uint64(self._masks[1])
        for number, key in enumerate(self._keys):
            # The halves may differ by a bit, so each round changes one and keeps the other.
            if number % 2:
                low ^= _stream(key, high) & np.uint64(self._masks[1])
            else:
                high ^= _stream(key, low) & np.uint64(self._masks[0])
        return (high << np.uint64(self._low)) | low
