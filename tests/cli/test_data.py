"""``fastnll data``: what it says of a file is what is in it, and what it writes reads back as what was read."""

from __future__ import annotations

import gzip
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

from fastnll.cli import bars
from fastnll.cli.sources import load_dataset, tokenizer_kind
from fastnll.data import (
    BpeTokenizer,
    ByteTokenizer,
    CharTokenizer,
    SequenceDataset,
    bigram_entropy,
    open_dataset,
    unigram_entropy,
    write_dataset,
)
from fastnll.errors import DataError, OptionError
from tests.cli.conftest import Cli

SEQUENCES = [[3, 1, 4, 1, 5, 9, 2, 6], [], [5, 3], [300], [5, 8, 9, 7, 9, 3, 2, 3, 8, 4]]


@pytest.fixture
def ids(cli: Cli) -> SequenceDataset:
    """A small dataset of ids, also in `ids.fnll`."""
    dataset = SequenceDataset.from_sequences(SEQUENCES, 301)
    write_dataset("ids.fnll", dataset)
    return dataset


def sequences(path: str, **options: object) -> list[list[int]]:
    return [sequence.tolist() for sequence in open_dataset(path, **options)]  # type: ignore[arg-type]


def test_inspect_says_what_is_there(cli: Cli, ids: SequenceDataset) -> None:
    code, out, err = cli("data", "inspect", "ids.fnll")
    assert (code, err) == (0, "")
    table, histogram = out.split("\n\n")
    rows = dict(line.split("  ", 1) for line in table.splitlines())
    assert rows["sequences"].strip() == "5"
    assert rows["tokens"].strip() == "21 of uint16"
    assert rows["vocabulary"].strip() == "301, 10 used"
    assert rows["lengths"].strip() == "0 to 10, mean 4.2, median 2, p99 10, 1 empty"
    assert f"{unigram_entropy(ids):.4f} nats, {unigram_entropy(ids) / math.log(2):.4f} bits" in rows["unigram entropy"]
    assert f"{bigram_entropy(ids):.4f} nats" in rows["bigram entropy"]
    assert rows["most common"].strip().startswith("3 19.0 %, 5 14.3 %")
    assert rows["sha256"].strip() == ids.sha256()
    counted = [line.rsplit("#", 1)[0].replace("#", "").split() for line in histogram.splitlines()[1:]]
    assert [row[-1] for row in counted] == ["1", "1", "1", "0", "2"]


def test_inspect_as_json(cli: Cli, ids: SequenceDataset, text: Path) -> None:
    code, out, _ = cli("data", "inspect", "ids.fnll", "--json", "--no-bigrams")
    (report,) = json.loads(out)
    assert code == 0
    assert (report["format"], report["n_tokens"], report["first_bad_token"]) == ("fastnll", 21, None)
    assert report["unigram_entropy"] == unigram_entropy(ids)
    assert report["bigram_entropy"] is None
    both = json.loads(cli("data", "inspect", str(text), str(text), "--tokenizer", "chars", "--json").out)
    assert len(both) == 2
    assert both[0]["n_bytes"] == text.stat().st_size > both[0]["n_tokens"]


def test_inspect_embedded_data(cli: Cli) -> None:
    (report,) = json.loads(cli("data", "inspect", "--data", "opcodes", "--json", "--no-bigrams").out)
    assert report["tokenizer"].startswith("NameTokenizer")
    assert report["n_sequences"] > 1000


