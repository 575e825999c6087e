"""How the local launcher divides a machine among the trials of a sweep."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from launchers import local
from launchers.base import LaunchError, RankPlacement, WorkerPool
from launchers.local import Local

POOL = WorkerPool(
    folder=Path("/sweep"), code=Path("/sweep/code"), name="s", max_workers=100, nodes=1, devices_per_node=1,
    ranks_per_node=1, trials_per_worker=1, device="cpu", threads_per_rank=None,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def place_ranks(launcher: Local, pool: WorkerPool) -> list[tuple[RankPlacement, str | None]]:
    return list(launcher._place_ranks(pool))


def test_by_default_one_trial_runs_per_core() -> None:
    placed = place_ranks(Local(), POOL)
    assert [placement.cpus for placement, _ in placed] == [(core,) for core in range(8)]
    assert {(placement.threads, device) for placement, device in placed} == {(1, None)}
    assert len({placement.worker for placement, _ in placed}) == 8


@pytest.mark.parametrize(
    ("threads", "workers", "num_trials", "cpus"),
    [
        (2, None, 100, [(0, 1), (2, 3), (4, 5), (6, 7)]),
        (None, 2, 100, [(0, 1, 2, 3), (4, 5, 6, 7)]),
        (None, None, 2, [(0, 1, 2, 3), (4, 5, 6, 7)]),
        (3, None, 100, [(0, 1, 2, 3), (4, 5, 6, 7)]),
    ],
)
def test_no_core_is_assigned_twice(
    threads: int | None, workers: int | None, num_trials: int, cpus: list[tuple[int, ...]]
) -> None:
    placed = place_ranks(Local(workers=workers), replace(POOL, threads_per_rank=threads, max_workers=num_trials))
    assert [placement.cpus for placement, _ in placed] == cpus
    assert {placement.threads for placement, _ in placed} == {threads or 4}


def test_the_ranks_of_a_trial_are_one_group() -> None:
    placed = place_ranks(Local(), replace(POOL, devices_per_node=4, ranks_per_node=4))
    assert [(placement.rank, placement.world_size, placement.local_world_size) for placement, _ in placed] == [
        (rank, 4, 4) for rank in range(4)
    ] * 2
    assert len({placement.worker for placement, _ in placed}) == 2


@pytest.mark.parametrize(
    ("visible", "ranks", "trials_per_worker", "devices"),
    [
        (None, 1, 4, ["0", "1", "2", "3"]),
        (None, 1, 8, ["0", "1", "2", "3", "0", "1", "2", "3"]),
        (None, 2, 2, ["0", "1", "2", "3"]),
        ("4,5,6,7", 2, 2, ["4", "5", "6", "7"]),
    ],
)
def test_each_rank_sees_its_own_gpu(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, ranks: int, trials_per_worker: int, devices: list[str]
) -> None:
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    pool = replace(POOL, device="cuda", devices_per_node=4, ranks_per_node=ranks, trials_per_worker=trials_per_worker)
    assert [device for _, device in place_ranks(Local(), pool)] == devices


@pytest.mark.parametrize("visible", ["", "-1", "NoDevFiles", "-1,0,1", " ", "0", "1,-1,2", ",0,1"])
def test_hidden_gpus_are_not_used(monkeypatch: pytest.MonkeyPatch, visible: str) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(Path, "exists", lambda path: True)  # /dev/nvidiactl
    pool = replace(POOL, device="cuda", devices_per_node=2, ranks_per_node=2)
    with pytest.raises(
        LaunchError, match=r"CUDA_VISIBLE_DEVICES=.* shows [01] GPUs, and a trial needs 2, one per rank"
    ):
        place_ranks(Local(), pool)
    if visible[:1] not in "01" or not visible.strip():
        assert {device for _, device in place_ranks(Local(), replace(pool, device="auto"))} == {None}


def test_gpus_that_the_machine_lacks_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "0000:01:00.0").mkdir()
    monkeypatch.setattr(local, "NVIDIA_GPUS", tmp_path)
    with pytest.raises(
        LaunchError, match=r"this machine shows 1 GPUs, and a trial needs 2.*hardware\.devices_per_node"
    ):
        place_ranks(Local(), replace(POOL, device="cuda", devices_per_node=2, ranks_per_node=2))
    assert {device for _, device in place_ranks(Local(), replace(POOL, device="cuda", devices_per_node=4))} == {"0"}


def test_the_json_keys_of_a_placement_stay_readable_for_workers_of_older_sweeps() -> None:
    placement = RankPlacement("w", 1, 3, 1, 2, 4, "n1", (4, 5), 2, "12_0", 17.0, 60.0)
    assert json.loads(placement.to_json()) == {
        "worker": "w", "crew": 1, "rank": 3, "on_node": 1, "per_node": 2, "ranks": 4, "address": "n1", "cpus": [4, 5],
        "threads": 2, "job": "12_0", "ends": 17.0, "lead_s": 60.0,
    }  # fmt: skip
    for each in (placement, RankPlacement("w")):
        assert RankPlacement.from_json(each.to_json()) == each


def test_several_nodes_are_refused() -> None:
    with pytest.raises(LaunchError, match=r"hardware\.nodes=2.*set hardware\.nodes=1"):
        Local().describe(replace(POOL, nodes=2))
