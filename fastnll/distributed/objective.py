"""The objective on many processes."""

from __future__ import annotations

from typing import Any

from fastnll.distributed.ranks import Ranks, abort_on_error, checksum
from fastnll.distributed.rows import SharedRowSum
from fastnll.kernels import registry
from fastnll.objective import Objective

__all__ = ["DistributedObjective"]

# Tokens at either end of the dataset that are compared between ranks.
_ENDS = 1 << 16


class DistributedObjective(Objective):
    """An objective whose sums are computed by all processes of an MPI communicator, with the same result on each.

    Parameters
    ----------
    objective : Objective
        Made by every rank from the same model, dataset and options.
    comm : mpi4py.MPI.Intracomm, optional
        Default: ``MPI.COMM_WORLD``. One process is legal: then this is the objective it was made from.
    deterministic : bool, default False
        Give the same bits for any number of ranks, those of the `objective` on one process. Values, losses of sequences
        and everything that comes from counts have them anyway; this is about gradients. Costs communication: a rank
        sends each group of blocks it computed, instead of the sum of them (see Notes).

    Attributes
    ----------
    ranks : Ranks

    Raises
    ------
    OptionError
        Ranks that differ in model, dataset, loss, penalty, grid, or in the version or instruction set of fastnll;
        later, ranks that give different parameters.
    BackendError
        mpi4py or the MPI library is missing.

    Notes
    -----
    Every method of `Objective` is here. Methods are collective: all ranks call them in the same order with the same
    arguments, as they do when all run the same program. Blocks of rows are what is dealt, so a dataset of one
    long sequence is shared out as well as one of many short ones, and a batch in `fit` like a dataset.

    Gradients: *ordered* (`deterministic`), groups of blocks are dealt to ranks like cards, and the rank that owns a
    slice of the parameters adds that slice of every group in the order of the groups, as one process would. With G
    groups in a batch, R ranks and P float32 parameters a rank sends 4 P G / R bytes, and receives the result, 4 P.
    *By rank* (default), each rank adds up a run of groups in float64 and the sums are reduced: 8 P bytes, then 4 P.

    A batch is cut into ``ceil(n_predicted / block_rows)`` blocks, and no more ranks than that have work in it: with
    many ranks choose `batch_tokens` of at least ``size * block_rows``.

    An uncaught error on any rank ends the job (`abort_on_error`); so does a process that is killed.

    Examples
    --------
    >>> import pytest
    >>> comm = pytest.importorskip("mpi4py.MPI").COMM_SELF
    >>> from fastnll.data import SequenceDataset
    >>> from fastnll.models import Categorical
    >>> objective = Objective(Categorical(2), SequenceDataset([1, 0, 1, 1]))
    >>> shared = DistributedObjective(objective, comm)
    >>> params = objective.model.init()
    >>> shared.value(params) == objective.value(params)
    True
    """

    def __init__(self, objective: Objective, comm: Any = None, *, deterministic: bool = False) -> None:
        self.__dict__.update(objective.__dict__)
        self.ranks, self.deterministic = Ranks(comm), bool(deterministic)
        abort_on_error(self.ranks.comm)
        self._check_same(objective)
        rounded = not self.l2
        self._rows = SharedRowSum(objective._rows, self.ranks, self.deterministic, rounded)
        same = objective._plain is objective._rows
        self._plain = self._rows if same else SharedRowSum(objective._plain, self.ranks, self.deterministic, rounded)

    @property
    def is_main(self) -> bool:
        """Whether this process is rank 0, the only one that writes files and prints."""
        return self.ranks.root

    def over(self, dataset: Any) -> DistributedObjective:
        """Return the same objective of another dataset, such as pieces of this one."""
        alone = Objective(self.model, dataset, self.loss, l2=self.l2, counts=self.counts, block_rows=self.block_rows)
        return DistributedObjective(alone, self.ranks.comm, deterministic=self.deterministic)

    def _check_same(self, objective: Objective) -> None:
        """Compare what every rank must have alike, and what would otherwise change bits or hang a collective."""
        rows = objective._rows
        tokens = rows.data.tokens
        ends = checksum(tokens[:_ENDS]), checksum(tokens[-_ENDS:])
        same = self.ranks.check_same
        advice = "every rank has to make the same objective"
        same("model", self.model.config(), advice)
        same("dataset", (len(self.dataset), rows.spans.n_rows, *ends), advice + ", of the same file")
        same("objective", (repr(self.loss), self.l2, self.counts, self.block_rows, self.deterministic), advice)
        chosen = {"backend": registry.backend_name(), "instruction set": registry.isa_name()}
        same("fastnll", chosen, "set FASTNLL_BACKEND, or FASTNLL_ISA to what all machines have")

    def __repr__(self) -> str:
        order = ", deterministic" if self.deterministic else ""
        return f"DistributedObjective({super().__repr__()}, {self.ranks.size} ranks{order})"
