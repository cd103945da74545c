"""The training objective of a model over a dataset."""

from fastnll.objective.certificates import Certificate
from fastnll.objective.core import Objective
from fastnll.objective.selection import select
from fastnll.objective.vectors import ScipyProblem

__all__ = ["Certificate", "Objective", "ScipyProblem", "select"]
