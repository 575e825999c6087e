"""Local SLURM clusters: their files, real clusters that are used, damaged and ended, and the error messages."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from launchers.base import LaunchError
from launchers.local_cluster import daemons
from launchers.local_cluster.cluster import LocalCluster, ShapeError, list_daemons
from launchers.local_cluster.daemons import ProcessId
from launchers.local_cluster.settings import (
    check_flags,
    choose_default_folder,
    choose_installation,
    find_programs,
    remove_files,
)
from launchers.local_cluster.slurm_conf import (
    ClusterSpec,
    Installation,
    find_longest_socket,
    list_nodes,
    render_files,
    render_gres_conf,
)
from tests.conftest import Lathe
from tests.support.cluster import Cluster, booted, short_folder, skip_without_slurm
from tests.support.waiting import wait_until

INSTALLATION = Installation(Path("/r"), host="box", user="me", port=12000, first_job=77)
SMALL = ClusterSpec(nodes=2, gpus=1, cpus=2, memory_gb=3)


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder; a cluster in it is ended afterwards."""
    with short_folder() as path:
        yield path
        LocalCluster(path).down()


@pytest.fixture
def small() -> Iterator[Cluster]:
    """A small cluster that only one test uses."""
    with booted(SMALL) as cluster:
        yield cluster


# The files of a cluster.


def test_slurm_conf_declares_nodes_that_the_machine_does_not_have() -> None:
    conf = render_files(SMALL, INSTALLATION)["etc/slurm.conf"].splitlines()
    assert [line for line in conf if line.startswith(("NodeName", "PartitionName"))] == [
        "NodeName=127.0.77.1 NodeAddr=127.0.77.1 NodeHostname=box Port=12001 CPUs=2 RealMemory=3072 Gres=gpu:h100:1 "
        "Feature=h100 State=UNKNOWN",
        "NodeName=127.0.77.2 NodeAddr=127.0.77.2 NodeHostname=box Port=12002 CPUs=2 RealMemory=3072 Gres=gpu:h100:1 "
        "Feature=h100 State=UNKNOWN",
        "PartitionName=main Nodes=ALL MaxTime=1-00:00:00 DefaultTime=01:00:00 State=UP Default=YES PriorityTier=1 GraceTime=10",
        "PartitionName=high Nodes=ALL MaxTime=1-00:00:00 DefaultTime=01:00:00 State=UP PriorityTier=10 PreemptMode=OFF",
    ]


@pytest.mark.parametrize(
    "line",
    [
        "SlurmctldHost=box(127.0.0.1)", "SlurmctldPort=12000", "SlurmUser=me", "SlurmdUser=me",
        "AuthInfo=socket=/r/munge.sock,cred_expire=5", "SlurmdSpoolDir=/r/spool/%n", "SlurmdParameters=config_overrides",
        "ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none", "SelectType=select/cons_tres", "DefMemPerCPU=1024",
        "SlurmctldParameters=preempt_send_user_signal", "PreemptType=preempt/partition_prio", "PreemptMode=REQUEUE",
        "EnforcePartLimits=ALL", "JobAcctGatherParams=OverMemoryKill", "KillWait=5", "SlurmdTimeout=20", "MaxArraySize=10001",
        "FirstJobId=77",
    ],
)  # fmt: skip
def test_slurm_conf_has_every_necessary_line(line: str) -> None:
    assert line in render_files(SMALL, INSTALLATION)["etc/slurm.conf"].splitlines()


def test_there_is_a_database_with_accounting_and_a_stand_in_for_sacct_without() -> None:
    assert sorted(render_files(SMALL, INSTALLATION)) == ["bin/sacct", "env.sh", "etc/gres.conf", "etc/slurm.conf"]
    assert "AccountingStorage" not in render_files(SMALL, INSTALLATION)["etc/slurm.conf"]
    texts = render_files(ClusterSpec(nodes=2, accounting=True), INSTALLATION)
    assert sorted(texts) == ["env.sh", "etc/gres.conf", "etc/slurm.conf", "etc/slurmdbd.conf"]
    for line in ("AccountingStoragePort=12003", "AccountingStoragePass=/r/munge.sock"):
        assert line in texts["etc/slurm.conf"].splitlines()
    assert {"DbdPort=12003", "StorageUser=me"} <= {*texts["etc/slurmdbd.conf"].splitlines()}


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (ClusterSpec(gpus=0), ""),
        (ClusterSpec(gpus=1), "Name=gpu Type=h100 File=/r/dev/nvidia0 Flags=nvidia_gpu_env\n"),
        (ClusterSpec(gpus=8, gpu_type="a100"), "Name=gpu Type=a100 File=/r/dev/nvidia[0-7] Flags=nvidia_gpu_env\n"),
    ],
)
def test_gpus_are_links_that_set_only_the_variables_of_cuda(spec: ClusterSpec, text: str) -> None:
    assert render_gres_conf(spec, INSTALLATION) == text


