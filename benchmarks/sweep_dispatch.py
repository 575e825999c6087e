"""Budget: 100 trivial trials cost at most 10 CPU-seconds in total (``python -m benchmarks.sweep_dispatch``).

Starts a local cluster and compares four methods. A trial of Lathe loads the digits, trains for one step and saves a checkpoint.
Jobs of Hydra's submitit launcher and of submitit's `map_array` write the time to a file. A plain job array with srun and bash
does the same and is a lower bound. All CPU time until the queue of SLURM is empty counts: the command, workers or jobs, srun
and SLURM's daemons. `--all` adds 300 trials and a single worker, which takes a few more minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

from launchers.base import LaunchError
from launchers.local_cluster.cluster import LocalCluster
from launchers.local_cluster.settings import choose_default_folder
from launchers.local_cluster.slurm_conf import ClusterSpec

BUDGET_CPU_S, BUDGET_TRIALS = 10.0, 100
NUM_TIMES = 3
"""Repetitions of the row with the budget, which varies by 10 % (2026-11-24)."""
SIZES, MORE_SIZES = (20, 100), (300,)
PATIENCE_S = 600.0
CGROUPS = Path("/sys/fs/cgroup/cpuacct")
NUM_WORKERS = 2
"""Few, since the nodes declare more cores than the machine has."""
LATHE = [sys.executable, "-P", "-m", "experiments.cli"]
TRIAL = ("model=softmax", "data=digits", "max_steps=1", "tracking=off", "launcher=slurm", "hardware=local_cluster")
HYDRA = """
import time
from pathlib import Path
import hydra

@hydra.main(version_base=None, config_path=None)
def main(cfg):
    path = Path({out!r}, str(cfg.number))
    path.write_text(str(time.time()))

main()
"""
SUBMITIT = """
import sys, time
from pathlib import Path
import submitit

def job(number):
    Path({out!r}, str(number)).write_text(str(time.time()))

executor = submitit.AutoExecutor({folder!r})
executor.update_parameters(timeout_min=10, cpus_per_task=1, mem_gb=1)
for job in executor.map_array(job, range(int(sys.argv[1]))):
    job.result()
