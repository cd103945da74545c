"""What ``fastnll data inspect`` prints: a table and a histogram."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastnll.cli.common import print_table

__all__ = ["print_report"]

# Characters of the longest bar.
_HISTOGRAM = 40


def print_report(report: Mapping[str, Any], *, bigrams: bool, recognised: bool = True) -> None:
    """Print what `fastnll.data.inspect` found, with the file and its format; leave out the bigrams not counted.

    A format that was not `recognised` is what the user said.
    """
    # Nothing in such a file says that it is one.
    assumed = " (no header: assumed)" if recognised and report["format"] == "nanogpt" else ""
    lengths = report["lengths"]
    rows = [
        ("data", report["file"] or report["source"]),
        ("format", report["format"] + assumed),
        *([("source", report["source"])] if report["file"] and report["source"] != report["file"] else []),
        ("tokenizer", report["tokenizer"] or "unknown"),
        ("sequences", f"{report['n_sequences']:,}"),
        ("tokens", f"{report['n_tokens']:,} of {report['dtype']}"),
        (
            "vocabulary",
            _count(report["vocab_size"]) + ("" if report["n_used"] is None else f", {report['n_used']:,} used"),
        ),
        ("source bytes", _count(report["n_bytes"])),
    ]
    if lengths:
        rows.append(
            (
                "lengths",
                f"{lengths['min']:,} to {lengths['max']:,}, mean {lengths['mean']:,.1f}, "
                f"median {lengths['median']:,.0f}, p99 {lengths['p99']:,.0f}, {lengths['n_empty']:,} empty",
            )
        )
    rows.append(("unigram entropy", _entropy(report["unigram_entropy"], "token")))
    if bigrams:
        rows.append(("bigram entropy", _entropy(report["bigram_entropy"], "pair")))
    if report["most_common"]:
        total = report["n_tokens"]
        named = (
            f"{i if text is None else repr(text)} {100 * n / total:.1f} %" for i, n, text in report["most_common"][:5]
        )
        rows.append(("most common", ", ".join(named)))
    bad = report["first_bad_token"]
    if bad is None:
        rows.append(("bad tokens", "none"))
    else:
        rows.append(
            (
                "first bad token",
                f"{bad['value']} at sequence {bad['sequence']:,}, position {bad['position']:,} "
                f"(token {bad['entry']:,}); {bad['n_bad']:,} are outside the vocabulary",
            )
        )
    if report["sha256"]:
        rows.append(("sha256", report["sha256"]))
    print_table(rows)
    _print_histogram(report["length_histogram"])


def _print_histogram(bins: Sequence[tuple[int, int, int]]) -> None:
    if len(bins) < 2:
        return
    labels = [f"{low:,}" if low == high else f"{low:,} to {high:,}" for low, high, _ in bins]
    width, most = max(map(len, labels)), max(count for _, _, count in bins)
    print("\nlengths of the sequences")
    for label, (_, _, count) in zip(labels, bins, strict=True):
        bar = "#" * math.ceil(_HISTOGRAM * count / most)
        print(f"  {label:>{width}}  {count:>{len(f'{most:,}')},}  {bar}".rstrip())


def _count(number: int | None) -> str:
    return "unknown" if number is None else f"{number:,}"


def _entropy(nats: float | None, unit: str) -> str:
    return "none" if nats is None else f"{nats:.4f} nats, {nats / math.log(2):.4f} bits a {unit}"
