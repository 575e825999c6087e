"""Environments as SLURM 22.05 gave them to tasks of srun, less what no seat depends on."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launchers.base import RankPlacement
from launchers.slurm_tasks.task import (
    Order,
    PlacementError,
    TaskPlacement,
    cores_of,
    find_placement,
    hosts,
    moment,
    parse,
    reachable,
)

ONE = {  # sbatch --ntasks-per-node=1 --cpus-per-task=3, no array
    "SLURM_JOB_ID": "534975", "SLURM_NODEID": "0", "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "1",
    "SLURM_STEP_NODELIST": "gpu-a07", "SLURM_CPUS_PER_TASK": "3", "SLURM_CPUS_ON_NODE": "3",
}  # fmt: skip
TASK = ONE | {"SLURM_ARRAY_JOB_ID": "534962", "SLURM_ARRAY_TASK_ID": "5", "SLURM_JOB_ID": "534968"}
TWO_NODES = TASK | {  # -N2 --ntasks-per-node=2 --cpus-per-task=2 --gres=gpu:h100:2
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)", "SLURM_STEP_NODELIST": "127.0.77.[1-2]", "SLURM_CPUS_PER_TASK": "2",
    "SLURM_CPUS_ON_NODE": "4", "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1", "CUDA_VISIBLE_DEVICES": "0,1",
}  # fmt: skip
SHARED_NODE = ONE | {  # --ntasks-per-node=8 --gres=gpu:4 on a node of 8 GPUs, where another job has the other four
    "SLURM_STEP_TASKS_PER_NODE": "8", "SLURM_CPUS_PER_TASK": "1", "SLURM_CPUS_ON_NODE": "8", "CUDA_VISIBLE_DEVICES": "2,3,6,7",
}  # fmt: skip
MANY = frozenset(range(64))


def order(**changes: object) -> Order:
    return Order(**{"folder": "/runs/s", "per_node": 1, "devices": 1, "device": "cpu", "lead_s": 60.0, **changes})  # type: ignore[arg-type]


def at(environ: dict[str, str], node: int, on_node: int) -> dict[str, str]:
    return environ | {"SLURM_NODEID": str(node), "SLURM_LOCALID": str(on_node)}


def test_a_single_process() -> None:
    seat, changes = find_placement(order(ends="1795536137"), ONE, MANY)
    assert seat == RankPlacement(worker="534975.0", threads=3, job="534975", ends=1795536137.0, lead_s=60.0)
    assert changes == {
        "OMP_WAIT_POLICY": "passive",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "OMP_NUM_THREADS": "3",
        "GLOO_SOCKET_IFNAME": "lo",
    }


def test_a_task_of_an_array_that_was_put_back_into_the_queue() -> None:
    seat, _ = find_placement(order(threads=2), TASK | {"SLURM_RESTART_COUNT": "2"}, MANY)
    assert (seat.worker, seat.job, seat.threads, seat.ends) == ("534962_5.2", "534962_5", 2, None)


def test_a_trial_over_two_nodes() -> None:
    places = {}
    for node in (0, 1):
        for on_node in (0, 1):
            seat, changes = find_placement(order(per_node=2, devices=2), at(TWO_NODES, node, on_node), MANY)
            assert (seat.crew, seat.ranks, seat.per_node, seat.address) == (0, 4, 2, "127.0.77.1")
            assert "GLOO_SOCKET_IFNAME" not in changes
            places[seat.rank] = (node, seat.on_node, changes["CUDA_VISIBLE_DEVICES"])
    assert places == {0: (0, 0, "0"), 1: (0, 1, "1"), 2: (1, 0, "0"), 3: (1, 1, "1")}


def test_two_trials_side_by_side_over_two_nodes() -> None:
    environ = TWO_NODES | {"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}
    found = set()
    for node in (0, 1):
        for on_node in range(4):
            seat, changes = find_placement(order(per_node=2, devices=2), at(environ, node, on_node), MANY)
            assert (seat.ranks, seat.address) == (4, "127.0.77.1")
            found.add((seat.crew, seat.rank, node, changes["CUDA_VISIBLE_DEVICES"]))
    assert found == {
        (crew, 2 * node + local, node, str(local)) for crew in (0, 1) for node in (0, 1) for local in (0, 1)
    }


def test_trials_of_part_of_a_node_see_the_gpus_that_are_theirs() -> None:
    found = []
    for on_node in range(8):
        seat, changes = find_placement(order(per_node=2, devices=4, device="cuda"), at(SHARED_NODE, 0, on_node), MANY)
        assert (seat.ranks, seat.address) == (2, "127.0.0.1")
        found.append((seat.crew, seat.rank, changes["CUDA_VISIBLE_DEVICES"]))
    assert found == [
        (0, 0, "2"), (0, 1, "3"), (1, 0, "6"), (1, 1, "7"),
        (2, 0, "2"), (2, 1, "3"), (3, 0, "6"), (3, 1, "7"),  # trials_per_device=2
    ]  # fmt: skip


def test_trials_of_part_of_a_node_stay_on_it() -> None:
    environ = TWO_NODES | {"SLURM_STEP_TASKS_PER_NODE": "3(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2"}
    seats = [
        find_placement(order(devices=3), at(environ, node, on_node), MANY)[0] for node in (0, 1) for on_node in range(3)
    ]
    assert [(seat.crew, seat.rank, seat.ranks, seat.address) for seat in seats] == [
        (crew, 0, 1, "127.0.0.1") for crew in range(6)
    ]


def test_a_gpu_keeps_the_name_that_slurm_gives_it() -> None:
    environ = at(TWO_NODES, 0, 1) | {"CUDA_VISIBLE_DEVICES": "MIG-8f1c,MIG-03aa"}
    assert find_placement(order(per_node=2, devices=2), environ, MANY)[1]["CUDA_VISIBLE_DEVICES"] == "MIG-03aa"


@pytest.mark.parametrize("visible", ["", "NoDevFiles", "5"])
def test_too_few_gpus_are_told_where_trials_need_them(visible: str) -> None:
    environ = at(TWO_NODES, 0, 1) | {"CUDA_VISIBLE_DEVICES": visible}
    with pytest.raises(PlacementError, match=r"devices_per_node=2, but slurm gave this node [01] GPUs .*gres"):
        find_placement(order(per_node=2, devices=2, device="cuda"), environ, MANY)
    assert "CUDA_VISIBLE_DEVICES" not in find_placement(order(per_node=2, devices=2), environ, MANY)[1]


def place(**changes: int) -> TaskPlacement:
    found = {"node": 0, "on_node": 1, "per_node": 2, "cpus_per_task": 4, "cpus_on_node": 8, **changes}
    return TaskPlacement(job="1", restart=0, nodes=("a",), **found)


@pytest.mark.parametrize(
    ("given", "changes", "own"),
    [
        (range(64), {}, None),  # the scheduler confines nothing, and does not say which cores are the job's
        (range(8, 16), {}, (12, 13, 14, 15)),  # it confines the job
        (range(8, 12), {}, None),  # it binds every task
        (range(8, 16), {"per_node": 1, "on_node": 0, "cpus_per_task": 8}, None),
        (
            range(2),
            {"per_node": 4, "cpus_per_task": 1, "cpus_on_node": 4},
            None,
        ),  # a small machine that plays a large one
        ((3, 5), {"cpus_per_task": 1, "cpus_on_node": 2}, (5,)),
    ],
)
def test_cores_are_split_where_only_the_job_is_confined(
    given: range, changes: dict[str, int], own: tuple[int, ...] | None
) -> None:
    assert cores_of(place(**changes), frozenset(given)) == own


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ("login", ["login"]), ("a1,b", ["a1", "b"]), ("127.0.77.[1-3]", ["127.0.77.1", "127.0.77.2", "127.0.77.3"]),
        ("gpu-a[01-03,07]", ["gpu-a01", "gpu-a02", "gpu-a03", "gpu-a07"]), ("n[9-11],m", ["n9", "n10", "n11", "m"]),
        ("r[1-2]n[08-09]-ib,x", ["r1n08-ib", "r1n09-ib", "r2n08-ib", "r2n09-ib", "x"]), ("n[003]", ["n003"]),
    ],
)  # fmt: skip
def test_names_of_nodes_are_read(names: str, found: list[str]) -> None:
    assert hosts(names) == found


@pytest.mark.parametrize("names", ["", "a[1-2", "a[x-y]", ","])
def test_names_of_nodes_that_are_none_are_refused(names: str) -> None:
    with pytest.raises(PlacementError, match="no task of srun"):
        find_placement(order(), ONE | {"SLURM_STEP_NODELIST": names}, MANY)


def test_a_process_that_srun_did_not_start_is_told_so() -> None:
    with pytest.raises(PlacementError, match="'SLURM_JOB_ID' is missing"):
        find_placement(order(), {"PATH": "/bin"}, MANY)


def test_the_end_of_a_job_is_read_as_slurm_writes_it() -> None:
    local = time.mktime((2026, 11, 24, 15, 52, 44, 0, 0, -1))
    assert (moment("2026-11-24T15:52:44"), moment("1795536137")) == (local, 1795536137.0)
    assert [moment(text) for text in ("", "N/A", "NONE", "Unknown", "a\nb")] == [None] * 5


def test_a_name_that_means_nothing_here_is_replaced_by_the_address_of_the_first_node() -> None:
    assert reachable("127.0.77.1", {"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.3"}) == "127.0.77.1"
    assert reachable("no-such-node.invalid", {"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.3"}) == "10.0.0.3"
    assert reachable("no-such-node.invalid", {}) == "no-such-node.invalid"


def test_what_the_batch_script_says_is_understood() -> None:
    line = "--per-node 2 --devices 4 --device auto --lead-s 90 --threads 3 --ends 17 /runs/a"
    assert parse(line.split()) == Order("/runs/a", 2, 4, "auto", 90.0, "17", 3)
    assert parse([*line.split(), "--ends", ""]).ends == ""


def test_the_worker_runs_in_the_same_process_in_its_seat(tmp_path: Path) -> None:
    (tmp_path / "guest.py").write_text(
        "import json, os, sys\n"
        "seat = json.loads(os.environ['LATHE_SEAT'])\n"
        "own = [os.environ.get(name) for name in ('CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS', 'OMP_WAIT_POLICY')]\n"
        "print(json.dumps([seat, own, sys.argv[1:], __name__, os.getppid()]))\n"
        "sys.exit(75)\n"
    )
    command = "--per-node 2 --devices 4 --device cuda --lead-s 60 --ends 17 --threads 2 --module guest /runs/s"
    environ = at(SHARED_NODE, 0, 3) | {
        "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}",
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(
        [sys.executable, "-P", "-m", "launchers.slurm_tasks.task", *command.split()],
        env=environ, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 75, done.stderr
    seat, own, arguments, name, parent = json.loads(done.stdout)
    assert (seat["worker"], seat["crew"], seat["rank"], seat["ends"]) == ("534975.0", 1, 1, 17.0)
    assert (own, arguments, name, parent) == (["7", "2", "passive"], ["/runs/s"], "__main__", os.getpid())


def test_a_seat_that_cannot_be_had_is_told_in_a_line() -> None:
    command = "--per-node 1 --devices 1 --device cuda --lead-s 60 /runs/s"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "launchers.slurm_tasks.task", *command.split()],
        env={"PYTHONPATH": str(Path(__file__).parents[3]), **ONE}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("SeatError: hardware.devices_per_node=1, but slurm gave this node 0 GPUs")
    assert done.stderr.count("\n") == 1


def test_the_seat_imports_nothing_that_takes_long() -> None:
    listed = "import sys; import launchers.slurm_tasks.task; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", listed], cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True
    )
    assert not {"torch", "numpy", "submitit", "psutil", "yaml", "experiments"} & set(done.stdout.split())
