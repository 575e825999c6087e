"""Environments that SLURM 22.05 gave to tasks of srun, without the variables that no placement depends on."""

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
    PlacementError,
    SlurmTask,
    TaskOptions,
    expand_nodes,
    find_placement,
    parse_options,
    parse_time,
    resolve_address,
    select_cores,
)
from tests.support.waiting import PATIENCE_S

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


def options(**changes: object) -> TaskOptions:
    return TaskOptions(**{"folder": "/runs/s", "per_node": 1, "devices": 1, "device": "cpu", "lead_s": 60.0, **changes})  # type: ignore[arg-type]


def at(environ: dict[str, str], node: int, local_id: int) -> dict[str, str]:
    return environ | {"SLURM_NODEID": str(node), "SLURM_LOCALID": str(local_id)}


def test_a_single_process() -> None:
    placement, changes = find_placement(options(ends="1795536137"), ONE, MANY)
    assert placement == RankPlacement(
        worker="534975.0", threads=3, job="534975", ends_at=1795536137.0, signal_delay_s=60.0
    )
    assert changes == {
        "OMP_WAIT_POLICY": "passive",
        "TORCH_CPP_LOG_LEVEL": "ERROR",
        "OMP_NUM_THREADS": "3",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    assert find_placement(options(), ONE | {"GLOO_SOCKET_IFNAME": "eth9"}, MANY)[1]["GLOO_SOCKET_IFNAME"] == "lo"


def test_a_requeued_task_of_an_array() -> None:
    placement, _ = find_placement(options(threads=2), TASK | {"SLURM_RESTART_COUNT": "2"}, MANY)
    assert (placement.worker, placement.job) == ("534962_5.2", "534962_5")
    assert (placement.threads, placement.ends_at) == (2, None)


def test_a_trial_over_two_nodes() -> None:
    placed = {}
    for node in (0, 1):
        for local_id in (0, 1):
            placement, changes = find_placement(options(per_node=2, devices=2), at(TWO_NODES, node, local_id), MANY)
            assert (placement.group, placement.world_size, placement.local_world_size) == (0, 4, 2)
            assert placement.leader_address == "127.0.77.1"
            assert "GLOO_SOCKET_IFNAME" not in changes
            placed[placement.rank] = (node, placement.local_rank, changes["CUDA_VISIBLE_DEVICES"])
    assert placed == {0: (0, 0, "0"), 1: (0, 1, "1"), 2: (1, 0, "0"), 3: (1, 1, "1")}


def test_two_trials_side_by_side_over_two_nodes() -> None:
    environ = TWO_NODES | {"SLURM_STEP_TASKS_PER_NODE": "4(x2)"}
    placed = set()
    for node in (0, 1):
        for local_id in range(4):
            placement, changes = find_placement(options(per_node=2, devices=2), at(environ, node, local_id), MANY)
            assert (placement.world_size, placement.leader_address) == (4, "127.0.77.1")
            placed.add((placement.group, placement.rank, node, changes["CUDA_VISIBLE_DEVICES"]))
    assert placed == {
        (group, 2 * node + local, node, str(local)) for group in (0, 1) for node in (0, 1) for local in (0, 1)
    }


def test_trials_on_part_of_a_node_see_their_own_gpus() -> None:
    placed = []
    for local_id in range(8):
        placement, changes = find_placement(
            options(per_node=2, devices=4, device="cuda"), at(SHARED_NODE, 0, local_id), MANY
        )
        assert (placement.world_size, placement.leader_address) == (2, "127.0.0.1")
        placed.append((placement.group, placement.rank, changes["CUDA_VISIBLE_DEVICES"]))
    assert placed == [
        (0, 0, "2"), (0, 1, "3"), (1, 0, "6"), (1, 1, "7"),
        (2, 0, "2"), (2, 1, "3"), (3, 0, "6"), (3, 1, "7"),  # trials_per_device=2
    ]  # fmt: skip


def test_a_trial_on_part_of_a_node_stays_on_that_node() -> None:
    environ = TWO_NODES | {"SLURM_STEP_TASKS_PER_NODE": "3(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2"}
    placements = [
        find_placement(options(devices=3), at(environ, node, local_id), MANY)[0]
        for node in (0, 1)
        for local_id in range(3)
    ]
    assert [
        (placement.group, placement.rank, placement.world_size, placement.leader_address) for placement in placements
    ] == [(group, 0, 1, "127.0.0.1") for group in range(6)]


def test_a_gpu_keeps_the_name_that_slurm_uses() -> None:
    environ = at(TWO_NODES, 0, 1) | {"CUDA_VISIBLE_DEVICES": "MIG-8f1c,MIG-03aa"}
    assert find_placement(options(per_node=2, devices=2), environ, MANY)[1]["CUDA_VISIBLE_DEVICES"] == "MIG-03aa"


@pytest.mark.parametrize("visible", ["", "NoDevFiles", "5"])
def test_too_few_gpus_are_an_error_if_trials_need_them(visible: str) -> None:
    environ = at(TWO_NODES, 0, 1) | {"CUDA_VISIBLE_DEVICES": visible}
    with pytest.raises(PlacementError, match=r"devices_per_node=2, but slurm gave this node [01] GPUs .*gres"):
        find_placement(options(per_node=2, devices=2, device="cuda"), environ, MANY)
    assert "CUDA_VISIBLE_DEVICES" not in find_placement(options(per_node=2, devices=2), environ, MANY)[1]


def task(**changes: int) -> SlurmTask:
    values = {"node": 0, "local_id": 1, "num_local": 2, "cpus_per_task": 4, "cpus_on_node": 8, **changes}
    return SlurmTask(job="1", restart=0, nodes=("a",), **values)


@pytest.mark.parametrize(
    ("given", "changes", "own"),
    [
        (range(64), {}, None),  # SLURM confines nothing, so the cores of the job are not known
        (range(8, 16), {}, (12, 13, 14, 15)),  # SLURM confines the job
        (range(8, 12), {}, None),  # SLURM binds every task
        (range(8, 16), {"num_local": 1, "local_id": 0, "cpus_per_task": 8}, None),
        (
            range(2),
            {"num_local": 4, "cpus_per_task": 1, "cpus_on_node": 4},
            None,
        ),  # the node declares more cores than the machine has
        ((3, 5), {"cpus_per_task": 1, "cpus_on_node": 2}, (5,)),
    ],
)
def test_tasks_split_the_cores_if_only_the_job_is_confined(
    given: range, changes: dict[str, int], own: tuple[int, ...] | None
) -> None:
    assert select_cores(task(**changes), frozenset(given)) == own


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("login", ["login"]), ("a1,b", ["a1", "b"]), ("127.0.77.[1-3]", ["127.0.77.1", "127.0.77.2", "127.0.77.3"]),
        ("gpu-a[01-03,07]", ["gpu-a01", "gpu-a02", "gpu-a03", "gpu-a07"]), ("n[9-11],m", ["n9", "n10", "n11", "m"]),
        ("r[1-2]n[08-09]-ib,x", ["r1n08-ib", "r1n09-ib", "r2n08-ib", "r2n09-ib", "x"]), ("n[003]", ["n003"]),
    ],
)  # fmt: skip
def test_a_list_of_nodes_is_expanded(text: str, names: list[str]) -> None:
    assert expand_nodes(text) == names