def test_the_first_bad_token(cli: Cli) -> None:
    np.array([1, 2, 999, 3, 700], np.uint16).tofile("ids.bin")
    code, out, _ = cli("data", "inspect", "ids.bin", "--vocab-size", "500")
    assert code == 1
    line = next(line for line in out.splitlines() if line.startswith("first bad token"))
    assert line.split(None, 3)[3] == "999 at sequence 0, position 2 (token 2); 2 are outside the vocabulary"
    (report,) = json.loads(cli("data", "inspect", "ids.bin", "--vocab-size", "500", "--json").out)
    assert report["first_bad_token"] == {"value": 999, "sequence": 0, "position": 2, "entry": 2, "n_bad": 2}
    assert report["unigram_entropy"] is None
    assert report["lengths"]["max"] == 5
    code, out, _ = cli("data", "validate", "ids.bin", "--vocab-size", "500")
    assert code == 1
    assert out.startswith("ids.bin: tokens: expected ids in [0, 500), got 999 at sequence 0, position 2")
    assert cli("data", "validate", "ids.bin", "--vocab-size", "1000").code == 0


@pytest.mark.parametrize(
    ("target", "to", "kept"),
    [
        ("out.fnll", None, True),
        ("out.npz", None, True),
        ("out.arrow", None, True),
        ("out.parquet", None, True),
        ("out.bin", "nanogpt", False),
        ("out.bin", "llmc", False),
    ],
)
def test_convert_there_and_back(cli: Cli, ids: SequenceDataset, target: str, to: str | None, kept: bool) -> None:
    if target.endswith(("arrow", "parquet")):
        pytest.importorskip("pyarrow", reason="Arrow and Parquet need pyarrow")
    code, out, err = cli("data", "convert", "ids.fnll", "-o", target, *(["--to", to] if to else []))
    assert (code, err) == (0, "")
    flat = [token for sequence in SEQUENCES for token in sequence]
    assert sequences(target) == (SEQUENCES if kept else [flat])
    assert ("do not keep where sequences end" in out) is not kept
    assert cli("data", "convert", target, "-o", "again.fnll", "--vocab-size", "301").code == 0
    again = open_dataset("again.fnll")
    assert [sequence.tolist() for sequence in again] == (SEQUENCES if kept else [flat])
    assert again.vocab_size == 301


@pytest.mark.parametrize("kind", ["bytes", "chars", "bpe:300"])
def test_convert_text(cli: Cli, text: Path, kind: str) -> None:
    if kind.startswith("bpe"):
        pytest.importorskip("tokenizers", reason="byte-pair encoding needs tokenizers")
    Path("b.txt.gz").write_bytes(gzip.compress("né says line".encode()))
    code, out, _ = cli("data", "convert", str(text), "b.txt.gz", "-o", "both.fnll", "--tokenizer", kind, "--json")
    assert code == 0
    dataset = open_dataset("both.fnll")
    assert json.loads(out)["n_tokens"] == dataset.n_tokens
    wanted = {"bytes": ByteTokenizer, "chars": CharTokenizer, "bpe:300": BpeTokenizer}[kind]
    assert isinstance(dataset.tokenizer, wanted)
    assert [dataset.tokenizer.decode(ids) for ids in dataset] == [text.read_text(encoding="utf-8"), "né says line"]
    # Other text through the same tokenizer.
    Path("c.jsonl").write_text('{"text": "line 1"}\n{"text": "says né"}\n', encoding="utf-8")
    assert cli("data", "convert", "c.jsonl", "-o", "c.npz", "--tokenizer-of", "both.fnll").code == 0
    other = open_dataset("c.npz")
    assert other.tokenizer == dataset.tokenizer
    assert [other.tokenizer.decode(ids) for ids in other] == ["line 1", "says né"]


def test_convert_several_files_of_ids(cli: Cli, ids: SequenceDataset) -> None:
    np.save("table.npy", np.arange(6, dtype=np.int64).reshape(2, 3))
    assert cli("data", "convert", "ids.fnll", "table.npy", "-o", "all.fnll").code == 0
    assert sequences("all.fnll") == [*SEQUENCES, [0, 1, 2], [3, 4, 5]]
    assert open_dataset("all.fnll").vocab_size == 301


def test_convert_embedded_data(cli: Cli) -> None:
    assert cli("data", "convert", "--data", "opcodes", "-o", "opcodes.fnll").code == 0
    (before,) = json.loads(cli("data", "inspect", "--data", "opcodes", "--json", "--no-bigrams").out)
    (after,) = json.loads(cli("data", "inspect", "opcodes.fnll", "--json", "--no-bigrams").out)
    assert after["sha256"] == before["sha256"]
    assert after["tokenizer"] == before["tokenizer"]


