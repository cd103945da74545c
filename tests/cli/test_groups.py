"""``fastnll train --group``: options of some parameters alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from fastnll.checkpoint import load_checkpoint
from fastnll.runs import open_run
from tests.cli.conftest import Cli
from tests.cli.small import QUICK, bits, resumed


@pytest.mark.parametrize(
    ("plain", "grouped"),
    [
        (("--lr", "0.3"), ("--lr", "0.6", "--group", "*:lr=0.3")),
        (("--weight-decay", "0.1"), ("--group", "w*,b*,embedding:weight_decay=0.1")),
        (("--momentum", "0"), ("--momentum", "0.9", "--group", "*:momentum=0")),
        (("--momentum", "0.5", "--schedule", "constant"), ("--schedule", "constant", "--group", "*:momentum=0.5")),
    ],
    ids=["lr", "weight decay", "no momentum", "momentum"],
)
def test_a_group_of_all_is_the_option_of_all(
    cli: Cli, texts: list[str], plain: tuple[str, ...], grouped: tuple[str, ...]
) -> None:
    resumed(cli, *texts, *QUICK, *plain, "--out", "plain")
    resumed(cli, *texts, *QUICK, *grouped, "--out", "grouped")
    resumed(cli, *texts, *QUICK, "--out", "neither")
    assert bits("plain") == bits("grouped") != bits("neither")


def test_a_rate_of_zero_leaves_parameters_as_they_began(cli: Cli, texts: list[str]) -> None:
    resumed(cli, *texts, *QUICK, "--group", "embedding, w*:lr=0", "--seed", "3", "--out", "run")
    begun, ended = open_run("run").model().init(3), load_checkpoint("run").params
    same = {name for name in begun if np.array_equal(begun[name], ended[name])}
    assert same == {"embedding", "w1", "weight"}


def test_groups_are_written_down(cli: Cli, texts: list[str]) -> None:
    argv = ("--group", "b1:lr=1e-1", "--group", "bias, w1:lr=2,weight_decay=0")
    resumed(cli, *texts, *QUICK, *argv, "--out", "run")
    config = json.loads(Path("run", "config.json").read_text())
    assert config["training"]["group"] == ["b1:lr=0.1", "bias,w1:lr=2.0,weight_decay=0.0"]
    # Said again in other words it is the same run; said otherwise it is not.
    resumed(cli, *argv[:3], "bias,w1: lr=2.0, weight_decay=0.0", "--resume", "run")
    code, out, err = cli("train", "--resume", "run", "--group", "b1:lr=0.1")
    assert (code, out) == (2, "")
    wanted = "--group: expected b1:lr=0.1 bias,w1:lr=2.0,weight_decay=0.0, with which run was begun, got b1:lr=0.1;"
    assert err.startswith(f"fastnll train: {wanted}")
