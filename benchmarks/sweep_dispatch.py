"""Budget: 100 trivial trials cost at most 10 CPU-seconds of everything: `python -m benchmarks.sweep_dispatch`.

On a rehearsal cluster that is booted for it: ours, whose trial loads the digits, trains for a step and saves a checkpoint;
Hydra's submitit launcher and submitit's `map_array`, whose job writes the time into a file; and a bare job array that does the
same by srun and bash, which no launcher can better. All is counted until SLURM's queue is empty: the command, workers or
jobs, srun, SLURM's own daemons. `--all` adds 300 trials and a single worker, which takes some minutes more.
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
"""The budget's own row, which differs by a tenth from time to time (2026-11-24)."""
SIZES, MORE_SIZES = (20, 100), (300,)
PATIENCE_S = 600.0
CGROUPS = Path("/sys/fs/cgroup/cpuacct")
NUM_WORKERS = 2
"""Few, as the cores that the cluster's nodes declare are not there."""
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

Way = Callable[[Path, int], tuple[float, float]]
"""Runs so many trials in a folder; when the first began and the last had ended, unix time."""


@dataclass(frozen=True)
class Cost:
    """Of one sweep."""

    cpu_s: float
    first_s: float
    """From the command to the first trial's beginning."""
    last_s: float
    """To the last trial's end."""
    done_s: float
    """Until the command has returned and nothing is left in SLURM's queue."""


class Cpu:
    """CPU-seconds of this process and all that it starts, or where that is not counted of the whole machine."""

    def __init__(self, group: Path | None) -> None:
        self.group = group

    def __str__(self) -> str:
        return f"in the cgroup {self.group}" if self.group else "of the whole machine, as no cgroup may be made"

    def seconds(self) -> float:
        if self.group is not None:
            return int((self.group / "cpuacct.usage").read_text()) / 1e9
        user, nice, system, _, _, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def counted() -> Iterator[Cpu]:
    """Put this process into a cgroup of its own; what it starts is born there, daemons of the cluster among it."""
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
        with contextlib.suppress(OSError):  # of one in which a process has not quite ended
            group.rmdir()


@contextlib.contextmanager
def cluster() -> Iterator[LocalCluster]:
    """A cluster for as long as the context is open; sockets want its folder's name short.

    Raises:
        LaunchError: SLURM is not installed.
    """
    folder = Path(tempfile.mkdtemp(prefix="lathe-bench-", dir=choose_default_folder().parent))
    rehearsal = LocalCluster(folder)
    try:
        rehearsal.up(ClusterSpec())
        yield rehearsal
    finally:
        rehearsal.down()
        shutil.rmtree(folder, ignore_errors=True)


class Bench:
    """One cluster, on which the ways take turns."""

    def __init__(self, rehearsal: LocalCluster, cpu: Cpu, scratch: Path) -> None:
        self.environment = {**os.environ, **rehearsal.environment()}
        self.cpu, self.scratch = cpu, scratch

    def cost(self, way: Way, num_trials: int) -> Cost:
        folder = Path(tempfile.mkdtemp(dir=self.scratch))
        time.sleep(1)  # what the last one has left behind is quiet then
        before, start = self.cpu.seconds(), time.time()
        first, last = way(folder, num_trials)
        self.wait_until_empty()
        done = time.time()
        return Cost(self.cpu.seconds() - before, first - start, last - start, done - start)

    def run(self, folder: Path, *command: str) -> None:
        """A command that has to succeed, within bounds."""
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
        """When the first trial was claimed and the last one had ended; the command shows the sweep until then."""
        asked = (f"launcher.workers={num_workers}", f"seed={','.join(map(str, range(num_trials)))}", "sweep.name=bench")
        self.run(folder, *LATHE, "run", "-m", *TRIAL, *asked, f"runs_dir={folder}")
        events = [json.loads(line) for line in (folder / "bench" / "ledger.jsonl").read_text().splitlines()]
        ended = [event["time"] for event in events if event["event"] == "ended" and event["state"] == "finished"]
        assert len(ended) == num_trials, f"{len(ended)} of {num_trials} trials have finished"
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
    """The first and the last of the times that jobs have written."""
    times = [float(path.read_text()) for path in out.iterdir()]
    assert len(times) == num_trials, f"{len(times)} of {num_trials} jobs have left a file"
    return min(times), max(times)


def row(name: str, num_trials: int, cost: Cost) -> str:
    return (
        f"{name:<28}{num_trials:>7}{cost.cpu_s:>10.1f}{cost.cpu_s / num_trials:>11.3f}"
        f"{cost.first_s:>9.1f}{cost.last_s:>9.1f}{cost.done_s:>9.1f}"
    )


def measure(*, more: bool) -> float:
    """Print a row for every way and size; CPU-seconds of ours for the trials of the budget, the median of several times."""
    sizes = SIZES + (MORE_SIZES if more else ())
    budgeted: list[float] = []
    with counted() as cpu, cluster() as rehearsal, tempfile.TemporaryDirectory(prefix="lathe-bench-") as scratch:
        bench = Bench(rehearsal, cpu, Path(scratch))
        ways: dict[str, Way] = {f"lathe, {NUM_WORKERS} workers": bench.ours, "bare array, srun and bash": bench.raw}
        if importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None:
            print("Hydra's launcher is not installed: skipped; `pip install -e '.[bench]'` adds it")
        else:
            ways["Hydra's submitit launcher"] = bench.hydra
        ways["submitit's map_array"] = bench.submitit
        if more:
            ways["lathe, 1 worker"] = partial(bench.ours, num_workers=1)
        print(f"CPU-seconds are counted {cpu}; seconds are of the wall, from the command on")
        print(f"{'':<28}{'trials':>7}{'CPU-s':>10}{'per trial':>11}{'first':>9}{'last':>9}{'done':>9}")
        for num_trials in sizes:
            for name, way in ways.items():
                is_budgeted = way == bench.ours and num_trials == BUDGET_TRIALS
                for _ in range(NUM_TIMES if is_budgeted else 1):
                    cost = bench.cost(way, num_trials)
                    print(row(name, num_trials, cost), flush=True)
                    budgeted += [cost.cpu_s] if is_budgeted else []
    return median(budgeted)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help=f"{MORE_SIZES[0]} trials and a single worker too")
    more = parser.parse_args().all
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # takes the cluster down
    try:
        spent_s = measure(more=more)
    except LaunchError as err:
        print(f"not measured: {err}")
        return 1
    kept = spent_s <= BUDGET_CPU_S
    print(f"{BUDGET_TRIALS} trials: {spent_s:.1f} CPU-seconds (<= {BUDGET_CPU_S:g}): {'kept' if kept else 'MISSED'}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
