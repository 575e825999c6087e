"""Compares the batch script with recorded ones, and submits to a real cluster on this machine."""

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

from launchers.base import WORKER_MODULE, LaunchError, SubmissionUnclearError, WorkerPool
from launchers.slurm import Slurm, filter_environment
from launchers.slurm_tasks.errors import explain
from launchers.slurm_tasks.output import parse_job
from launchers.slurm_tasks.queue import REQUEUED, UNKNOWN, SlurmQueue, TaskRestart
from tests.support.cluster import Cluster, write_commands
from tests.support.waiting import PATIENCE_S, wait_until

SCRIPTS = Path(__file__).parent / "scripts"
ROOT = Path(__file__).parents[2]
SETTINGS: dict[str, Any] = {
    "partition": "gpu", "account": None, "qos": None, "constraint": None, "gpu_type": "h100", "gres": None,
    "cpus_per_device": 14, "mem_gb_per_device": 240.0, "time": "08:00:00", "signal_delay_s": 180, "setup": [], "container": None,
    "srun_args": [], "sbatch": {},
}  # fmt: skip
STAND_IN = """
import json, os, signal, sys, time
def leave(number, frame):
    print(f"signal {number}", flush=True)
    os._exit(75 if number == signal.SIGUSR2 else 0)
for number in (signal.SIGTERM, signal.SIGUSR2):
    signal.signal(number, leave)
placement = json.loads(os.environ["LATHE_SEAT"])
report = {"placement": placement, "gpu": os.environ.get("CUDA_VISIBLE_DEVICES"), "environment": sorted(os.environ)}
with open(os.path.join(sys.argv[1], f"{placement['worker']}-{placement['crew']}-{placement['rank']}.part"), "w") as file:
    json.dump(report, file)
os.rename(file.name, file.name.removesuffix(".part") + ".json")
while not os.path.exists(os.path.join(sys.argv[1], "go")):
    time.sleep(0.05)
"""


def pool(folder: Path = Path("/runs/lr_batch"), settings: dict[str, Any] | None = None, **changes: Any) -> WorkerPool:
    """Workers on one node of 8 GPUs, with one trial at a time each."""
    workers = WorkerPool(
        folder=folder, code=folder / "code" / "packages", name="lr_batch", max_workers=5, nodes=1, devices_per_node=8,
        ranks_per_node=8, trials_per_worker=1, device="cuda", threads_per_rank=None, slurm=SETTINGS | (settings or {}),
        worker_module=WORKER_MODULE,
    )  # fmt: skip
    return replace(workers, **changes)


