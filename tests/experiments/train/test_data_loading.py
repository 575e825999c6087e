import multiprocessing
import os
import pickle
import re
import resource
import signal
from collections.abc import Iterator
from itertools import chain, pairwise
from multiprocessing import current_process
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Generator, Tensor
from torch.utils._pytree import tree_leaves, tree_map

from experiments.core.errors import TrainingError
from experiments.train.data_loading import (
    DataShard,
    EvaluationLoader,
    TrainingBatches,
    training_batches,
)
from experiments.train.loading import workers
from experiments.train.loading.split_signature import check_signature
from experiments.train.loading.workers import check_handover
from modules.data.base import Batch, Data, DataError, StreamShard
from modules.data.sampling.example_random import ExampleRandom, example_seeds

Shown = list[tuple[list[float], list[int]]]


class Noisy:
    """Examples that hold their index and a random number; `broken` cannot be read."""

    def __init__(self, num_examples: int, in_memory: bool, broken: int = -1) -> None:
        self.num_examples = num_examples
        self.in_memory = in_memory
        self.broken = broken

    def __len__(self) -> int:
        return self.num_examples

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        if self.broken in indices:
            raise DataError(f"image {self.broken} cannot be read; replace it")
        return ExampleRandom(seeds).uniform(), indices.clone()


class IgnoredSignals(Noisy):
    """Examples that show which signals their process ignores."""

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        return torch.tensor([signal.getsignal(number) is signal.SIG_IGN for number in numbers]), indices


def _to_lists(batches: Iterator[Batch]) -> Shown:
    return [(cast(Tensor, inputs).tolist(), cast(Tensor, targets).tolist()) for inputs, targets in batches]


def _counted(split: Noisy, batch_size: int, num_workers: int = 0, shard: DataShard = DataShard()) -> Shown:  # noqa: B008
    """Return the batches of an evaluation that count."""
    loader = EvaluationLoader(split, batch_size, num_workers, shard)
    try:
        return _to_lists(iter([batch for batch, is_counted in loader if is_counted]))
    finally:
        loader.close()


def test_an_epoch_shows_every_example_once_and_the_next_in_another_order() -> None:
    steps = [
        indices
        for _, indices in _to_lists(
            training_batches(Noisy(12, True), 3, seed=5, first_step=0, num_steps=8, num_workers=0)
        )
    ]
    first, second = (list(chain.from_iterable(epoch)) for epoch in (steps[:4], steps[4:]))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_the_incomplete_batch_at_the_end_of_an_epoch_is_dropped() -> None:
    steps = _to_lists(training_batches(Noisy(11, True), 4, seed=5, first_step=0, num_steps=6, num_workers=0))
    assert [len(indices) for _, indices in steps] == [4] * 6
    for epoch in (steps[:2], steps[2:4], steps[4:]):
        assert len({index for _, indices in epoch for index in indices}) == 8


@pytest.mark.parametrize("first_step", [1, 3, 5, 7])
def test_a_resumed_run_gets_the_same_batches(first_step: int) -> None:
    split = Noisy(11, True)
    whole = _to_lists(training_batches(split, 3, seed=5, first_step=0, num_steps=7, num_workers=0))
    rest = _to_lists(training_batches(split, 3, seed=5, first_step=first_step, num_steps=7, num_workers=0))
    assert rest == whole[first_step:]


def test_replicas_divide_the_batches_of_one_process() -> None:
    whole = _to_lists(training_batches(Noisy(13, True), 6, seed=5, first_step=1, num_steps=5, num_workers=0))
    parts = [
        _to_lists(training_batches(Noisy(13, True), 6, 5, 1, 5, num_workers=0, shard=DataShard(number, 3)))
        for number in range(3)
    ]
    for step, (inputs, targets) in enumerate(whole):
        assert [each for part in parts for each in part[step][0]] == inputs
        assert [each for part in parts for each in part[step][1]] == targets


class Counting(Noisy):
    """A split of dicts that counts the examples it was asked for."""

    num_fetched = 0

    def batch(self, indices: Tensor, seeds: Tensor) -> Any:
        self.num_fetched += len(indices)
        return {"image": ExampleRandom(seeds).uniform(3), "text": (indices, [seeds])}


