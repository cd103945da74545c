"""Objectives of a command that `fastnll launch` runs on several processes."""

from __future__ import annotations

from fastnll.objective import Objective

__all__ = ["shared"]


def shared(objective: Objective, *, deterministic: bool = False) -> Objective:
    """Share an objective out among the ranks of this job; in a process of its own it stays as it is.

    Parameters
    ----------
    objective : Objective
    deterministic : bool, default False
        The same bits for any number of ranks.

    Examples
    --------
    >>> from fastnll.data import SequenceDataset
    >>> from fastnll.models import Categorical
    >>> objective = Objective(Categorical(2), SequenceDataset([0, 1]))
    >>> shared(objective) is objective
    True
    """
    from fastnll.distributed import DistributedObjective, current

    ranks = current()
    return objective if ranks is None else DistributedObjective(objective, ranks.comm, deterministic=deterministic)