@pytest.mark.parametrize(
    ("name", "workers", "launcher"),
    [
        ("node", pool(), Slurm(python="/opt/lathe/bin/python")),
        (
            "nodes",
            pool(
                settings={"account": "ml", "qos": "long", "constraint": "h100|h200", "sbatch": {"exclusive": "", "nice": "10"}},
                nodes=2, name="a sweep", threads_per_rank=7,
            ),
            Slurm(workers=3, python="/opt/lathe/bin/python"),
        ),
        (
            "part_of_a_node",
            pool(
                settings={"gpu_type": None, "gres": "gpu:a100:4,licence:1", "setup": ["module load cuda", "ulimit -c 0"]},
                devices_per_node=4, ranks_per_node=1, trials_per_worker=8, max_workers=400,
            ),
            Slurm(devices_per_trial=1, trials_per_device=2, python="/opt/lathe/bin/python"),
        ),
        (
            "container",
            pool(
                settings={
                    "container": "/images/torch 2.sqsh", "srun_args": ["--container-mounts=/runs,/data"], "signal_delay_s": 60,
                },
                folder=Path("/runs/my sweep"), max_workers=1,
            ),
            Slurm(),
        ),
        (
            "cores",
            pool(
                settings={"gpu_type": None, "cpus_per_device": 8, "mem_gb_per_device": 2.5, "partition": None},
                device="cpu", devices_per_node=1, ranks_per_node=1, threads_per_rank=8,
            ),
            Slurm(python="/opt/lathe/bin/python"),
        ),
    ],
)  # fmt: skip
def test_the_batch_script_is_the_recorded_one(name: str, workers: WorkerPool, launcher: Slurm) -> None:
    text = launcher.describe(workers)
    assert text == launcher.describe(workers)
    assert text == (SCRIPTS / f"{name}.sh").read_text()
    checked = subprocess.run(["bash", "-n"], input=text, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")


def test_without_a_gpu_type_any_gpu_is_requested() -> None:
    assert "--gres=gpu:8\n" in Slurm().describe(pool(settings={"gpu_type": None}))
    assert "--gres=gpu:8\n" in Slurm().describe(pool(settings={"gpu_type": None}, device="auto"))
    assert "--gres=gpu:h100:8\n" in Slurm().describe(pool(device="cpu"))


def test_no_more_workers_are_requested_than_the_trials_can_use() -> None:
    assert [Slurm(workers=most).count_workers(pool(max_workers=300)) for most in (None, 7, 1000)] == [256, 7, 300]


def test_the_error_for_hardware_without_slurm_has_a_hint() -> None:
    with pytest.raises(LaunchError, match=r"launcher=slurm needs hardware\.slurm, and it is null; take hardware="):
        Slurm().describe(pool(slurm=None))


def test_workers_inherit_nothing_of_a_surrounding_job_or_another_run() -> None:
    inherited = {"PATH": "/bin", "HOME": "/home/me", "LC_ALL": "C", "LATHE_DATA": "/data", "NCCL_DEBUG": "INFO",
            "https_proxy": "p", "LD_LIBRARY_PATH": "/cuda", "PYTHONPATH": "/mine", "BASH_FUNC_module%%": "() { :; }",
            "MODULEPATH": "/m",
            "SLURM_CONF": "/etc/slurm.conf"}  # fmt: skip
    dropped = {"SLURM_JOB_ID": "7", "SLURM_EXPORT_ENV": "NONE", "SBATCH_PARTITION": "x", "SQUEUE_STATES": "PD", "RANK": "1",
               "MLFLOW_RUN_ID": "ab", "CUDA_VISIBLE_DEVICES": "3", "OMP_NUM_THREADS": "1", "MASTER_PORT": "1", "TMPDIR": "/t",
               "LATHE_SEAT": "{}", "AWS_SECRET_ACCESS_KEY": "s", "HF_TOKEN": "s"}  # fmt: skip
    assert filter_environment(inherited | dropped) == inherited
    assert filter_environment(inherited | dropped, ["HF_TOKEN"]) == inherited | {"HF_TOKEN": "s"}


@pytest.mark.parametrize(
    ("worker", "start"),
    [
        ("1234_5.2", TaskRestart("1234_5", 2)), ("1234.0", TaskRestart("1234", 0)), ("vm-3f2a-0", None), ("a_b.0", None),
        ("1234_5", None), ("", None),
    ],
)  # fmt: skip
def test_the_name_of_a_worker_holds_its_job_and_restart(worker: str, start: TaskRestart | None) -> None:
    assert TaskRestart.parse(worker) == start
    assert start is None or start.job == "1234"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            "sbatch: error: invalid account\nallocation failure: Invalid account or account/partition combination specified",
            "account 'ml' is unknown, or may not use partition 'gpu' (hardware.slurm.account); `sacctmgr show",
        ),
        ("allocation failure: Invalid qos specification", "QOS (the default) is unknown, or you may not use it (hardware"),
        (
            "sbatch: error: QOSMaxSubmitJobPerUserLimit\nsbatch: error: Batch job submission failed: Job violates accounting/QOS "
            "policy (job submit limit, user's size and/or time limits)",
            "the job is over a limit of account 'ml' or QOS (the default) (hardware.slurm.account, qos, time, launcher.workers)",
        ),
        ("allocation failure: User's group not permitted to use this partition", "you may not use partition 'gpu' with"),
        ("allocation failure: Memory specification can not be satisfied", "1920 GB per node is more than partition 'gpu' has"),
        ("allocation failure: Something new", "Something new (hardware.slurm); `launcher.dry_run=true` shows the batch script"),
    ],
)  # fmt: skip
def test_a_refusal_that_this_cluster_never_gives_is_explained(output: str, message: str) -> None:
    line = explain(pool(settings={"account": "ml"}), 5, output)
    assert line.startswith("slurm refused 'lr_batch': ")
    assert message in line


