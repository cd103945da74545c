"""The loop: it minimises, it counts, it continues where it was, it ends in a sentence."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from fastnll import ops
from fastnll.callbacks import Callback
from fastnll.clipping import DivergenceError
from fastnll.data import FeatureDataset, SequenceDataset
from fastnll.errors import OptionError
from fastnll.history import Progress
from fastnll.models import Bigram, Categorical, NGram, SoftmaxRegression, bigram_optimum
from fastnll.objective import Objective
from fastnll.optim import SGD
from fastnll.schedules import cosine
from fastnll.training import Run, evaluate, fit, total_steps
from tests.training.small import problem, ragged, same_bits


def test_the_coin() -> None:
    """Tosses H, T, H, H: SGD finds p(H) = 3/4 from p = 1/2, where the likelihood is greatest."""
    objective = Objective(Categorical(2), SequenceDataset([1, 0, 1, 1]))
    params = objective.model.init(dtype="float64")
    assert ops.softmax(params["logits"]).tolist() == [0.5, 0.5]
    history = fit(objective, SGD(params, lr=1.0), steps=200, batch_tokens=None)
    p = ops.softmax(params["logits"])
    assert p[1] == pytest.approx(0.75, abs=1e-9)
    assert history.final is not None
    assert history.final.nll == pytest.approx(-math.log(0.75**3 * 0.25), abs=1e-12)
    assert math.exp(-history.final.nll) >= max(q**3 * (1 - q) for q in np.linspace(0.01, 0.99, 99))


@pytest.mark.parametrize("batch_tokens", [64, None])
def test_bigram_reaches_its_closed_form(batch_tokens: int | None) -> None:
    objective, sgd = problem()
    best = bigram_optimum(objective.dataset)
    start = evaluate(objective, sgd.params)
    history = fit(objective, sgd, steps=1500, batch_tokens=batch_tokens, schedule=cosine(8.0, 1500, 50))
    assert history.final is not None
    assert start.nll > 1.3 * best.value
    assert best.value <= history.final.nll < 1.002 * best.value
    assert history.final.n_predicted == best.n_predicted


def test_other_models_go_down() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    features = rng.standard_normal((200, 4)) + 2.0 * np.eye(3, 4)[labels]
    cases: list[tuple[Any, Any]] = [
        (NGram(7, context=3, dim=8, hidden=16), ragged()),
        (SoftmaxRegression(4, 3), FeatureDataset(features, labels)),
        (Categorical(7), ragged()),
    ]
    for model, dataset in cases:
        objective = Objective(model, dataset)
        params = model.init(0)
        before = objective.value(params)
        history = fit(objective, SGD(params, 0.3, momentum=0.9), epochs=4, batch_tokens=64)
        assert history.final is not None
        assert history.final.nll < 0.97 * before, model
        assert len(history.epoch_loss) == 4


def test_lists_and_counts() -> None:
    objective, sgd = problem(max_norm=0.1)
    history = fit(objective, sgd, epochs=3, batch_tokens=64, schedule=cosine(1.0, 100))
    steps = len(history.loss)
    assert steps == total_steps(objective, 64, 3) > 30
    assert history.step == list(range(1, steps + 1))
    assert history.lr == [cosine(1.0, 100)(step) for step in range(steps)]
    assert history.tokens[-1] == history.progress.tokens == 3 * objective.n_predicted
    assert np.diff([0, *history.tokens]).min() > 20
    assert all(norm is not None and norm > 0 for norm in history.grad_norm)
    assert history.loss[0] == pytest.approx(math.log(7), rel=1e-6)
    assert len(history.epoch_loss) == 3
    assert history.epoch_loss[0] > history.epoch_loss[2]
    assert (history.progress.epoch, history.progress.batch, history.stopped) == (3, 0, None)
    mean = np.average(history.loss, weights=np.diff([0, *history.tokens]))
    assert np.mean(history.epoch_loss) == pytest.approx(mean)


def test_full_batch_is_gradient_descent() -> None:
    objective, sgd = problem(dtype="float64", momentum=0.0)
    by_hand = {name: array.copy() for name, array in sgd.params.items()}
    fit(objective, sgd, steps=3, batch_tokens=None)
    for _ in range(3):
        _, grads = objective.value_and_grad(by_hand)
        by_hand["logits"] -= 2.0 * grads["logits"] / objective.n_predicted
    np.testing.assert_allclose(sgd.params["logits"], by_hand["logits"], rtol=1e-13, atol=1e-14)


def test_epochs_and_steps_are_the_same_run() -> None:
    (objective, one), (_, other) = problem(), problem()
    first = fit(objective, one, epochs=2, batch_tokens=100, seed=5)
    second = fit(objective, other, steps=total_steps(objective, 100, 2, seed=5), batch_tokens=100, seed=5)
    assert same_bits(one.params, other.params)
    assert first.progress.epoch == second.progress.epoch == 2
    assert first.epoch_loss == second.epoch_loss


def test_seed_decides_and_threads_do_not() -> None:
    results = []
    for seed, threads in ((1, 1), (1, 2), (2, 1)):
        objective, sgd = problem()
        from fastnll import using

        with using(threads=threads):
            fit(objective, sgd, epochs=1, batch_tokens=64, seed=seed)
        results.append(sgd.params)
    assert same_bits(results[0], results[1])
    assert not same_bits(results[0], results[2])


@pytest.mark.parametrize("stop_at", [1, 7, 29, 30, 31, 60])
def test_continued_run_is_the_uninterrupted_one(stop_at: int) -> None:
    schedule = cosine(3.0, 75, 5)
    objective, whole = problem(max_norm=0.5)
    fit(objective, whole, steps=75, batch_tokens=64, schedule=schedule, seed=3)
    _, first = problem(max_norm=0.5)
    history = fit(objective, first, steps=stop_at, batch_tokens=64, schedule=schedule, seed=3)
    second = SGD({name: array.copy() for name, array in first.params.items()}, lr=1.0)
    second.load_state_dict(first.state_dict())
    position = Progress(**history.progress.to_dict())
    rest = fit(objective, second, steps=75, batch_tokens=64, schedule=schedule, seed=3, start=position)
    assert same_bits(whole.params, second.params)
    assert rest.step == list(range(stop_at + 1, 76))
    # The caller's own record of where it was is not written to.
    assert position.step == stop_at


class Recorder(Callback):
    def __init__(self, stop_at: int | None = None, fail_at: int | None = None) -> None:
        self.seen: list[str] = []
        self.stop_at, self.fail_at = stop_at, fail_at
        self.error: BaseException | None = None

    def on_start(self, run: Run) -> None:
        self.seen.append("start")

    def on_step(self, run: Run) -> None:
        self.seen.append(f"step {run.progress.step}")
        if run.progress.step == self.stop_at:
            run.stop("enough")
        if run.progress.step == self.fail_at:
            raise OSError("disk full")

    def on_epoch(self, run: Run) -> None:
        self.seen.append(f"epoch {run.progress.epoch}")

    def on_end(self, run: Run) -> None:
        self.seen.append("end")
        self.error = run.error


def test_callbacks_are_called_in_order() -> None:
    objective, sgd = problem()
    recorder = Recorder()
    fit(objective, sgd, epochs=2, batch_tokens=None, callbacks=[recorder])
    assert recorder.seen == ["start", "step 1", "epoch 1", "step 2", "epoch 2", "end"]
    assert recorder.error is None


def test_a_callback_can_stop() -> None:
    objective, sgd = problem()
    history = fit(objective, sgd, epochs=2, batch_tokens=64, callbacks=[Recorder(stop_at=3)])
    assert (history.stopped, len(history.loss)) == ("enough", 3)
    assert history.final is not None


def test_every_callback_is_told_of_the_end() -> None:
    objective, sgd = problem()
    first, failing, last = Recorder(), Recorder(fail_at=2), Recorder()
    with pytest.raises(OSError, match="disk full"):
        fit(objective, sgd, epochs=2, batch_tokens=64, callbacks=[first, failing, last])
    assert [recorder.seen[-1] for recorder in (first, failing, last)] == ["end"] * 3
    assert isinstance(first.error, OSError)
    assert last.seen == ["start", "step 1", "end"]


def test_a_loss_that_is_not_a_number_ends_the_run() -> None:
    objective, sgd = problem()

    class Break(Callback):
        def on_step(self, run: Run) -> None:
            if run.progress.step == 2:
                run.optimizer.params["logits"][:] = np.nan

    with pytest.raises(DivergenceError) as caught:
        fit(objective, sgd, steps=9, batch_tokens=64, callbacks=[Break()])
    assert "loss: expected a finite number, got nan at step 3 (step 2: " in str(caught.value)
    assert "lower the learning rate or clip with max_norm" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "epochs, steps: expected one of the two, got none"),
        ({"epochs": 1, "steps": 1}, "got epochs=1 and steps=1"),
        ({"epochs": 0}, "epochs: expected an integer of at least 1, got 0"),
        ({"steps": 2.5}, "steps: expected an integer of at least 1, got 2.5"),
        ({"steps": 1, "batch_tokens": 0}, "batch_tokens: expected"),
        ({"steps": 1, "seed": -1}, "seed: expected"),
    ],
)
def test_option_errors(options: dict[str, Any], message: str) -> None:
    objective, sgd = problem()
    with pytest.raises(OptionError, match=message):
        fit(objective, sgd, **options)


def test_sequences_of_one_token_are_no_step() -> None:
    """A batch in which nothing is predicted leaves the parameters alone and is not counted."""
    dataset = SequenceDataset.from_sequences([[0]] * 30 + [[0, 1, 0, 1]])
    objective = Objective(Bigram(2), dataset)
    history = fit(objective, SGD(objective.model.init(), 1.0), epochs=2, batch_tokens=3)
    assert history.progress.tokens == 6
    assert len(history.loss) == history.progress.step <= 6
    assert len(history.epoch_loss) == 2


def test_evaluation_units() -> None:
    text = "abracadabra " * 20
    dataset = SequenceDataset.from_text([text, "é" * 8])
    objective = Objective(Bigram(256), dataset)
    params = objective.model.init()
    result = evaluate(objective, params)
    assert result.n_predicted == len(text) + 16 - 2
    assert result.nll == pytest.approx(result.n_predicted * math.log(256))
    assert result.bits_per_token == pytest.approx(8)
    assert result.perplexity == pytest.approx(256)
    assert result.bits_per_byte == pytest.approx(8 * result.n_predicted / (len(text) + 16))
    assert result.bits_per_byte == pytest.approx(objective.bits_per_byte(params))
    assert evaluate(Objective(Categorical(7), ragged()), Categorical(7).init()).bits_per_byte is None
