"""Maximum likelihood three ways: counting, SGD and L-BFGS find the same bigram model of a text.

python examples/maximum_likelihood.py [--quick] [--steps N]
"""

from __future__ import annotations

import argparse

import numpy as np
from scipy.optimize import minimize

import fastnll as fn
from fastnll import data, models
from fastnll.schedules import cosine


def main() -> None:
    """Fit, and print how far each way ends from the optimum."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps")
    parser.add_argument("--steps", type=int, default=4000, help="of SGD (4000)")
    options = parser.parse_args()
    steps = 200 if options.quick else options.steps

    dataset = data.python_docs()
    objective = fn.Objective(models.Bigram(dataset.vocab_size), dataset)
    n = objective.n_predicted
    print(f"{dataset}\n{objective.model.n_parameters:,} parameters\n")

    # 1. Counting: the most likely bigram model has the frequencies of the pairs.
    best = models.bigram_optimum(dataset)
    print(f"{'counting':<10} {best.value / n / np.log(2):.6f} bits a character: the optimum")

    # 2. SGD on batches of 8192 characters.
    params = objective.model.init(seed=0)
    optimizer = fn.SGD(params, lr=20.0, momentum=0.95)
    fn.fit(objective, optimizer, steps=steps, batch_tokens=8192, schedule=cosine(20.0, steps))
    report("SGD", objective.value(params), best.value, n)

    # 3. L-BFGS on all of them.
    fun, x0, _ = objective.scipy()
    result = minimize(fun, x0(), jac=True, method="L-BFGS-B", options={"maxiter": 50 if options.quick else 2000})
    report("L-BFGS", result.fun, best.value, n)

    # What was learnt: after "q", the model expects "u".
    tokenizer = dataset.tokenizer
    assert isinstance(tokenizer, data.CharTokenizer)
    row = fn.softmax(params["logits"][tokenizer.encode("q")[0]])
    top = np.argsort(row)[::-1][:3]
    print("\nafter 'q':", ", ".join(f"{tokenizer.decode([i])!r} {row[i]:.2f}" for i in top))


def report(name: str, value: float, best: float, n: int) -> None:
    """Print one line: bits a character, and the distance to the optimum in percent."""
    print(f"{name:<10} {value / n / np.log(2):.6f} bits a character, {100 * (value / best - 1):.4f} % above")


if __name__ == "__main__":
    main()
