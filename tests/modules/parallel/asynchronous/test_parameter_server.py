"""Parameter servers, with one process per role, compared with synchronous training."""

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


def train(task: AsyncTask, replicas: int, **engine: Any) -> AsyncOutcome:
    result = run_on_ranks(1 + engine.get("num_servers", 1) + replicas, run_server_role, engine, replicas, task)[0]
    assert result is not None
    return result


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_one_replica_is_bit_identical_to_one_process(name: str, tmp_path: Path) -> None:
    task = AsyncTask(tmp_path, model=Net, optimizer=OPTIMIZERS[name], grad_clip_norm=0.5, num_accumulation=2)
    (expected,) = run_on_ranks(1, train_synchronously, task)
    result = train(task, 1)
    assert result.losses == expected.losses
    assert result.evaluation == expected.evaluation
    assert result.weights.keys() == expected.weights.keys()
    for key, weight in expected.weights.items():
        np.testing.assert_array_equal(result.weights[key], weight, err_msg=key)


def test_replicas_without_staleness_equal_synchronous_replicas(tmp_path: Path) -> None:
    task = AsyncTask(tmp_path, optimizer=OPTIMIZERS["adam"], sync_every_steps=2)
    expected, _ = run_on_ranks(2, train_synchronously, task)
    for number, engine in enumerate(({"max_staleness": 0, "num_servers": 3}, {"group_size": 2})):
        folder = tmp_path / str(number)
        folder.mkdir()
        result = train(replace(task, folder=folder), 2, **engine)
        assert_alike(result, expected)


def assert_alike(result: AsyncOutcome, expected: AsyncOutcome) -> None:
    assert result.losses == pytest.approx(expected.losses, rel=1e-5)
    assert result.evaluation == pytest.approx(expected.evaluation, rel=1e-5)
    for key, weight in expected.weights.items():
        np.testing.assert_allclose(result.weights[key], weight, rtol=1e-4, atol=1e-5, err_msg=key)


@pytest.mark.slow
def test_a_saved_state_resumes_bit_identically_in_any_engine(tmp_path: Path) -> None:
    whole = AsyncTask(tmp_path / "a", model=Net, optimizer=OPTIMIZERS["adam"])
    (expected,) = run_on_ranks(1, train_synchronously, whole)
    halves = [replace(whole, first_step=3, load=tmp_path / "saved"), replace(whole, stops=3, save=tmp_path / "saved")]
    for folder in "abc":
        (tmp_path / folder).mkdir()
    result = train(halves[1], 1, num_servers=2)
    assert result.losses == expected.losses[:3]
    (rest,) = run_on_ranks(1, train_synchronously, halves[0])
    again = train(replace(halves[0], folder=tmp_path / "b"), 1, num_servers=3)
    for outcome in (rest, again):
        assert outcome.losses == expected.losses[3:]
        for key, weight in expected.weights.items():
            np.testing.assert_array_equal(outcome.weights[key], weight, err_msg=key)


@pytest.mark.slow
def test_asynchronous_replicas_learn_and_their_staleness_is_bounded(tmp_path: Path) -> None:
    sgd = partial(SGD, lr=0.3)
    modes: dict[str, tuple[int, dict[str, Any]]] = {
        "bounded": (
            3,
            {"max_staleness": 1, "num_servers": 2, "correction": "inverse_staleness", "warm_start_steps": 2},
        ),
        "infrequent": (2, {"push_every_steps": 3, "pull_every_steps": 2, "correction": "delay_compensation"}),
        "groups": (4, {"group_size": 2}),
        "backup": (3, {"num_backup_workers": 1, "max_staleness": 0, "delays_s": {2: 0.2}}),
    }
    for number, (name, (replicas, engine)) in enumerate(modes.items()):
        (tmp_path / str(number)).mkdir()
        result = train(
            AsyncTask(tmp_path / str(number), num_steps=40, optimizer=sgd, sync_every_steps=9), replicas, **engine
        )
        assert sum(result.losses[-10:]) < sum(result.losses[:10]) - 1, (name, result.losses)
        metrics = result.metrics
        if name == "bounded":  # each of the 2 other replicas can add 2 gradients
            assert metrics["async/staleness_max"] <= 4
        if name == "backup":
            speeds = [metrics.get(f"async/replica_{replica}_examples_per_s", 0.0) for replica in range(3)]
            assert speeds[2] < min(speeds[:2]), "gradients of the slow replica come too late"
            assert metrics["async/staleness_max"] == 0
