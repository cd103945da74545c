"""Build first: ``pip install --no-build-isolation -e .`` or ``python setup.py build_ext --inplace``; then run this."""

import beam
import numpy as np

import fastnll as fn

rng = np.random.default_rng(0)
logits = rng.standard_normal((50, 50), dtype=np.float32)
path, log_prob = beam.greedy(logits, 7, 12)
print("path", path.tolist())
print("log-probability", round(log_prob, 5))

expected = sum(fn.log_softmax(logits[a])[b] for a, b in zip([7, *path], path, strict=False))
assert abs(log_prob - expected) < 1e-4

targets, weights = rng.integers(0, 50, 50), np.ones(50)
loss, grad = beam.losses(logits, targets, weights)
want, want_grad = fn.cross_entropy_value_and_grad(logits, targets, reduction="none")
assert np.allclose(loss, want) and np.allclose(grad, want_grad, atol=1e-7)
print("losses and gradients agree with fastnll.cross_entropy_value_and_grad")
