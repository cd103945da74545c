"""From text files to a trained neural model: a memory-mapped corpus, held-out loss, checkpoints.

    python examples/train_text.py [FILE ...] [--quick] [--out FOLDER]

Without files: the sources of Python's own standard library modules.
"""

from __future__ import annotations

import argparse
import sysconfig
import tempfile
from pathlib import Path

import fastnll as fn
from fastnll import data, models
from fastnll.callbacks import JsonLines, ProgressBar
from fastnll.schedules import cosine


def main() -> None:
    """Convert, train, evaluate, sample the loss of single sequences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE", type=Path, help="text, one sequence a file")
    parser.add_argument("--quick", action="store_true", help="few files, few steps")
    parser.add_argument("--out", type=Path, help="folder for the corpus and the metrics (default: a temporary one)")
    options = parser.parse_args()
    files = options.files or sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    files = files[:20] if options.quick else files
    with tempfile.TemporaryDirectory() as temporary:
        train(files, options.out or Path(temporary), quick=options.quick)


def train(files: list[Path], folder: Path, *, quick: bool) -> None:
    """Do it, and leave the files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    # Sequences are encoded one at a time as they are written: the text need not fit in memory.
    tokenizer = data.ByteTokenizer()
    corpus = data.write_dataset(
        folder / "corpus.fnll",
        (tokenizer.encode(file.read_text(encoding="utf-8", errors="replace")) for file in files),
        vocab_size=tokenizer.vocab_size,
        tokenizer=tokenizer,
    )
    dataset = data.open_dataset(corpus)
    print(f"{dataset}: {corpus.stat().st_size / 1e6:.1f} MB on disk, mapped\n")

    model = models.NGram(dataset.vocab_size, context=4 if quick else 8, dim=16, hidden=64 if quick else 256)
    steps = 150 if quick else 5000
    params = model.init(seed=0)
    history = fn.fit(
        fn.Objective(model, dataset),
        fn.SGD(params, lr=0.5, momentum=0.9, max_norm=1.0),
        steps=steps,
        batch_tokens=1024,
        schedule=cosine(0.5, steps, warmup_steps=steps // 20),
        held_out=0.1,
        eval_every=max(1, steps // 5),
        patience=3,
        callbacks=[ProgressBar(), JsonLines(folder / "metrics.jsonl")],
    )
    assert history.final is not None
    assert history.final_held_out is not None
    print(f"trained on: {history.final.bits_per_token:.3f} bits a byte")
    print(f"held out:   {history.final_held_out.bits_per_token:.3f} bits a byte")

    losses = fn.Objective(model, dataset).per_sequence(params) / dataset.lengths
    hardest = int(losses.argmax())
    print(f"hardest:    {files[hardest].name}, {losses[hardest]:.3f} nats a byte")


if __name__ == "__main__":
    main()