@pytest.mark.parametrize("text", ["", "a[1-2", "a[x-y]", ","])
def test_a_malformed_list_of_nodes_is_refused(text: str) -> None:
    with pytest.raises(PlacementError, match="do not describe a task of srun: invalid value"):
        find_placement(options(), ONE | {"SLURM_STEP_NODELIST": text}, MANY)


def test_a_process_that_srun_did_not_start_is_refused() -> None:
    with pytest.raises(PlacementError, match="'SLURM_JOB_ID' is missing"):
        find_placement(options(), {"PATH": "/bin"}, MANY)


def test_the_end_of_a_job_is_parsed() -> None:
    local = time.mktime((2026, 11, 24, 15, 52, 44, 0, 0, -1))
    assert (parse_time("2026-11-24T15:52:44"), parse_time("1795536137")) == (local, 1795536137.0)
    assert [parse_time(text) for text in ("", "N/A", "NONE", "Unknown", "a\nb")] == [None] * 5


def test_a_name_that_does_not_resolve_is_replaced_by_the_address_of_the_first_node() -> None:
    assert resolve_address("127.0.77.1", {"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.3"}) == "127.0.77.1"
    assert resolve_address("no-such-node.invalid", {"SLURM_LAUNCH_NODE_IPADDR": "10.0.0.3"}) == "10.0.0.3"
    assert resolve_address("no-such-node.invalid", {}) == "no-such-node.invalid"


def test_the_options_of_the_batch_script_are_parsed() -> None:
    line = "--per-node 2 --devices 4 --device auto --lead-s 90 --threads 3 --ends 17 /runs/a"
    assert parse_options(line.split()) == TaskOptions("/runs/a", 2, 4, "auto", 90.0, "17", 3)
    assert parse_options([*line.split(), "--ends", ""]).ends == ""


def test_the_worker_runs_in_the_same_process_with_its_placement(tmp_path: Path) -> None:
    (tmp_path / "stand_in.py").write_text(
        "import json, os, sys\n"
        "placement = json.loads(os.environ['LATHE_SEAT'])\n"
        "own = [os.environ.get(name) for name in ('CUDA_VISIBLE_DEVICES', 'OMP_NUM_THREADS', 'OMP_WAIT_POLICY')]\n"
        "print(json.dumps([placement, own, sys.argv[1:], __name__, os.getppid()]))\n"
        "sys.exit(75)\n"
    )
    command = "--per-node 2 --devices 4 --device cuda --lead-s 60 --ends 17 --threads 2 --module stand_in /runs/s"
    environ = at(SHARED_NODE, 0, 3) | {
        "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[3]}",
        "PATH": os.environ["PATH"],
    }
    done = subprocess.run(
        [sys.executable, "-P", "-m", "launchers.slurm_tasks.task", *command.split()],
        env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 75, done.stderr
    placement, own, arguments, name, parent = json.loads(done.stdout)
    assert (placement["worker"], placement["crew"], placement["rank"], placement["ends"]) == ("534975.0", 1, 1, 17.0)
    assert (own, arguments, name, parent) == (["7", "2", "passive"], ["/runs/s"], "__main__", os.getpid())


def test_a_placement_error_is_one_line() -> None:
    command = "--per-node 1 --devices 1 --device cuda --lead-s 60 /runs/s"
    done = subprocess.run(
        [sys.executable, "-P", "-m", "launchers.slurm_tasks.task", *command.split()],
        env={"PYTHONPATH": str(Path(__file__).parents[3]), **ONE}, capture_output=True, text=True, check=False,
        timeout=PATIENCE_S,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("PlacementError: hardware.devices_per_node=1, but slurm gave this node 0 GPUs")
    assert done.stderr.count("\n") == 1


def test_the_task_module_imports_no_heavy_library() -> None:
    listed = "import sys; import launchers.slurm_tasks.task; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", listed], cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True
    )
    assert not {"torch", "numpy", "submitit", "psutil", "yaml", "experiments"} & set(done.stdout.split())
