"""Every model: logits against plain Python, parameters, names, errors."""

from __future__ import annotations

import json
import math
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from fastnll.data import FeatureDataset, SequenceDataset
from fastnll.errors import DataError, DTypeError, LabelError, OptionError, ShapeError
from fastnll.models import MODELS, Bigram, Categorical, Model, NGram, SoftmaxRegression, TableModel, make
from tests.models.longhand import ALL_MODELS, SEQUENCE_MODELS, SEQUENCES, random_params, row_logits


def flat(sequences: Any) -> tuple[list[int], list[int]]:
    return [t for s in sequences for t in s], np.cumsum([0, *(len(s) for s in sequences)]).tolist()


@pytest.mark.parametrize("model", SEQUENCE_MODELS, ids=repr)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_logits_are_those_of_the_definition(model: Model, dtype: Any) -> None:
    params = random_params(model, 1, dtype)
    inputs, targets, row_offsets = model.examples(*flat(SEQUENCES))
    logits, _ = model.logits_and_vjp(params, inputs)
    want = [row_logits(model, params, s[:i]) for s in SEQUENCES for i in range(model.skip, len(s))]
    np.testing.assert_allclose(logits, want, rtol=1e-5 if dtype is np.float32 else 1e-13, atol=1e-6)
    assert logits.dtype == dtype
    assert targets.tolist() == [t for s in SEQUENCES for t in s[model.skip :]]
    assert np.diff(row_offsets).tolist() == [max(len(s) - model.skip, 0) for s in SEQUENCES]


def test_softmax_regression_is_a_linear_map_of_the_features() -> None:
    model, rng = SoftmaxRegression(3, 4), np.random.default_rng(0)
    data = FeatureDataset(rng.normal(size=(6, 3)), rng.integers(0, 4, 6), n_classes=4)
    params = random_params(model, 2)
    inputs, targets, row_offsets = model.examples(data)
    logits, _ = model.logits_and_vjp(params, inputs)
    for i in range(6):
        np.testing.assert_allclose(logits[i], params["weight"] @ data.features[i] + params["bias"], rtol=1e-13)
    assert targets.tolist() == data.labels.tolist()
    assert row_offsets.tolist() == list(range(7))
    positions = np.array([4, 0, 5])
    assert (model.inputs(data, positions, positions * 0) == data.features[positions]).all()
    assert np.shares_memory(model.inputs(data, np.arange(2, 5), positions * 0), data.features)


@pytest.mark.parametrize("model", SEQUENCE_MODELS, ids=repr)
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint32, np.int64, np.uint64])
def test_tokens_of_any_integer_dtype(model: Model, dtype: Any) -> None:
    tokens, offsets = flat(SEQUENCES)
    params = random_params(model, 4)
    want, _ = model.logits_and_vjp(params, model.examples(tokens, offsets).inputs)
    examples = model.examples(np.array(tokens, dtype), np.array(offsets, np.int32))
    got, _ = model.logits_and_vjp(params, examples.inputs)
    assert (got == want).all()
    assert examples.targets.dtype == dtype