BANNER = "*****\nWelcome to cluster 7\n\x1b[1m3 nodes are down\x1b[0m\n2026\n"


@pytest.mark.parametrize(
    ("output", "job"),
    [
        ("1234\n", "1234"), ("1234", "1234"), ("1234;lab\n", "1234"), ("Submitted batch job 1234\n", "1234"),
        ("Submitted batch job 1234 on cluster lab\n", "1234"), (f"{BANNER}1234\n", "1234"), ("1234\nBye, see you.\n", "1234"),
        (f"{BANNER}Submitted batch job 1234\nYour quota: 7 of 10\n\n", "1234"), ("5\n  1234;c \r\n", "1234"),
        ("\x1b[32m1234\x1b[0m\n", "1234"), ("", None), ("\n\n", None), ("Welcome\n", None), ("job 1234 is queued\n", None),
        ("-1\n", None), ("12.5\n", None), ("1234 5678\n", None), ("../../1234\n", None),
    ],
)  # fmt: skip
def test_the_job_number_is_found_in_what_sbatch_prints(output: str, job: str | None) -> None:
    assert parse_job(output) == job


def test_a_submission_without_a_job_number_says_what_sbatch_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_commands(tmp_path, sbatch="cat > /dev/null; echo Welcome to the lab; echo please be nice")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(
        SubmissionUnclearError, match=r"'Welcome to the lab please be nice' and no job number .* may be"
    ):
        Slurm().submit(pool(tmp_path))
    assert list((tmp_path / "workers").iterdir()) == []


def test_lines_of_a_sites_wrapper_are_no_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "my sweep" / "workers"
    banner = "cat <<'E'\nWelcome | to | node 12\n2026\nYour memory policy: 5 a b RUNNING 0\nE\n"
    tasks = "7 0 8 RUNNING 0\n7 1 9 PENDING 0\n7 2 10 RUNNING 2\n12 N/A 12 CANCELLED 0\n"
    write_commands(
        tmp_path,
        squeue=f"case \"$*\" in *-n*) {banner} echo 7; echo 7; echo 12;; *) {banner} printf '{tasks}';; esac",
        sacct=f"{banner} printf '13_0|CANCELLED by 1000\\n13_1|COMPLETED|\\n13_[2-4]|PENDING\\n'",
        scontrol=f"{banner} test $3 = 7 && echo '   StdOut={folder}/7_4294967294.txt'; exit 0",
        scancel="echo Welcome >&2; echo 'error rates are published monthly' >&2; test $1 != 66 || exit 1",
    )
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    launcher = Slurm()
    workers = ["7_0.0", "7_1.0", "7_2.1", "7_2.2", "12.0", "13_0.0", "13_1.0", "13_2.0", "13_9.0"]
    assert launcher.find_lost(workers) == {
        "7_1.0": REQUEUED, "7_2.1": REQUEUED, "12.0": "CANCELLED", "13_0.0": "CANCELLED", "13_1.0": "COMPLETED",
        "13_2.0": UNKNOWN, "13_9.0": UNKNOWN,
    }  # fmt: skip
    assert launcher.count_pending(["7", "12"]) == 1
    assert launcher.find_jobs(pool(folder.parent)) == ["7"]
    launcher.cancel(["7", "12"])
    with pytest.raises(LaunchError, match="scancel ended with code 1; try `scancel 66`"):
        launcher.cancel(["66"])


def test_a_refusal_is_explained_without_the_lines_of_a_wrapper() -> None:
    banner = "Welcome. Our memory policy: https://lab\nconnection refused? call 12\n"
    output = (
        f"{banner}sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed: no\nBye"
    )
    assert "unknown partition 'gpu'" in explain(pool(), 5, output)


def test_the_error_for_a_missing_sbatch_has_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        LaunchError, match=r"launcher=slurm finds no sbatch on this machine; .* login node; `lathe cluster up`"
    ):
        Slurm().submit(pool(tmp_path))
    assert Slurm().find_lost(["1_0.0"]) == {}


