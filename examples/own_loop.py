"""A training loop of your own: fastnll for the loss and the update, NumPy for the rest, the profiler around it.

    python examples/own_loop.py [--quick] [--trace FILE]

The model is a two-layer network on a spiral of several arms. One buffer takes the gradient of every step.
"""

from __future__ import annotations

import argparse

import numpy as np

import fastnll as fn


def spirals(n: int, arms: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Points (n, 2) in float32 on `arms` spirals, and the arm of each."""
    arm = rng.integers(0, arms, size=n)
    radius = np.sqrt(rng.uniform(0.02, 1.0, size=n))
    angle = 4 * radius + 2 * np.pi * arm / arms + rng.normal(0, 0.1, size=n)
    points = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return points.astype(np.float32), arm


def main() -> None:
    """Train, and print loss, accuracy and where the time went."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps")
    parser.add_argument("--trace", metavar="FILE", help="write a trace for ui.perfetto.dev")
    options = parser.parse_args()
    steps, batch, arms, hidden = (300 if options.quick else 3000), 1024, 5, 128

    rng = np.random.default_rng(0)
    points, labels = spirals(20_000, arms, rng)
    params = {
        "w1": rng.normal(0, 2.0, (2, hidden)).astype(np.float32),
        "b1": rng.normal(0, 1.0, hidden).astype(np.float32),
        "w2": np.zeros((hidden, arms), np.float32),
    }
    optimizer = fn.SGD(params, lr=0.5, momentum=0.9)
    buffer = np.empty((batch, arms), np.float32)

    with fn.profile(limits=None) as prof:
        for step in range(steps):
            rows = rng.integers(0, len(points), size=batch)
            x = points[rows]
            h = np.tanh(x @ params["w1"] + params["b1"])
            # One call for the loss and its gradient by the logits; the gradient goes to the same memory every time.
            loss, g = fn.cross_entropy_value_and_grad(h @ params["w2"], labels[rows], out=buffer)
            back = (g @ params["w2"].T) * (1 - h * h)
            optimizer.step({"w1": x.T @ back, "b1": back.sum(axis=0), "w2": h.T @ g})
            prof.step(loss=loss, tokens=batch)
            if step % (steps // 5) == 0:
                print(f"step {step:5d}  loss {loss:.4f}")

    logits = np.tanh(points @ params["w1"] + params["b1"]) @ params["w2"]
    details = fn.cross_entropy_details(logits, labels)
    print(f"\nall points: loss {details.nll.mean():.4f}, {100 * details.correct.mean():.1f} % right\n")
    print(prof.key_averages().table(sort_by="wall_time", row_limit=5))
    for advice in prof.advice():
        print(advice)
    if options.trace:
        prof.export_chrome_trace(options.trace)


if __name__ == "__main__":
    main()