def test_nothing_is_overwritten_unasked(cli: Cli, ids: SequenceDataset, text: Path) -> None:
    code, out, err = cli("data", "convert", str(text), "-o", "ids.fnll")
    assert (code, out) == (2, "")
    assert "--out: expected a new file, got ids.fnll, which is there; --force writes over it" in err
    assert sequences("ids.fnll") == SEQUENCES
    assert cli("data", "convert", "ids.fnll", "-o", "ids.fnll", "--force").code == 0
    assert sequences("ids.fnll") == SEQUENCES


def test_validate_goes_on_after_a_bad_file(cli: Cli, ids: SequenceDataset) -> None:
    raw = Path("ids.fnll").read_bytes()
    Path("torn.fnll").write_bytes(raw[:-8])
    Path("foreign.fnll").write_bytes(b"GIF89a" + raw)
    Path("damaged.fnll").write_bytes(raw[:128] + bytes([raw[128] ^ 1]) + raw[129:])
    newer = bytearray(raw)
    newer[8] = 9
    Path("newer.fnll").write_bytes(bytes(newer))
    names = ["torn.fnll", "foreign.fnll", "damaged.fnll", "newer.fnll", "nowhere.fnll", "ids.fnll"]
    code, out, err = cli("data", "validate", *names)
    assert (code, err) == (1, "")
    lines = out.splitlines()
    for line, name, wanted in zip(
        lines,
        names,
        [
            "the file is torn",
            "it is torn or something else",
            "damaged",
            "written by a newer",
            "no such file",
            "ok, fastnll",
        ],
        strict=True,
    ):
        assert line.startswith(f"{name}: ")
        assert wanted in line
    report = json.loads(cli("data", "validate", *names, "--json").out)
    assert [entry["ok"] for entry in report] == [False] * 5 + [True]
    assert report[5] == {
        "file": "ids.fnll",
        "ok": True,
        "error": None,
        "format": "fastnll",
        "n_sequences": 5,
        "n_tokens": 21,
    }
    assert cli("data", "validate", "ids.fnll").code == 0


@pytest.mark.parametrize(
    ("argv", "code", "sentence"),
    [
        (["inspect"], 2, "FILE: expected files or --data NAME, got none"),
        (
            ["inspect", "a.txt", "--data", "opcodes"],
            2,
            "FILE: expected files or --data NAME, got --data opcodes and 'a.txt'",
        ),
        (["validate"], 2, "FILE: expected files, got none"),
        (["inspect", "nowhere.fnll"], 1, "nowhere.fnll: expected a dataset, got no such file"),
        (["inspect", "a.txt", "--vocab-size", "9"], 2, "--vocab-size: expected only with a format that takes it"),
        (
            ["inspect", "ids.fnll", "--tokenizer", "chars"],
            2,
            "--tokenizer: expected none for ids.fnll, which holds ids",
        ),
        (["inspect", "a.txt", "--tokenizer", "words"], 2, "from 256 to 2**24, got 'words'; see"),
        (["convert", "a.txt"], 2, "the following arguments are required: -o/--out"),
        (["convert", "a.txt", "-o", "a.bin"], 2, "--to: expected 'nanogpt' or 'llmc' for a.bin"),
        (["convert", "a.txt", "-o", "no/a.fnll"], 1, "no/a.fnll: expected to write a dataset, got no such folder"),
        (["convert", "a.txt", "ids.fnll", "-o", "b.fnll"], 2, "got both: a.txt is text, ids.fnll holds ids"),
        (["convert", "ids.fnll", "-o", "b.npy"], 1, "expected sequences of one length for a .npy file"),
        (
            ["convert", "a.txt", "-o", "b.fnll", "--tokenizer-of", "ids.fnll"],
            1,
            "ids.fnll: expected a dataset with a tok",
        ),
        (["inspect", "a.txt", "--from", "jsonl"], 1, "a.txt, line 1: expected JSON"),
        (["inspect", "torn.gz"], 1, "torn.gz: expected gzipped text, got a gzip file that ends too early"),
    ],
)
def test_mistakes_are_one_sentence(cli: Cli, ids: SequenceDataset, argv: list[str], code: int, sentence: str) -> None:
    Path("a.txt").write_text("some text")
    Path("torn.gz").write_bytes(gzip.compress(b"some text" * 50)[:-12])
    outcome = cli("data", *argv)
    assert (outcome.code, outcome.out, outcome.err.count("\n")) == (code, "", 1)
    assert sentence in outcome.err