class Site:
    """A sweep's folder with a stand-in for the worker, to submit to the cluster of this machine."""

    settings: dict[str, Any] = {  # noqa: RUF012
        "partition": None, "gpu_type": "h100", "cpus_per_device": 1, "mem_gb_per_device": 0.5, "time": "00:10:00",
        "signal_delay_s": 60,
    }  # fmt: skip

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        package = folder / "code" / "packages" / "experiments" / "sweep" / "worker"
        package.mkdir(parents=True)
        for parent in (package, package.parent, package.parent.parent):
            (parent / "__init__.py").touch()
        (package / "worker.py").write_text(STAND_IN)
        self.jobs: list[str] = []

    def pool(self, settings: dict[str, Any] | None = None, **changes: Any) -> WorkerPool:
        usual = {"max_workers": 1, "devices_per_node": 2, "ranks_per_node": 2, "device": "cpu", "threads_per_rank": 1}
        return pool(self.folder, self.settings | (settings or {}), **usual | changes)

    def submit(self, settings: dict[str, Any] | None = None, launcher: Slurm | None = None, **changes: Any) -> str:
        job = (launcher or Slurm()).submit(self.pool(settings, **changes))
        self.jobs.append(job)
        return job

    def read_reports(self, num: int, worker: str = "") -> dict[str, dict[str, Any]]:
        """Wait for the reports of so many processes; by worker, group and rank."""
        wait_until(lambda: len(list(self.folder.glob(f"{worker}*.json"))) >= num, self.logs)
        return {path.stem: json.loads(path.read_text()) for path in self.folder.glob(f"{worker}*.json")}

    def nested(self, name: str) -> Site:
        """Another sweep in a folder below this one; `end` ends its jobs too."""
        nested = Site(self.folder / name)
        nested.jobs = self.jobs
        return nested

    def go(self) -> None:
        (self.folder / "go").touch()

    def logs(self) -> str:
        texts = [f"{path}:\n{path.read_text()}" for path in self.folder.glob("workers/**/*.txt")]
        return "\n".join([slurm("squeue"), *texts])

    def end(self) -> None:
        self.go()
        if self.jobs:
            slurm("scancel", *self.jobs)
            wait_until(lambda: not squeue("-j", ",".join(self.jobs)), self.logs)


def slurm(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S).stdout


def squeue(*arguments: str) -> str:
    return slurm("squeue", "-h", "-r", "-o", "%i %T", *arguments)


@pytest.fixture
def site(cluster: Cluster, tmp_path: Path) -> Iterator[Site]:
    usable = Site(tmp_path / "sweep")
    yield usable
    usable.end()


