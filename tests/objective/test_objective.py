"""The objective against its definition, row by row in plain Python."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import fastnll as fn
from fastnll.data import ByteTokenizer, SequenceDataset
from fastnll.dtypes import FLOATS
from fastnll.errors import DataError
from fastnll.losses import CrossEntropy
from fastnll.models import Bigram, Categorical, NGram
from fastnll.objective import Objective
from tests.objective.cases import CASES, Case, bits, ragged

Array = np.ndarray[Any, Any]
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
both_paths = pytest.mark.parametrize("counts", [True, False], ids=["counts", "rows"])


@every_case
@both_paths
def test_value_and_per_sequence_are_the_definition(case: Case, counts: bool) -> None:
    objective, params = case.objective(counts=counts, block_rows=16), case.params()
    want = case.longhand(params)
    np.testing.assert_allclose(objective.per_sequence(params), want, rtol=1e-12, atol=1e-13)
    assert objective.value(params) == pytest.approx(math.fsum(want), rel=1e-13)
    value, _ = objective.value_and_grad(params)
    assert value == pytest.approx(math.fsum(want), rel=1e-13)
    assert objective.per_sequence(params).dtype == np.float64


@every_case
@both_paths
def test_gradient_is_the_derivative_of_the_value(case: Case, counts: bool) -> None:
    objective, params = case.objective(counts=counts, l2=0.3, block_rows=16), case.params()
    _, grads = objective.value_and_grad(params)
    rng, step = np.random.default_rng(0), 1e-3
    for name, array in params.items():
        for _ in range(3):
            random: Array = rng.normal(size=array.shape)
            direction: Array = random * (1.0 / float(np.linalg.norm(random)))

            def along(t: float, name: str = name, direction: Array = direction) -> float:
                return objective.value({**params, name: params[name] + t * direction})

            # Five-point rule, exact up to step**4.
            slope = (along(-2 * step) - 8 * along(-step) + 8 * along(step) - along(2 * step)) / (12 * step)
            assert np.vdot(grads[name], direction) == pytest.approx(slope, rel=1e-7, abs=1e-7)
    assert max(np.abs(g).max() for g in grads.values()) > 0.1, "a stationary point would test nothing"


@every_case
@both_paths
def test_float32_is_float64_up_to_rounding(case: Case, counts: bool) -> None:
    objective = case.objective(counts=counts)
    small = case.params(np.float32)
    large = {name: array.astype(np.float64) for name, array in small.items()}
    value, grads = objective.value_and_grad(small)
    want, want_grads = objective.value_and_grad(large)
    assert value == pytest.approx(want, rel=1e-6)
    assert objective.value(small) == pytest.approx(want, rel=1e-6)
    np.testing.assert_allclose(objective.per_sequence(small), objective.per_sequence(large), rtol=1e-5, atol=1e-6)
    for name, grad in grads.items():
        assert grad.dtype == np.float32
        np.testing.assert_allclose(grad, want_grads[name], rtol=1e-4, atol=1e-5 * np.abs(want_grads[name]).max())


@both_paths
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_tables_of_sixteen_bits(dtype: Any, counts: bool) -> None:
    case = CASES["bigram"]
    objective = case.objective(counts=counts)
    stored = {"logits": case.params()["logits"].astype(dtype)}
    widened = {"logits": stored["logits"].astype(np.float64)}
    value, grads = objective.value_and_grad(stored)
    want, want_grads = objective.value_and_grad(widened)
    assert value == pytest.approx(want, rel=1e-6)
    assert grads["logits"].dtype == dtype
    eps = FLOATS[np.dtype(dtype).name].eps
    np.testing.assert_allclose(grads["logits"].astype(np.float64), want_grads["logits"], rtol=eps, atol=1e-4)
    penalised = case.objective(counts=counts, l2=0.5)
    assert penalised.value(stored) == pytest.approx(penalised.value(widened), rel=1e-6)
    want_grads = penalised.value_and_grad(widened)[1]
    np.testing.assert_allclose(
        penalised.value_and_grad(stored)[1]["logits"].astype(np.float64), want_grads["logits"], rtol=eps, atol=1e-4
    )


def test_units() -> None:
    dataset = SequenceDataset.from_text(["abab", "ba", "ü"], ByteTokenizer())
    objective = Objective(Categorical(256), dataset)
    uniform = Categorical(256).init()
    assert objective.n_predicted == dataset.n_tokens == dataset.n_bytes == 8
    assert objective.log_likelihood(uniform) == pytest.approx(-8 * math.log(256))
    assert objective.perplexity(uniform) == pytest.approx(256)
    assert objective.bits_per_token(uniform) == pytest.approx(8)
    assert objective.bits_per_byte(uniform) == pytest.approx(8)
    # A bigram does not predict the first byte of each of the 3 texts; their bytes count all the same.
    pairs = Objective(Bigram(256), dataset)
    assert pairs.n_predicted == 5
    assert pairs.bits_per_token(Bigram(256).init()) == pytest.approx(8)
    assert pairs.bits_per_byte(Bigram(256).init()) == pytest.approx(5)
    with pytest.raises(DataError, match="expected a known number of source bytes for bits per byte, got None"):
        Objective(Categorical(3), SequenceDataset([0, 1, 2])).bits_per_byte(Categorical(3).init())


def test_the_penalty_is_of_all_parameters_and_not_in_the_likelihood() -> None:
    case = CASES["ngram"]
    params = case.params()
    plain, penalised = case.objective(), case.objective(l2=0.8)
    squares = sum(float((array**2).sum()) for array in params.values())
    assert penalised.value(params) - plain.value(params) == pytest.approx(0.4 * squares)
    for name, grad in penalised.value_and_grad(params)[1].items():
        np.testing.assert_allclose(
            grad, plain.value_and_grad(params)[1][name] + 0.8 * params[name], rtol=1e-12, atol=1e-12
        )
    assert penalised.log_likelihood(params) == plain.log_likelihood(params) == -plain.value(params)
    assert (penalised.per_sequence(params) == plain.per_sequence(params)).all()


@every_case
@both_paths
@pytest.mark.parametrize("l2", [0.0, 0.7])
def test_batches_add_up_to_the_objective(case: Case, counts: bool, l2: float) -> None:
    objective, params = case.objective(counts=counts, l2=l2, block_rows=8), case.params()
    ids = np.random.default_rng(4).permutation(len(case.dataset))
    parts = [objective.batch_value_and_grad(params, part) for part in np.array_split(ids, 5)]
    value, grads = objective.value_and_grad(params)
    assert sum(n for _, n, _ in parts) == objective.n_predicted
    assert math.fsum(loss for loss, _, _ in parts) == pytest.approx(value, rel=1e-12)
    for name, grad in grads.items():
        np.testing.assert_allclose(sum(part[2][name] for part in parts), grad, rtol=1e-10, atol=1e-11)


@every_case
@both_paths
def test_a_batch_is_the_objective_of_its_sequences(case: Case, counts: bool) -> None:
    # Twice the same sequence counts twice.
    ids = [3, 0, 3, len(case.dataset) - 1] if len(case.dataset) > 3 else [2, 0, 2]
    params = case.params()
    loss, n, grads = case.objective(counts=counts).batch_value_and_grad(params, ids)
    alone = Objective(case.model, case.dataset.take(ids), counts=counts)
    value, want = alone.value_and_grad(params)
    assert (loss, n, bits(grads)) == (value, alone.n_predicted, bits(want))


def test_a_batch_in_which_nothing_is_predicted() -> None:
    objective = CASES["bigram"].objective(l2=1.0)
    loss, n, grads = objective.batch_value_and_grad(CASES["bigram"].params(), [1, 2])
    assert (loss, n) == (0.0, 0)
    assert not grads["logits"].any()
    rows = CASES["ngram"].objective().batch_value_and_grad(CASES["ngram"].params(), [])
    assert rows[:2] == (0.0, 0)
    assert not any(grad.any() for grad in rows[2].values())


@both_paths
@pytest.mark.parametrize("name", ["categorical", "bigram", "ngram"])
def test_two_datasets_are_the_sum_of_both(name: str, counts: bool) -> None:
    case = CASES[name]
    one, two = ragged(20, seed=5), ragged(33, seed=6)
    both = SequenceDataset.from_sequences([*one, *two], one.vocab_size)
    params = case.params()
    parts = [Objective(case.model, d, counts=counts).value_and_grad(params) for d in (one, two, both)]
    assert parts[0][0] + parts[1][0] == pytest.approx(parts[2][0], rel=1e-13)
    for key, grad in parts[2][1].items():
        np.testing.assert_allclose(parts[0][1][key] + parts[1][1][key], grad, rtol=1e-10, atol=1e-11)


@both_paths
@pytest.mark.parametrize("name", ["categorical", "bigram", "ngram"])
@pytest.mark.parametrize("max_tokens", [2, 5, 11])
def test_pieces_have_the_objective_of_the_whole(name: str, counts: bool, max_tokens: int) -> None:
    case = CASES[name]
    params = case.params()
    # All the context the model looks at: then cutting changes nothing, whatever the length of the pieces.
    context = case.model.context
    pieces = case.dataset.pieces(max_tokens + context, context)
    whole, cut = case.objective(counts=counts), Objective(case.model, pieces, counts=counts)
    assert cut.n_predicted == whole.n_predicted
    value, grads = cut.value_and_grad(params)
    assert value == pytest.approx(whole.value(params), rel=1e-13)
    for key, grad in whole.value_and_grad(params)[1].items():
        np.testing.assert_allclose(grads[key], grad, rtol=1e-10, atol=1e-11)
    of_sequences = np.bincount(pieces.sequence, cut.per_sequence(params), len(case.dataset))
    np.testing.assert_allclose(of_sequences, whole.per_sequence(params), rtol=1e-12, atol=1e-12)


@both_paths
@pytest.mark.parametrize("name", ["categorical", "bigram", "ngram"])
def test_ignored_targets_count_for_nothing(name: str, counts: bool) -> None:
    case = CASES[name]
    params = case.params()
    objective = case.objective(loss=CrossEntropy(ignore_index=[2, 6, -100, 999]), counts=counts)
    live = [sum(1 for i, t in enumerate(x.tolist()) if i >= case.model.skip and t not in (2, 6)) for x in case.dataset]
    assert objective.n_predicted == sum(live) < case.objective().n_predicted
    present = set(case.dataset.tokens.tolist())
    alone = [
        case.objective(loss=CrossEntropy(ignore_index=[i for i in range(7) if i != t]), counts=counts).value(params)
        for t in sorted(present - {2, 6})
    ]
    assert len(alone) > 2
    want = sum(alone)
    assert objective.value(params) == pytest.approx(want, rel=1e-12)
    assert objective.per_sequence(params).sum() == pytest.approx(want, rel=1e-12)
    assert objective.per_sequence(params)[np.array(live) == 0].tolist() == [0.0] * live.count(0)
    assert objective.perplexity(params) == pytest.approx(math.exp(want / sum(live)))


def test_impossible_outcomes() -> None:
    dataset = SequenceDataset([0, 1, 0, 0])
    for counts in (True, False):
        objective = Objective(Bigram(3), dataset, counts=counts)
        # Class 2 never occurs: probability 0 is right, costs nothing, and has no gradient.
        fine = {"logits": np.array([[0.0, 0.0, -np.inf]] * 3)}
        value, grads = objective.value_and_grad(fine)
        assert value == pytest.approx(3 * math.log(2))
        assert np.isfinite(grads["logits"]).all()
        assert not grads["logits"][:, 2].any()
        # After 0 comes 1: probability 0 for that is infinitely wrong.
        wrong = {"logits": np.array([[0.0, -np.inf, 0.0]] * 3)}
        assert objective.value(wrong) == np.inf
        assert objective.log_likelihood(wrong) == -np.inf
        assert objective.perplexity(wrong) == np.inf
        assert objective.per_sequence(wrong).tolist() == [np.inf]
        # Finite, but beyond float64 once it stands in an exponent.
        far = {"logits": np.array([[0.0, -1e5, 0.0]] * 3)}
        assert objective.value(far) == pytest.approx(1e5 + 3 * math.log(2), rel=1e-12)
        assert objective.perplexity(far) == np.inf
        # Rows of contexts that do not occur are not read.
        unseen = {"logits": np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0], [np.nan] * 3])}
        assert objective.value(unseen) == pytest.approx(3 * math.log(3))
        broken = {"logits": np.array([[np.nan, 0.0, 0.0]] * 3)}
        assert math.isnan(objective.value(broken))


def test_confident_models_keep_their_digits() -> None:
    # p(next) = 1 - 2e-12: a loss of 2e-12 is not 0, in counts, rows or sequences.
    logits = np.array([[-27.0, 0.0], [0.0, -27.0]])
    for counts in (True, False):
        objective = Objective(Bigram(2), SequenceDataset([0, 1, 0, 1]), counts=counts)
        assert objective.value({"logits": logits}) == pytest.approx(3 * math.log1p(math.exp(-27.0)), rel=1e-12)
        assert objective.per_sequence({"logits": logits})[0] == pytest.approx(3 * math.exp(-27.0), rel=1e-9)


@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing": 0.1},
        {"z_loss": 0.01},
        {"temperature": 2.0},
        {"softcap": 3.0},
        {"weight": [1.0, 2.0, 0.0, 1.0, 0.5, 1.0, 3.0]},
        {"class_mask": [True] * 7, "nonfinite": "raise"},
    ],
    ids=lambda o: next(iter(o)),
)
@pytest.mark.parametrize("name", ["bigram", "ngram"])
def test_other_options_are_those_of_the_loss(name: str, options: dict[str, Any]) -> None:
    case = CASES[name]
    loss = CrossEntropy(**options)
    objective, params = case.objective(loss=loss), case.params()
    inputs, targets, row_offsets = case.model.examples(case.dataset.tokens, case.dataset.offsets)
    logits, vjp = case.model.logits_and_vjp(params, inputs)
    want, grad = fn.cross_entropy_value_and_grad(logits, targets, reduction="sum", **options)
    value, grads = objective.value_and_grad(params)
    assert value == pytest.approx(want, rel=1e-12)
    assert objective.value(params) == pytest.approx(want, rel=1e-12)
    for key, expected in vjp(grad).items():
        np.testing.assert_allclose(grads[key], expected, rtol=1e-9, atol=1e-11)
    rows = np.append(fn.cross_entropy(logits, targets, reduction="none", **options), 0.0)
    sums = np.array([rows[a:b].sum() for a, b in pairwise(row_offsets)])
    np.testing.assert_allclose(objective.per_sequence(params), sums, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("counts", [True, False])
def test_the_likelihood_knows_no_smoothing_weights_or_penalty(counts: bool) -> None:
    case = CASES["bigram"]
    params = case.params()
    loss = CrossEntropy(label_smoothing=0.2, z_loss=0.1, weight=np.arange(7.0))
    objective = case.objective(loss=loss, l2=1.0, counts=counts)
    assert objective.log_likelihood(params) == pytest.approx(-case.objective().value(params), rel=1e-13)
    assert objective.value(params) != pytest.approx(case.objective().value(params), rel=1e-3)


def test_what_it_prints() -> None:
    text = repr(Objective(NGram(7), ragged(), l2=0.5))
    assert text.startswith("Objective(NGram(vocab_size=7, context=4, dim=32, hidden=128), SequenceDataset(")
    assert text.endswith("CrossEntropy(), l2=0.5)")
