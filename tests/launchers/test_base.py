"""How the local launcher shares out a machine among the trials of a sweep."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from launchers.base import LaunchError, RankPlacement, WorkerPool
from launchers.local import Local

POOL = WorkerPool(
    folder=Path("/sweep"), code=Path("/sweep/code"), name="s", workers=100, nodes=1, devices_per_node=1,
    ranks_per_node=1, crews=1, device="cpu", threads_per_rank=None,
)  # fmt: skip


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def seats(launcher: Local, pool: WorkerPool) -> list[tuple[RankPlacement, str | None]]:
    return list(launcher._seats(pool))


def test_one_trial_a_core_where_nothing_else_is_said() -> None:
    found = seats(Local(), POOL)
    assert [seat.cpus for seat, _ in found] == [(core,) for core in range(8)]
    assert {(seat.threads, device) for seat, device in found} == {(1, None)}
    assert len({seat.worker for seat, _ in found}) == 8


@pytest.mark.parametrize(
    ("threads", "workers", "todo", "cpus"),
    [
        (2, None, 100, [(0, 1), (2, 3), (4, 5), (6, 7)]),
        (None, 2, 100, [(0, 1, 2, 3), (4, 5, 6, 7)]),
        (None, None, 2, [(0, 1, 2, 3), (4, 5, 6, 7)]),
        (3, None, 100, [(0, 1, 2, 3), (4, 5, 6, 7)]),
    ],
)
def test_no_core_is_given_twice(
    threads: int | None, workers: int | None, todo: int, cpus: list[tuple[int, ...]]
) -> None:
    found = seats(Local(workers=workers), replace(POOL, threads_per_rank=threads, workers=todo))
    assert [seat.cpus for seat, _ in found] == cpus
    assert {seat.threads for seat, _ in found} == {threads or 4}


def test_the_ranks_of_a_trial_are_one_crew() -> None:
    found = seats(Local(), replace(POOL, devices_per_node=4, ranks_per_node=4))
    assert [(seat.rank, seat.ranks, seat.per_node) for seat, _ in found] == [(rank, 4, 4) for rank in range(4)] * 2
    assert len({seat.worker for seat, _ in found}) == 2


@pytest.mark.parametrize(
    ("visible", "ranks", "crews", "devices"),
    [
        (None, 1, 4, ["0", "1", "2", "3"]),
        (None, 1, 8, ["0", "1", "2", "3", "0", "1", "2", "3"]),
        (None, 2, 2, ["0", "1", "2", "3"]),
        ("4,5,6,7", 2, 2, ["4", "5", "6", "7"]),
    ],
)
def test_each_rank_sees_its_own_gpu(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, ranks: int, crews: int, devices: list[str]
) -> None:
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    pool = replace(POOL, device="cuda", devices_per_node=4, ranks_per_node=ranks, crews=crews)
    assert [device for _, device in seats(Local(), pool)] == devices


def test_several_nodes_are_refused() -> None:
    with pytest.raises(LaunchError, match=r"hardware\.nodes=2.*set hardware\.nodes=1"):
        Local().describe(replace(POOL, nodes=2))
