"""Run on every rank by `test_ranks.py`: all is compared with one process in here, and the bits are written out."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnll.checkpoint import load_checkpoint, save_checkpoint
from fastnll.data import FeatureDataset, SequenceDataset
from fastnll.data.watching import watched
from fastnll.distributed import DistributedObjective, current, rows
from fastnll.errors import OptionError
from fastnll.losses import CrossEntropy
from fastnll.models import Bigram, Categorical, Model, NGram, SoftmaxRegression
from fastnll.objective import Objective
from fastnll.optim import SGD
from fastnll.training import evaluate, fit

V = 11


def sha(arrays: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(name.encode() + str(array.dtype).encode() + np.ascontiguousarray(array).view(np.uint8).tobytes())
    return digest.hexdigest()


def datasets() -> dict[str, SequenceDataset]:
    rng = np.random.default_rng(0)
    lengths = [*rng.integers(0, 60, 25), 0, 0, 400, *rng.integers(0, 3, 20), 0]
    return {
        "ragged": SequenceDataset.from_sequences([rng.integers(0, V, n) for n in lengths], V),
        "one": SequenceDataset(rng.integers(0, V, 600).astype(np.uint16), vocab_size=V),
        "tiny": SequenceDataset([3, 1, 4], vocab_size=V),
    }


def filled(model: Model, dtype: Any) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {name: (0.3 * rng.standard_normal(shape)).astype(dtype) for name, shape in model.shapes().items()}


def problems() -> dict[str, tuple[Objective, dict[str, Any]]]:
    found: dict[str, tuple[Objective, dict[str, Any]]] = {}
    for name, dataset in datasets().items():
        # Blocks of 16 rows: many more than ranks, groups of one and of several blocks; of 4096: one for all.
        for block_rows in (16, 4096):
            model = NGram(V, 2, 4, 6)
            for dtype, l2 in ((np.float32, 0.0), (np.float32, 0.1), (np.float64, 0.1)):
                key = f"ngram {name} {block_rows} {np.dtype(dtype)}" + (", l2" if l2 else "")
                found[key] = Objective(model, dataset, l2=l2, block_rows=block_rows), filled(model, dtype)
    ragged = datasets()["ragged"]
    table = Bigram(V)
    loss = CrossEntropy(ignore_index=4, label_smoothing=0.1)
    found["groups of blocks"] = Objective(table, ragged, counts=False, block_rows=4), filled(table, np.float32)
    found["ignored"] = Objective(table, ragged, loss, block_rows=8), filled(table, np.float32)
    found["half"] = Objective(table, ragged, counts=False, block_rows=16), filled(table, np.float16)
    found["counts"] = Objective(table, ragged, l2=0.3), filled(table, np.float32)
    found["counts, ignored"] = (
        Objective(Categorical(V), ragged, CrossEntropy(ignore_index=2)),
        {"logits": np.linspace(-1, 1, V)},
    )
    rng = np.random.default_rng(2)
    features = FeatureDataset(rng.standard_normal((100, 3)), rng.integers(0, 4, 100), n_classes=4)
    regression = SoftmaxRegression(3, 4)
    found["features"] = Objective(regression, features, block_rows=16), filled(regression, np.float64)
    return found


def check_objectives(n_ranks: int) -> dict[str, str]:
    rows._SHARED_COUNT = 100  # so that counting is shared out here too
    results = {}
    for name, (alone, params) in problems().items():
        want, want_grads = alone.value_and_grad(params)
        sequences = alone.per_sequence(params)
        ids = np.random.default_rng(3).integers(0, len(alone.dataset), 12)
        batch = alone.batch_value_and_grad(params, ids)
        for deterministic in (True, False):
            shared = DistributedObjective(alone, deterministic=deterministic)
            assert shared.n_predicted == alone.n_predicted, name
            value, grads = shared.value_and_grad(params)
            assert value == want == shared.value(params), name
            assert shared.log_likelihood(params) == alone.log_likelihood(params), name
            assert shared.per_sequence(params).tobytes() == sequences.tobytes(), name
            part = shared.batch_value_and_grad(params, ids)
            assert part[:2] == batch[:2], name
            for found, expected in ((grads, want_grads), (part[2], batch[2])):
                if deterministic or n_ranks == 1 or name.startswith("counts"):
                    assert sha(found) == sha(expected), name
                for key, grad in expected.items():
                    tolerance = 2e-3 if grad.dtype == np.float16 else 1e-5 if grad.dtype == np.float32 else 1e-12
                    assert found[key].dtype == grad.dtype
                    scale = float(np.abs(grad).max()) + 1e-3
                    np.testing.assert_allclose(found[key], grad, atol=tolerance * scale, err_msg=name)
            # Each rank has the same, whatever the order of the sums: nothing drifts apart.
            assert len(set(shared.ranks.comm.allgather(sha(grads)))) == 1, name
            if deterministic:
                results[name] = f"{value.hex()} {sha(grads)} {sha(part[2])}"
    return results


def reports(objective: Objective, params: dict[str, Any]) -> list[tuple[int, int]]:
    seen: list[tuple[int, int]] = []
    with watched(lambda read, total: seen.append((read, total))):
        objective.value(params)
    return seen


def check_reports() -> None:
    """Each rank says how far it is in its own share."""
    objective, params = problems()["ngram ragged 16 float32"]
    for deterministic in (True, False):
        shared = DistributedObjective(objective, deterministic=deterministic)
        seen = reports(shared, params)
        assert [read for read, _ in seen] == sorted(read for read, _ in seen)
        assert seen[-1][0] == seen[-1][1]
        assert sum(shared.ranks.comm.allgather(seen[-1][1])) == objective.n_predicted


def check_training(folder: Path, n_ranks: int) -> dict[str, str]:
    """Twelve steps; then the last six again, from the checkpoint that another number of ranks has written."""
    dataset = datasets()["ragged"]
    model = NGram(V, 2, 4, 6)
    options: dict[str, Any] = {"batch_tokens": 300, "seed": 1, "evaluate": False}

    def objective() -> DistributedObjective:
        return DistributedObjective(Objective(model, dataset, block_rows=16), deterministic=True)

    params = model.init(0)
    optimizer = SGD(params, lr=0.3, momentum=0.9, nesterov=True)
    half = fit(objective(), optimizer, steps=6, **options)
    if objective().is_main:
        save_checkpoint(folder / f"by-{n_ranks}", params, progress=half.progress, optimizer=optimizer, model=model)
    fit(objective(), optimizer, steps=12, start=half.progress, **options)
    results = {"trained": sha(params)}
    evaluation = evaluate(objective(), params)
    results["evaluated"] = evaluation.nll.hex()
    before = folder / f"by-{n_ranks - 1}"
    if before.exists():
        again = model.init(5)
        resumed = SGD(again, lr=1.0)
        fit(objective(), resumed, steps=12, start=load_checkpoint(before), **options)
        assert sha(again) == results["trained"], f"{n_ranks} ranks after {n_ranks - 1}"
    return results


def check_mistakes() -> None:
    """What would give results of nothing at all is refused, on every rank alike."""
    ranks = current()
    assert ranks is not None
    objective, params = problems()["ngram ragged 16 float32"]
    shared = DistributedObjective(objective)
    params["b1"] = params["b1"] + np.float32(ranks.rank)
    other = objective.block_rows * (2 if ranks.rank == ranks.size - 1 else 1)
    differing = Objective(objective.model, objective.dataset, block_rows=other)
    calls = {
        "params": lambda: shared.value_and_grad(params),
        "objective": lambda: DistributedObjective(differing),
        "dataset": lambda: DistributedObjective(
            Objective(objective.model, datasets()["one" if ranks.root else "tiny"])
        ),
    }
    for name, call in calls.items():
        n_others = 1 if name == "objective" else ranks.size - 1
        with pytest.raises(OptionError, match=rf"^{name}.*\({n_others} of {ranks.size} ranks differ"):
            call()


def main(folder: Path) -> None:
    ranks = current()
    assert ranks is not None
    results = check_objectives(ranks.size) | check_training(folder, ranks.size)
    check_reports()
    if ranks.size > 1:
        check_mistakes()
    print(f"printed by rank {ranks.rank}")
    if ranks.root:
        (folder / f"results-{ranks.size}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