@pytest.mark.parametrize("model", ALL_MODELS, ids=repr)
def test_out_is_used_and_gradients_are_added(model: Model) -> None:
    params, rng = random_params(model, 5), np.random.default_rng(1)
    features = isinstance(model, SoftmaxRegression)
    inputs = rng.normal(size=(7, 3)) if features else model.examples([1, 0, 4, 4, 2, 3, 1]).inputs
    fresh, vjp = model.logits_and_vjp(params, inputs)
    out = np.full_like(fresh, np.nan)
    written, _ = model.logits_and_vjp(params, inputs, out=out)
    assert written is out
    assert (out == fresh).all()
    wrong, _ = model.logits_and_vjp(params, inputs, out=np.empty(fresh.shape, np.float32))
    assert wrong.dtype == np.float64
    upstream = rng.normal(size=fresh.shape)
    once = vjp(upstream.copy())
    into = {name: np.ones_like(grad) for name, grad in once.items()}
    assert vjp(upstream.copy(), into) is into
    assert list(once) == list(model.shapes())
    for name, grad in once.items():
        np.testing.assert_allclose(into[name], grad + 1.0, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("model", ALL_MODELS, ids=repr)
def test_a_model_comes_back_from_its_json(model: Model) -> None:
    config = json.loads(json.dumps(model.config()))
    for again in (make(**config), type(model).from_config(config)):
        assert type(again) is type(model)
        assert again.config() == model.config()
        assert again.shapes() == model.shapes()
    assert MODELS[model.name] is type(model)
    with pytest.raises(OptionError, match="config: expected the name"):
        type(model).from_config({**config, "name": "other"})


@pytest.mark.parametrize("model", [*ALL_MODELS, NGram(1000, context=6, dim=24, hidden=64)], ids=repr)
def test_initial_parameters_start_near_log_v(model: Model) -> None:
    rng = np.random.default_rng(0)
    params = model.init(3)
    v = model.vocab_size
    if isinstance(model, SoftmaxRegression):
        inputs = rng.normal(size=(500, model.n_features))
        targets = rng.integers(0, v, 500)
    else:
        inputs, targets, _ = model.examples(rng.integers(0, v, 500))
    logits = model.logits_and_vjp(params, inputs)[0].astype(np.float64)
    loss = np.logaddexp.reduce(logits, axis=1) - logits[np.arange(len(targets)), targets]
    assert loss.mean() == pytest.approx(math.log(v), rel=0.02)
    assert {name: array.shape for name, array in params.items()} == model.shapes()
    assert {array.dtype.name for array in params.values()} == {"float32"}
    assert sum(a.size for a in params.values()) == model.n_parameters


def test_initial_parameters_depend_on_the_seed_and_nothing_else() -> None:
    model = NGram(50, context=3, dim=16, hidden=32)
    first, again, other = model.init(7), model.init(7), model.init(8)
    for name in ("embedding", "w1", "weight"):
        assert first[name].tobytes() == again[name].tobytes()
        assert (first[name] != other[name]).mean() > 0.99
    assert (first["embedding"] == model.init(7, np.float64)["embedding"].astype(np.float32)).all()
    assert first["embedding"].std() == pytest.approx(1.0, rel=0.05)
    assert first["w1"].std() == pytest.approx(1 / math.sqrt(48), rel=0.05)
    assert abs(np.corrcoef(first["w1"].ravel()[:500], first["embedding"].ravel()[:500])[0, 1]) < 0.15


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_tables_of_sixteen_bits_have_gradients_of_thirty_two(dtype: Any) -> None:
    model = Bigram(5)
    params = {"logits": random_params(model, 0)["logits"].astype(dtype)}
    logits, vjp = model.logits_and_vjp(params, np.array([0, 3, 3]))
    assert logits.dtype == np.float32
    assert (logits[1] == params["logits"][3].astype(np.float32)).all()
    assert vjp(np.ones((3, 5), np.float32))["logits"].dtype == np.float32
    assert model.init(dtype=dtype)["logits"].dtype == dtype


class TestErrors:
    model = Bigram(3)

    def test_unknown_and_missing_parameters(self) -> None:
        told = (
            r"params: expected exactly 'logits' for model 'bigram', got 'weight' \(unknown 'weight', missing 'logits'\)"
        )
        with pytest.raises(OptionError, match=told):
            self.model.check_params({"weight": np.zeros((3, 3))})
        with pytest.raises(OptionError, match=r"got none \(missing 'logits'\)"):
            self.model.check_params({})
        with pytest.raises(OptionError, match=r"params: expected a dict with 'logits', got ndarray"):
            self.model.check_params(np.zeros((3, 3)))  # type: ignore[arg-type]

    def test_another_shape_or_dtype(self) -> None:
        with pytest.raises(
            ShapeError, match=r"params\['logits'\]: expected shape \(3, 3\) for .*'bigram', got \(3, 4\)"
        ):
            self.model.check_params({"logits": np.zeros((3, 4))})
        with pytest.raises(DTypeError, match=r"params\['logits'\]: expected dtype float64, .* 'bigram', got int64"):
            self.model.check_params({"logits": np.zeros((3, 3), np.int64)})
        head = SoftmaxRegression(2, 3)
        with pytest.raises(DTypeError, match="expected one float dtype for all, got weight float32, bias float64"):
            head.check_params({"weight": np.zeros((3, 2), np.float32), "bias": np.zeros(3)})
        with pytest.raises(
            DTypeError, match=r"params\['weight'\]: expected dtype float64, float32 for .*, got float16"
        ):
            head.check_params({"weight": np.zeros((3, 2), np.float16), "bias": np.zeros(3, np.float16)})

    def test_dtypes_that_cannot_be_initialised(self) -> None:
        with pytest.raises(DTypeError, match=r"dtype: expected dtype float64, .*, got int32"):
            self.model.init(dtype=np.int32)
        with pytest.raises(DTypeError, match="dtype: expected dtype float64, float32 for model 'ngram', got float16"):
            NGram(3).init(dtype=np.float16)

    @pytest.mark.parametrize("model", [Bigram(3), NGram(3), Categorical(3)], ids=repr)
    def test_inputs_out_of_range(self, model: Model) -> None:
        shape = (2, model.context) if isinstance(model, NGram) else (2,)
        with pytest.raises(LabelError, match=r"inputs: expected ids in \[0, \d\), got 9"):
            model.logits_and_vjp(model.init(), np.full(shape, 9))

    def test_sizes(self) -> None:
        with pytest.raises(OptionError, match="vocab_size: expected an integer of at least 1, got 0"):
            Categorical(0)
        with pytest.raises(OptionError, match="context: expected an integer of at least 1, got 0"):
            NGram(3, context=0)
        with pytest.raises(OptionError, match="n_features: expected an integer"):
            SoftmaxRegression(2.5, 3)  # type: ignore[arg-type]

    def test_names(self) -> None:
        with pytest.raises(OptionError, match=f"name: expected one of {', '.join(MODELS)}, got 'gpt'"):
            make("gpt")
        with pytest.raises(OptionError, match=r"model 'bigram': expected the arguments vocab_size, got \{'v': 3\}"):
            make("bigram", v=3)

    def test_features_where_there_are_none(self) -> None:
        with pytest.raises(
            DataError, match=r"expected a FeatureDataset for .*'softmax_regression', got SequenceDataset"
        ):
            SoftmaxRegression(2, 3).examples(SequenceDataset([1, 2]))
        with pytest.raises(ShapeError, match="features: expected 2 columns, got 3"):
            SoftmaxRegression(2, 3).examples(FeatureDataset(np.eye(3), [0, 1, 2]))


def test_which_models_are_convex() -> None:
    assert {name for name, model in MODELS.items() if model.convex} == {"categorical", "bigram", "softmax_regression"}
    assert {name for name, model in MODELS.items() if issubclass(model, TableModel)} == {"categorical", "bigram"}
