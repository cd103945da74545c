"""scikit-learn's multinomial logistic regression on fastnll: `SoftmaxRegression` beside `LogisticRegression`."""

from fastnll.interop.sklearn._estimator import SoftmaxRegression

__all__ = ["SoftmaxRegression"]
