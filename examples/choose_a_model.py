"""The argmin over a list: which model gives sequences that none of them has seen the highest probability.

python examples/choose_a_model.py [--quick]
"""

from __future__ import annotations

import argparse

import numpy as np

import fastnll as fn
from fastnll import data, models
from fastnll.schedules import cosine


def main() -> None:
    """Train candidates on nine tenths of the documents, choose on the last tenth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps")
    options = parser.parse_args()
    dataset = data.python_docs()
    order = np.random.default_rng(0).permutation(len(dataset))
    sequences = [dataset[i] for i in order]
    cut = len(sequences) // 10
    held_out = data.SequenceDataset.from_sequences(sequences[:cut], vocab_size=dataset.vocab_size)
    train = data.SequenceDataset.from_sequences(sequences[cut:], vocab_size=dataset.vocab_size)

    v, scale = dataset.vocab_size, 20 if options.quick else 1
    candidates = {
        "bigram": (models.Bigram(v), 20.0, 0.95, 4000 // scale),
        "2 characters": (models.NGram(v, context=2, dim=16, hidden=64), 0.6, 0.9, 3000 // scale),
        "6 characters": (models.NGram(v, context=6, dim=16, hidden=64), 0.6, 0.9, 3000 // scale),
    }
    fitted = {}
    print(f"{'model':<14} {'parameters':>10} {'trained on':>11} {'held out':>9}   bits a character")
    for name, (model, lr, momentum, steps) in candidates.items():
        objective, params = fn.Objective(model, train), model.init(seed=0)
        optimizer = fn.SGD(params, lr=lr, momentum=momentum)
        fn.fit(objective, optimizer, steps=steps, batch_tokens=2048, schedule=cosine(lr, steps), evaluate=False)
        seen, unseen = objective.bits_per_token(params), fn.Objective(model, held_out).bits_per_token(params)
        print(f"{name:<14} {model.n_parameters:>10,} {seen:>11.3f} {unseen:>9.3f}")
        fitted[name] = (model, params)

    first, params = fitted["bigram"]
    chosen, value = fn.Objective(first, held_out).select({**fitted, "bigram": params})
    print(f"\nchosen: {chosen}, {value:,.0f} nats on {cut} documents")


if __name__ == "__main__":
    main()