"""
RAW = """#!/bin/bash
#SBATCH --array=0-{last} --cpus-per-task=1 --mem=1G --time=10 --output=/dev/null
srun bash -c 'echo $EPOCHREALTIME > {out}/$SLURM_ARRAY_TASK_ID'
"""

Method = Callable[[Path, int], tuple[float, float]]
"""Runs this number of trials in a folder; returns when the first began and the last ended, in Unix time."""


@dataclass(frozen=True)
class Cost:
    """The cost of one sweep."""

    cpu_s: float
    first_s: float
    """From the command to the start of the first trial."""
    last_s: float
    """From the command to the end of the last trial."""
    done_s: float
    """Until the command has returned and the queue of SLURM is empty."""


class Cpu:
    """CPU-seconds of this process and its descendants, or of the whole machine if cgroups are not available."""

    def __init__(self, group: Path | None) -> None:
        self.group = group

    def __str__(self) -> str:
        return (
            f"in the cgroup {self.group}"
            if self.group
            else "of the whole machine, since this user cannot create a cgroup"
        )

    def seconds(self) -> float:
        if self.group is not None:
            return int((self.group / "cpuacct.usage").read_text()) / 1e9
        user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def counted() -> Iterator[Cpu]:
    """Move this process into a new cgroup, which its descendants inherit, the daemons of the cluster included."""
    group = CGROUPS / f"lathe-bench-{os.getpid()}"
    try:
        group.mkdir()
        (group / "cgroup.procs").write_text(str(os.getpid()))
    except OSError:
        with contextlib.suppress(OSError):
            group.rmdir()
        yield Cpu(None)
        return
    try:
        yield Cpu(group)
    finally:
        (CGROUPS / "cgroup.procs").write_text(str(os.getpid()))
        with contextlib.suppress(OSError):  # if a process in it has not exited yet
            group.rmdir()


@contextlib.contextmanager
def cluster() -> Iterator[LocalCluster]:
    """Start a cluster and stop it at the end of the context. Its folder has a short path, which sockets need.

    Raises:
        LaunchError: SLURM is not installed.
    """
    folder = Path(tempfile.mkdtemp(prefix="lathe-bench-", dir=choose_default_folder().parent))
    local_cluster = LocalCluster(folder)
    try:
        local_cluster.up(ClusterSpec())
        yield local_cluster
    finally:
        local_cluster.down()
        shutil.rmtree(folder, ignore_errors=True)


class Bench:
    """A cluster on which the methods take turns."""

    def __init__(self, local_cluster: LocalCluster, cpu: Cpu, scratch: Path) -> None:
        self.environment = {**os.environ, **local_cluster.environment()}
        self.cpu, self.scratch = cpu, scratch

    def measure(self, method: Method, num_trials: int) -> Cost:
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        time.sleep(1)  # let processes of the previous method exit
        before, start = self.cpu.seconds(), time.time()
        first, last = method(folder, num_trials)
        self.wait_until_empty()
        done = time.time()
        return Cost(self.cpu.seconds() - before, first - start, last - start, done - start)

    def run(self, folder: Path, *command: str) -> None:
        """Run a command; exit with its output if it fails."""
        done = subprocess.run(
            command, cwd=folder, env=self.environment, stdin=subprocess.DEVNULL, text=True, capture_output=True,
            timeout=PATIENCE_S, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} ended with code {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")

    def wait_until_empty(self) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while subprocess.check_output(["squeue", "-h"], env=self.environment, timeout=PATIENCE_S):
            if time.monotonic() > deadline:
                sys.exit(f"SLURM's queue is not empty after {PATIENCE_S:.0f} s")
            time.sleep(0.5)

    def ours(self, folder: Path, num_trials: int, num_workers: int = NUM_WORKERS) -> tuple[float, float]:
        """Run a sweep; return when its first trial was claimed and when its last trial ended."""
        overrides = (
            f"launcher.workers={num_workers}",
            f"seed={','.join(map(str, range(num_trials)))}",
            "sweep.name=bench",
        )
        self.run(folder, *LATHE, "run", "-m", *TRIAL, *overrides, f"runs_dir={folder}")
        events = [json.loads(line) for line in (folder / "bench" / "ledger.jsonl").read_text().splitlines()]
        ended = [event["time"] for event in events if event["event"] == "ended" and event["state"] == "finished"]
        assert len(ended) == num_trials, f"{len(ended)} of {num_trials} trials finished"
        return min(event["time"] for event in events if event["event"] == "claimed"), max(ended)

    def hydra(self, folder: Path, num_trials: int) -> tuple[float, float]:
        out = folder / "out"
        out.mkdir()
        (folder / "app.py").write_text(HYDRA.format(out=str(out)))
        launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1"]
        numbers = ",".join(map(str, range(num_trials)))
        self.run(folder, sys.executable, "app.py", "-m", *launcher, f"+number={numbers}")
        return written(out, num_trials)

    def submitit(self, folder: Path, num_trials: int) -> tuple[float, float]:
        out = folder / "out"
        out.mkdir()
        (folder / "app.py").write_text(SUBMITIT.format(out=str(out), folder=str(folder / "jobs")))
        self.run(folder, sys.executable, "app.py", str(num_trials))
        return written(out, num_trials)

    def raw(self, folder: Path, num_trials: int) -> tuple[float, float]:
        (folder / "job.sh").write_text(RAW.format(last=num_trials - 1, out=folder))
        self.run(folder, "sbatch", "job.sh")
        self.wait_until_empty()
        (folder / "job.sh").unlink()
        return written(folder, num_trials)


def written(out: Path, num_trials: int) -> tuple[float, float]:
    """Return the first and the last of the times that the jobs wrote."""
    times = [float(path.read_text()) for path in out.iterdir()]
    assert len(times) == num_trials, f"{len(times)} of {num_trials} jobs wrote a file"
    return min(times), max(times)


def row(name: str, num_trials: int, cost: Cost) -> str:
    return (
        f"{name:<28}{num_trials:>7}{cost.cpu_s:>10.1f}{cost.cpu_s / num_trials:>11.3f}"
        f"{cost.first_s:>9.1f}{cost.last_s:>9.1f}{cost.done_s:>9.1f}"
    )


def measure(*, more: bool) -> float:
    """Print a row for every method and size; return the median CPU-seconds of Lathe for the trials of the budget."""
    sizes = SIZES + (MORE_SIZES if more else ())
    budgeted: list[float] = []
    with counted() as cpu, cluster() as local_cluster, tempfile.TemporaryDirectory(prefix="lathe-bench-") as scratch:
        bench = Bench(local_cluster, cpu, Path(scratch))
        methods: dict[str, Method] = {
            f"lathe, {NUM_WORKERS} workers": bench.ours,
            "plain array, srun and bash": bench.raw,
        }
        if importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None:
            print("Hydra's launcher is not installed: skipped; `pip install -e '.[bench]'` adds it")
        else:
            methods["Hydra's submitit launcher"] = bench.hydra
        methods["submitit's map_array"] = bench.submitit
        if more:
            methods["lathe, 1 worker"] = partial(bench.ours, num_workers=1)
        print(f"CPU-seconds are counted {cpu}; first, last and done are wall-clock seconds after the command")
        print(f"{'':<28}{'trials':>7}{'CPU-s':>10}{'per trial':>11}{'first':>9}{'last':>9}{'done':>9}")
        for num_trials in sizes:
            for name, method in methods.items():
                is_budgeted = method == bench.ours and num_trials == BUDGET_TRIALS
                for _ in range(NUM_TIMES if is_budgeted else 1):
                    cost = bench.measure(method, num_trials)
                    print(row(name, num_trials, cost), flush=True)
                    budgeted += [cost.cpu_s] if is_budgeted else []
    return median(budgeted)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help=f"{MORE_SIZES[0]} trials and a single worker as well")
    more = parser.parse_args().all
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # stops the cluster
    try:
        spent_s = measure(more=more)
    except LaunchError as err:
        print(f"not measured: {err}")
        return 1
    is_met = spent_s <= BUDGET_CPU_S
    print(f"{BUDGET_TRIALS} trials: {spent_s:.1f} CPU-seconds (<= {BUDGET_CPU_S:g}): {'met' if is_met else 'MISSED'}")
    return 0 if is_met else 1


if __name__ == "__main__":
    sys.exit(main())