def test_a_replica_fetches_only_its_own_examples_of_any_structure() -> None:
    splits = [Counting(13, True) for _ in range(4)]
    shards = [DataShard(), *(DataShard(number, 3) for number in range(3))]
    whole, *parts = (
        list(training_batches(split, 6, 5, 0, 4, num_workers=0, shard=shard))
        for split, shard in zip(splits, shards, strict=True)
    )
    assert [split.num_fetched for split in splits] == [24, 8, 8, 8]
    for step, batch in enumerate(whole):
        joined = tree_map(lambda *rows: torch.cat(rows), *(part[step] for part in parts))
        assert all(map(torch.equal, tree_leaves(batch), tree_leaves(joined)))


def test_an_example_has_another_seed_in_every_epoch_and_not_another_in_a_larger_batch() -> None:
    small, large = (
        _to_lists(training_batches(Noisy(12, True), size, 5, 0, 24 // size, num_workers=0)) for size in (2, 6)
    )
    drawn, same = ([list(chain.from_iterable(inputs for inputs, _ in steps))] for steps in (small, large))
    assert drawn == same
    assert len(set(drawn[0])) == 24


def test_evaluation_gives_an_example_the_same_seed_in_every_batch_size() -> None:
    one, other = ([number for inputs, _ in _counted(Noisy(7, True), size) for number in inputs] for size in (2, 5))
    assert one == other
    assert len(set(one)) == 7


class OldSplit(Noisy):
    def batch(self, indices: Tensor, generator: Generator) -> Batch:  # type: ignore[override]
        return torch.rand(len(indices), generator=generator), indices


class NoSeeds(Noisy):
    def batch(self, indices: Tensor) -> Batch:  # type: ignore[override]
        return indices, indices


@pytest.mark.parametrize(("kind", "typed"), [(OldSplit, "batch(indices, generator)"), (NoSeeds, "batch(indices)")])
def test_a_split_without_seeds_is_refused_with_the_new_parameter(kind: type[Noisy], typed: str) -> None:
    expected = (
        rf"the split {kind.__name__} of data has {re.escape(typed)}, but every split gets indices and seeds, .*; change"
    )
    with pytest.raises(ValueError, match=expected):
        list(training_batches(kind(6, True), 3, 5, 0, 1, num_workers=0))
    with pytest.raises(ValueError, match=r"the split list of data has no method batch\(indices, seeds\), .*; write it"):
        check_signature([])  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"neither a length nor a method batch\(step, shard, seed\), .*; write them, or use"
    ):
        check_signature(cast(Any, SimpleNamespace(batch=lambda step: step)))
    other_names: Any = Noisy(6, True)
    other_names.batch = lambda rows, _: (rows, rows)
    check_signature(other_names)


class Sums:
    """A stream."""

    in_memory = True

    def batch(self, step: int, shard: StreamShard, seed: int) -> Batch:
        numbers = ExampleRandom(example_seeds(seed, shard.first_example(step), shard.size)).uniform(2)
        return numbers, numbers.sum(1)


def test_a_stream_gives_each_replica_its_rows_of_any_step() -> None:
    whole, rest, *parts = (
        list(training_batches(Sums(), 6, 5, first_step, 4, num_workers=0, shard=shard))
        for first_step, shard in (
            (0, DataShard()),
            (2, DataShard()),
            *((0, DataShard(number, 3)) for number in range(3)),
        )
    )
    assert all(map(torch.equal, tree_leaves(rest), tree_leaves(whole[2:])))
    for step, batch in enumerate(whole):
        joined = tree_map(lambda *rows: torch.cat(rows), *(part[step] for part in parts))
        assert all(map(torch.equal, tree_leaves(batch), tree_leaves(joined)))
    assert len({float(number) for numbers, _ in whole for number in cast(Tensor, numbers)[:, 0]}) == 24


@pytest.mark.parametrize("num_replicas", [1, 2, 3, 5])
def test_replicas_evaluate_every_example_once_in_equally_many_batches(num_replicas: int) -> None:
    shards = [DataShard(number, num_replicas) for number in range(num_replicas)]
    counted = [_counted(Noisy(10, True), 3, shard=shard) for shard in shards]
    assert sorted(each for part in counted for _, indices in part for each in indices) == list(range(10))
    lengths = {len(list(EvaluationLoader(Noisy(10, True), 3, 0, shard))) for shard in shards}
    assert lengths == {-(-4 // num_replicas)}


def test_another_seed_gives_another_order_and_other_random_numbers() -> None:
    one, two = (_to_lists(training_batches(Noisy(11, True), 3, seed, 0, 2, num_workers=0)) for seed in (5, 6))
    assert one[0][0] != two[0][0]
    assert one[0][1] != two[0][1]


def test_workers_return_the_batches_of_a_single_process() -> None:
    split = Noisy(11, False)
    alone = _to_lists(training_batches(split, 3, seed=5, first_step=1, num_steps=8, num_workers=0))
    assert _to_lists(training_batches(split, 3, seed=5, first_step=1, num_steps=8, num_workers=2)) == alone
    assert _counted(split, 4, num_workers=2) == _counted(split, 4)


class ShowsProcess(Noisy):
    """Examples that hold the id of the process that fetched them."""

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        return torch.full((len(indices),), os.getpid()), indices.clone()


def test_workers_live_from_one_evaluation_to_the_next_until_they_are_closed() -> None:
    loader = EvaluationLoader(ShowsProcess(7, False), 2, 2)
    first, second = (_to_lists(batch for batch, _ in loader) for _ in range(2))
    assert first == second
    processes = {int(process) for inputs, _ in first for process in inputs}
    assert len(processes) == 2
    assert os.getpid() not in processes
    next(iter(loader))  # an evaluation that is not finished ends its workers, and the next one starts new ones
    assert not {int(process) for (inputs, _), _ in loader for process in cast(Tensor, inputs)} & processes
    loader.close()
    loader.close()
    assert not {child.pid for child in multiprocessing.active_children()} & processes


def test_workers_do_not_advance_torchs_global_generator() -> None:
    torch.manual_seed(3)
    untouched = torch.rand(4)
    torch.manual_seed(3)
    for _ in training_batches(Noisy(11, False), 3, seed=5, first_step=0, num_steps=2, num_workers=1):
        pass
    assert torch.equal(torch.rand(4), untouched)


def test_workers_ignore_stop_signals() -> None:
    ((ignored, _),) = training_batches(IgnoredSignals(3, False), 3, seed=5, first_step=0, num_steps=1, num_workers=1)
    assert cast(Tensor, ignored).tolist() == [True, True, True]


@pytest.mark.parametrize("num_workers", [0, 1])
def test_the_error_of_a_damaged_example_is_not_changed(num_workers: int) -> None:
    with pytest.raises(DataError) as caught:
        list(EvaluationLoader(Noisy(5, False, broken=3), 2, num_workers))
    assert str(caught.value) == "image 3 cannot be read; replace it"


class Sorted(Noisy):
    """A split with its own order."""

    def order(self, batch_size: int, generator: Generator) -> Tensor:
        first = int(torch.randint(batch_size, (1,), generator=generator))
        return torch.arange(len(self)).roll(first)


class Unsendable(Noisy):
    """Batches that no worker can send, for a reason of the machine or of their own."""

    def __init__(self, reason: str) -> None:
        super().__init__(6, False)
        self.reason = reason

    def batch(self, indices: Tensor, seeds: Tensor) -> Batch:
        if self.reason == "no descriptors":
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        elif self.reason == "no file may be so large":
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        elif self.reason == "TMPDIR is gone":
            current_process()._config["tempdir"] = "/nowhere"  # type: ignore[attr-defined]
        elif self.reason == "TMPDIR is too long":
            current_process()._config["tempdir"] = "/tmp/" + "x" * 99  # type: ignore[attr-defined]
        elif self.reason == "a weight with its graph":
            return torch.ones(len(indices), requires_grad=True) * 2, indices
        elif self.reason == "an object that cannot be pickled":
            return (indices, lambda: None), indices  # type: ignore[return-value]
        return torch.zeros(len(indices), 3000), indices


@pytest.mark.parametrize(
    ("reason", "cause"),
    [
        ("no descriptors", "Too many open files"),
        ("no file may be so large", "File too large"),
        ("TMPDIR is gone", "No such file or directory"),
        ("TMPDIR is too long", "AF_UNIX path too long"),
        ("a weight with its graph", "Cowardly refusing"),
        ("an object that cannot be pickled", "pickle"),
    ],
)
def test_a_batch_that_a_worker_cannot_send_ends_the_training_with_the_cause(reason: str, cause: str) -> None:
    with pytest.raises(
        TrainingError,
        match=rf"num_data_workers=2: a batch of .* could not be handed over .*{cause}.*num_data_workers=0",
    ):
        list(training_batches(Unsendable(reason), 3, seed=5, first_step=0, num_steps=2, num_workers=2))


def test_a_batch_that_does_not_arrive_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle, "loads", lambda packed: os.open("/nowhere", os.O_RDONLY))
    with pytest.raises(TrainingError, match=r"num_data_workers=1: a batch could not be handed over .*No such file"):
        list(training_batches(Noisy(6, False), 3, seed=5, first_step=0, num_steps=2, num_workers=1))


def test_workers_send_only_the_part_of_their_replica() -> None:
    batch = TrainingBatches(Noisy(12, False), 6, 5, DataShard(1, 3))[0]
    sent = workers._own_storage(batch)
    assert [cast(Tensor, part).untyped_storage().nbytes() for part in sent] == [2 * 4, 2 * 8]
    assert torch.equal(cast(Tensor, sent[0]), cast(Tensor, batch[0]))


class Large:
    def example(self, batch_size: int) -> Batch:
        return torch.zeros(batch_size, 2500), torch.zeros(batch_size, 0)


def test_too_little_shared_memory_is_reported_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_free_shared_bytes", lambda: 4_799_999)
    check_handover(cast(Data, Large()), 40, num_workers=2, num_ranks=2)
    with pytest.raises(
        ValueError,
        match=r"num_data_workers=2 needs 4\.8 MB of shared memory \(2 batches of 0\.4 MB for each worker, on 3",
    ):
        check_handover(cast(Data, Large()), 40, num_workers=2, num_ranks=3)


@pytest.mark.parametrize("kind", ["long", "gone"])
def test_a_tmpdir_without_sockets_is_reported_before_training(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("x" * 99 if kind == "long" else "gone")
    if kind == "long":
        folder.mkdir()
    monkeypatch.setitem(current_process()._config, "tempdir", str(folder))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="num_data_workers=2: workers hand batches over by a socket in TMPDIR, but"):
        check_handover(cast(Data, Large()), 1, num_workers=2, num_ranks=1)


def test_a_split_can_define_the_order_of_an_epoch() -> None:
    batches = training_batches(Sorted(7, True), 3, seed=5, first_step=0, num_steps=4, num_workers=0)
    orders = [cast(Tensor, targets).tolist() for _, targets in batches]
    assert len({*map(tuple, orders)}) > 1
    for first, second in (orders[:2], orders[2:]):
        assert all((one + 1) % 7 == two for one, two in pairwise([*first, *second]))


def test_training_can_stop_before_its_end() -> None:
    batches = training_batches(Noisy(11, False), 3, seed=5, first_step=0, num_steps=1000, num_workers=1)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert list(training_batches(Noisy(11, False), 3, seed=5, first_step=4, num_steps=4, num_workers=1)) == []


def test_evaluation_shows_every_example_once_in_its_own_order() -> None:
    batches = _counted(Noisy(7, True), 3)
    assert [indices for _, indices in batches] == [[0, 1, 2], [3, 4, 5], [6]]
    assert batches == _counted(Noisy(7, True), 3)


def test_wrong_sizes_are_refused_before_the_first_batch() -> None:
    with pytest.raises(
        ValueError, match="batch_size_global=8 is more than the 7 examples of the training split; lower"
    ):
        training_batches(Noisy(7, True), 8, seed=5, first_step=0, num_steps=1, num_workers=0)
    with pytest.raises(ValueError, match="batch_size_global=0 is not a valid batch size; set 1 or more"):
        training_batches(Noisy(7, True), 0, seed=5, first_step=0, num_steps=1, num_workers=0)
    with pytest.raises(ValueError, match="num_workers=-1 is not a valid number of processes; set 0 or more"):
        EvaluationLoader(Noisy(7, True), 3, num_workers=-1)
    with pytest.raises(ValueError, match="the evaluation split has 0 examples and needs at least 1"):
        EvaluationLoader(Noisy(0, True), 3, num_workers=0)
