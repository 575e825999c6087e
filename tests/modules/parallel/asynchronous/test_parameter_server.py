"""Parameter servers against what they have to equal, every role a process of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn
from torch.optim import SGD, Adam, Optimizer

from tests.support.async_runs import AsyncOutcome, AsyncTask, Net, run_server_role, train_synchronously
from tests.support.ranks import run_on_ranks

OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "sgd": partial(SGD, lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
    "adam": partial(Adam, lr=0.01, amsgrad=True, weight_decay=1e-2),
}


def trained(task: AsyncTask, replicas: int, **engine: Any) -> AsyncOutcome:
    found = run_on_ranks(1 + engine.get("num_servers", 1) + replicas, run_server_role, engine, replicas, task)[0]
    assert found is not None
    return found


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_replica_is_one_process_bit_for_bit(name: str, tmp_path: Path) -> None:
    task = AsyncTask(tmp_path, model=Net, optimizer=OPTIMIZERS[name], grad_clip_norm=0.5, num_accumulation=2)
    (expected,) = run_on_ranks(1, train_synchronously, task)
    found = trained(task, 1)
    assert found.losses == expected.losses
    assert found.evaluation == expected.evaluation
    assert found.weights.keys() == expected.weights.keys()
    for key, weight in expected.weights.items():
        np.testing.assert_array_equal(found.weights[key], weight, err_msg=key)


def test_replicas_in_step_are_synchronous_ones_and_servers_may_cut_anywhere(tmp_path: Path) -> None:
    task = AsyncTask(tmp_path, optimizer=OPTIMIZERS["adam"], meets_every=2)
    expected, _ = run_on_ranks(2, train_synchronously, task)
    for number, engine in enumerate(({"max_staleness": 0, "num_servers": 3}, {"group_size": 2})):
        folder = tmp_path / str(number)
        folder.mkdir()
        found = trained(replace(task, folder=folder), 2, **engine)
        assert_alike(found, expected)


def assert_alike(found: AsyncOutcome, expected: AsyncOutcome) -> None:
    assert found.losses == pytest.approx(expected.losses, rel=1e-5)
    assert found.evaluation == pytest.approx(expected.evaluation, rel=1e-5)
    for key, weight in expected.weights.items():
        np.testing.assert_allclose(found.weights[key], weight, rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.slow
def test_a_saved_state_goes_on_in_any_engine_bit_for_bit(tmp_path: Path) -> None:
    whole = AsyncTask(tmp_path / "a", model=Net, optimizer=OPTIMIZERS["adam"])
    (expected,) = run_on_ranks(1, train_synchronously, whole)
    halves = [replace(whole, first_step=3, load=tmp_path / "saved"), replace(whole, stops=3, save=tmp_path / "saved")]
    for folder in "abc":
        (tmp_path / folder).mkdir()
    found = trained(halves[1], 1, num_servers=2)
    assert found.losses == expected.losses[:3]
    (rest,) = run_on_ranks(1, train_synchronously, halves[0])
    again = trained(replace(halves[0], folder=tmp_path / "b"), 1, num_servers=3)
    for outcome in (rest, again):
        assert outcome.losses == expected.losses[3:]
        for key, weight in expected.weights.items():
            np.testing.assert_array_equal(outcome.weights[key], weight, err_msg=key)


@pytest.mark.slow
def test_replicas_apart_learn_and_their_staleness_is_bounded(tmp_path: Path) -> None:
    sgd = partial(SGD, lr=0.3)
    ways: dict[str, tuple[int, dict[str, Any]]] = {
        "bounded": (
            3,
            {"max_staleness": 1, "num_servers": 2, "correction": "inverse_staleness", "warm_start_steps": 2},
        ),
        "seldom": (2, {"push_every_steps": 3, "pull_every_steps": 2, "correction": "delay_compensation"}),
        "groups": (4, {"group_size": 2}),
        "backed up": (3, {"num_backup_workers": 1, "max_staleness": 0, "delays_s": {2: 0.2}}),
    }
    for number, (name, (replicas, engine)) in enumerate(ways.items()):
        (tmp_path / str(number)).mkdir()
        found = trained(
            AsyncTask(tmp_path / str(number), num_steps=40, optimizer=sgd, meets_every=9), replicas, **engine
        )
        assert sum(found.losses[-10:]) < sum(found.losses[:10]) - 1, (name, found.losses)
        measures = found.metrics
        if name == "bounded":  # of 3 replicas each may be one ahead: 2 others, 2 gradients each
            assert measures["async/staleness_max"] <= 4
        if name == "backed up":
            done = {who: measures.get(f"async/replica_{who}_examples_per_s", 0.0) for who in range(3)}
            assert done[2] < min(done[0], done[1]), "the slow one's come too late"
            assert measures["async/staleness_max"] == 0
