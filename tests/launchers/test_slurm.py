"""The batch script against recorded ones, and a real cluster on this machine that takes, refuses, loses and cancels."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launchers.base import LaunchError, WorkerPool
from launchers.slurm import Slurm, environment_of
from launchers.slurm_tasks.errors import explain
from launchers.slurm_tasks.queue import REQUEUED, UNKNOWN, SlurmQueue, TaskRestart
from tests.support.cluster import Cluster, until

SCRIPTS = Path(__file__).parent / "scripts"
ROOT = Path(__file__).parents[2]
WORDS: dict[str, Any] = {
    "partition": "gpu", "account": None, "qos": None, "constraint": None, "gpu_type": "h100", "gres": None,
    "cpus_per_device": 14, "mem_gb_per_device": 240.0, "time": "08:00:00", "lead_s": 180, "setup": [], "container": None,
    "srun_args": [], "sbatch": {},
}  # fmt: skip
GUEST = """
import json, os, signal, sys, time
def leave(number, frame):
    print(f"signal {number}", flush=True)
    os._exit(75 if number == signal.SIGUSR2 else 0)
for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, leave)
seat = json.loads(os.environ["LATHE_SEAT"])
told = {"seat": seat, "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "environment": sorted(os.environ)}
with open(os.path.join(sys.argv[1], f"{seat['worker']}-{seat['crew']}-{seat['rank']}.part"), "w") as file:
    json.dump(told, file)
os.rename(file.name, file.name.removesuffix(".part") + ".json")
while not os.path.exists(os.path.join(sys.argv[1], "go")):
    time.sleep(0.05)
"""


def pool(folder: Path = Path("/runs/lr_batch"), words: dict[str, Any] | None = None, **changes: Any) -> WorkerPool:
    """Workers on one node of 8 GPUs, a trial each."""
    found = WorkerPool(
        folder=folder, code=folder / "code" / "packages", name="lr_batch", workers=5, nodes=1, devices_per_node=8,
        ranks_per_node=8, crews=1, device="cuda", threads_per_rank=None, slurm=WORDS | (words or {}),
    )  # fmt: skip
    return replace(found, **changes)


@pytest.mark.parametrize(
    ("name", "asked", "launcher"),
    [
        ("node", pool(), Slurm(python="/opt/lathe/bin/python")),
        (
            "nodes",
            pool(
                words={"account": "ml", "qos": "long", "constraint": "h100|h200", "sbatch": {"exclusive": "", "nice": "10"}},
                nodes=2, name="a sweep", threads_per_rank=7,
            ),
            Slurm(workers=3, python="/opt/lathe/bin/python"),
        ),
        (
            "part_of_a_node",
            pool(
                words={"gpu_type": None, "gres": "gpu:a100:4,licence:1", "setup": ["module load cuda", "ulimit -c 0"]},
                devices_per_node=4, ranks_per_node=1, crews=8, workers=400,
            ),
            Slurm(devices_per_trial=1, trials_per_device=2, python="/opt/lathe/bin/python"),
        ),
        (
            "container",
            pool(
                words={"container": "/images/torch 2.sqsh", "srun_args": ["--container-mounts=/runs,/data"], "lead_s": 60},
                folder=Path("/runs/my sweep"), workers=1,
            ),
            Slurm(),
        ),
        (
            "cores",
            pool(
                words={"gpu_type": None, "cpus_per_device": 8, "mem_gb_per_device": 2.5, "partition": None},
                device="cpu", devices_per_node=1, ranks_per_node=1, threads_per_rank=8,
            ),
            Slurm(python="/opt/lathe/bin/python"),
        ),
    ],
)  # fmt: skip
def test_what_is_submitted_is_what_was_recorded(name: str, asked: WorkerPool, launcher: Slurm) -> None:
    text = launcher.describe(asked)
    assert text == launcher.describe(asked)
    assert text == (SCRIPTS / f"{name}.sh").read_text()
    checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_any_gpu_is_asked_for_where_no_type_is_said() -> None:
    assert "--gres=gpu:8\n" in Slurm().describe(pool(words={"gpu_type": None}))
    assert "--gres=gpu:8\n" in Slurm().describe(pool(words={"gpu_type": None}, device="auto"))
    assert "--gres=gpu:h100:8\n" in Slurm().describe(pool(device="cpu"))  # a rehearsal of it


def test_as_many_workers_are_asked_for_as_are_of_use() -> None:
    assert [Slurm(workers=most).tasks(pool(workers=300)) for most in (None, 7, 1000)] == [256, 7, 300]


def test_hardware_without_slurm_names_the_way_out() -> None:
    with pytest.raises(LaunchError, match=r"launcher=slurm needs hardware\.slurm, and it is null; take hardware="):
        Slurm().describe(pool(slurm=None))


def test_workers_see_nothing_of_a_surrounding_job_or_another_run() -> None:
    kept = {"PATH": "/bin", "HOME": "/home/me", "LC_ALL": "C", "LATHE_DATA": "/data", "NCCL_DEBUG": "INFO", "https_proxy": "p",
            "LD_LIBRARY_PATH": "/cuda", "PYTHONPATH": "/mine", "BASH_FUNC_module%%": "() { :; }", "MODULEPATH": "/m",
            "SLURM_CONF": "/etc/slurm.conf"}  # fmt: skip
    dropped = {"SLURM_JOB_ID": "7", "SLURM_EXPORT_ENV": "NONE", "SBATCH_PARTITION": "x", "SQUEUE_STATES": "PD", "RANK": "1",
               "MLFLOW_RUN_ID": "ab", "CUDA_VISIBLE_DEVICES": "3", "OMP_NUM_THREADS": "1", "MASTER_PORT": "1", "TMPDIR": "/t",
               "LATHE_SEAT": "{}", "AWS_SECRET_ACCESS_KEY": "s", "HF_TOKEN": "s"}  # fmt: skip
    assert environment_of(kept | dropped) == kept
    assert environment_of(kept | dropped, ["HF_TOKEN"]) == kept | {"HF_TOKEN": "s"}


@pytest.mark.parametrize(
    ("worker", "found"),
    [
        ("1234_5.2", TaskRestart("1234_5", 2)), ("1234.0", TaskRestart("1234", 0)), ("vm-3f2a-0", None), ("a_b.0", None),
        ("1234_5", None), ("", None),
    ],
)  # fmt: skip
def test_a_name_of_a_worker_tells_its_job_and_restart(worker: str, found: TaskRestart | None) -> None:
    assert TaskRestart.of(worker) == found
    assert found is None or found.job == "1234"


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "sbatch: error: invalid account\nallocation failure: Invalid account or account/partition combination specified",
            "account 'ml' is unknown, or may not use partition 'gpu' (hardware.slurm.account); `sacctmgr show",
        ),
        ("allocation failure: Invalid qos specification", "QOS by default is unknown, or not yours (hardware.slurm.qos)"),
        (
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS "
            "policy (job submit limit, user's size and/or time limits)",
            "the job is over a limit of account 'ml' or QOS by default (hardware.slurm.account, qos, time, launcher.workers)",
        ),
        ("allocation failure: User's group not permitted to use this partition", "you may not use partition 'gpu' with"),
        ("allocation failure: Memory specification can not be satisfied", "1920 GB on a node are more than partition 'gpu' has"),
        ("allocation failure: Something new", "Something new (hardware.slurm); `launcher.dry=true` shows what is asked for"),
    ],
)  # fmt: skip
def test_a_refusal_that_this_cluster_never_gives_is_told_in_the_words_of_the_configuration(
    said: str, told: str
) -> None:
    line = explain(pool(words={"account": "ml"}), 5, said)
    assert line.startswith("slurm refused 'lr_batch': ")
    assert told in line


def test_without_sbatch_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        LaunchError, match=r"launcher=slurm finds no sbatch on this machine; .* login node; `lathe rehearse up`"
    ):
        Slurm().submit(pool(tmp_path))
    assert Slurm().lost(["1_0.0"]) == {}


class Site:
    """A sweep's folder with a guest in the worker's place, and the cluster of this machine to submit it to."""

    words: dict[str, Any] = {  # noqa: RUF012
        "partition": None, "gpu_type": "h100", "cpus_per_device": 1, "mem_gb_per_device": 0.5, "time": "00:10:00", "lead_s": 60,
    }  # fmt: skip

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        code = folder / "code" / "packages" / "experiments"
        code.mkdir(parents=True)
        (code / "__init__.py").touch()
        (code / "worker.py").write_text(GUEST)
        self.jobs: list[str] = []

    def pool(self, words: dict[str, Any] | None = None, **changes: Any) -> WorkerPool:
        usual = {"workers": 1, "devices_per_node": 2, "ranks_per_node": 2, "device": "cpu", "threads_per_rank": 1}
        return pool(self.folder, self.words | (words or {}), **usual | changes)

    def submit(self, words: dict[str, Any] | None = None, launcher: Slurm | None = None, **changes: Any) -> str:
        job = (launcher or Slurm()).submit(self.pool(words, **changes))
        self.jobs.append(job)
        return job

    def seated(self, num: int, of: str = "") -> dict[str, dict[str, Any]]:
        """What so many processes have told, by worker, crew and rank; waits for them."""
        until(lambda: len(list(self.folder.glob(f"{of}*.json"))) >= num, self.logs)
        return {path.stem: json.loads(path.read_text()) for path in self.folder.glob(f"{of}*.json")}

    def go(self) -> None:
        (self.folder / "go").touch()

    def logs(self) -> str:
        told = [f"{path}:\n{path.read_text()}" for path in self.folder.glob("workers/**/*.txt")]
        return "\n".join([slurm("squeue"), *told])

    def end(self) -> None:
        self.go()
        if self.jobs:
            slurm("scancel", *self.jobs)
            until(lambda: not squeue("-j", ",".join(self.jobs)), self.logs)


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stdout


def squeue(*arguments: str) -> str:
    return slurm("squeue", "-h", "-r", "-o", "%i %T", *arguments)


@pytest.fixture
def site(cluster: Cluster, tmp_path: Path) -> Iterator[Site]:
    found = Site(tmp_path / "sweep")
    yield found
    found.end()


def test_ranks_on_two_nodes_find_their_seats(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    monkeypatch.setenv("SBATCH_PARTITION", "nowhere")
    monkeypatch.setenv("SITE_TOKEN", "secret")
    job = site.submit(nodes=2, workers=2, launcher=Slurm(environment=["SITE_TOKEN"]))
    told = site.seated(8)
    site.go()
    for task in (0, 1):
        seats = [told[f"{job}_{task}.0-0-{rank}"]["seat"] for rank in range(4)]
        assert [(seat["rank"], seat["on_node"], seat["ranks"]) for seat in seats] == [
            (0, 0, 4), (1, 1, 4), (2, 0, 4), (3, 1, 4),
        ]  # fmt: skip
        assert len({seat["address"] for seat in seats}) == 1
        assert all(time.time() < seat["ends"] <= time.time() + 600 for seat in seats)
        assert {seat["job"] for seat in seats} == {f"{job}_{task}"}
        gpus = [told[f"{job}_{task}.0-0-{rank}"]["gpu"] for rank in range(4)]
        assert gpus in (["0", "1", "0", "1"], ["2", "3", "2", "3"])  # whether they are beside the other worker or not
    names = told[f"{job}_0.0-0-0"]["environment"]
    assert {"SITE_TOKEN", "SLURM_ARRAY_TASK_ID", "PATH"} <= {*names}
    assert not {"MLFLOW_RUN_ID", "SBATCH_PARTITION"} & {*names}
    recorded = (site.folder / "workers" / f"{job}.sh").read_text()
    assert recorded == Slurm().describe(site.pool(nodes=2, workers=2))


def test_a_rank_sees_the_gpus_that_its_job_was_given_on_a_shared_node(site: Site) -> None:
    node = slurm("sinfo", "-h", "-N", "-o", "%N").split()[0]
    job = site.submit({"sbatch": {"nodelist": node}}, workers=2)
    told = site.seated(4)
    gpus = [[told[f"{job}_{task}.0-0-{rank}"]["gpu"] for rank in (0, 1)] for task in (0, 1)]
    assert gpus == [["0", "1"], ["2", "3"]]


def test_crews_of_one_worker_share_its_devices(site: Site) -> None:
    job = site.submit(devices_per_node=2, ranks_per_node=1, crews=4)
    told = site.seated(4)
    assert [told[f"{job}_0.0-{crew}-0"]["gpu"] for crew in range(4)] == ["0", "1", "0", "1"]
    site.go()
    until(lambda: not squeue("-j", job), site.logs)
    assert (site.folder / "workers" / f"{job}_0.0" / "log.txt").exists()


def test_lines_of_the_site_run_before_and_one_that_fails_ends_the_worker(site: Site) -> None:
    good = site.submit({"setup": ["export LATHE_MARK=1", "echo set up"]})
    told = site.seated(2)
    assert "LATHE_MARK" in told[f"{good}_0.0-0-0"]["environment"]
    bad = site.submit({"setup": ["module load nothing"]})
    log = site.folder / "workers" / f"{bad}_0.0" / "log.txt"
    until(lambda: log.exists() and "not found" in log.read_text(), site.logs)
    until(lambda: not squeue("-j", bad), site.logs)
    assert "set up" in (site.folder / "workers" / f"{good}_0.0" / "log.txt").read_text()
    assert len(list(site.folder.glob(f"{bad}*.json"))) == 0


@pytest.mark.parametrize(
    ("words", "changes", "told"),
    [
        (
            {"partition": "a10"}, {},
            "slurm refused 'lr_batch': unknown partition 'a10' (hardware.slurm.partition); `sinfo -s` lists the known ones",
        ),
        (
            {"gpu_type": "b200"}, {},
            "slurm refused 'lr_batch': no node of partition by default has 2 cores, 1 GB, gpu:b200:2 at once "
            "(hardware.slurm, hardware.devices_per_node); `sinfo -o '%P %D %c %m %G %f'` lists what nodes have",
        ),
        (
            {"gpu_type": None, "gres": "tape:1"}, {},
            "slurm refused 'lr_batch': unknown generic resource 'tape:1' (hardware.slurm.gpu_type or gres); "
            "`sinfo -o '%P %G'` lists what nodes have",
        ),
        (
            {"constraint": "quantum"}, {},
            "slurm refused 'lr_batch': no node has the features 'quantum' (hardware.slurm.constraint); "
            "`sinfo -o '%P %f'` lists what nodes have",
        ),
        (
            {"time": "400-00:00:00"}, {},
            "slurm refused 'lr_batch': time 400-00:00:00 is more than partition by default allows (hardware.slurm.time); "
            "`sinfo -o '%P %l'` lists the limits",
        ),
        (
            {}, {"workers": 2_000_000},
            "slurm refused 'lr_batch': an array of 2000000 workers is larger than this site takes (launcher.workers); "
            "`scontrol show config | grep MaxArraySize` tells its limit",
        ),
        (
            {}, {"nodes": 99},
            "slurm refused 'lr_batch': 99 nodes of 2 cores are more than partition by default has (hardware.nodes, "
            "hardware.slurm.cpus_per_device); `sinfo -o '%P %D %c'` lists what it has",
        ),
        (
            {"sbatch": {"no-such-option": "1"}}, {},
            "slurm refused 'lr_batch': unrecognized option '--no-such-option=1' (hardware.slurm.sbatch); "
            "`sbatch --help` lists the options",
        ),
    ],
)  # fmt: skip
def test_a_refusal_names_the_key(site: Site, words: dict[str, Any], changes: dict[str, Any], told: str) -> None:
    with pytest.raises(LaunchError) as refused:
        site.submit(words, launcher=Slurm(workers=changes.get("workers")), **changes)
    assert str(refused.value) == told
    assert not list(site.folder.glob("workers/*.sh"))


def test_workers_that_wait_are_counted_and_cancelled_ones_are_lost(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = Slurm()
    many = site.submit({"sbatch": {"hold": ""}}, workers=7, launcher=launcher)
    job = site.submit(launcher=launcher)
    site.seated(2)
    assert launcher.waiting([many, job, "vm:12,13"]) == 7
    worker = f"{job}_0.0"
    assert launcher.lost([worker, "vm-3f2a-0"]) == {}
    launcher.cancel([many, job, "vm:12,13"])
    until(lambda: launcher.lost([worker]), site.logs)
    assert launcher.lost([worker, f"{many}_3.0"]) == {worker: "CANCELLED", f"{many}_3.0": "CANCELLED"}
    assert launcher.waiting([many, job]) == 0
    launcher.cancel([many, job])  # they have ended, and that is no fault
    assert capsys.readouterr().err == ""


def test_a_worker_that_ended_or_was_forgotten_is_lost(site: Site) -> None:
    launcher = Slurm()
    job = site.submit()
    site.seated(2)
    site.go()
    until(lambda: launcher.lost([f"{job}_0.0"]) == {f"{job}_0.0": "COMPLETED"}, site.logs)
    assert launcher.lost([f"{job}_0.0", "1_0.0"]) == {f"{job}_0.0": "COMPLETED", "1_0.0": UNKNOWN}
    assert launcher.lost(["1_0.0", "2.0"]) == {"1_0.0": UNKNOWN, "2.0": UNKNOWN}


def test_a_worker_that_must_leave_comes_back_under_another_name(site: Site) -> None:
    launcher = Slurm()
    job = site.submit()
    site.seated(2)
    slurm("scancel", "--signal=USR2", job)
    told = site.seated(2, of=f"{job}_0.1")
    assert told[f"{job}_0.1-0-0"]["seat"]["worker"] == f"{job}_0.1"
    assert launcher.lost([f"{job}_0.0", f"{job}_0.1"]) == {f"{job}_0.0": REQUEUED}
    assert "signal 12" in (site.folder / "workers" / f"{job}_0.0" / "log.txt").read_text()


def test_a_worker_whose_node_went_down_is_lost_and_comes_back(site: Site) -> None:
    launcher = Slurm()
    job = site.submit(nodes=2)
    site.seated(4)
    node = slurm("squeue", "-h", "-j", job, "-o", "%B").strip()
    slurm("scontrol", "update", f"node={node}", "state=down", "reason=test")
    try:
        until(lambda: launcher.lost([f"{job}_0.0"]) == {f"{job}_0.0": REQUEUED}, site.logs)
        site.seated(4, of=f"{job}_0.1")
    finally:
        slurm("scontrol", "update", f"node={node}", "state=resume")


def test_while_the_controller_does_not_answer_nobody_is_lost(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = Slurm()
    job = site.submit()
    site.seated(2)
    launcher.waiting([job])
    conf = Path(os.environ["SLURM_CONF"]).read_text()
    elsewhere = tmp_path / "slurm.conf"
    (tmp_path / "gres.conf").touch()
    lines = [line for line in conf.splitlines() if not line.startswith(("SlurmctldPort", "MessageTimeout"))]
    elsewhere.write_text("\n".join([*lines, "SlurmctldPort=9", "MessageTimeout=2"]))
    deaf = Slurm()
    deaf._watch.environment = {**launcher._watch.environment, "SLURM_CONF": str(elsewhere)}
    assert deaf.lost([f"{job}_0.0"]) == {}
    assert deaf.waiting([job, "7"]) == 2  # it is not known that they have begun
    said = capsys.readouterr().err
    assert said.startswith("slurm does not answer (slurm_load_jobs error: Unable to contact slurm controller")
    assert said.count("\n") == 1
    with pytest.raises(LaunchError, match=rf"slurm did not cancel {job}: .*; try `scancel {job}`"):
        deaf.cancel([job])
    with pytest.raises(
        LaunchError, match=r"slurm does not answer, so 'lr_batch' may not be submitted: .*`scontrol ping`"
    ):
        deaf.submit(site.pool())
    assert launcher.lost([f"{job}_0.0"]) == {}


@pytest.mark.slow
def test_a_controller_that_was_killed_takes_nobody_along(
    site: Site, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = Slurm()
    job = site.submit()
    site.seated(2)
    cluster.kill_controller()
    try:
        assert launcher.lost([f"{job}_0.0"]) == {}
        assert "Unable to contact slurm controller" in capsys.readouterr().err
    finally:
        cluster.start_controller()


@pytest.mark.slow
def test_accounts_tell_how_a_worker_ended_that_the_controller_has_forgotten(cluster_with_accounting: Cluster) -> None:
    watch = SlurmQueue(environment_of(os.environ))
    told = "#!/bin/sh\n#SBATCH --array=0-1 --output=/dev/null --mem=100\nsleep 60\n"
    job = watch.ask("sbatch", "--parsable", told=told).stdout.strip()
    until(lambda: len(watch._squeue([job])) == 2 and watch.waiting([job]) == 0)
    watch.ask("scancel", f"{job}_1")
    until(lambda: watch._sacct([job]) == {f"{job}_0": "RUNNING", f"{job}_1": "CANCELLED"})  # they lag by 2 s
    gone = {f"{job}_{task}.0": TaskRestart(f"{job}_{task}", 0) for task in (0, 1)} | {"1.0": TaskRestart("1", 0)}
    assert watch._ended(gone) == {f"{job}_1.0": "CANCELLED", "1.0": UNKNOWN}
    watch.ask("scancel", job)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            {"account": "vision"},
            "account 'vision' is unknown, or may not use partition by default (hardware.slurm.account); ",
        ),
        ({"qos": "urgent"}, "QOS 'urgent' is unknown, or not yours (hardware.slurm.qos); `sacctmgr show associations"),
    ],
)
def test_an_account_or_qos_that_is_not_yours_is_refused(
    cluster_with_accounting: Cluster, words: dict[str, str], told: str, tmp_path: Path
) -> None:
    with pytest.raises(LaunchError) as refused:
        Slurm().submit(pool(tmp_path, Site.words | words, device="cpu", devices_per_node=2, ranks_per_node=2))
    assert str(refused.value).startswith(f"slurm refused 'lr_batch': {told}")


def test_a_question_that_has_no_end_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "squeue").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setattr("launchers.slurm_tasks.queue.PATIENCE_S", 0.2)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert SlurmQueue(dict(os.environ)).lost(["1_0.0"]) == {}
