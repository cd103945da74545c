"""The training loop: batches, gradient, update, held-out data, callbacks."""

from fastnll.training.held_out import Split, split
from fastnll.training.loop import fit
from fastnll.training.run import Run, evaluate, total_steps

__all__ = ["Run", "Split", "evaluate", "fit", "split", "total_steps"]
