"""Stochastic gradient descent, in place, one pass over each array.

The update is that of ``torch.optim.SGD``; the formula is in :func:`fastnll.ops.sgd_update`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from fastnll import events, ops
from fastnll.clipping import clip_factor, global_norm
from fastnll.errors import DataError, DTypeError, OptionError, ShapeError
from fastnll.schedules import check_rate

__all__ = ["SGD"]

Array = npt.NDArray[Any]
_OPTIONS = ("lr", "momentum", "dampening", "nesterov", "weight_decay", "maximize")
# What the update can write in place; sixteen-bit parameters are updated with float32 arithmetic.
_DTYPES = ("float64", "float32", "float16", "bfloat16")


class SGD:
    """SGD with momentum, dampening, Nesterov's form, weight decay and clipping by the global norm.

    Parameters
    ----------
    params : dict of ndarray, list of ndarray, or list of groups
        Updated in place by `step`. Arrays of a list are named "0", "1", ... A group is a dict with "params" (a
        dict or a list) and any of the options below, which then hold for these parameters.
    lr : float
        Learning rate, at least 0.
    momentum : float, default 0.0
        Share of the last direction that is kept.
    dampening : float, default 0.0
        The gradient enters the momentum times 1 - dampening; the first gradient enters whole.
    nesterov : bool, default False
        Look ahead along the momentum; needs momentum above 0 and no dampening.
    weight_decay : float, default 0.0
        Adds ``weight_decay * param`` to the gradient (after clipping, which sees the loss alone).
    maximize : bool, default False
        Ascend.
    max_norm : float, optional
        Scale the gradients of all groups together so that their norm is at most this.

    Attributes
    ----------
    params : dict of ndarray
        Every parameter by name, of all groups.
    param_groups : list of dict
        The groups with their options, as in PyTorch; options may be changed between steps.

    Raises
    ------
    OptionError
        An option out of range, Nesterov without momentum, a name that occurs twice, arrays that overlap.
    DTypeError
        A parameter that is not a writeable C-contiguous array of floats.

    Notes
    -----
    A group's own `lr` is relative to that of the optimiser: setting ``optimizer.lr`` scales all groups alike, so one
    schedule drives them all.

    Examples
    --------
    >>> params = {"w": np.array([1.0, 2.0])}
    >>> sgd = SGD(params, lr=0.1, momentum=0.9)
    >>> for _ in range(2):
    ...     _ = sgd.step({"w": np.array([0.5, -0.5])})
    >>> params["w"].round(3).tolist()
    [0.855, 2.145]
    """

    def __init__(
        self,
        params: Any,
        lr: float,
        *,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        maximize: bool = False,
        max_norm: float | None = None,
    ) -> None:
        self._lr = check_rate("lr", lr)
        self.max_norm = max_norm
        defaults: dict[str, Any] = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "nesterov": nesterov,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        self.params: dict[str, Array] = {}
        self.param_groups: list[dict[str, Any]] = []
        self._buffers: dict[str, Array] = {}
        if isinstance(params, Mapping) and "params" in params and not isinstance(params["params"], np.ndarray):
            raise OptionError("params: expected a dict of arrays or a list of groups, got one group; put it in a list")
        groups = [dict(g) for g in params] if _is_groups(params) else [{"params": params}]
        for number, group in enumerate(groups):
            where = f"params[{number}]" if _is_groups(params) else "params"
            self._add_group(where, group, defaults)
        _refuse_overlap(self.params)
        self._check_options()

    def _add_group(self, where: str, group: dict[str, Any], defaults: dict[str, Any]) -> None:
        unknown = sorted(set(group) - {"params", *_OPTIONS})
        if "params" not in group or unknown:
            got = f"the unknown option {unknown[0]!r}" if unknown else "none"
            raise OptionError(f"{where}: expected 'params' and options among {', '.join(_OPTIONS)}, got {got}")
        named = _named(where, group.pop("params"), first=len(self.params))
        for name, array in named.items():
            if name in self.params:
                raise OptionError(f"{where}: expected every parameter in one group, got {name!r} twice")
            self.params[name] = _checked_param(name, array)
        self.param_groups.append({"params": named, **defaults, **group})

    def _check_options(self) -> None:
        if self.max_norm is not None and check_rate("max_norm", self.max_norm) == 0:
            raise OptionError("max_norm: expected a number above 0, got 0; leave it out for no clipping")
        for group in self.param_groups:
            for name in ("lr", "momentum", "weight_decay"):
                group[name] = check_rate(name, group[name])
            group["dampening"] = check_rate("dampening", group["dampening"], least=-np.finfo(float).max)
            if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
                raise OptionError(
                    "nesterov: expected momentum above 0 and dampening 0 beside it, "
                    f"got momentum={group['momentum']:g}, dampening={group['dampening']:g}"
                )

    @property
    def lr(self) -> float:
        """The learning rate; setting it scales the rate of every group."""
        return self._lr

    @lr.setter
    def lr(self, value: float) -> None:
        new = check_rate("lr", value)
        for group in self.param_groups:
            # A schedule may pass through 0, from where a ratio could not be recovered: it is kept.
            ratio = group.setdefault("lr_ratio", group["lr"] / self._lr if self._lr else 1.0)
            group["lr"] = new * ratio
        self._lr = new

    @events.framed("SGD.step")
    def step(self, grads: Any, *, scale: float = 1.0) -> float | None:
        """Update every parameter.

        Parameters
        ----------
        grads : dict of ndarray, or list in the order of the parameters
            A gradient for every parameter, of its shape and dtype; None leaves that parameter as it is. Not modified.
        scale : float, default 1.0
            Multiplies the gradients on their way: 1 / n makes the mean of a sum.

        Returns
        -------
        float or None
            The global norm of the scaled gradients before clipping; None without `max_norm`.

        Raises
        ------
        OptionError
            A name that is missing or unknown.
        ShapeError, DTypeError
            A gradient that does not fit its parameter. Nothing has been updated then.
        DivergenceError
            With `max_norm`: a gradient that is not finite. Nothing has been updated.
        """
        self._check_options()
        given = self._checked_grads(grads)
        norm = None
        if self.max_norm is not None:
            norm = global_norm(given, scale)
            scale *= clip_factor(norm, self.max_norm)
        for group in self.param_groups:
            options = {name: group[name] for name in _OPTIONS}
            for name, param in group["params"].items():
                if name not in given:
                    continue
                first = bool(group["momentum"]) and name not in self._buffers
                if first:
                    self._buffers[name] = np.empty_like(param)
                ops.sgd_update(
                    param, given[name], self._buffers.get(name), grad_scale=scale, first_step=first, **options
                )
        return norm

    def _checked_grads(self, grads: Any) -> dict[str, Array]:
        if not isinstance(grads, Mapping):
            if len(grads) != len(self.params):
                raise ShapeError(f"grads: expected {len(self.params)} arrays, one a parameter, got {len(grads)}")
            grads = dict(zip(self.params, grads, strict=True))
        unknown = [name for name in grads if name not in self.params]
        missing = [name for name in self.params if name not in grads]
        if unknown or missing:
            got = f"unknown {unknown[0]!r}" if unknown else f"no {missing[0]!r} (None says: leave it)"
            raise OptionError(f"grads: expected one for each of {', '.join(map(repr, self.params))}, got {got}")
        # Arithmetic on an array of no axes gives a NumPy scalar, which is as good a gradient.
        given = {n: np.asarray(g) if isinstance(g, np.generic) else g for n, g in grads.items() if g is not None}
        for name, grad in given.items():
            param = self.params[name]
            if not isinstance(grad, np.ndarray):
                raise DTypeError(f"grads[{name!r}]: expected a numpy array, got {type(grad).__name__}")
            if grad.shape != param.shape:
                raise ShapeError(f"grads[{name!r}]: expected shape {param.shape} (the parameter's), got {grad.shape}")
            if grad.dtype != param.dtype:
                raise DTypeError(f"grads[{name!r}]: expected dtype {param.dtype} (the parameter's), got {grad.dtype}")
        return given

    def state_dict(self) -> dict[str, Any]:
        """Options and momentum, in PyTorch's layout with names for indices.

        Returns
        -------
        dict
            "param_groups": options with the names of their parameters, JSON values all; "state": by name,
            {"momentum_buffer": ndarray}. The arrays are those in use, not copies.
        """
        groups = [{**group, "params": list(group["params"])} for group in self.param_groups]
        state = {name: {"momentum_buffer": buffer} for name, buffer in self._buffers.items()}
        return {"state": state, "param_groups": groups, "lr": self._lr, "max_norm": self.max_norm}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over options and momentum; the arrays are copied.

        Raises
        ------
        DataError
            A state of other groups or parameters. Nothing has been changed then.
        ShapeError, DTypeError
            A momentum buffer that does not fit its parameter.
        """
        expected = [list(group["params"]) for group in self.param_groups]
        found = [list(group["params"]) for group in state["param_groups"]]
        stray = sorted(set(state["state"]) - set(self.params))
        if expected != found or stray:
            raise DataError(f"state: expected that of the parameter groups {expected}, got {found}{stray or ''}")
        buffers = {}
        for name, entry in state["state"].items():
            buffer, param = entry["momentum_buffer"], self.params[name]
            if buffer.shape != param.shape:
                raise ShapeError(f"momentum_buffer of {name!r}: expected shape {param.shape}, got {buffer.shape}")
            if buffer.dtype != param.dtype:
                raise DTypeError(f"momentum_buffer of {name!r}: expected dtype {param.dtype}, got {buffer.dtype}")
            buffers[name] = np.array(buffer, order="C")
        self._buffers, self._lr, self.max_norm = buffers, check_rate("lr", state["lr"]), state["max_norm"]
        for group, saved in zip(self.param_groups, state["param_groups"], strict=True):
            group.update({name: value for name, value in saved.items() if name != "params"})
        self._check_options()

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={self.param_groups[0][name]}" for name in _OPTIONS)
        groups = f"{len(self.param_groups)} groups, " if len(self.param_groups) > 1 else ""
        return f"SGD({groups}{len(self.params)} arrays, {options}, max_norm={self.max_norm})"


