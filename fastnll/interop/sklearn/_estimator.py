"""The estimator: scikit-learn's conventions around the objective."""

from __future__ import annotations

import warnings
from numbers import Integral, Real
from typing import Any, ClassVar, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model._base import LinearClassifierMixin, SparseCoefMixin
from sklearn.utils import check_random_state, compute_class_weight
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fastnll import ops
from fastnll.interop.sklearn._minimise import minimise
from fastnll.interop.sklearn._rows import WeightedRows
from fastnll.interop.sklearn._sgd import descend

__all__ = ["SoftmaxRegression"]

Array = npt.NDArray[Any]


class SoftmaxRegression(LinearClassifierMixin, SparseCoefMixin, BaseEstimator):  # type: ignore[misc]
    r"""Logistic regression over any number of classes: `sklearn.linear_model.LogisticRegression`, on all cores.

    .. math:: \min_{W, b}\ \sum_i s_i\,\mathrm{CE}(W x_i + b, y_i) + \tfrac{1}{2C} \lVert W \rVert^2

    The coefficients are those of `LogisticRegression` with the same `C`, for two classes too; the intercepts are not
    penalised.

    Parameters
    ----------
    C : float, default 1.0
        Inverse of the strength of the penalty; `numpy.inf` for none.
    fit_intercept : bool, default True
    class_weight : dict, "balanced" or None
        Factors of the classes' sample weights.
    solver : {"lbfgs", "sgd"}, default "lbfgs"
        "lbfgs" finds the minimum; "sgd" goes `max_iter` times over the rows and ends near it.
    tol : float, default 1e-6
        lbfgs: how far, by the curvature at hand, a coefficient may still be from its optimum. `LogisticRegression` has
        a bound of the gradient under that name, and its default leaves coefficients off by some thousandths.
    max_iter : int, default 100
        Steps of lbfgs, or epochs of sgd.
    learning_rate : float, default 0.5
        sgd: the first step as a part of what the curvature allows; it falls linearly to 0.
    momentum : float, default 0.9
        sgd.
    batch_size : int, default 256
        sgd.
    warm_start : bool, default False
        Begin at the last fit's coefficients.
    random_state : int, RandomState or None
        sgd: the order of the rows. lbfgs draws nothing.
    n_jobs : int or None
        Threads; None: what `fastnll.using`, the environment and the machine say.

    Attributes
    ----------
    classes_ : ndarray (V,)
    coef_ : ndarray (V, D), or (1, D) for two classes
        In the dtype of the features it was fitted to: float64 or float32.
    intercept_ : ndarray (V,), or (1,)
    n_iter_ : ndarray (1,)
        Steps on all rows.
    n_features_in_ : int
    feature_names_in_ : ndarray (D,)
        Where the features came with names.

    References
    ----------
    `fastnll.interop.sklearn._minimise.minimise` names the methods.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> features, species = load_iris(return_X_y=True)
    >>> round(float(SoftmaxRegression().fit(features, species).score(features, species)), 3)
    0.973
    """

    _parameter_constraints: ClassVar[dict[str, list[Any]]] = {
        "C": [Interval(Real, 0, None, closed="right")],  # infinity, for no penalty, is one
        "fit_intercept": ["boolean"],
        "class_weight": [dict, StrOptions({"balanced"}), None],
        "solver": [StrOptions({"lbfgs", "sgd"})],
        "tol": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "learning_rate": [Interval(Real, 0, None, closed="neither")],
        "momentum": [Interval(Real, 0, 1, closed="left")],
        "batch_size": [Interval(Integral, 1, None, closed="left")],
        "warm_start": ["boolean"],
        "random_state": ["random_state"],
        "n_jobs": [None, Integral],
    }

    def __init__(
        self,
        *,
        C: float = 1.0,
        fit_intercept: bool = True,
        class_weight: Any = None,
        solver: str = "lbfgs",
        tol: float = 1e-6,
        max_iter: int = 100,
        learning_rate: float = 0.5,
        momentum: float = 0.9,
        batch_size: int = 256,
        warm_start: bool = False,
        random_state: Any = None,
        n_jobs: int | None = None,
    ) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.solver = solver
        self.tol = tol
        self.max_iter = max_iter
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.batch_size = batch_size
        self.warm_start = warm_start
        self.random_state = random_state
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the coefficients.

        Parameters
        ----------
        X : array or sparse matrix (N, D)
            float64 and float32 are computed in as they are.
        y : array (N,)
            Class labels.
        sample_weight : array (N,), optional

        Returns
        -------
        SoftmaxRegression
            Itself.

        Raises
        ------
        ValueError
            For data or parameters that mean nothing, in scikit-learn's words.
        """
        self._validate_params()
        X, y = validate_data(
            self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32], order="C", accept_large_sparse=False
        )
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        v = self.classes_.size
        if v < 2:
            raise ValueError(
                "This solver needs samples of at least 2 classes in the data, but the data contains only one class: "
                f"{self.classes_[0]!r}"
            )
        weights = self._weights(X, y, labels, sample_weight)
        # Two classes: the penalty of half the difference twice is half that of the difference once.
        l2 = (2.0 if v == 2 else 1.0) / self.C
        problem = WeightedRows(
            X,
            labels.astype(np.int32),
            v,
            weights,
            l2,
            intercept=bool(self.fit_intercept),
            threads=None if self.n_jobs in (None, -1) else max(1, int(self.n_jobs)),
        )
        theta = self._start(problem)
        if self.solver == "sgd":
            theta = descend(
                problem,
                theta,
                epochs=int(self.max_iter),
                batch_size=int(self.batch_size),
                learning_rate=float(self.learning_rate),
                momentum=float(self.momentum),
                random=check_random_state(self.random_state),
            )
            n_iter = int(self.max_iter)
        else:
            theta, n_iter, converged = minimise(problem, theta, float(self.tol), int(self.max_iter))
            if not converged:
                warnings.warn(
                    f"lbfgs took all of max_iter={self.max_iter} steps and was not there; raise max_iter, or scale the "
                    "features",
                    ConvergenceWarning,
                    stacklevel=2,
                )
        self._keep(problem, theta)
        self.n_iter_ = np.array([n_iter], dtype=np.int32)
        return self

    def _weights(self, X: Any, y: Array, labels: Array, sample_weight: Any) -> Array | None:
        if sample_weight is None and self.class_weight is None:
            return None
        weights = np.asarray(_check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True))
        if self.class_weight is not None:
            # "balanced" balances the weighted classes, as LogisticRegression does.
            given = {"sample_weight": weights} if self.class_weight == "balanced" else {}
            factors = compute_class_weight(self.class_weight, classes=self.classes_, y=y, **given)
            weights = weights * factors[labels]
        return weights

    def _start(self, problem: WeightedRows) -> Array:
        theta = np.zeros(problem.shape)
        if self.warm_start and getattr(self, "coef_", None) is not None:
            coef = np.asarray(self.coef_.toarray() if hasattr(self.coef_, "toarray") else self.coef_)
            v = theta.shape[0]
            if coef.shape == (1 if v == 2 else v, problem.d):
                both = np.hstack([coef, self.intercept_.reshape(-1, 1)])[:, : theta.shape[1]]
                theta[...] = np.vstack([-0.5 * both, 0.5 * both]) if v == 2 else both
        return theta

    def _keep(self, problem: WeightedRows, theta: Array) -> None:
        # One number added to all intercepts changes nothing; LogisticRegression's add up to 0.
        theta[:, problem.d :] -= theta[:, problem.d :].mean(axis=0)
        kept = theta[1:] - theta[:1] if theta.shape[0] == 2 else theta
        kind = problem.features.dtype
        self.coef_ = kept[:, : problem.d].astype(kind)
        self.intercept_ = (kept[:, problem.d] if self.fit_intercept else np.zeros(kept.shape[0])).astype(kind)

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, (N, V), in the order of `classes_`."""
        return ops.softmax(self._logits(X))

    def predict_log_proba(self, X: Any) -> Array:
        """Return the logarithm of the probability of each class, (N, V)."""
        return ops.log_softmax(self._logits(X))

    def _logits(self, X: Any) -> Array:
        check_is_fitted(self)
        decision = self.decision_function(X)
        if decision.ndim == 1:
            return np.stack([np.zeros_like(decision), decision], axis=1)
        logits: Array = decision
        return logits

    def __sklearn_tags__(self) -> Any:
        """Return what scikit-learn's tools may expect of the estimator."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
