"""Small texts and runs that the tests of resuming and of held-out data share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fastnll.checkpoint import load_checkpoint
from tests.cli.conftest import Cli

QUICK = ("--model", "ngram", "--context", "3", "--dim", "6", "--hidden", "8", "--steps", "60", "--batch-tokens", "256")
TIMES = ("tokens_per_s", "wall_s")


def records(folder: str) -> list[dict[str, Any]]:
    lines = Path(folder, "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def bits(folder: str) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in load_checkpoint(folder).params.items()}


def resumed(cli: Cli, *argv: str) -> dict[str, Any]:
    outcome = cli("train", *argv, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    result: dict[str, Any] = json.loads(outcome.out)
    return result
