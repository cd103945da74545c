"""``fastnll data``: look into dataset files, convert them, check that they are whole."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fastnll.cli.bars import progress, progress_over
from fastnll.cli.common import whole
from fastnll.cli.data_report import print_report
from fastnll.cli.sources import DATASETS, embedded, shared_tokenizer, tokenizer_kind, which_text
from fastnll.data import SequenceDataset, inspect, make_tokenizer, open_dataset, validate, write_dataset
from fastnll.data.formats import Texts, holds_text, recognise
from fastnll.data.formats.opening import FORMATS
from fastnll.data.formats.writing import WRITERS
from fastnll.errors import DataError, OptionError

__all__ = ["add_parser", "run"]

_READ = ", ".join(FORMATS)
# Formats that are one sequence, whatever was written to them.
_STREAMS = ("nanogpt", "llmc")


def add_parser(subparsers: Any) -> argparse.ArgumentParser:
    """Add the command to an argparse sub-parser collection and return its parser."""
    parser: argparse.ArgumentParser = subparsers.add_parser(
        "data",
        description="Look into dataset files, convert them, check that they are whole. "
        f"Formats that are read: {_READ}; which one a file has is seen from its first bytes and its name.",
        epilog="examples:\n"
        "  fastnll data inspect book.txt\n"
        "  fastnll data convert corpus.jsonl.gz -o corpus.fnll --tokenizer bpe:8192\n"
        "  fastnll data convert valid.txt -o valid.fnll --tokenizer-of corpus.fnll\n"
        "  fastnll data validate corpus.fnll tokens.bin",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    for name, summary, epilog, action, add in (
        ("inspect", "counts, lengths, entropies, the first bad token", _INSPECT, _inspect, _add_inspect),
        ("convert", "from any format to any format, text through a tokenizer", _CONVERT, _convert, _add_convert),
        ("validate", "read everything once and say what is wrong", _VALIDATE, _validate, _add_reading),
    ):
        sub = actions.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.", epilog=epilog)
        add(sub)
        sub.add_argument("--json", action="store_true", help="print JSON")
        sub.add_argument("--traceback", action="store_true", help="show where an error came from")
        sub.set_defaults(run=run, action_run=action)
    return parser


_INSPECT = """examples:
  fastnll data inspect corpus.fnll
  fastnll data inspect train.bin --vocab-size 50257 --no-bigrams
  fastnll data inspect --data opcodes --json"""
_CONVERT = """examples:
  fastnll data convert a.txt b.txt -o books.fnll --tokenizer bpe:8192
  fastnll data convert books.fnll -o books.parquet
  fastnll data convert books.fnll -o books.bin --to nanogpt"""
_VALIDATE = """examples:
  fastnll data validate corpus.fnll
  fastnll data validate *.bin --vocab-size 50257 --json"""


def _add_reading(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", metavar="FILE", help="a dataset or text")
    parser.add_argument("--from", dest="format", choices=list(FORMATS), help="format of FILE (default: recognised)")
    parser.add_argument("--column", metavar="NAME", help="Arrow, Parquet, JSON Lines: the column (default: found)")
    parser.add_argument("--dtype", metavar="DTYPE", help="nanogpt: dtype of the ids (default: uint16)")
    parser.add_argument("--vocab-size", type=whole(1), metavar="V", help="ids alone: V (default: largest id plus one)")


def _add_tokenizer(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tokenizer",
        type=tokenizer_kind,
        metavar="KIND",
        help="text: bytes (default), chars, bpe or bpe:V, the last two learnt from this text",
    )
    parser.add_argument("--data", choices=list(DATASETS), help="an embedded dataset in place of files")


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    _add_reading(parser)
    _add_tokenizer(parser)
    parser.add_argument("--no-bigrams", action="store_true", help="leave out the entropy of bigrams, the slower half")


def _add_convert(parser: argparse.ArgumentParser) -> None:
    _add_reading(parser)
    _add_tokenizer(parser)
    parser.add_argument("-o", "--out", required=True, metavar="OUT", help="the file to write")
    targets = ["fastnll", *WRITERS]
    parser.add_argument("--to", choices=targets, help="format of OUT (default: by its name; .bin has to be told)")
    parser.add_argument("--tokenizer-of", metavar="DATASET", help="encode text with the tokenizer stored in that file")
    parser.add_argument("--force", action="store_true", help="write over a file that is there")


def run(args: argparse.Namespace) -> int:
    """Run the action; returns the exit status: 1 where a file was found to be bad."""
    named = getattr(args, "data", None)
    if bool(args.files) == (named is not None):
        got = f"--data {named} and {args.files[0]!r}" if named else "none"
        alternative = " or --data NAME" if hasattr(args, "data") else ""
        raise OptionError(f"FILE: expected files{alternative}, got {got}")
    return int(args.action_run(args))


def _open(
    file: str, args: argparse.Namespace, tokenizer: Any = None, *, resize: bool = False
) -> tuple[SequenceDataset, str]:
    """A file as a dataset, and its format; with `resize`, --vocab-size is for what is written, too."""
    name = recognise(file) if args.format is None else args.format
    known = {"vocab_size": args.vocab_size, "column": args.column, "dtype": args.dtype}
    if resize and "vocab_size" not in FORMATS[name][1]:
        del known["vocab_size"]
    if tokenizer is not None:
        if not holds_text(file, format=name, column=args.column):
            raise OptionError(f"--tokenizer: expected none for {file}, which holds ids and not text, got {tokenizer}")
        known["tokenizer"] = tokenizer
    try:
        return open_dataset(file, format=name, **known), name
    except OptionError as error:
        raise _flagged(error, {key: f"--{key.replace('_', '-')}" for key in known}) from None


def _flagged(error: OptionError, flags: Mapping[str, str]) -> OptionError:
    """The same error with the flag of the command line in place of the name of the library's argument."""
    name, _, rest = str(error).partition(":")
    return OptionError(f"{flags[name]}:{rest}" if name in flags else str(error))


