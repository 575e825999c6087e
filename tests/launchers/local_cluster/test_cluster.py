"""Throw-away SLURM clusters: the files they are made of, real ones that are used, hurt and ended, and what is told."""

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
from launchers.local_cluster.cluster import LocalCluster, ShapeError, names_of
from launchers.local_cluster.daemons import Process
from launchers.local_cluster.settings import choose_place, clear, default_folder, find_programs, problems
from launchers.local_cluster.slurm_conf import ClusterFolder, Spec, files, gres_conf, longest_socket, node_names
from tests.conftest import Lathe
from tests.support.cluster import Cluster, booted, short_folder, skip_without_slurm, until

PLACE = ClusterFolder(Path("/r"), host="box", user="me", port=12000, first_job=77)
SMALL = Spec(nodes=2, gpus=1, cpus=2, memory_gb=3)


@pytest.fixture
def folder() -> Iterator[Path]:
    """An empty folder; a cluster in it is ended afterwards."""
    with short_folder() as found:
        yield found
        LocalCluster(found).down()


@pytest.fixture
def small() -> Iterator[Cluster]:
    """A cluster of this test alone."""
    with booted(SMALL) as found:
        yield found


# What it is made of.


def test_slurm_conf_declares_nodes_that_this_machine_does_not_have() -> None:
    conf = files(SMALL, PLACE)["etc/slurm.conf"].splitlines()
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
def test_slurm_conf_has_the_lines_without_which_something_does_not_work(line: str) -> None:
    assert line in files(SMALL, PLACE)["etc/slurm.conf"].splitlines()


def test_only_with_accounting_there_is_a_database_and_only_without_a_stand_in_for_sacct() -> None:
    assert sorted(files(SMALL, PLACE)) == ["bin/sacct", "env.sh", "etc/gres.conf", "etc/slurm.conf"]
    assert "AccountingStorage" not in files(SMALL, PLACE)["etc/slurm.conf"]
    found = files(Spec(nodes=2, accounting=True), PLACE)
    assert sorted(found) == ["env.sh", "etc/gres.conf", "etc/slurm.conf", "etc/slurmdbd.conf"]
    for line in ("AccountingStoragePort=12003", "AccountingStoragePass=/r/munge.sock"):
        assert line in found["etc/slurm.conf"].splitlines()
    assert {"DbdPort=12003", "StorageUser=me"} <= {*found["etc/slurmdbd.conf"].splitlines()}


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (Spec(gpus=0), ""),
        (Spec(gpus=1), "Name=gpu Type=h100 File=/r/dev/nvidia0 Flags=nvidia_gpu_env\n"),
        (Spec(gpus=8, gpu_type="a100"), "Name=gpu Type=a100 File=/r/dev/nvidia[0-7] Flags=nvidia_gpu_env\n"),
    ],
)
def test_gpus_are_links_that_only_cuda_is_told_of(spec: Spec, text: str) -> None:
    assert gres_conf(spec, PLACE) == text


def test_a_node_without_gpus_declares_none() -> None:
    assert "Gres" not in files(Spec(gpus=0), PLACE)["etc/slurm.conf"].replace("GresTypes", "")


def test_a_shell_may_source_env_sh_twice(tmp_path: Path) -> None:
    (tmp_path / "env.sh").write_text(files(SMALL, PLACE)["env.sh"])
    command = 'set -eu; PATH=/bin; . ./env.sh; . ./env.sh; echo "$SLURM_CONF $PATH"'
    assert subprocess.check_output(["sh", "-c", command], cwd=tmp_path, text=True) == "/r/etc/slurm.conf /r/bin:/bin\n"


def test_two_clusters_have_ports_of_their_own(folder: Path) -> None:
    ports = {choose_place(folder, SMALL).port for _ in range(20)}
    assert len(ports) > 1
    assert all(10000 <= port < 30000 for port in ports)