def test_a_node_without_gpus_declares_no_gres() -> None:
    assert "Gres" not in render_files(ClusterSpec(gpus=0), INSTALLATION)["etc/slurm.conf"].replace("GresTypes", "")


def test_a_shell_may_source_env_sh_twice(tmp_path: Path) -> None:
    (tmp_path / "env.sh").write_text(render_files(SMALL, INSTALLATION)["env.sh"])
    command = 'set -eu; PATH=/bin; . ./env.sh; . ./env.sh; echo "$SLURM_CONF $PATH"'
    assert subprocess.check_output(["sh", "-c", command], cwd=tmp_path, text=True) == "/r/etc/slurm.conf /r/bin:/bin\n"


def test_each_cluster_chooses_its_own_ports(folder: Path) -> None:
    ports = {choose_installation(folder, SMALL).port for _ in range(20)}
    assert len(ports) > 1
    assert all(10000 <= port < 30000 for port in ports)


# Errors.


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "/dev/shm/it's",
            "--dir /dev/shm/it's contains \"'\", which slurm.conf does not allow; use a folder without it",
        ),
        ("/dev/null", "--dir /dev/null is not a folder: /dev/null is a file; use another folder"),
        ("/", "--dir / contains other files; use a new or an empty folder"),
    ],
)
def test_an_unsuitable_folder_is_refused(path: str, message: str) -> None:
    if path == "/" and os.getuid() != 0:
        message = "--dir / cannot be created or written: you may not write to /; use another folder"
    assert check_flags(Path(path), ClusterSpec()) == [message]


def test_the_longest_path_of_a_socket_limits_the_length_of_the_folder(tmp_path: Path) -> None:
    room = 107 - len(find_longest_socket(Path("/"), ClusterSpec(nodes=10)).replace("//", "/"))
    fits, does_not = Path("/" + "a" * room), Path("/" + "a" * (room + 1))
    assert not [line for line in check_flags(fits, ClusterSpec(nodes=9)) if "too long" in line]
    assert check_flags(does_not, ClusterSpec(nodes=10))[0].startswith(f"--dir {does_not} is 2 characters too long")


def test_the_error_for_missing_programs_names_their_packages(
    lathe: Lathe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launchers.local_cluster.settings.ADMIN_FOLDERS", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    for accounting, missing, packages in (
        (False, "munged, slurmctld, slurmd, sinfo, squeue", "slurmctld slurmd slurm-client munge"),
        (
            True, "munged, slurmctld, slurmd, sinfo, squeue",
            "slurmctld slurmd slurm-client munge slurmdbd slurm-wlm-mysql-plugin mariadb-server",
        ),
    ):  # fmt: skip
        with pytest.raises(LaunchError) as refused:
            LocalCluster(tmp_path / "cluster").up(ClusterSpec(accounting=accounting))
        assert str(refused.value).startswith(f"this machine lacks {missing}, ")
        assert str(refused.value).endswith(f"which a local cluster needs; run `apt-get install {packages}`")
        assert not (tmp_path / "cluster").exists()


def test_daemons_outside_of_the_users_path_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without_slurm()
    monkeypatch.setenv("PATH", "")
    assert Path(find_programs(accounting=False)["slurmctld"]).is_absolute()