def _inspect(args: argparse.Namespace) -> int:
    reports = []
    for file in args.files or [None]:
        if file is None:
            dataset, name = embedded(args.data, args.tokenizer), "embedded"
        else:
            dataset, name = _open(file, args, args.tokenizer)
        with progress(file or args.data):
            report = inspect(dataset, bigrams=not args.no_bigrams)
        reports.append({"file": file, "format": name, **report})
    if args.json:
        print(json.dumps(reports, indent=2))
    else:
        for number, report in enumerate(reports):
            if number:
                print()
            print_report(report, bigrams=not args.no_bigrams, recognised=args.format is None)
    return 1 if any(report["first_bad_token"] for report in reports) else 0


def _validate(args: argparse.Namespace) -> int:
    results = []
    for file in args.files:
        result: dict[str, Any] = {"file": file, "ok": True, "error": None}
        try:
            dataset, name = _open(file, args)
            with progress(file):
                validate(dataset)
            result |= {"format": name, "n_sequences": dataset.n_sequences, "n_tokens": dataset.n_tokens}
        except DataError as error:
            sentence = " ".join(str(error).split())
            result |= {"ok": False, "error": sentence if sentence.startswith(file) else f"{file}: {sentence}"}
        results.append(result)
        if not args.json:
            counts = "" if result["error"] else f"{result['n_sequences']:,} sequences, {result['n_tokens']:,} tokens"
            print(result["error"] or f"{file}: ok, {result['format']}, {counts}", flush=True)
    if args.json:
        print(json.dumps(results, indent=2))
    return 0 if all(result["ok"] for result in results) else 1


def _convert(args: argparse.Namespace) -> int:
    out = Path(args.out)
    if args.tokenizer and args.tokenizer_of:
        raise OptionError("--tokenizer-of: expected without --tokenizer, got both; leave one out")
    if out.exists() and not args.force:
        raise OptionError(f"--out: expected a new file, got {out}, which is there; --force writes over it")
    source, options = _source(args)
    try:
        write_dataset(out, source, format=args.to, **options)
    except OptionError as error:
        raise _flagged(error, {"format": "--to"}) from None
    written = open_dataset(out, format=args.to)
    report = {
        "file": str(out),
        "format": args.to or recognise(out),
        "n_sequences": written.n_sequences,
        "n_tokens": written.n_tokens,
        "dtype": written.tokens.dtype.name,
        "tokenizer": None if written.tokenizer is None else repr(written.tokenizer),
        "n_bytes": out.stat().st_size,
    }
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print(
            f"{out}: {report['format']}, {written.n_sequences:,} sequences, {written.n_tokens:,} tokens of "
            f"{report['dtype']}, {report['n_bytes']:,} bytes"
            + (f"; {report['format']} files do not keep where sequences end" if report["format"] in _STREAMS else "")
        )
    return 0


def _source(args: argparse.Namespace) -> tuple[SequenceDataset | Iterable[Any], dict[str, Any]]:
    """What `write_dataset` is to write, and the options that describe it."""
    tokenizer = None
    if args.tokenizer_of:
        tokenizer = open_dataset(args.tokenizer_of).tokenizer
        if tokenizer is None:
            raise DataError(f"{args.tokenizer_of}: expected a dataset with a tokenizer in it, got one without")
    if args.data:
        return embedded(args.data, tokenizer or args.tokenizer), {}
    reading = {"format": args.format, "column": args.column}
    if which_text(args.files, **reading):
        texts = Texts(args.files, **reading)
        encoder = tokenizer or make_tokenizer(args.tokenizer, texts)
        encoded = (encoder.encode(text) for text in progress_over(texts, "text"))
        return encoded, {"tokenizer": encoder, "description": ", ".join(args.files)[:200]}
    datasets = [_open(file, args, args.tokenizer, resize=True)[0] for file in args.files]
    options = {"tokenizer": tokenizer or shared_tokenizer(datasets), "vocab_size": args.vocab_size}
    if len(datasets) == 1:
        return datasets[0], options
    if options["vocab_size"] is None:
        options["vocab_size"] = max((dataset.vocab_size for dataset in datasets if dataset.n_tokens), default=1)
    return _chained(datasets), options


def _chained(datasets: Sequence[SequenceDataset]) -> Iterator[Any]:
    for dataset in datasets:
        for sequence in progress_over(dataset, dataset.source or "ids", len(dataset)):
            yield sequence
            dataset.note_read(sequence.nbytes)
