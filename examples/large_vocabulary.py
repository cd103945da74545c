"""The softmax head without the logits: the loss and the gradients of a 50257-class head in a bounded workspace.

python examples/large_vocabulary.py [--quick]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import fastnll as fn


def main() -> None:
    """Compute the same gradients with the logits and without, and print memory and time of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller head")
    options = parser.parse_args()
    n, d, v = (256, 64, 5000) if options.quick else (2048, 256, 50257)

    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((n, d), dtype=np.float32)
    weight = rng.standard_normal((v, d), dtype=np.float32) / np.float32(np.sqrt(d))
    targets = rng.integers(0, v, size=n)
    print(f"{n} tokens, D = {d}, V = {v}: the logits alone are {4e-6 * n * v:.0f} MB\n")

    begin = time.perf_counter()
    logits = hidden @ weight.T
    loss, grad = fn.cross_entropy_value_and_grad(logits, targets, out=logits)
    by_hidden, by_weight = grad @ weight, grad.T @ hidden
    print(f"with the logits     loss {loss:.6f}, {time.perf_counter() - begin:.3f} s")

    plan = fn.memory_plan(hidden, weight, bias=False)
    begin = time.perf_counter()
    slim, grads = fn.linear_cross_entropy_value_and_grad(hidden, weight, targets)
    print(f"without them        loss {slim:.6f}, {time.perf_counter() - begin:.3f} s\n\n{plan}")

    assert np.isclose(slim, loss, rtol=1e-5)
    assert np.allclose(grads.hidden, by_hidden, atol=1e-6)
    assert np.allclose(grads.weight, by_weight, atol=1e-6)
    print("\nthe gradients agree")


if __name__ == "__main__":
    main()
