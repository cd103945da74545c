"""The processes of a job, and the few things they say to each other: MPI's collectives and nothing else."""

from __future__ import annotations

import os
import sys
import time
import zlib
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll import config, events
from fastnll.errors import BackendError, OptionError

__all__ = ["Ranks", "abort_on_error", "checksum", "current", "share_of_cores", "world"]

Array = npt.NDArray[Any]

# What `fastnll launch` made this process a rank of; None in an ordinary process.
_current: Ranks | None = None


class Ranks:
    """An MPI communicator as sums need it.

    Every method but `share` and `shares` is collective: all ranks call it, in the same order.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm, optional
        Default: all processes of the job.

    Attributes
    ----------
    rank, size : int
    root : bool
        Whether this is rank 0, the only one that writes files and prints.
    sent : int
        Bytes of arrays that this rank has had to send so far, whatever the collectives' algorithms are: what it has of
        others' slices, and its own slice to everybody.

    Raises
    ------
    BackendError
        mpi4py, or the MPI library behind it, is missing.
    """

    def __init__(self, comm: Any = None) -> None:
        self.comm = world() if comm is None else comm
        self.rank, self.size = int(self.comm.Get_rank()), int(self.comm.Get_size())
        self.root = self.rank == 0
        self.sent = 0

    def share(self, n: int, rank: int | None = None) -> tuple[int, int]:
        """Return the slice of n consecutive items that is dealt to a rank (this one, where none is named)."""
        who = self.rank if rank is None else rank
        return who * n // self.size, (who + 1) * n // self.size

    def shares(self, n: int) -> Array:
        """Return how many of n consecutive items each rank has, int64, shape (size,)."""
        bounds = np.arange(self.size + 1, dtype=np.int64) * n // self.size
        sizes: Array = np.diff(bounds)
        return sizes

    @events.framed("mpi.gather")
    def gather(self, mine: Array, counts: Array) -> Array:
        """Return what all ranks have, in the order of the ranks.

        Parameters
        ----------
        mine : ndarray, shape (counts[rank],)
        counts : ndarray of int64, shape (size,)
        """
        everything = np.empty(int(counts.sum()), mine.dtype)
        sizes = counts * mine.itemsize
        self.sent += mine.nbytes * (self.size - 1)
        self.comm.Allgatherv(_bytes(mine), [_bytes(everything), (sizes, _starts(sizes))])
        return everything

    def gather_ragged(self, mine: Array) -> list[Array]:
        """Return what each rank has, where the others do not know how much that is."""
        counts = self.gather(np.array([mine.size], np.int64), np.ones(self.size, np.int64))
        return np.split(self.gather(mine, counts), np.cumsum(counts)[:-1])

    @events.framed("mpi.exchange")
    def exchange(self, mine: Array | None, senders: int, out: Array) -> Array:
        """Give every rank its slice of the vectors that the first `senders` ranks have.

        Parameters
        ----------
        mine : ndarray, shape (P,), or None where this rank is not among them
        senders : int
        out : ndarray, shape (senders, P of this rank)
            Row q becomes this rank's slice of rank q's vector.
        """
        n = 0 if mine is None else mine.size
        send = self.shares(n) * out.itemsize
        self.sent += int(send.sum() - send[self.rank])
        receive = np.where(np.arange(self.size) < senders, out.shape[1] * out.itemsize, 0)
        source = np.empty(0, out.dtype) if mine is None else mine
        self.comm.Alltoallv(
            [_bytes(source), (send, _starts(send)), _byte_type()],
            [_bytes(out.reshape(-1)), (receive, _starts(receive)), _byte_type()],
        )
        return out

    @events.framed("mpi.reduce_scatter")
    def reduce_scatter(self, mine: Array) -> Array:
        """Return this rank's slice of the sum over all ranks of their float64 vectors, shape (P,)."""
        counts = self.shares(mine.size)
        self.sent += mine.nbytes - 8 * int(counts[self.rank])
        slice_ = np.empty(int(counts[self.rank]), np.float64)
        self.comm.Reduce_scatter(mine, slice_, counts)
        return slice_

    def sum(self, number: int) -> int:
        """Return the sum of an integer over all ranks."""
        return int(self.comm.allreduce(number))

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value on every rank; small things, such as the name of a folder."""
        return self.comm.bcast(value, root=0)

    def check_same(self, name: str, value: Any, advice: str) -> None:
        """Raise OptionError, on every rank, unless all ranks have the same value.

        Parameters
        ----------
        value : any
            Something small that compares and prints.
        """
        values = self.comm.allgather(value)
        others = [rank for rank, other in enumerate(values) if other != values[0]]
        if others:
            ranks = ", ".join(map(str, others[:8])) + (" ..." if len(others) > 8 else "")
            raise OptionError(
                f"{name}: expected the same on every rank, got {values[0]} on rank 0 and {values[others[0]]} on rank "
                f"{others[0]} ({len(others)} of {self.size} ranks differ from rank 0: {ranks}); {advice}"
            )

    def __repr__(self) -> str:
        return f"Ranks(rank {self.rank} of {self.size})"


def world() -> Any:
    """Return the communicator of all processes of the job; initialises MPI.

    Raises
    ------
    BackendError
        mpi4py, or the MPI library behind it, is missing.
    """
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise BackendError(
            f"mpi4py: expected to be installed with an MPI library, got {error}; pip install 'fastnll[mpi]'"
        ) from None
    return MPI.COMM_WORLD


def current() -> Ranks | None:
    """Return the ranks this process is one of, if `fastnll launch` started it; None in any other process.

    Examples
    --------
    >>> current() is None
    True
    """
    return _current


def activate(comm: Any = None) -> Ranks:
    """Make this process a rank: `current` has it from now on, and an error of this process ends the whole job."""
    global _current
    _current = Ranks(comm)
    abort_on_error(_current.comm)
    return _current


def abort_on_error(comm: Any) -> None:
    """End all processes of the job when this one ends by an uncaught error, after the error has been printed.

    Without it the others wait for ever, in a collective that this process no longer joins. Called by
    `DistributedObjective`; once is enough, and again does nothing. ``sys.exit`` is no uncaught error: where a script
    may call it on one rank alone, start it with ``fastnll launch`` or ``python -m mpi4py``.
    """
    if comm.Get_size() == 1 or isinstance(sys.excepthook, _Aborting):
        return
    sys.excepthook = _Aborting(sys.excepthook, comm)


def end_all(comm: Any, code: int) -> None:
    """End all processes of the job with an exit code, after what this one has printed has left it."""
    sys.stdout.flush()
    sys.stderr.flush()
    # What mpiexec has not read yet when the job ends is lost.
    time.sleep(0.2)
    comm.Abort(code)


class _Aborting:
    def __init__(self, hook: Any, comm: Any) -> None:
        self._hook, self._comm = hook, comm

    def __call__(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        try:
            self._hook(kind, error, trace)
            print(f"fastnll: rank {self._comm.Get_rank()} of {self._comm.Get_size()} failed", file=sys.stderr)
        finally:
            end_all(self._comm, 130 if issubclass(kind, KeyboardInterrupt) else 1)


def share_of_cores(comm: Any) -> int:
    """Return how many threads a rank should use: the cores of its machine, shared among the ranks there.

    Collective. Ranks that the launcher has bound to cores of their own have those; a core that several ranks
    may use counts in parts. At least 1.

    Notes
    -----
    Two ranks of two threads each on two cores do not run at the speed of two threads: a rank that waits in a
    collective does so busily, and the threads of one block wait for a core that the other rank's wait takes.
    """
    from mpi4py import MPI

    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    try:
        mine = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
        users: dict[int, int] = {}
        for cores in node.allgather(mine):
            for core in cores:
                users[core] = users.get(core, 0) + 1
    finally:
        node.Free()
    part = sum(1 / users[core] for core in mine) / len(mine)
    return max(1, int(config.available_cores() * part + 1e-9))


def checksum(array: Array) -> int:
    """Return the CRC-32 of an array's numbers.

    Examples
    --------
    >>> checksum(np.arange(3, dtype=np.uint8))
    139757951
    """
    return zlib.crc32(_bytes(array).data)


def _bytes(array: Array) -> Array:
    # MPI has no bfloat16, and needs none to move it.
    return np.ascontiguousarray(array).view(np.uint8)


def _byte_type() -> Any:
    from mpi4py import MPI

    return MPI.BYTE


def _starts(sizes: Array) -> Array:
    return np.cumsum(sizes) - sizes