def test_ranks_on_two_nodes_find_their_placement(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    monkeypatch.setenv("SBATCH_PARTITION", "nowhere")
    monkeypatch.setenv("SITE_TOKEN", "secret")
    job = site.submit(nodes=2, max_workers=2, launcher=Slurm(environment=["SITE_TOKEN"]))
    reports = site.read_reports(8)
    site.go()
    for task in (0, 1):
        placements = [reports[f"{job}_{task}.0-0-{rank}"]["placement"] for rank in range(4)]
        assert [(placement["rank"], placement["on_node"], placement["ranks"]) for placement in placements] == [
            (0, 0, 4), (1, 1, 4), (2, 0, 4), (3, 1, 4),
        ]  # fmt: skip
        assert len({placement["address"] for placement in placements}) == 1
        assert all(time.time() < placement["ends"] <= time.time() + 600 for placement in placements)
        assert {placement["job"] for placement in placements} == {f"{job}_{task}"}
        gpus = [reports[f"{job}_{task}.0-0-{rank}"]["gpu"] for rank in range(4)]
        assert gpus in (
            ["0", "1", "0", "1"],
            ["2", "3", "2", "3"],
        )  # depends on whether the other worker is on the same node
    names = reports[f"{job}_0.0-0-0"]["environment"]
    assert {"SITE_TOKEN", "SLURM_ARRAY_TASK_ID", "PATH"} <= {*names}
    assert not {"MLFLOW_RUN_ID", "SBATCH_PARTITION"} & {*names}
    recorded = (site.folder / "workers" / f"{job}.sh").read_text()
    assert recorded == Slurm().describe(site.pool(nodes=2, max_workers=2))


def test_a_rank_sees_the_gpus_that_its_job_was_given_on_a_shared_node(site: Site) -> None:
    node = slurm("sinfo", "-h", "-N", "-o", "%N").split()[0]
    job = site.submit({"sbatch": {"nodelist": node}}, max_workers=2)
    reports = site.read_reports(4)
    gpus = [[reports[f"{job}_{task}.0-0-{rank}"]["gpu"] for rank in (0, 1)] for task in (0, 1)]
    assert gpus == [["0", "1"], ["2", "3"]]


def test_rank_groups_of_one_worker_share_its_devices(site: Site) -> None:
    job = site.submit(devices_per_node=2, ranks_per_node=1, trials_per_worker=4)
    reports = site.read_reports(4)
    assert [reports[f"{job}_0.0-{group}-0"]["gpu"] for group in range(4)] == ["0", "1", "0", "1"]
    site.go()
    wait_until(lambda: not squeue("-j", job), site.logs)
    assert (site.folder / "workers" / f"{job}_0.0" / "log.txt").exists()


def test_the_folder_of_a_sweep_may_have_any_printable_name(site: Site, tmp_path: Path) -> None:
    named = site.nested("runs %j %A 100% %% #1 'a' \"b\" $HOME `id` é 日本; *?[x] ~")
    job = named.submit()
    assert Slurm().find_jobs(named.pool()) == [job]
    assert Slurm().find_jobs(site.pool()) == []
    named.read_reports(2)
    assert (named.folder / "workers" / f"{job}_0.txt").is_file()
    assert (named.folder / "workers" / f"{job}_0.0" / "log.txt").is_file()
    assert sorted(path.name for path in site.folder.iterdir()) == sorted([named.folder.name, "code"])


@pytest.mark.parametrize("name", ["a\\b", "a\nb", "a\tb", "\x1b[1m"])
def test_a_folder_that_slurm_cannot_write_to_is_refused(name: str) -> None:
    with pytest.raises(LaunchError, match="backslash or a line break; choose another runs_dir"):
        Slurm().describe(pool(Path("/runs") / name))


def test_setup_lines_run_before_the_worker_and_a_failing_line_ends_it(site: Site) -> None:
    good = site.submit({"setup": ["export LATHE_MARK=1", "echo set up"]})
    reports = site.read_reports(2)
    assert "LATHE_MARK" in reports[f"{good}_0.0-0-0"]["environment"]
    bad = site.submit({"setup": ["module load nothing"]})
    log = site.folder / "workers" / f"{bad}_0.0" / "log.txt"
    wait_until(lambda: log.exists() and "not found" in log.read_text(), site.logs)
    wait_until(lambda: not squeue("-j", bad), site.logs)
    assert "set up" in (site.folder / "workers" / f"{good}_0.0" / "log.txt").read_text()
    assert len(list(site.folder.glob(f"{bad}*.json"))) == 0


@pytest.mark.parametrize(
    ("settings", "changes", "message"),
    [
        (
            {"partition": "a10"}, {},
            "slurm refused 'lr_batch': unknown partition 'a10' (hardware.slurm.partition); `sinfo -s` lists the partitions",
        ),
        (
            {"gpu_type": "b200"}, {},
            "slurm refused 'lr_batch': no node of partition (the default) has 2 cores, 1 GB, gpu:b200:2 at once "
            "(hardware.slurm, hardware.devices_per_node); `sinfo -o '%P %D %c %m %G %f'` lists the nodes",
        ),
        (
            {"gpu_type": None, "gres": "tape:1"}, {},
            "slurm refused 'lr_batch': unknown generic resource 'tape:1' (hardware.slurm.gpu_type or gres); "
            "`sinfo -o '%P %G'` lists the resources of the nodes",
        ),
        (
            {"constraint": "quantum"}, {},
            "slurm refused 'lr_batch': no node has the features 'quantum' (hardware.slurm.constraint); "
            "`sinfo -o '%P %f'` lists the features of the nodes",
        ),
        (
            {"time": "400-00:00:00"}, {},
            "slurm refused 'lr_batch': time 400-00:00:00 is more than partition (the default) allows (hardware.slurm.time); "
            "`sinfo -o '%P %l'` lists the limits",
        ),
        (
            {}, {"max_workers": 2_000_000},
            "slurm refused 'lr_batch': an array of 2000000 workers is larger than this site allows (launcher.workers); "
            "`scontrol show config | grep MaxArraySize` shows the limit",
        ),
        (
            {}, {"nodes": 99},
            "slurm refused 'lr_batch': 99 nodes of 2 cores are more than partition (the default) has (hardware.nodes, "
            "hardware.slurm.cpus_per_device); `sinfo -o '%P %D %c'` lists its nodes and their cores",
        ),
        (
            {"sbatch": {"no-such-option": "1"}}, {},
            "slurm refused 'lr_batch': unrecognized option '--no-such-option=1' (hardware.slurm.sbatch); "
            "`sbatch --help` lists the options",
        ),
    ],
)  # fmt: skip
def test_a_refusal_names_the_key(site: Site, settings: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LaunchError) as refused:
        site.submit(settings, launcher=Slurm(workers=changes.get("max_workers")), **changes)
    assert str(refused.value) == message
    assert not list(site.folder.glob("workers/*.sh"))


def test_pending_workers_are_counted_and_cancelled_ones_are_lost(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = Slurm()
    many = site.submit({"sbatch": {"hold": ""}}, max_workers=7, launcher=launcher)
    job = site.submit(launcher=launcher)
    site.read_reports(2)
    assert launcher.count_pending([many, job, "vm:12,13"]) == 7
    worker = f"{job}_0.0"
    assert launcher.find_lost([worker, "vm-3f2a-0"]) == {}
    launcher.cancel([many, job, "vm:12,13"])
    wait_until(lambda: launcher.find_lost([worker]), site.logs)
    assert launcher.find_lost([worker, f"{many}_3.0"]) == {worker: "CANCELLED", f"{many}_3.0": "CANCELLED"}
    assert launcher.count_pending([many, job]) == 0
    launcher.cancel([many, job])  # ended jobs are ignored
    assert capsys.readouterr().err == ""


def test_a_worker_that_ended_or_is_unknown_is_lost(site: Site) -> None:
    launcher = Slurm()
    job = site.submit()
    site.read_reports(2)
    site.go()
    wait_until(lambda: launcher.find_lost([f"{job}_0.0"]) == {f"{job}_0.0": "COMPLETED"}, site.logs)
    assert launcher.find_lost([f"{job}_0.0", "1_0.0"]) == {f"{job}_0.0": "COMPLETED", "1_0.0": UNKNOWN}
    assert launcher.find_lost(["1_0.0", "2.0"]) == {"1_0.0": UNKNOWN, "2.0": UNKNOWN}


def test_a_worker_that_must_stop_is_requeued_with_a_new_name(site: Site) -> None:
    launcher = Slurm()
    job = site.submit()
    site.read_reports(2)
    slurm("scancel", "--signal=USR2", job)
    reports = site.read_reports(2, worker=f"{job}_0.1")
    assert reports[f"{job}_0.1-0-0"]["placement"]["worker"] == f"{job}_0.1"
    assert launcher.find_lost([f"{job}_0.0", f"{job}_0.1"]) == {f"{job}_0.0": REQUEUED}
    assert "signal 12" in (site.folder / "workers" / f"{job}_0.0" / "log.txt").read_text()


def test_a_worker_whose_node_went_down_is_lost_and_requeued(site: Site) -> None:
    launcher = Slurm()
    job = site.submit(nodes=2)
    site.read_reports(4)
    node = slurm("squeue", "-h", "-j", job, "-o", "%B").strip()
    slurm("scontrol", "update", f"node={node}", "state=down", "reason=test")
    try:
        wait_until(lambda: launcher.find_lost([f"{job}_0.0"]) == {f"{job}_0.0": REQUEUED}, site.logs)
        site.read_reports(4, worker=f"{job}_0.1")
    finally:
        slurm("scontrol", "update", f"node={node}", "state=resume")


def test_no_worker_is_lost_while_the_controller_does_not_answer(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = Slurm()
    job = site.submit()
    site.read_reports(2)
    launcher.count_pending([job])
    conf = Path(os.environ["SLURM_CONF"]).read_text()
    elsewhere = tmp_path / "slurm.conf"
    (tmp_path / "gres.conf").touch()
    lines = [line for line in conf.splitlines() if not line.startswith(("SlurmctldPort", "MessageTimeout"))]
    elsewhere.write_text("\n".join([*lines, "SlurmctldPort=9", "MessageTimeout=2"]))
    disconnected = Slurm()
    disconnected._queue.environment = {**launcher._queue.environment, "SLURM_CONF": str(elsewhere)}
    assert disconnected.find_lost([f"{job}_0.0"]) == {}
    assert disconnected.count_pending([job, "7"]) == 2  # one per job, as nothing is known
    err = capsys.readouterr().err
    assert err.startswith("slurm does not answer (slurm_load_jobs error: Unable to contact slurm controller")
    assert err.count("\n") == 1
    with pytest.raises(LaunchError, match=rf"slurm did not cancel {job}: .*; try `scancel {job}`"):
        disconnected.cancel([job])
    with pytest.raises(
        LaunchError, match=r"slurm does not answer, so 'lr_batch' may not be submitted: .*`scontrol ping`"
    ):
        disconnected.submit(site.pool())
    assert launcher.find_lost([f"{job}_0.0"]) == {}


@pytest.mark.slow
def test_no_worker_is_lost_when_the_controller_is_killed(
    site: Site, cluster: Cluster, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = Slurm()
    job = site.submit()
    site.read_reports(2)
    cluster.kill_controller()
    try:
        assert launcher.find_lost([f"{job}_0.0"]) == {}
        assert "Unable to contact slurm controller" in capsys.readouterr().err
    finally:
        cluster.start_controller()


@pytest.mark.slow
def test_the_accounting_database_shows_how_a_forgotten_worker_ended(cluster_with_accounting: Cluster) -> None:
    queue = SlurmQueue(filter_environment(os.environ))
    script = "#!/bin/sh\n#SBATCH --array=0-1 --output=/dev/null --mem=100\nsleep 60\n"
    job = queue.run_command("sbatch", "--parsable", stdin=script).stdout.strip()
    wait_until(lambda: len(queue._squeue([job])) == 2 and queue.count_pending([job]) == 0)
    queue.run_command("scancel", f"{job}_1")
    wait_until(
        lambda: queue._sacct([job]) == {f"{job}_0": "RUNNING", f"{job}_1": "CANCELLED"}
    )  # the database lags by 2 s
    ended = {f"{job}_{task}.0": TaskRestart(f"{job}_{task}", 0) for task in (0, 1)} | {"1.0": TaskRestart("1", 0)}
    assert queue._find_ended(ended) == {f"{job}_1.0": "CANCELLED", "1.0": UNKNOWN}
    queue.run_command("scancel", job)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"account": "vision"},
            "account 'vision' is unknown, or may not use partition (the default) (hardware.slurm.account); ",
        ),
        (
            {"qos": "urgent"},
            "QOS 'urgent' is unknown, or you may not use it (hardware.slurm.qos); `sacctmgr show associations",
        ),
    ],
)
def test_an_account_or_qos_that_is_not_yours_is_refused(
    cluster_with_accounting: Cluster, settings: dict[str, str], message: str, tmp_path: Path
) -> None:
    with pytest.raises(LaunchError) as refused:
        Slurm().submit(pool(tmp_path, Site.settings | settings, device="cpu", devices_per_node=2, ranks_per_node=2))
    assert str(refused.value).startswith(f"slurm refused 'lr_batch': {message}")


def test_a_command_that_does_not_end_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "squeue").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setattr("launchers.slurm_tasks.queue.TIMEOUT_S", 0.2)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert SlurmQueue(dict(os.environ)).find_lost(["1_0.0"]) == {}


@pytest.mark.parametrize(
    "settings",
    [{"partition": "cpu\ntouch x #"}, {"account": "a\rb"}, {"sbatch": {"x\ntouch y": "1"}}, {"sbatch": {"x": "1\n"}}],
)
def test_an_option_of_sbatch_adds_no_line_to_the_script(settings: dict[str, Any]) -> None:
    with pytest.raises(LaunchError, match="has a line break or a control character; write it on one line"):
        Slurm().describe(pool(settings=settings))