def test_tokenizer_kinds() -> None:
    assert [tokenizer_kind(kind) for kind in ("bytes", "bpe", "bpe:512")] == ["bytes", "bpe", "bpe:512"]
    for wrong in ("bytes:3", "bpe:x", "bpe:-3", "", "bpe:255", "bpe:0", "bpe:16777217", "words"):
        with pytest.raises(
            Exception, match=rf"bpe:V with V from 256 to 2\*\*24, got '{wrong}'($|; did you mean bytes)"
        ):
            tokenizer_kind(wrong)


@pytest.mark.parametrize("command", ["train", "data inspect", "data convert -o out.fnll"])
@pytest.mark.parametrize(
    ("given", "advice"), [("byte", "bytes"), ("BPE:512", "bpe:512"), ("char", "chars"), ("bpe512", "bpe")]
)
def test_a_tokenizer_that_was_meant(cli: Cli, text: Path, command: str, given: str, advice: str) -> None:
    code, out, err = cli(*command.split(), "text.txt", "--tokenizer", given)
    assert (code, out) == (2, "")
    assert "argument --tokenizer: expected bytes, chars, bpe or bpe:V " in err
    assert f", got {given!r}; did you mean {advice}?" in err


def test_a_bar_for_each_pass_on_a_terminal(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Terminal()
    monkeypatch.setitem(bars._OPTIONS, "file", screen)
    monkeypatch.setitem(bars._OPTIONS, "delay", 0.0)
    monkeypatch.setitem(bars._OPTIONS, "mininterval", 0.0)
    dataset = SequenceDataset(np.zeros(3_000_000, np.uint8), vocab_size=1, check=False)
    write_dataset("zeros.fnll", dataset)
    assert cli("data", "inspect", "zeros.fnll").code == 0
    shown = screen.getvalue()
    assert "zeros.fnll:" in shown
    assert "tok/s" in shown
    assert shown.count("  0%|") >= 3, "counts, checks and the fingerprint are passes of their own"


# What `fastnll train` and `fastnll eval` make of files.


@pytest.fixture
def files(cli: Cli, text: Path) -> tuple[str, SequenceDataset]:
    """A text, and the same as a dataset of characters in `chars.fnll`."""
    encoder = CharTokenizer.train(text.read_text(encoding="utf-8"))
    dataset = SequenceDataset.from_text([text.read_text(encoding="utf-8"), "line 7"], encoder)
    write_dataset("chars.fnll", dataset)
    return str(text), dataset


def test_training_takes_any_dataset_file(cli: Cli, files: tuple[str, SequenceDataset]) -> None:
    _, dataset = files
    argv = ("--model", "categorical", "--steps", "5", "--batch-tokens", "256", "--json")
    trained = json.loads(cli("train", "chars.fnll", "--out", "run", *argv).out)
    assert (trained["n_sequences"], trained["n_tokens"]) == (2, dataset.n_tokens)
    assert trained["bits_per_byte"] is not None
    cli("data", "convert", "chars.fnll", "-o", "ids.bin", "--to", "nanogpt")
    cli("data", "convert", "chars.fnll", "-o", "chars.npz")
    results = [json.loads(cli("eval", "run", name, "--json").out) for name in ("chars.fnll", "chars.npz", "ids.bin")]
    assert results[0]["nll"] == results[1]["nll"] == pytest.approx(trained["nll"], rel=1e-12)
    assert results[2]["nll"] == pytest.approx(trained["nll"], rel=1e-12), "a categorical model sees no ends"
    assert results[2]["bits_per_byte"] == pytest.approx(trained["bits_per_byte"]), "ids get the run's tokenizer"


def test_a_format_that_is_a_guess_is_called_one(cli: Cli, ids: SequenceDataset) -> None:
    assert cli("data", "convert", "ids.fnll", "-o", "ids.bin", "--to", "nanogpt").code == 0

    def shown(*argv: str) -> str:
        return next(line for line in cli("data", "inspect", *argv).out.splitlines() if line.startswith("format"))

    assert shown("ids.bin").split(maxsplit=1)[1] == "nanogpt (no header: assumed)"
    assert shown("ids.bin", "--from", "nanogpt").split() == ["format", "nanogpt"]
    assert shown("ids.fnll").split() == ["format", "fastnll"]
    assert json.loads(cli("data", "inspect", "ids.bin", "--json").out)[0]["format"] == "nanogpt"


def test_a_model_of_ids_alone(cli: Cli, ids: SequenceDataset, text: Path) -> None:
    assert cli("train", "ids.fnll", "--model", "categorical", "--steps", "3", "--out", "run").code == 0
    assert cli("eval", "run", "ids.fnll").code == 0
    code, _, err = cli("eval", "run", str(text))
    assert code == 1
    assert "expected a model of text to evaluate files with, got one of ids.fnll" in err


def test_ids_of_another_tokenizer(cli: Cli, files: tuple[str, SequenceDataset]) -> None:
    path, dataset = files
    write_dataset("bytes.fnll", SequenceDataset.from_text("line", ByteTokenizer()))
    with pytest.raises(DataError, match=r"bytes.fnll: expected ids of the tokenizer .* got those of ByteTokenizer\(\)"):
        load_dataset(["bytes.fnll"], None, dataset.tokenizer, trained=True)
    with pytest.raises(DataError, match="expected ids of one tokenizer in all files"):
        load_dataset(["chars.fnll", "bytes.fnll"], None, None)
    with pytest.raises(DataError, match="expected ids, for the model was not trained on text"):
        load_dataset([path], None, None, trained=True)
    with pytest.raises(OptionError, match=r"--tokenizer: expected none for chars\.fnll"):
        load_dataset(["chars.fnll"], None, "bytes")


def test_several_files_become_one_dataset(cli: Cli, files: tuple[str, SequenceDataset], ids: SequenceDataset) -> None:
    path, dataset = files
    both, names = load_dataset(["chars.fnll", "chars.fnll"], None, None)
    assert names == []
    assert both.tokenizer == dataset.tokenizer
    assert both.n_bytes == 2 * (dataset.n_bytes or 0)
    assert [s.tolist() for s in both] == 2 * [s.tolist() for s in dataset]
    # Signed and unsigned 64-bit ids stay integers.
    np.save("signed.npy", np.array([1, 2], np.int64))
    np.save("unsigned.npy", np.array([3, 4], np.uint64))
    mixed, _ = load_dataset(["signed.npy", "unsigned.npy", "ids.fnll"], None, None)
    assert mixed.tokens.dtype == np.uint16
    assert [s.tolist() for s in mixed] == [[1, 2], [3, 4], *SEQUENCES]
    texts, names = load_dataset([path, path], None, None)
    assert names == [path, path]
    assert texts.n_sequences == 2


def test_bpe_of_the_embedded_text() -> None:
    pytest.importorskip("tokenizers", reason="byte-pair encoding needs tokenizers")
    dataset, _ = load_dataset([], "python_docs", "bpe:300")
    assert dataset.vocab_size == 300
    assert isinstance(dataset.tokenizer, BpeTokenizer)