def test_the_error_for_a_program_that_fails_ends_with_its_log(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_slurm()
    fake = tmp_path / "slurmd"
    fake.write_text("#!/bin/sh\necho 'slurmd: fatal: no luck' >&2\nexit 1\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    cluster = Cluster(folder, SMALL)
    with pytest.raises(
        LaunchError,
        match=r"the local cluster's slurmd-127\.0\.77\.\d ended during the start; (.*\n)+  slurmd: fatal: no luck$",
    ):
        cluster.boot()
    assert cluster.processes() == []
    monkeypatch.undo()
    assert cluster.boot() == list_daemons(SMALL)


def test_a_program_that_does_nothing_is_an_error_after_a_timeout(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_slurm()
    fake = tmp_path / "munged"
    fake.write_text("#!/bin/sh\necho idle\nsleep 600\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("launchers.local_cluster.cluster.START_TIMEOUT_S", 0.3)
    cluster = Cluster(folder, SMALL)
    with pytest.raises(LaunchError, match=r"the local cluster's munged was not ready within 0 s; (.*\n)+  idle$"):
        cluster.boot()
    assert cluster.processes() == []


def test_two_commands_cannot_use_one_folder_at_once(folder: Path) -> None:
    skip_without_slurm()
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(LaunchError, match=f"another `lathe cluster` command is using {folder}; wait until"):
            LocalCluster(folder).up(SMALL)
    finally:
        os.close(descriptor)
    assert list(folder.iterdir()) == []


def test_a_full_disk_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without_slurm()

    def full(record: Any) -> None:
        (folder / "lathe-cluster.json").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("launchers.local_cluster.cluster.write_files", full)
    with pytest.raises(
        LaunchError, match=r"could not be set up \(No space left on device\); free space and processes, or"
    ):
        LocalCluster(folder).up(SMALL)
    assert not folder.exists()


# Real clusters.


def test_tasks_on_two_nodes_see_their_own_gpus(cluster: Cluster) -> None:
    shown = cluster.run(
        "srun", "-N2", "--ntasks-per-node=2", "--gpus-per-task=1", "sh", "-c",
        'echo "$SLURM_PROCID $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES ${ROCR_VISIBLE_DEVICES-none}"',
    )  # fmt: skip
    tasks = sorted(line.split() for line in shown.splitlines())
    assert [(rank, gpus, other) for rank, _, gpus, other in tasks] == [
        ("0", "0", "none"), ("1", "1", "none"), ("2", "0", "none"), ("3", "1", "none"),
    ]  # fmt: skip
    assert len({node for _, node, _, _ in tasks}) == 2
    assert {node for _, node, _, _ in tasks} <= {*list_nodes(cluster.shape)}


def test_an_array_runs_and_the_stand_in_for_sacct_shows_its_states(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.run(
        "sbatch", "--parsable", "--wait", "--array=0-3%2", "--gres=gpu:h100:2", f"--output={tmp_path}/%a.txt",
        "--wrap", "echo $SLURM_ARRAY_TASK_ID of $CUDA_VISIBLE_DEVICES",
    ).strip()  # fmt: skip
    assert re.sub("[23]$", "_", (tmp_path / "3.txt").read_text().strip()) in ("3 of 0,1", "3 of 2,_")
    command = ("sacct", "-o", "JobID,State,NodeList", "--parsable2", "-j", job)  # as submitit queries it
    header, *rows = cluster.run(*command).splitlines()
    assert header == "JobID|State|NodeList"
    states = {name: state for name, state, _ in (row.split("|") for row in rows) if name.startswith(job)}
    assert states == {f"{job}_{task}": "COMPLETED" for task in range(4)}


def test_a_job_that_no_node_can_run_is_refused_at_once(cluster: Cluster) -> None:
    for option in ("--gres=gpu:b200:1", "--nodes=5", "--cpus-per-task=64"):
        with pytest.raises(AssertionError, match="error"):
            cluster.run("sbatch", option, "--wrap", "true")


def test_daemons_are_children_of_init_in_their_own_sessions(cluster: Cluster) -> None:
    running = [process for process in daemons.find_all(cluster.folder).values() if process is not None]
    assert len(running) == len(list_daemons(cluster.shape)) == 6
    assert os.getpid() not in {psutil.Process(process.pid).ppid() for process in running}
    assert os.getsid(0) not in {os.getsid(process.pid) for process in running}


def test_a_killed_controller_and_a_killed_node_are_reported_and_restarted(cluster: Cluster) -> None:
    node = list_nodes(cluster.shape)[2]
    job = cluster.run("sbatch", "--parsable", f"--nodelist={node}", "--output=/dev/null", "--wrap", "sleep 600").strip()
    wait_until(lambda: cluster.jobs(node)[0])
    tasks = cluster.jobs(node)[0]
    cluster.kill_node(node)
    assert not [process for process in tasks if process.is_alive()]
    status = cluster.status()
    assert status is not None
    assert (status.missing, status.nodes is None) == ([f"slurmd-{node}"], False)
    assert any(row[0] == job for row in status.jobs)
    cluster.kill_controller()
    status = cluster.status()
    assert status is not None
    assert (status.missing, status.nodes) == (["slurmctld", f"slurmd-{node}"], None)
    assert cluster.boot() == ["slurmctld", f"slurmd-{node}"]
    cluster.run("scancel", "--user", psutil.Process().username())
    wait_until(lambda: not cluster.run("squeue", "-h"))
    assert cluster.boot() == []


def test_two_clusters_side_by_side_do_not_see_each_others_jobs(cluster: Cluster, small: Cluster) -> None:
    job = cluster.run("sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap", "true").strip()
    assert job in cluster.run("squeue", "-h")
    assert small.run("squeue", "-h") == ""
    assert small.run("srun", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES $SLURMD_NODENAME").split() == ["127.0.77.1"]
    cluster.run("scancel", job)


def test_down_ends_every_process_also_those_that_jobs_left_running(small: Cluster) -> None:
    stray = "trap '' TERM; setsid sleep 601 & sleep 602"
    small.run("sbatch", "--output=/dev/null", "-N2", "--wrap", f'srun sh -c "{stray}"')
    small.run("sbatch", "--output=/dev/null", "--wrap", stray)
    wait_until(lambda: len(small.jobs()[0]) >= 8 and len(small.jobs()[1]) >= 4, small.jobs)
    processes = small.processes()
    assert len(processes) > len(list_daemons(SMALL)) + 8
    assert small.down()
    assert [process for process in processes if process.is_alive()] == []
    assert small.processes() == []
    assert not small.folder.exists()
    assert not small.down()


def test_a_second_up_changes_nothing_and_refuses_another_shape(small: Cluster) -> None:
    before = daemons.find_all(small.folder)
    assert small.boot() == []
    assert daemons.find_all(small.folder) == before
    with pytest.raises(ShapeError) as refused:
        small.up(ClusterSpec(nodes=3, gpus=1, cpus=2, memory_gb=3, accounting=True))
    assert refused.value.problems == [
        f"--nodes 3 differs from the running cluster in {small.folder}, which has 2; end it with `lathe cluster down`, or use "
        "another folder with --dir",
        f"--accounting True differs from the running cluster in {small.folder}, which has False; end it with "
        "`lathe cluster down`, or use another folder with --dir",
    ]


def test_a_cluster_whose_processes_were_all_killed_starts_anew(small: Cluster) -> None:
    first = small.run("scontrol", "show", "config")
    for process in small.processes():
        process.send(signal.SIGKILL)
    wait_until(lambda: not small.processes())
    assert small.spec() is None
    other = ClusterSpec(nodes=1, gpus=0)
    assert small.up(other) == ["munged", "slurmctld", "slurmd-127.0.77.1"]

    def number(config: str) -> int:
        return int(re.findall(r"FirstJobId\s*= (\d+)", config)[0])

    assert number(small.run("scontrol", "show", "config")) > number(first)


def test_a_cluster_whose_start_was_interrupted_starts_anew(folder: Path, lathe: Lathe) -> None:
    skip_without_slurm()
    command = [sys.executable, "-P", "-m", "experiments.cli", "cluster", "up", "--dir", str(folder)]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_until(lambda: daemons.has_record(folder, "munged"))
    started.kill()
    started.wait()
    if not (folder / "booted").exists():
        done = lathe("cluster", "status", "--dir", str(folder))
        assert (done.returncode, done.stderr) == (1, "")
        assert "the cluster is starting, or its start was interrupted; `lathe cluster up --dir" in done.stdout
    cluster = Cluster(folder, SMALL)
    if cluster.spec() is not None:
        cluster.down()
    assert cluster.boot() == list_daemons(SMALL)


def test_a_process_that_reuses_the_pid_of_a_daemon_is_not_ended(folder: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            stat = daemons.read_stat(other.pid)
            assert stat is not None
            own = stat.id
            line = Path(f"/proc/{other.pid}/stat").read_text()
            later = line.replace(f" {own.start_ticks} ", f" {own.start_ticks - 1} ").replace("(sleep)", "(sh)")
            (folder / "pids").mkdir()
            (folder / "pids" / "slurmctld").write_text(later)
            (folder / "pids" / "munged").write_text(line)  # the start time is right, but the program is not munged
            (folder / "lathe-cluster.json").write_text("{}")
            assert daemons.find(folder, "slurmctld") is None
            assert daemons.find(folder, "munged") is None
            assert LocalCluster(folder).down()
            assert own.is_alive()
            assert not ProcessId(own.pid, own.start_ticks - 1).is_alive()
        finally:
            other.kill()


def test_other_files_in_the_folder_stay(folder: Path) -> None:
    for name in ("lathe-cluster.json", "notes.txt"):
        (folder / name).write_text("mine")
    (folder / "log").mkdir()
    remove_files(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "lathe-cluster.json").touch()
    assert LocalCluster(folder).down()
    assert (folder / "notes.txt").read_text() == "mine"


# The command.


def test_the_command_starts_shows_and_ends_a_cluster(lathe: Lathe, folder: Path, tmp_path: Path) -> None:
    skip_without_slurm()
    option = ("--dir", str(folder))
    up = lathe("cluster", "up", "--nodes", "2", "--gpu-type", "a100", *option)
    assert (up.returncode, up.stderr) == (0, "")
    lines = up.stdout.splitlines()
    assert lines[:2] == [
        f"local cluster in {folder}: 2 nodes of 8 CPUs, 64 GB, 4 simulated a100",
        f"  . {folder}/env.sh",
    ]
    assert lines[-1] == f"`lathe cluster down --dir {folder}` ends the cluster and all its jobs."
    use = f". {folder}/env.sh; sbatch -o /dev/null -J 'a|b' --gres=gpu:a100:3 --wrap 'sleep 600'; sacct"
    shown = subprocess.check_output(["sh", "-c", use], cwd=tmp_path, text=True)
    assert re.search(r"Submitted batch job \d+\nJobID\|State\|NodeList\n\d+\|", shown)

    again = lathe("cluster", "up", *option)
    assert (again.returncode, again.stdout.splitlines()[0]) == (0, "the cluster is already running")
    other = lathe("cluster", "up", "--nodes", "5", *option)
    assert other.returncode == 2
    assert f"--nodes 5 differs from the running cluster in {folder}, which has 2; end it" in other.stderr

    cluster = Cluster(folder, SMALL)
    wait_until(lambda: cluster.jobs()[0])
    status = lathe("cluster", "status", *option)
    assert (status.returncode, status.stderr) == (0, "")
    assert re.search(
        r"^started \d+ s ago; \. .*\n  idle       127\.0\.77\.2\n  mixed      127\.0\.77\.1\n", status.stdout, re.M
    )
    assert re.search(
        r"^jobs: 1 running, 0 waiting\n  \d+ +main +RUNNING +0:\d\d  a\|b  127\.0\.77\.1\n$", status.stdout, re.M
    )

    processes = cluster.processes()
    down = lathe("cluster", "down", *option)
    assert (down.returncode, down.stderr) == (0, "")
    assert down.stdout == f"ended the local cluster in {folder} and removed its files\n"
    assert [process for process in processes if process.is_alive()] == []
    twice = lathe("cluster", "down", *option)
    assert (twice.returncode, twice.stdout) == (0, f"no local cluster runs in {folder}; nothing to end\n")
    after = lathe("cluster", "status", *option)
    assert after.returncode == 1
    assert after.stdout == f"no local cluster runs in {folder}; run `lathe cluster up --dir {folder}` to start one\n"


def test_the_default_folder_is_in_memory_if_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launchers.local_cluster.settings.is_cluster_folder", lambda folder: False)
    monkeypatch.setattr("launchers.local_cluster.settings._is_suitable", lambda folder: True)
    assert str(choose_default_folder()).startswith("/dev/shm/lathe-cluster-")
    monkeypatch.setattr("launchers.local_cluster.settings._is_suitable", lambda folder: False)
    assert not str(choose_default_folder()).startswith("/dev/shm")
    monkeypatch.setattr(
        "launchers.local_cluster.settings.is_cluster_folder", lambda folder: folder.parent == Path("/dev/shm")
    )
    assert str(choose_default_folder()).startswith("/dev/shm/lathe-cluster-")


@pytest.mark.slow
def test_with_accounting_sacct_lists_jobs_and_unknown_names_are_refused(cluster_with_accounting: Cluster) -> None:
    cluster = cluster_with_accounting
    job = cluster.run(
        "sbatch", "--parsable", "--wait", "--qos=high", "--account=lathe", "--gres=gpu:h100:2", "--output=/dev/null",
        "--wrap", "true",
    ).strip()  # fmt: skip
    command = ("sacct", "-n", "-P", "-X", "-j", job, "-o", "State,Account,QOS,ReqTRES")
    row: list[str] = []

    def is_complete() -> bool:
        row[:] = cluster.run(*command).strip().split("|")
        return row[:3] == ["COMPLETED", "lathe", "high"]  # the first record of a job may lack the QOS

    wait_until(is_complete, lambda: row)
    resources = row[3]
    assert "gres/gpu=2" in resources
    for option, error in (("--account=nobody", "Invalid account"), ("--qos=nothing", "Invalid qos")):
        with pytest.raises(AssertionError, match=error):
            cluster.run("sbatch", option, "--wrap", "true")
    assert not (cluster.folder / "bin" / "sacct").exists()
    assert cluster.boot() == []
