"""`fastnll.interop.sklearn.SoftmaxRegression` beside `LogisticRegression`: time to the same coefficients.

    python benchmarks/sklearn_regression.py   # digits, 1,000,000 x 100 twice
    python benchmarks/sklearn_regression.py --rows 100000 --repeats 3

The reference is the minimum: fastnll's own with a tolerance of 1e-9, checked by its gradient, which is printed. Each
contender says how far its coefficients are from it. `LogisticRegression` runs with its default tolerance, and with the
loosest of 1e-5, 1e-6 .. 1e-9 that comes within 1e-5 of the minimum, as `SoftmaxRegression` does by default. Contenders
alternate; medians are compared.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from typing import Any

import numpy as np
from sklearn.datasets import load_digits, make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from fastnll.interop.sklearn import SoftmaxRegression
from fastnll.interop.sklearn._rows import WeightedRows

Array = np.ndarray[Any, Any]
CLASSES, FEATURES = 20, 100


def gaussian(rows: int) -> tuple[Array, Array]:
    """Independent features; labels drawn from a softmax of them."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, FEATURES))
    weight = 0.3 * rng.standard_normal((FEATURES, CLASSES))
    labels = np.empty(rows, np.int64)
    for part in np.array_split(np.arange(rows), max(1, rows // 50000)):
        labels[part] = (x[part] @ weight + rng.gumbel(size=(part.size, CLASSES))).argmax(axis=1)
    return x, labels


def classification(rows: int) -> tuple[Array, Array]:
    """scikit-learn's own: correlated, redundant and useless features."""
    x, labels = make_classification(
        rows, FEATURES, n_informative=30, n_redundant=20, n_classes=CLASSES, n_clusters_per_class=1, random_state=0
    )
    return x, labels


def digits(rows: int) -> tuple[Array, Array]:
    """8 x 8 pixels of 0 to 1."""
    x, labels = load_digits(return_X_y=True)
    return x / 16.0, labels


def parameters(model: Any) -> Array:
    return np.hstack([model.coef_, model.intercept_[:, None]])


def fitted(model: Any, x: Array, y: Array) -> tuple[Array, float]:
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(x, y)
    return parameters(model), time.perf_counter() - start


def compare(name: str, x: Array, y: Array, repeats: int) -> None:
    best, _ = fitted(SoftmaxRegression(tol=1e-9), x, y)
    gradient = WeightedRows(x, y.astype(np.int32), len(best), None, 1.0, intercept=True).value_and_grad(best)[1]
    print(f"{name}: {x.shape[0]} x {x.shape[1]}, {len(best)} classes, {x.dtype}")
    print(f"  minimum: largest component of the mean gradient {np.abs(gradient).max() / len(x):.1e}")
    contenders: dict[str, Any] = {
        "SoftmaxRegression()": SoftmaxRegression(),
        "LogisticRegression()": LogisticRegression(max_iter=10000),
    }
    for exponent in range(5, 10):
        close = LogisticRegression(tol=10.0**-exponent, max_iter=10000)
        found, _ = fitted(close, x, y)
        if np.abs(found - best).max() <= 1e-5:
            break
    contenders[f"LogisticRegression(tol=1e-{exponent})"] = close
    times: dict[str, list[float]] = {key: [] for key in contenders}
    errors = dict.fromkeys(contenders, 0.0)
    for _ in range(repeats):
        for key, model in contenders.items():
            found, seconds = fitted(model, x, y)
            times[key].append(seconds)
            errors[key] = float(np.abs(found - best).max())
    ours = statistics.median(times["SoftmaxRegression()"])
    for key, seconds in times.items():
        middle = statistics.median(seconds)
        print(
            f"  {key:30s} {middle:8.2f} s  {middle / ours:6.2f} x  off by at most {errors[key]:.1e}, "
            f"{contenders[key].n_iter_[0]} steps"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--data", nargs="*", default=["digits", "gaussian", "classification"])
    options = parser.parse_args()
    for name in options.data:
        x, y = {"digits": digits, "gaussian": gaussian, "classification": classification}[name](options.rows)
        compare(name, x, y, options.repeats)


if __name__ == "__main__":
    main()
