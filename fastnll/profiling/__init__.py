"""Where the time goes, and how far the machine would let it go."""

from fastnll.events import waiting
from fastnll.profiling.advice import Advice
from fastnll.profiling.annotate import record_function
from fastnll.profiling.averages import Average, KeyAverages
from fastnll.profiling.cache import cache_path, load, load_or_measure, store
from fastnll.profiling.machine import Machine, describe
from fastnll.profiling.measuring import measure
from fastnll.profiling.probes import make_probes
from fastnll.profiling.profiler import profile
from fastnll.profiling.recording import Recording
from fastnll.profiling.roofline import CEILINGS, Bound, Rate, Roofline
from fastnll.profiling.schedule import ProfilerAction, schedule
from fastnll.profiling.trace import merge_traces

__all__ = [
    "CEILINGS",
    "Advice",
    "Average",
    "Bound",
    "KeyAverages",
    "Machine",
    "ProfilerAction",
    "Rate",
    "Recording",
    "Roofline",
    "cache_path",
    "describe",
    "load",
    "load_or_measure",
    "make_probes",
    "measure",
    "merge_traces",
    "profile",
    "record_function",
    "schedule",
    "store",
    "waiting",
]
