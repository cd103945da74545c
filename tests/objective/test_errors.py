"""What the objective refuses, in sentences that say what was expected."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fastnll.data import FeatureDataset, SequenceDataset
from fastnll.errors import DataError, DTypeError, FastnllError, LabelError, OptionError, ShapeError
from fastnll.losses import CrossEntropy
from fastnll.models import Bigram, Categorical, NGram, SoftmaxRegression
from fastnll.objective import Objective

TOKENS = SequenceDataset([0, 1, 2, 1, 0, 2], [0, 4, 6])
FEATURES = FeatureDataset(np.eye(3), [0, 1, 2])


def objective(**options: Any) -> Objective:
    return Objective(Bigram(3), TOKENS, **options)


MISTAKES: dict[str, tuple[Callable[[], Any], type[FastnllError], str]] = {
    "no sequences": (
        lambda: Objective(Categorical(3), SequenceDataset.from_sequences([], 3)),
        DataError,
        "dataset: expected at least one predicted token for model 'categorical', got none in 0 sequences of 0 tokens",
    ),
    "sequences of one token": (
        lambda: Objective(NGram(3), SequenceDataset.from_sequences([[1], [2], []], 3)),
        DataError,
        "got none in 3 sequences of 2 tokens (the first token of a sequence is not predicted)",
    ),
    "everything ignored": (
        lambda: objective(loss=CrossEntropy(ignore_index=[0, 1, 2])),
        DataError,
        "2 sequences of 6 tokens (the first token of a sequence is not predicted), with ignore_index (0, 1, 2)",
    ),
    "tokens beyond the vocabulary": (
        lambda: Objective(Bigram(2), TOKENS),
        LabelError,
        "dataset: expected token ids in [0, 2), the vocabulary of model 'bigram', got 2 at sequence 0, position 2; "
        "2 of 6 tokens are outside; make the model with vocab_size=3",
    ),
    "labels beyond the classes": (
        lambda: Objective(SoftmaxRegression(3, 2), FEATURES),
        LabelError,
        "dataset: expected token ids in [0, 2), the vocabulary of model 'softmax_regression', got 2 at sequence 2",
    ),
    "a list": (
        lambda: Objective(Bigram(3), [0, 1, 2]),
        OptionError,
        "dataset: expected a SequenceDataset, Pieces or Fea",
    ),
    "features for a bigram": (
        lambda: Objective(Bigram(3), FEATURES),
        OptionError,
        "dataset: expected a SequenceDataset for model 'bigram', got FeatureDataset",
    ),
    "tokens for a classifier": (
        lambda: Objective(SoftmaxRegression(3, 3), TOKENS),
        OptionError,
        "dataset: expected a FeatureDataset for model 'softmax_regression', got SequenceDataset",
    ),
    "other features": (
        lambda: Objective(SoftmaxRegression(2, 3), FEATURES),
        ShapeError,
        "dataset: expected 2 features for model 'softmax_regression', got 3",
    ),
    "pieces without context": (
        lambda: Objective(Bigram(3), TOKENS.pieces(2, context=0)),
        OptionError,
        "dataset: expected pieces with a context of at least 1 for model 'bigram', got 0",
    ),
    "a loss that is none": (
        lambda: objective(loss="cross_entropy"),
        OptionError,
        "loss: expected a CrossEntropy, got str",
    ),
    "an option of a batch": (
        lambda: objective(loss=CrossEntropy(mask=np.ones(4, bool), shift=1)),
        OptionError,
        "loss: expected options that mean the same for every row of the dataset, got mask, shift",
    ),
    "a mask of rows and classes": (
        lambda: objective(loss=CrossEntropy(class_mask=np.ones((4, 3), bool))),
        OptionError,
        "loss: expected options that mean the same for every row of the dataset, got class_mask",
    ),
    "another axis": (lambda: objective(loss=CrossEntropy(axis=0)), OptionError, "loss: expected axis -1"),
    "a negative penalty": (
        lambda: objective(l2=-1.0),
        OptionError,
        "l2: expected a finite number of at least 0, got -1.0",
    ),
    "a penalty that is no number": (
        lambda: objective(l2="1"),
        OptionError,
        "l2: expected a finite number of at least 0",
    ),
    "blocks of nothing": (
        lambda: objective(block_rows=0),
        OptionError,
        "block_rows: expected an integer of at least 1, got 0",
    ),
    "parameters of another model": (
        lambda: objective().value(NGram(3).init()),
        OptionError,
        "params: expected exactly 'logits' for model 'bigram', got 'b1', 'bias', 'embedding', 'w1', 'weight'",
    ),
    "parameters of another shape": (
        lambda: objective().value_and_grad({"logits": np.zeros((4, 4))}),
        ShapeError,
        "params['logits']: expected shape (3, 3) for model 'bigram', got (4, 4)",
    ),
    "parameters of integers": (
        lambda: objective().per_sequence({"logits": np.zeros((3, 3), int)}),
        DTypeError,
        "params['logits']: expected dtype float64, float32, bfloat16, float16 for model 'bigram', got int64",
    ),
    "a batch of no sequence": (
        lambda: objective().batch_value_and_grad(Bigram(3).init(), [0, 5, 9]),
        DataError,
        "ids: expected sequence ids in [0, 2), got 5 at position 1; 2 of 3 are outside",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_explained(name: str) -> None:
    action, error, message = MISTAKES[name]
    with pytest.raises(error, match=re.escape(message)):
        action()


def test_a_larger_declared_vocabulary_is_fine_while_no_token_uses_it() -> None:
    data = SequenceDataset([0, 1, 2], vocab_size=10)
    assert Objective(Categorical(3), data).value(Categorical(3).init(dtype=np.float64)) == pytest.approx(3 * np.log(3))


@pytest.mark.parametrize("counts", [True, False])
def test_a_file_that_lies_about_its_vocabulary_is_noticed(counts: bool) -> None:
    # Large files are opened without a scan; a bad token must not be taken for another one.
    data = SequenceDataset(np.array([0, 1, 7, 2], np.uint8), vocab_size=3, check=False)
    for model in (Bigram(3), NGram(3, context=2)):
        with pytest.raises(LabelError, match=r"got 7 at position"):
            Objective(model, data, counts=counts).value(model.init())
