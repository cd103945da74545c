"""Held-out data: which they are, what is measured on them, when a run has had enough."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnll.callbacks import Callback
from fastnll.data import FeatureDataset, SequenceDataset, open_dataset, write_dataset
from fastnll.errors import OptionError
from fastnll.models import Bigram, Categorical, NGram, SoftmaxRegression
from fastnll.objective import Objective
from fastnll.optim import SGD
from fastnll.training import Run, fit, split
from tests.training.small import problem, ragged, same_bits


def joined(dataset: Any) -> list[list[int]]:
    return [sequence.tolist() for sequence in dataset]


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("skip", [0, 1])
def test_a_share_of_the_sequences(share: float, skip: int) -> None:
    dataset = SequenceDataset.from_sequences(
        [[i % 5] * n for i, n in enumerate(np.random.default_rng(1).integers(0, 50, 200))]
    )
    parts = split(dataset, share, skip=skip)
    assert parts.ids is not None
    assert np.all(np.diff(parts.ids) > 0)
    everything = joined(dataset)
    rest = [i for i in range(200) if i not in set(parts.ids.tolist())]
    assert joined(parts.held_out) == [everything[i] for i in parts.ids]
    assert joined(parts.train) == [everything[i] for i in rest]
    predicted = np.maximum(dataset.lengths - skip, 0)
    assert predicted[parts.ids].sum() / predicted.sum() == pytest.approx(share, abs=25 / predicted.sum())
    assert parts.train.vocab_size == parts.held_out.vocab_size == dataset.vocab_size
    # Not the first ones or the last ones: spread over the data.
    assert 60 < parts.ids.mean() < 140


def test_the_choice_is_that_of_every_machine() -> None:
    dataset = SequenceDataset.from_sequences([[0, 1, 2]] * 20)
    parts = split(dataset, 0.25)
    assert parts.ids is not None
    assert parts.ids.tolist() == [4, 5, 9, 10, 13]


def test_sequences_too_large_for_the_share_stay() -> None:
    dataset = SequenceDataset.from_sequences([[0, 1] * 500, *[[0, 1, 1]] * 30])
    parts = split(dataset, 0.03)
    assert parts.ids is not None
    assert 0 not in parts.ids
    assert 12 <= len(parts.ids) <= 18


def test_the_end_of_a_single_sequence() -> None:
    tokens = np.arange(1000) % 7
    for skip in (0, 1):
        parts = split(SequenceDataset(tokens), 0.2, skip=skip)
        assert parts.ids is None
        assert [*parts.train[0], *parts.held_out[0]] == tokens.tolist()
        assert parts.held_out.n_tokens - skip == 200
        assert np.shares_memory(parts.train.tokens, parts.held_out.tokens)
    assert str(parts) == "the end of the only sequence (201 tokens, 20.1 %)"
    # Empty sequences, and those of one token, are not there for a model with context.
    crowd = SequenceDataset.from_sequences([[], [3], tokens, [2], []])
    assert joined(split(crowd, 0.2).held_out)[0] == tokens[-201:].tolist()


def test_a_mapped_file_is_not_read(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data.fnll", ragged())
    dataset = open_dataset(tmp_path / "data.fnll")
    assert dataset.mapping is not None
    parts = split(dataset, 0.4)
    for part in (parts.train, parts.held_out):
        assert np.shares_memory(part.tokens, dataset.tokens)
        assert part.mapping is dataset.mapping
    assert joined(parts.train) + joined(parts.held_out) == joined(ragged())
    predicted = np.maximum(ragged().lengths - 1, 0)
    held = int(predicted[parts.ids].sum())
    nearest = np.abs(np.cumsum(predicted[::-1]) - 0.4 * predicted.sum()).min()
    assert abs(held - 0.4 * predicted.sum()) == nearest


def test_rows_of_features() -> None:
    rng = np.random.default_rng(0)
    dataset = FeatureDataset(rng.standard_normal((50, 3)), rng.integers(0, 4, 50))
    parts = split(dataset, 0.2, skip=0)
    assert (len(parts.held_out), len(parts.train)) == (10, 40)
    model = SoftmaxRegression(3, 4)
    history = fit(
        Objective(model, dataset), SGD(model.init(), 0.1), epochs=2, batch_tokens=8, held_out=0.2, eval_every=3
    )
    assert history.final_held_out is not None
    assert history.final_held_out.n_predicted == 10


@pytest.mark.parametrize(
    ("sequences", "share", "message"),
    [
        ([[0, 1]] * 2, 0.01, "got 0.01 of 2 sequences with 2 predicted tokens"),
        ([[0, 1]] * 2, 0.95, "expected a share that leaves at least one sequence on either side"),
        ([[0, 1, 2]], 0.2, "got 0.2 of 1 sequences with 2 predicted tokens"),
        ([[0, 1] * 50], 0.999, "expected a share that leaves"),
        ([[0]] * 9, 0.5, "got 0.5 of 0 sequences with 0 predicted tokens"),
        ([[0, 1]] * 9, 0.0, "expected a share above 0 and below 1, got 0.0"),
        ([[0, 1]] * 9, 1, "expected a share above 0 and below 1, got 1"),
        ([[0, 1]] * 9, math.nan, "expected a share above 0 and below 1, got nan"),
        ([[0, 1]] * 9, True, "got True"),
        ([[0, 1]] * 9, "0.1", "got '0.1'"),
    ],
)
def test_shares_that_leave_nothing(sequences: Any, share: Any, message: str) -> None:
    with pytest.raises(OptionError, match=f"held_out: .*{message}"):
        split(SequenceDataset.from_sequences(sequences), share)


def test_mapped_shares_that_leave_nothing(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data.fnll", SequenceDataset.from_sequences([[0, 1] * 50, [0, 1]]))
    with pytest.raises(OptionError, match="expected a share that leaves"):
        split(open_dataset(tmp_path / "data.fnll"), 0.99)


def test_what_is_held_out_is_not_trained_on() -> None:
    """Token 6 is in the held-out sequences alone: its row never moves, and its loss never falls."""
    dataset = SequenceDataset.from_sequences([[0, 1, 2, 3] * 4] * 20, vocab_size=7)
    parts = split(dataset, 0.3)
    assert parts.ids is not None
    sequences = [[6, 6, 6, 6] if i in parts.ids.tolist() else [0, 1, 2, 3] * 4 for i in range(20)]
    # The lengths differ from those the ids were chosen by: the held-out data are handed over.
    train = SequenceDataset.from_sequences([s for s in sequences if s[0] == 0], vocab_size=7)
    other = SequenceDataset.from_sequences([s for s in sequences if s[0] == 6], vocab_size=7)
    model = Bigram(7)
    params = model.init(dtype="float64")
    history = fit(Objective(model, train), SGD(params, 1.0), epochs=6, batch_tokens=32, held_out=other)
    assert np.ptp(params["logits"][6]) == 0
    assert history.held_out_loss == pytest.approx([math.log(7)] * 6)
    assert history.epoch_loss[-1] < 1.0


def test_a_share_in_fit_is_the_split() -> None:
    objective, sgd = problem()
    history = fit(objective, sgd, steps=30, batch_tokens=64, held_out=0.25, eval_every=7)
    parts = split(objective.dataset, 0.25)
    _, other = problem()
    by_hand = fit(
        Objective(objective.model, parts.train),
        other,
        steps=30,
        batch_tokens=64,
        held_out=Objective(objective.model, parts.held_out),
        eval_every=7,
    )
    assert same_bits(sgd.params, other.params)
    assert history.held_out_loss == by_hand.held_out_loss
    assert history.held_out_step == [7, 14, 21, 28, 30]
    assert history.held_out_tokens == [history.tokens[step - 1] for step in history.held_out_step]
    assert history.final is not None and history.final_held_out is not None
    assert history.final.n_predicted + history.final_held_out.n_predicted == objective.n_predicted
    assert history.final_held_out.nll_per_token == history.held_out_loss[-1]


def test_evaluated_after_every_epoch_where_nothing_is_said() -> None:
    objective, sgd = problem()
    ends: list[int] = []

    class Note(Callback):
        def on_epoch(self, run: Run) -> None:
            ends.append(run.progress.step)

    history = fit(objective, sgd, epochs=3, batch_tokens=64, held_out=0.25, callbacks=[Note()])
    assert history.held_out_step == ends
    assert len(ends) == 3


def test_watching_does_not_change_the_run() -> None:
    objective, sgd = problem()
    parts = split(objective.dataset, 0.25)
    alone = Objective(objective.model, parts.train)
    fit(alone, sgd, steps=30, batch_tokens=64)
    _, other = problem()
    fit(alone, other, steps=30, batch_tokens=64, held_out=parts.held_out, eval_every=1)
    assert same_bits(sgd.params, other.params)


def overfit(**options: Any) -> tuple[Any, SGD, list[dict[str, Any]]]:
    """Train a model of 2000 parameters on few tokens; the history, and the parameters at each evaluation."""
    model = NGram(7, context=4, dim=8, hidden=24)
    sgd = SGD(model.init(0), 0.4, momentum=0.9)
    seen: list[dict[str, Any]] = []

    class Note(Callback):
        def on_step(self, run: Run) -> None:
            if run.history.held_out_step and run.history.held_out_step[-1] == run.progress.step:
                seen.append({name: array.copy() for name, array in run.optimizer.params.items()})

    options = {"steps": 80, "batch_tokens": 64, "held_out": 0.3, "eval_every": 2, "callbacks": [Note()], **options}
    return fit(Objective(model, ragged()), sgd, **options), sgd, seen


def test_early_stopping() -> None:
    free, _, _ = overfit()
    assert len(free.held_out_loss) == 40
    ends = []
    for patience, min_delta in ((1, 0.0), (2, 0.0), (2, 0.05), (6, 0.0)):
        history, sgd, seen = overfit(patience=patience, min_delta=min_delta)
        # The rule, written once more.
        best, worse, expected = math.inf, 0, 0
        for i, loss in enumerate(free.held_out_loss):
            if loss < best - min_delta:
                best, worse, expected = loss, 0, i
            else:
                worse += 1
            if worse == patience:
                break
        assert history.held_out_loss == free.held_out_loss[: i + 1]
        assert i + 1 < 40
        ends.append(i)
        assert history.progress.best_step == history.held_out_step[expected]
        assert history.progress.best_loss == best
        assert history.stopped is not None
        assert history.stopped.startswith("early stopping: no lower held-out loss in")
        # The parameters are those of the best evaluation, and so are the final numbers.
        assert same_bits(sgd.params, seen[expected])
        assert history.final_held_out is not None
        assert history.final_held_out.nll_per_token == pytest.approx(best)
    # The smallest improvement that counts decided, and so did the patience.
    assert ends[2] < ends[1] < ends[3]


def test_the_best_is_restored_without_an_early_stop_too() -> None:
    history, sgd, seen = overfit(patience=1000)
    assert history.stopped is None
    assert history.progress.step == 80
    best = int(np.argmin(history.held_out_loss))
    assert best < 39
    assert same_bits(sgd.params, seen[best])


def test_without_patience_the_last_parameters_stay() -> None:
    history, sgd, seen = overfit()
    assert history.progress.best_step == history.held_out_step[int(np.argmin(history.held_out_loss))]
    assert same_bits(sgd.params, seen[-1])


def test_a_held_out_loss_that_is_infinite_is_no_improvement() -> None:
    """The only held-out transition has probability 0 under every parameter: nothing to be best."""
    dataset = SequenceDataset.from_sequences([[0, 1, 0, 1, 0, 1]] * 4, vocab_size=3)
    model = Bigram(3)
    params = model.init()
    params["logits"][:, 2] = -np.inf
    held_out = SequenceDataset.from_sequences([[0, 2, 2]], vocab_size=3)
    history = fit(
        Objective(model, dataset),
        SGD(params, 0.1),
        steps=9,
        batch_tokens=8,
        held_out=held_out,
        eval_every=2,
        patience=3,
    )
    assert history.held_out_loss == [math.inf] * 3
    assert (history.progress.best_step, history.progress.step) == (None, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_every": 5}, "eval_every: expected held-out data to evaluate, got none; add held_out"),
        ({"patience": 5}, "patience: expected held-out data to evaluate, got none; add held_out"),
        ({"held_out": 0.2, "min_delta": 0.1}, "min_delta: expected patience beside it, got min_delta=0.1 alone"),
        ({"held_out": 0.2, "eval_every": 0}, "eval_every: expected an integer of at least 1, got 0"),
        ({"held_out": 0.2, "patience": 0}, "patience: expected an integer of at least 1, got 0"),
        ({"held_out": 0.2, "patience": 1, "min_delta": -1.0}, "min_delta: expected a finite number of at least 0"),
        ({"held_out": 1.5}, "held_out: expected a share above 0 and below 1, got 1.5"),
    ],
)
def test_options_that_mean_nothing(options: dict[str, Any], message: str) -> None:
    objective, sgd = problem()
    with pytest.raises(OptionError, match=message):
        fit(objective, sgd, steps=2, **options)


def test_an_objective_of_another_kind_is_not_split() -> None:
    class Other:
        dataset = ragged()
        model = Categorical(7)

    _, sgd = problem()
    with pytest.raises(OptionError, match=r"expected an objective beside a Other, got 0\.2; split its data"):
        fit(Other(), sgd, steps=2, held_out=0.2)
