"""Make a dataset of any size from the text that ships with Python, for runs larger than memory.

    python benchmarks/make_large_dataset.py large.fnll                        10^9 tokens of uint16 in documents, 2 GB
    python benchmarks/make_large_dataset.py large.bin --format nanogpt       the same as one sequence
    python benchmarks/make_large_dataset.py short.fnll --split 16             10^9 tokens in sequences of 16

The language reference and the source of the standard library, about 12 MB, are encoded once by a byte-level BPE trained
on the reference (extra `bpe`); then documents are drawn with replacement, in an order that the seed decides, until
there are enough tokens. What a model can learn from it is what it can learn from the 12 MB; what reading it costs is
what 10^9 tokens cost.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator

import numpy as np

from fastnll.data import make_tokenizer, open_dataset, python_docs, python_source, write_dataset
from fastnll.data.order import hash_keys

# Documents that are drawn at a time.
_DRAWN = 1 << 16


def documents(n_tokens: int, vocab_size: int, seed: int, split: int | None) -> tuple[Iterator[np.ndarray], object]:
    """Return documents as arrays of ids until there are exactly `n_tokens`, and the tokenizer that made them."""
    reference = python_docs()
    assert reference.tokenizer is not None
    tokenizer = make_tokenizer(f"bpe:{vocab_size}", [reference.tokenizer.decode(ids) for ids in reference])
    corpora = python_docs(tokenizer), python_source(tokenizer)
    encoded = [ids.astype(np.uint16) for corpus in corpora for ids in corpus if ids.size]

    def draw() -> Iterator[np.ndarray]:
        left, drawn = n_tokens, 0
        while True:
            keys = hash_keys(seed, 0, np.arange(drawn, drawn + _DRAWN)) % np.uint64(len(encoded))
            for key in keys.tolist():
                ids = encoded[key][:left]
                if split is None:
                    yield ids
                else:
                    yield from (ids[low : low + split] for low in range(0, ids.size, split))
                left -= ids.size
                if not left:
                    return
            drawn += _DRAWN

    return draw(), tokenizer


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--tokens", type=float, default=1e9, help="default: 1e9")
    parser.add_argument("--vocab", type=int, default=2048, help="size of the vocabulary (default: 2048)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--split", type=int, metavar="N", help="cut documents into sequences of at most N tokens")
    parser.add_argument("--format", help="as fastnll.data.write_dataset has it (default: by the name of the file)")
    args = parser.parse_args(argv)
    start = time.perf_counter()
    source, tokenizer = documents(int(args.tokens), args.vocab, args.seed, args.split)
    what = "documents of Python's reference and source"
    write_dataset(args.path, source, format=args.format, tokenizer=tokenizer, description=what)
    print(f"{args.path}: {open_dataset(args.path)!r} in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
