"""Where the time goes, and how far the machine would let it go."""

from fastnll.profiling.cache import cache_path, load, load_or_measure, store
from fastnll.profiling.machine import Machine, describe
from fastnll.profiling.measuring import measure
from fastnll.profiling.probes import make_probes
from fastnll.profiling.roofline import CEILINGS, Bound, Rate, Roofline

__all__ = [
    "CEILINGS",
    "Bound",
    "Machine",
    "Rate",
    "Roofline",
    "cache_path",
    "describe",
    "load",
    "load_or_measure",
    "make_probes",
    "measure",
    "store",
]
