"""The occasions of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from fastnll.errors import OptionError

if TYPE_CHECKING:
    from fastnll.training import Run

__all__ = ["Callback", "positive"]


class Callback:
    """Does nothing at every occasion.

    Every method of an occasion is given the :class:`fastnll.training.Run` in progress; ``run.stop(reason)`` ends it
    after the step. Of a run on many ranks each has its own callbacks: what prints or writes does so only where
    ``run.is_main``, and what one of them stops ends for all.

    Attributes
    ----------
    last : bool
        Whether it comes behind all others at every occasion: what saves the state of the others has to.
    """

    last: ClassVar[bool] = False

    def on_start(self, run: Run) -> None:
        """Before the first step."""

    def on_step(self, run: Run) -> None:
        """After every update; ``run.history.loss[-1]`` is its loss."""

    def on_epoch(self, run: Run) -> None:
        """After the last update of an epoch, behind `on_step`."""

    def on_trained(self, run: Run) -> None:
        """After the last step, before the final evaluation; not after an error."""

    def on_end(self, run: Run) -> None:
        """At the end, also after an error (``run.error``) and for the callbacks of a run that another one failed."""

    def state_dict(self) -> dict[str, Any]:
        """What a continued run has to know, as JSON values; asked for at every checkpoint."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, before `on_start`."""


def positive(name: str, value: Any) -> int:
    """`value` as an integer of at least 1, else `OptionError`.

    Examples
    --------
    >>> positive("every", 5)
    5
    """
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise OptionError(f"{name}: expected an integer of at least 1, got {value!r}")
    return int(value)