def _is_groups(params: Any) -> bool:
    return isinstance(params, Sequence) and bool(params) and all(isinstance(group, Mapping) for group in params)


def _named(where: str, params: Any, first: int) -> dict[str, Array]:
    if isinstance(params, Mapping):
        named = dict(params)
    elif isinstance(params, Sequence):
        named = {str(first + i): array for i, array in enumerate(params)}
    else:
        raise DTypeError(f"{where}: expected a dict or list of arrays, got {type(params).__name__}")
    if not named:
        raise OptionError(f"{where}: expected at least one array, got none")
    return named


def _checked_param(name: str, array: Any) -> Array:
    if not isinstance(array, np.ndarray) or array.dtype.name not in _DTYPES or not array.dtype.isnative:
        got = str(array.dtype) if isinstance(array, np.ndarray) else type(array).__name__
        raise DTypeError(f"params[{name!r}]: expected an array of {', '.join(_DTYPES)}, got {got}")
    if not (array.flags.c_contiguous and array.flags.writeable):
        kind = "read-only" if array.flags.c_contiguous else "strided"
        raise DTypeError(f"params[{name!r}]: expected a writeable C-contiguous array, got a {kind} one; pass a copy")
    return array


def _refuse_overlap(params: Mapping[str, Array]) -> None:
    # C-contiguous arrays overlap exactly if their address ranges do: neighbours in order of address tell.
    spans = sorted((a.__array_interface__["data"][0], a.nbytes, name) for name, a in params.items() if a.size)
    for (start, size, one), (following, _, other) in pairwise(spans):
        if start + size > following:
            raise OptionError(f"params: expected separate arrays, got {one!r} and {other!r} in the same memory")
