"""What second derivatives say of an objective: its curvature, and how far parameters are from the argmin."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from fastnll.data.checks import integer
from fastnll.models.base import Grads, Model, Params, compute_dtype
from fastnll.objective.certificates import Certificate, certify, check_certifiable, norm
from fastnll.objective.curvature import diagonal, times
from fastnll.objective.evaluate import RowSum

__all__ = ["SecondOrder"]


class SecondOrder(ABC):
    """The part of `fastnll.objective.Objective` that goes beyond its value and gradient."""

    model: Model
    l2: float
    _rows: RowSum

    @abstractmethod
    def value_and_grad(self, params: Params) -> tuple[float, Grads]:
        """Return the objective and its gradient."""

    @abstractmethod
    def _finished(
        self, grads: Grads, params: Params, share: float = 1.0, *, penalised: Params | None = None
    ) -> Grads: ...

    def gradient_norm(self, params: Params) -> float:
        """Return the Euclidean norm of the objective's gradient, computed in float64 whatever the parameters' dtype.

        Zero at every stationary point: an argmin, if the model is convex.
        """
        return norm(self._exact(params)[2])

    def hvp(self, params: Params, vector: Params) -> Grads:
        """Return the product of the objective's Hessian and a vector.

        The true Hessian, also where a model is not convex (the Gauss-Newton matrix leaves out the curvature of its
        hidden layer), by forward-over-reverse differentiation: exact, in about three times the work of a gradient, and
        from counts where the gradient is.

        Parameters
        ----------
        params : dict of ndarray
        vector : dict of ndarray
            The direction: the parameters' names and shapes, of any float dtype.

        Returns
        -------
        dict of ndarray
            Of the parameters' shapes and dtype; the same bits for any number of threads.

        Raises
        ------
        OptionError, ShapeError, DTypeError
            Parameters or a vector of other names, shapes or dtypes than the model's; no second derivatives.

        Examples
        --------
        >>> from fastnll.data import SequenceDataset
        >>> from fastnll.models import Categorical
        >>> from fastnll.objective import Objective
        >>> tosses = Objective(Categorical(2), SequenceDataset([1, 0, 1, 1]))
        >>> tosses.hvp({"logits": np.zeros(2)}, {"logits": np.array([1.0, 0.0])})["logits"]
        array([ 1., -1.])
        """
        arrays = self.model.check_params(params)
        kind = compute_dtype(next(iter(arrays.values())).dtype)
        tangent = {n: a.astype(kind, copy=False) for n, a in self.model.check_params(vector, "vector").items()}
        return self._finished(times(self._rows, arrays, tangent), arrays, penalised=tangent)

    def hessian_diagonal(self, params: Params) -> Grads:
        """Return the diagonal of the objective's Hessian: the second derivative by each parameter.

        Exact for every model of the package. Most of it costs as much as a gradient; that of an NGram's embedding
        costs H times as much (V H^2 multiplications a row, for H hidden units), since a number of an embedding enters
        all of them: seconds for 10**5 rows of V = 100 and H = 128, too long for V = 8192 and H = 512.

        Returns
        -------
        dict of ndarray
            Of the parameters' shapes and dtype; `l2` is in every entry. At least 0 for a convex model; others have
            negative entries where their loss bends down.

        Raises
        ------
        OptionError
            A model without second derivatives.
        """
        arrays = self.model.check_params(params)
        ones = {name: np.ones((), array.dtype) for name, array in arrays.items()}
        return self._finished(diagonal(self._rows, arrays), arrays, penalised=ones)

    def certificate(self, params: Params, *, iterations: int = 100) -> Certificate:
        """Return how far parameters can be from the argmin: bounds that are proved, for convex models.

        - Table models (Categorical, Bigram) without a penalty: the exact gap and distance, from counts.
        - With ``l2 > 0``: gap at most ``|g|**2 / (2 * l2)``, distance at most ``|g| / l2`` by strong convexity, and a
          tighter gap from duality after a Newton step.
        - SoftmaxRegression without a penalty has no strong convexity, no argmin on data that a hyperplane separates,
          and never a single one. What duality proves is a gap against all parameters of a norm of up to 1000 times
          that of these (or 1000); of the distance to an argmin nothing. Far from the optimum the gap is the value
          itself, since a loss cannot be below 0.

        Parameters
        ----------
        params : dict of ndarray
        iterations : int, default 100
            Products with the Hessian that the Newton step may take; more give a tighter gap. 0 for none.

        Raises
        ------
        OptionError
            A model, or a loss (softcap, z_loss), that is not convex.

        Notes
        -----
        Computed in float64 whatever the dtype of the parameters, and valid up to its rounding.
        `fastnll.objective.certificates` has the derivation.

        Examples
        --------
        >>> from fastnll.data import SequenceDataset
        >>> from fastnll.models import Categorical
        >>> from fastnll.objective import Objective
        >>> tosses = Objective(Categorical(2), SequenceDataset([1, 0, 1, 1]))
        >>> fair, best = ({"logits": np.log([1 - p, p])} for p in (0.5, 0.75))
        >>> found = tosses.certificate(fair)
        >>> round(found.gap, 6), round(found.lower_bound, 6), found.method
        (0.523248, 2.249341, 'counts')
        >>> tosses.certificate(best).gap < 1e-30
        True
        """
        check_certifiable(self._rows)
        arrays, value, grads = self._exact(params)
        return certify(self._rows, arrays, self.l2, value, grads, integer("iterations", iterations, 0))

    def _exact(self, params: Params) -> tuple[Grads, float, Grads]:
        """Return parameters, objective and gradient in float64."""
        arrays = {name: array.astype(np.float64) for name, array in self.model.check_params(params).items()}
        return arrays, *self.value_and_grad(arrays)