# What may be wrong with it.


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/dev/shm/it's", "--dir /dev/shm/it's holds \"'\", which slurm.conf does not take; name a folder without"),
        ("/dev/null", "--dir /dev/null is no folder: /dev/null is a file; name another"),
        ("/", "--dir / holds other things; name a new folder or an empty one"),
    ],
)
def test_a_folder_that_does_not_do_is_told(path: str, told: str) -> None:
    if path == "/" and os.getuid() != 0:
        told = "--dir / belongs to user 0, not to you; name another"
    assert problems(Path(path), Spec()) == [told]


def test_the_longest_path_of_a_socket_decides_how_long_the_folder_may_be(tmp_path: Path) -> None:
    room = 107 - len(longest_socket(Path("/"), Spec(nodes=10)).replace("//", "/"))
    fits, does_not = Path("/" + "a" * room), Path("/" + "a" * (room + 1))
    assert not [line for line in problems(fits, Spec(nodes=9)) if "too many" in line]
    assert problems(does_not, Spec(nodes=10))[0].startswith(f"--dir {does_not} has 2 characters too many")


def test_missing_programs_are_told_with_the_packages_that_bring_them(
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
        with pytest.raises(LaunchError) as told:
            LocalCluster(tmp_path / "cluster").up(Spec(accounting=accounting))
        assert str(told.value).startswith(f"a rehearsal needs {missing}, ")
        assert str(told.value).endswith(f"which this machine has not; `apt-get install {packages}` brings all of it")
        assert not (tmp_path / "cluster").exists()


def test_daemons_are_found_though_a_users_path_does_not_have_them(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without_slurm()
    monkeypatch.setenv("PATH", "")
    assert Path(find_programs(accounting=False)["slurmctld"]).is_absolute()


def test_a_program_that_fails_is_told_with_the_end_of_its_log(
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
        match=r"the rehearsal's slurmd-127\.0\.77\.\d ended instead of serving; (.*\n)+  slurmd: fatal: no luck$",
    ):
        cluster.boot()
    assert cluster.processes() == []
    monkeypatch.undo()
    assert cluster.boot() == names_of(SMALL)


def test_a_program_that_does_nothing_is_not_waited_for_for_ever(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_without_slurm()
    fake = tmp_path / "munged"
    fake.write_text("#!/bin/sh\necho idle\nsleep 600\n")
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("launchers.local_cluster.cluster.PATIENCE_S", 0.3)
    cluster = Cluster(folder, SMALL)
    with pytest.raises(LaunchError, match=r"the rehearsal's munged was not ready within 0 s; (.*\n)+  idle$"):
        cluster.boot()
    assert cluster.processes() == []


def test_two_commands_do_not_work_on_one_folder_at_once(folder: Path) -> None:
    skip_without_slurm()
    descriptor = os.open(folder, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(LaunchError, match=f"another `lathe rehearse` is at work on {folder}; wait until"):
            LocalCluster(folder).up(SMALL)
    finally:
        os.close(descriptor)
    assert list(folder.iterdir()) == []


def test_a_disk_without_room_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_without_slurm()

    def full(record: Any) -> None:
        (folder / "rehearsal.json").touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("launchers.local_cluster.cluster.lay_out", full)
    with pytest.raises(
        LaunchError, match=r"could not be set up \(No space left on device\); free space and processes, or"
    ):
        LocalCluster(folder).up(SMALL)
    assert not folder.exists()


# Real ones.


def test_tasks_on_two_nodes_see_the_gpus_that_they_were_given(cluster: Cluster) -> None:
    shown = cluster.run(
        "srun", "-N2", "--ntasks-per-node=2", "--gpus-per-task=1", "sh", "-c",
        'echo "$SLURM_PROCID $SLURMD_NODENAME $CUDA_VISIBLE_DEVICES ${ROCR_VISIBLE_DEVICES-none}"',
    )  # fmt: skip
    tasks = sorted(line.split() for line in shown.splitlines())
    assert [(rank, gpus, other) for rank, _, gpus, other in tasks] == [
        ("0", "0", "none"), ("1", "1", "none"), ("2", "0", "none"), ("3", "1", "none"),
    ]  # fmt: skip
    assert len({node for _, node, _, _ in tasks}) == 2
    assert {node for _, node, _, _ in tasks} <= {*node_names(cluster.shape)}


def test_an_array_runs_and_the_stand_in_for_sacct_tells_how_it_ended(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.run(
        "sbatch", "--parsable", "--wait", "--array=0-3%2", "--gres=gpu:h100:2", f"--output={tmp_path}/%a.txt",
        "--wrap", "echo $SLURM_ARRAY_TASK_ID of $CUDA_VISIBLE_DEVICES",
    ).strip()  # fmt: skip
    assert re.sub("[23]$", "_", (tmp_path / "3.txt").read_text().strip()) in ("3 of 0,1", "3 of 2,_")
    command = ("sacct", "-o", "JobID,State,NodeList", "--parsable2", "-j", job)  # as submitit asks
    header, *rows = cluster.run(*command).splitlines()
    assert header == "JobID|State|NodeList"
    states = {name: state for name, state, _ in (row.split("|") for row in rows) if name.startswith(job)}
    assert states == {f"{job}_{task}": "COMPLETED" for task in range(4)}


def test_what_no_node_can_run_is_refused_at_once(cluster: Cluster) -> None:
    for asked in ("--gres=gpu:b200:1", "--nodes=5", "--cpus-per-task=64"):
        with pytest.raises(AssertionError, match="error"):
            cluster.run("sbatch", asked, "--wrap", "true")


def test_daemons_are_nobodys_children_and_have_sessions_of_their_own(cluster: Cluster) -> None:
    found = [process for process in daemons.recorded(cluster.folder).values() if process is not None]
    assert len(found) == len(names_of(cluster.shape)) == 6
    assert os.getpid() not in {psutil.Process(process.pid).ppid() for process in found}
    assert os.getsid(0) not in {os.getsid(process.pid) for process in found}


def test_a_controller_and_a_node_that_were_killed_are_seen_and_started_again(cluster: Cluster) -> None:
    node = node_names(cluster.shape)[2]
    job = cluster.run("sbatch", "--parsable", f"--nodelist={node}", "--output=/dev/null", "--wrap", "sleep 600").strip()
    until(lambda: cluster.jobs(node)[0])
    tasks = cluster.jobs(node)[0]
    cluster.kill_node(node)
    assert not [process for process in tasks if process.is_alive()]
    status = cluster.status()
    assert status is not None
    assert (status.gone, status.nodes is None) == ([f"slurmd-{node}"], False)
    assert any(row[0] == job for row in status.jobs)
    cluster.kill_controller()
    status = cluster.status()
    assert status is not None
    assert (status.gone, status.nodes) == (["slurmctld", f"slurmd-{node}"], None)
    assert cluster.boot() == ["slurmctld", f"slurmd-{node}"]
    cluster.run("scancel", "--user", psutil.Process().username())
    until(lambda: not cluster.run("squeue", "-h"))
    assert cluster.boot() == []


def test_another_cluster_beside_it_knows_nothing_of_its_jobs(cluster: Cluster, small: Cluster) -> None:
    job = cluster.run("sbatch", "--parsable", "--hold", "--output=/dev/null", "--wrap", "true").strip()
    assert job in cluster.run("squeue", "-h")
    assert small.run("squeue", "-h") == ""
    assert small.run("srun", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES $SLURMD_NODENAME").split() == ["127.0.77.1"]
    cluster.run("scancel", job)


def test_down_ends_every_process_also_those_that_jobs_left_behind(small: Cluster) -> None:
    stray = "trap '' TERM; setsid sleep 601 & sleep 602"
    small.run("sbatch", "--output=/dev/null", "-N2", "--wrap", f'srun sh -c "{stray}"')
    small.run("sbatch", "--output=/dev/null", "--wrap", stray)
    until(lambda: len(small.jobs()[0]) >= 8 and len(small.jobs()[1]) >= 4, small.jobs)
    found = small.processes()
    assert len(found) > len(names_of(SMALL)) + 8
    assert small.down()
    assert [process for process in found if process.is_alive()] == []
    assert small.processes() == []
    assert not small.folder.exists()
    assert not small.down()


def test_up_twice_leaves_it_as_it_is_and_another_shape_is_refused(small: Cluster) -> None:
    before = daemons.recorded(small.folder)
    assert small.boot() == []
    assert daemons.recorded(small.folder) == before
    with pytest.raises(ShapeError) as told:
        small.up(Spec(nodes=3, gpus=1, cpus=2, memory_gb=3, accounting=True))
    assert told.value.problems == [
        f"--nodes 3 is not what the rehearsal in {small.folder} has, 2; end that one with `lathe rehearse down`, or name "
        "another folder with --dir",
        f"--accounting True is not what the rehearsal in {small.folder} has, False; end that one with `lathe rehearse down`, "
        "or name another folder with --dir",
    ]


def test_one_that_was_killed_whole_is_begun_anew(small: Cluster) -> None:
    first = small.run("scontrol", "show", "config")
    for process in small.processes():
        process.send(signal.SIGKILL)
    until(lambda: not small.processes())
    assert small.spec() is None
    other = Spec(nodes=1, gpus=0)
    assert small.up(other) == ["munged", "slurmctld", "slurmd-127.0.77.1"]

    def number(config: str) -> int:
        return int(re.findall(r"FirstJobId\s*= (\d+)", config)[0])

    assert number(small.run("scontrol", "show", "config")) > number(first)


def test_one_whose_start_was_cut_off_is_begun_anew(folder: Path, lathe: Lathe) -> None:
    skip_without_slurm()
    command = [sys.executable, "-P", "-m", "experiments.cli", "rehearse", "up", "--dir", str(folder)]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: daemons.was_born(folder, "munged"))
    started.kill()
    started.wait()
    if not (folder / "booted").exists():
        done = lathe("rehearse", "status", "--dir", str(folder))
        assert (done.returncode, done.stderr) == (1, "")
        assert "it is being started, or that was cut off; `lathe rehearse up --dir" in done.stdout
    cluster = Cluster(folder, SMALL)
    if cluster.spec() is not None:
        cluster.down()
    assert cluster.boot() == names_of(SMALL)


def test_a_process_that_has_a_daemons_number_by_chance_is_left_alone(folder: Path) -> None:
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            stat = daemons.stat(other.pid)
            assert stat is not None
            own = stat.process
            line = Path(f"/proc/{other.pid}/stat").read_text()
            later = line.replace(f" {own.born} ", f" {own.born - 1} ").replace("(sleep)", "(sh)")
            (folder / "pids").mkdir()
            (folder / "pids" / "slurmctld").write_text(later)
            (folder / "pids" / "munged").write_text(line)  # its birth is right, but it is no munged
            (folder / "rehearsal.json").write_text("{}")
            assert daemons.find(folder, "slurmctld") is None
            assert daemons.find(folder, "munged") is None
            assert LocalCluster(folder).down()
            assert own.is_alive()
            assert not Process(own.pid, own.born - 1).is_alive()
        finally:
            other.kill()


def test_what_someone_put_into_the_folder_stays(folder: Path) -> None:
    for name in ("rehearsal.json", "notes.txt"):
        (folder / name).write_text("mine")
    (folder / "log").mkdir()
    clear(folder)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    (folder / "rehearsal.json").touch()
    assert LocalCluster(folder).down()
    assert (folder / "notes.txt").read_text() == "mine"


# The command.


def test_the_command_starts_shows_and_ends_a_cluster_that_outlives_it(
    lathe: Lathe, folder: Path, tmp_path: Path
) -> None:
    skip_without_slurm()
    where = ("--dir", str(folder))
    up = lathe("rehearse", "up", "--nodes", "2", "--gpu-type", "a100", *where)
    assert (up.returncode, up.stderr) == (0, "")
    lines = up.stdout.splitlines()
    assert lines[:2] == [f"rehearsal in {folder}: 2 nodes of 8 CPUs, 64 GB, 4 simulated a100", f"  . {folder}/env.sh"]
    assert lines[-1] == f"`lathe rehearse down --dir {folder}` ends it and all its jobs."
    use = f". {folder}/env.sh; sbatch -o /dev/null -J 'a|b' --gres=gpu:a100:3 --wrap 'sleep 600'; sacct"
    shown = subprocess.check_output(["sh", "-c", use], cwd=tmp_path, text=True)
    assert re.search(r"Submitted batch job \d+\nJobID\|State\|NodeList\n\d+\|", shown)

    again = lathe("rehearse", "up", *where)
    assert (again.returncode, again.stdout.splitlines()[0]) == (0, "it was up already")
    other = lathe("rehearse", "up", "--nodes", "5", *where)
    assert other.returncode == 2
    assert f"--nodes 5 is not what the rehearsal in {folder} has, 2; end that one" in other.stderr

    cluster = Cluster(folder, SMALL)
    until(lambda: cluster.jobs()[0])
    status = lathe("rehearse", "status", *where)
    assert (status.returncode, status.stderr) == (0, "")
    assert re.search(
        r"^started \d+ s ago; \. .*\n  idle       127\.0\.77\.2\n  mixed      127\.0\.77\.1\n", status.stdout, re.M
    )
    assert re.search(
        r"^jobs: 1 running, 0 waiting\n  \d+ +main +RUNNING +0:\d\d  a\|b  127\.0\.77\.1\n$", status.stdout, re.M
    )

    found = cluster.processes()
    down = lathe("rehearse", "down", *where)
    assert (down.returncode, down.stderr) == (0, "")
    assert down.stdout == f"the rehearsal in {folder} is ended, and its files are removed\n"
    assert [process for process in found if process.is_alive()] == []
    twice = lathe("rehearse", "down", *where)
    assert (twice.returncode, twice.stdout) == (0, f"no rehearsal is up in {folder}; nothing is left to end\n")
    gone = lathe("rehearse", "status", *where)
    assert gone.returncode == 1
    assert gone.stdout == f"no rehearsal is up in {folder}; `lathe rehearse up --dir {folder}` starts one\n"


def test_the_folder_is_in_memory_where_that_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launchers.local_cluster.settings.is_ours", lambda folder: False)
    monkeypatch.setattr("launchers.local_cluster.settings._is_fit", lambda folder: True)
    assert str(default_folder()).startswith("/dev/shm/lathe-rehearsal-")
    monkeypatch.setattr("launchers.local_cluster.settings._is_fit", lambda folder: False)
    assert not str(default_folder()).startswith("/dev/shm")
    monkeypatch.setattr("launchers.local_cluster.settings.is_ours", lambda folder: folder.parent == Path("/dev/shm"))
    assert str(default_folder()).startswith("/dev/shm/lathe-rehearsal-")


@pytest.mark.slow
def test_with_accounting_sacct_tells_of_jobs_and_strange_names_are_refused(cluster_with_accounting: Cluster) -> None:
    cluster = cluster_with_accounting
    job = cluster.run(
        "sbatch", "--parsable", "--wait", "--qos=high", "--account=rehearsal", "--gres=gpu:h100:2", "--output=/dev/null",
        "--wrap", "true",
    ).strip()  # fmt: skip
    asked = ("sacct", "-n", "-P", "-X", "-j", job, "-o", "State,Account,QOS,ReqTRES")
    row: list[str] = []

    def is_told() -> bool:
        row[:] = cluster.run(*asked).strip().split("|")
        return row[:3] == ["COMPLETED", "rehearsal", "high"]  # what it is told first of a job may lack the QOS

    until(is_told, lambda: row)
    resources = row[3]
    assert "gres/gpu=2" in resources
    for option, told in (("--account=nobody", "Invalid account"), ("--qos=nothing", "Invalid qos")):
        with pytest.raises(AssertionError, match=told):
            cluster.run("sbatch", option, "--wrap", "true")
    assert not (cluster.folder / "bin" / "sacct").exists()
    assert cluster.boot() == []
