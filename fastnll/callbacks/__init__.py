"""What may happen around the steps of a run: a progress bar, metrics, checkpoints, a clean stop.

A callback is any object with the methods of :class:`Callback`; deriving from it saves writing the empty ones.
"""

from fastnll.callbacks.base import Callback
from fastnll.callbacks.records import CsvLines, JsonLines, TensorBoard
from fastnll.callbacks.saving import Checkpoints
from fastnll.callbacks.terminal import ProgressBar, StopOnSignal

__all__ = ["Callback", "Checkpoints", "CsvLines", "JsonLines", "ProgressBar", "StopOnSignal", "TensorBoard"]
