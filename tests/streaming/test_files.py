"""Work on a memory-mapped file: the same bits as in memory, few pages resident, the next ones on their way."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastnll.data import SequenceDataset, mapping, open_dataset, prefetching, write_dataset
from fastnll.data.prefetching import will_read
from fastnll.data.watching import watched
from fastnll.losses import CrossEntropy
from fastnll.models import Bigram, Categorical, NGram, walking
from fastnll.objective import Objective
from fastnll.optim import SGD
from fastnll.sampling import Sampler
from fastnll.training import fit

V = 300
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and the page cache of Linux")


def tokens(n: int) -> np.ndarray[Any, Any]:
    """Ids of which some are frequent, and some pairs more than others."""
    rng = np.random.default_rng(n)
    return (np.minimum(rng.geometric(0.02, n), V - 1) // rng.integers(1, 3, n)).astype(np.uint16)


def ragged(n: int) -> SequenceDataset:
    """Long and short sequences, and some of no token."""
    rng = np.random.default_rng(1)
    cuts = np.sort(np.concatenate([rng.integers(0, n // 2, 40), rng.integers(0, n, 5), [0, 0, n]]))
    return SequenceDataset(tokens(n), cuts, vocab_size=V)


@pytest.fixture
def both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[SequenceDataset, SequenceDataset]:
    """A dataset in memory and in a file, of which windows are small enough to pass many of them."""
    monkeypatch.setattr(mapping, "_RESIDENT", 1 << 13)
    monkeypatch.setattr(walking, "_WINDOW", 1 << 11)
    there = ragged(20_000)
    return there, open_dataset(write_dataset(tmp_path / "file.fnll", there))


@pytest.mark.parametrize("ignore", [-100, 7])
@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("kind", ["ngram", "bigram", "categorical"])
def test_a_file_gives_the_bits_of_memory(
    both: tuple[SequenceDataset, SequenceDataset], kind: str, counts: bool, ignore: int
) -> None:
    model: Any = {"ngram": NGram(V, 3, 4, 6), "bigram": Bigram(V), "categorical": Categorical(V)}[kind]
    params = {name: array + np.float32(0.01) for name, array in model.init(2).items()}
    results = []
    for dataset in both:
        objective = Objective(model, dataset, CrossEntropy(ignore_index=ignore), counts=counts)
        value, grads = objective.value_and_grad(params)
        parts = objective.per_sequence(params).tobytes()
        bits = {name: grad.tobytes() for name, grad in grads.items()}
        results.append((objective.n_predicted, value, objective.value(params), parts, bits))
    assert results[0] == results[1]
    assert results[0][1] == results[0][2]


@pytest.mark.parametrize("kind", ["ngram", "bigram"])
def test_training_from_a_file_gives_the_bits_of_memory(
    both: tuple[SequenceDataset, SequenceDataset], kind: str
) -> None:
    model: Any = NGram(V, 3, 4, 6) if kind == "ngram" else Bigram(V)
    results = []
    for dataset in both:
        params = model.init(0)
        history = fit(Objective(model, dataset), SGD(params, lr=0.2, momentum=0.9), epochs=2, batch_tokens=1000)
        results.append((history.loss, {name: array.tobytes() for name, array in params.items()}))
    assert len(results[0][0]) > 20
    assert results[0] == results[1]


def resident(dataset: SequenceDataset) -> int:
    """Bytes of the dataset's mapping that count as this process's memory."""
    assert dataset.mapping is not None
    address = np.frombuffer(dataset.mapping.map, np.uint8).ctypes.data
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        low, _, rest = line.partition("-")
        if rest and not line[0].isupper() and int(low, 16) <= address < int(rest.split()[0], 16):
            return next(int(field.split()[1]) << 10 for field in lines if field.startswith("Rss:"))
    raise AssertionError("the mapping is not in /proc/self/smaps")


@linux
@pytest.mark.parametrize("length", [None, 10, 5000])
def test_few_pages_of_a_file_are_resident(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, length: int | None) -> None:
    # 32 MB of tokens, and up to 13 of offsets, of which about 2 MB are to be in the resident set at any moment.
    n, limit = 16_000_000, 2 << 20
    monkeypatch.setattr(mapping, "_RESIDENT", limit // 2)
    monkeypatch.setattr(walking, "_WINDOW", 1 << 18)
    offsets = None if length is None else np.arange(0, n + 1, length)
    path = write_dataset(tmp_path / "file.fnll", SequenceDataset(tokens(n), offsets, vocab_size=V))
    dataset = open_dataset(path)
    most = 0

    def look(read: int, total: int) -> None:
        nonlocal most
        most = max(most, resident(dataset))

    with watched(look):
        objective = Objective(Bigram(V), dataset)
        assert resident(dataset) <= limit
        objective.value(objective.model.init())
        # What is read next comes on top, and folios of up to 2 MB that are mapped whole.
        assert 0 < most <= limit + (8 << 20)
        most = 0
        tenth = Objective(Categorical(V), dataset, CrossEntropy(ignore_index=3), counts=False, block_rows=4096)
        assert 0 < most <= limit + (8 << 20)
        assert resident(dataset) <= limit + (8 << 20)
    sampler = Sampler(tenth, 4096, seed=0)
    params = tenth.model.init()
    for step, (ids, _) in enumerate(sampler.epoch(0)):
        assert ids is not None
        sampler.objective.batch_value_and_grad(params, ids)
        # Each sequence of a batch may map a whole folio of the page cache; hundreds of them, all of this file.
        assert ids.size > 16 or resident(dataset) <= limit + (ids.size << 20)
        if step == 40:
            break


def in_page_cache(dataset: SequenceDataset) -> np.ndarray[Any, Any]:
    """Whether each page of the file is in memory, of whichever process."""
    assert dataset.mapping is not None
    size = dataset.mapping.size
    address = np.frombuffer(dataset.mapping.map, np.uint8).ctypes.data
    pages = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
    libc = ctypes.CDLL(None, use_errno=True)
    result = libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), ctypes.c_void_p(pages.ctypes.data))
    assert result == 0, os.strerror(ctypes.get_errno())
    return (pages & 1).astype(bool)


@linux
def test_pages_that_will_be_read_are_fetched_in_the_background(tmp_path: Path) -> None:
    # 64 MB: opening reads the header, and with it as much around it as the system reads ahead.
    path = write_dataset(tmp_path / "file.fnll", SequenceDataset(np.tile(tokens(1 << 20), 32), vocab_size=V))
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    dataset = open_dataset(path)
    assert dataset.mapping is not None
    first = int(dataset.tokens.ctypes.data) - np.frombuffer(dataset.mapping.map, np.uint8).ctypes.data

    def pages(start: int, stop: int) -> slice:
        return slice((first + 2 * start) // mmap.PAGESIZE, (first + 2 * stop - 1) // mmap.PAGESIZE + 1)

    far = pages(15_000_000, 20_000_000)
    if in_page_cache(dataset)[far].any():
        pytest.skip("this file system does not drop pages from the cache")
    starts, stops = np.array([16_000_000, 16_000_010, 18_000_000]), np.array([16_000_005, 16_500_000, 18_000_001])
    assert will_read(dataset, starts, stops) >= 1_000_000
    wanted = np.zeros(in_page_cache(dataset).size, bool)
    for start, stop in zip(starts, stops, strict=True):
        wanted[pages(start, stop)] = True
    until = time.monotonic() + 20
    while not in_page_cache(dataset)[wanted].all():
        assert time.monotonic() < until, f"{(~in_page_cache(dataset)[wanted]).sum()} of {wanted.sum()} pages missing"
        time.sleep(0.01)
    # Asked for, not read: what nobody named is still on the disk, and nothing of it counts as ours.
    assert not in_page_cache(dataset)[pages(19_000_000, 20_000_000)].any()
    assert resident(dataset) < 1 << 23


def test_batches_are_fetched_ahead_while_the_disk_is_waited_for(
    both: tuple[SequenceDataset, SequenceDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, dataset = Categorical(V), both[1]
    asked: list[tuple[int, list[int]]] = []
    faults = iter([0, 0, 0, 7, *[7] * 200])
    monkeypatch.setattr(prefetching, "_faults_of_disk", lambda: next(faults))
    monkeypatch.setattr(prefetching, "_STAY", 5)
    monkeypatch.setattr(
        prefetching, "will_read", lambda data, starts, stops: asked.append((step, (stops - starts).tolist()))
    )
    step = 0
    sampler = Sampler(Objective(model, dataset), 512, seed=0)
    batches = []
    for step, (ids, _) in enumerate(sampler.epoch(0), 1):  # noqa: B007 - what asks looks at it
        batches.append(ids)
    # The third look sees faults: the five batches from then on are asked for, each while the one before is computed.
    assert [at for at, _ in asked] == [2, 3, 4, 5, 6]
    pieces = sampler.objective.dataset
    assert [lengths for _, lengths in asked] == [pieces.lengths_of(ids).tolist() for ids in batches[3:8]]


def test_memory_is_left_alone() -> None:
    assert will_read(SequenceDataset([1, 2, 3]), np.array([0]), np.array([3])) == 0


def reports(function: Any, *arguments: Any) -> list[tuple[int, int]]:
    """What a call tells whoever watches it."""
    seen: list[tuple[int, int]] = []
    with watched(lambda read, total: seen.append((read, total))):
        function(*arguments)
    return seen


def test_passes_over_all_rows_tell_how_far_they_are(both: tuple[SequenceDataset, SequenceDataset]) -> None:
    for dataset in both:
        for model, counts in ((NGram(V, 2, 3, 4), True), (Bigram(V), False), (Bigram(V), True)):
            objective = Objective(model, dataset, counts=counts, block_rows=64)
            params = model.init()
            for call in (objective.value, objective.value_and_grad, objective.per_sequence):
                if model.name == "bigram" and counts and call == objective.value_and_grad:
                    continue  # counted in the call before
                seen = reports(call, params)
                assert [read for read, _ in seen] == sorted(read for read, _ in seen)
                assert {total for _, total in seen} == {objective.n_predicted}
                assert seen[-1][0] == objective.n_predicted
            assert not reports(objective.batch_value_and_grad, params, [0, 1, 2])
