"""The same objective over the processes of an MPI communicator.

    objective = DistributedObjective(Objective(model, dataset), comm)     # comm: MPI.COMM_WORLD where not given
    fit(objective, SGD(params, lr=0.5), steps=1000)                       # every rank runs the same program

Every rank opens the same dataset and holds all parameters. A sum over the rows of the dataset is cut on its grid of
blocks (see :mod:`fastnll.objective.grid`), each rank adds up its share, and the triple (sum of w*loss, sum of w,
gradient sums) is reduced with MPI's collectives; every rank returns the same result, to the bit. A rank is a process on
any machine; inside a rank the blocks are shared out among threads as without MPI.

``fastnll launch -n 4 train ...`` and ``fastnll launch -n 4 script.py`` start the ranks. Without it, start a script as
``mpiexec -n 4 python -m mpi4py script.py``.

mpi4py is imported by what needs it, never by ``import fastnll``.
"""

from fastnll.distributed.launching import find_mpiexec, launch_command, launch_environment
from fastnll.distributed.objective import DistributedObjective
from fastnll.distributed.ranks import Ranks, abort_on_error, current, share_of_cores, world

__all__ = [
    "DistributedObjective",
    "Ranks",
    "abort_on_error",
    "current",
    "find_mpiexec",
    "launch_command",
    "launch_environment",
    "share_of_cores",
    "world",
]
