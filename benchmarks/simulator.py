"""Budget: the simulator predicts our own runs within 15 % (``python -m benchmarks.simulator [--record FILE] [NAME]``).

Real runs of `lathe run` with 1, 2 and 4 processes train at the same time but in turns of a few seconds, the others standing
still (SIGSTOP): so all of them see the same load of whoever else uses the machine. Two runs of one process each, which know
nothing of each other, take a turn too: they tell how many cores the machine really has, which on a virtual one may be fewer
than it says. The simulator is told that and the journal of one run, and has to find the others'. ``--record`` keeps what the
journals told, for tests/experiments/plan/simulate/test_measured_runs.py.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from experiments.plan.simulate.from_run import SPREAD, RecordedRun, predicted, read
from experiments.run import journal
from experiments.trial.trial import Trial
from modules.parallel.cost_model.step_time import Machine

BUDGET = 0.15
COUNTS = (1, 2, 4)
TOLD = (1, 2)
"""Processes of the runs that the simulator is told; the budget is for one, which waits for nobody."""
NUM_TURNS, TURN_S = 10, 2.0
STOOD_STILL = 5.0
"""Times the median, from which a step is one in which its run stood still."""
WORKLOADS = {
    "lenet": ("model=lenet", "batch_size_per_device=320"),
    "mlp": ("model=mlp", "model.hidden_sizes=[1024,1024]", "batch_size_per_device=256"),
    "lenet, async": ("parallel=async", "model=lenet", "batch_size_per_device=320"),
    "mlp, async": ("parallel=async", "model=mlp", "model.hidden_sizes=[1024,1024]", "batch_size_per_device=256"),
}
SAME = (
    "data=digits", "max_steps=1000000", "log_every_steps=1", "eval_every_steps=1000000", "checkpoint.every_steps=1000000",
    "schedule=constant", "tracking=off", "hardware.device=cpu", "hardware.cpu_threads=1",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulator")
    parser.add_argument("only", nargs="*", metavar="NAME", help=f"of {', '.join(WORKLOADS)}; all by default")
    parser.add_argument("--record", metavar="FILE", help="bring what was measured there; what it has of others stays")
    asked = parser.parse_args(argv)
    for name in asked.only:
        if name not in WORKLOADS:
            parser.error(f"{name!r} is none of {', '.join(WORKLOADS)}")
    found = {name: measured(WORKLOADS[name]) for name in asked.only or WORKLOADS}
    if asked.record:
        path, now = Path(asked.record), {"date": time.strftime("%Y-%m-%d"), "cores": psutil.cpu_count()}
        kept: dict[str, Any] = {"command": "python -m benchmarks.simulator", "workloads": {}}
        if path.exists():
            kept = yaml.safe_load(path.read_text())
        for name, (cores, runs) in found.items():
            plain = [as_plain(run) for run in runs]
            kept["workloads"][name] = {**now, "cores_measured": round(cores, 3), "runs": plain}
        path.write_text(yaml.safe_dump(kept, sort_keys=False, width=120))
    print("| workload | told | found | measured | simulated | error |\n|---|---|---|---|---|---|")
    errors = []
    for name, (cores, runs) in found.items():
        print(f"| {name} | two runs apart | | {cores:.2f} cores | | |")
        for source, other, simulated in comparisons(runs, cores):
            error = simulated / other.examples_per_s - 1
            errors += [error] if source.workers == 1 else []
            rates = f"{other.examples_per_s:,.0f}/s | {simulated:,.0f}/s | {error:+.1%}"
            print(f"| {name} | {source.workers} | {other.workers} | {rates} |")
    print(f"\nlargest error, told one process, {max(map(abs, errors)):.1%}, budget {BUDGET:.0%}")
    return 0 if max(map(abs, errors)) <= BUDGET else 1


def comparisons(runs: Sequence[RecordedRun], cores: float) -> Iterator[tuple[RecordedRun, RecordedRun, float]]:
    """From every run that may be told, every other: both, and the simulated examples a second."""
    for source in runs:
        for other in runs:
            if source.workers in TOLD and other.workers != source.workers:
                on = this_machine(cores, max(source.workers, other.workers))
                yield source, other, predicted(source, other, on).examples_per_s


def this_machine(cores: float, processes: int) -> Machine:
    """So many processes of one thread each on a machine whose links nobody has stated."""
    from experiments.plan.estimate import make_machine

    hardware: dict[str, Any] = {
        "device": "cpu", "nodes": 1, "devices_per_node": processes, "cpu_threads": 1, "mfu": 0.3,
    }  # fmt: skip
    return replace(make_machine(hardware), concurrent_devices=cores)


def measured(words: Sequence[str]) -> tuple[float, list[RecordedRun]]:
    """Train with each number of processes, in turns.

    Returns:
        Cores that the machine has for two processes, and what the runs with 1, 2 and 4 tell.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        turns = [[(folder / str(count), count)] for count in COUNTS] + [[(folder / "a", 1), (folder / "b", 1)]]
        started = [[_started(words, count, path) for path, count in turn] for turn in turns]
        try:
            for turn, runs in zip(turns, started, strict=True):
                for (path, _), run in zip(turn, runs, strict=True):
                    _wait_for_steps(run, path)
                    _signal(run, signal.SIGSTOP)
            for _ in range(NUM_TURNS):
                for runs in started:
                    for run in runs:
                        _signal(run, signal.SIGCONT)
                    time.sleep(TURN_S)
                    for run in runs:
                        _signal(run, signal.SIGSTOP)
        finally:
            every = [run for runs in started for run in runs]
            for run in every:
                _signal(run, signal.SIGCONT)
                run.terminate()
            for run in every:
                run.wait(60)
        *alone, twins = [
            [_moving(read(Trial(next(path.glob("single/*/trial.yaml")).parent))) for path, _ in turn] for turn in turns
        ]
    runs_of = [found for (found,) in alone]
    return sum(twin.examples_per_s for twin in twins) / runs_of[0].examples_per_s, runs_of


def _started(words: Sequence[str], count: int, runs_dir: Path) -> subprocess.Popen[bytes]:
    batch = next(int(word.partition("=")[2]) for word in words if word.startswith("batch_size_per_device="))
    more = [
        f"parallel={'data' if count > 1 else 'single'}", f"batch_size_global={count * batch}",
        f"hardware.devices_per_node={count}", f"runs_dir={runs_dir}",
    ]  # fmt: skip
    command = [sys.executable, "-m", "experiments.cli", "run", *SAME, *more, *words]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def _wait_for_steps(run: subprocess.Popen[bytes], runs_dir: Path) -> None:
    while run.poll() is None:
        for path in runs_dir.glob("single/*/attempts/1/journal.jsonl"):
            if sum(event["event"] == "metrics" for event in journal.read(path)[0]) > 10:
                return
        time.sleep(0.2)
    raise SystemExit(f"a run in {runs_dir} ended with {run.returncode} before it did ten steps")


def _signal(run: subprocess.Popen[bytes], number: int) -> None:
    """To a run and all its processes; those that have ended meanwhile are no matter."""
    try:
        family = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def _moving(run: RecordedRun) -> RecordedRun:
    """Without the steps in which it stood still; what a part of them took may have been told with the next one."""
    most_s = STOOD_STILL * statistics.median(run.step_s)
    return replace(
        run,
        name=f"{run.workers} processes",
        step_s=tuple(round(step, 5) for step in run.step_s if step < most_s),
        parts_ms={name: tuple(one for one in parts if one < 1e3 * most_s) for name, parts in run.parts_ms.items()},
    )


def as_plain(run: RecordedRun) -> dict[str, Any]:
    """What a file keeps of a run: of the times 99 quantiles, or where a step's parts were measured the means."""
    plain = asdict(run)
    fields = {key: plain[key] for key in ("name", "mode", "workers", "batch_size", "num_parameters")}
    measured = {"num_steps": len(run.step_s), "examples_per_s": round(run.examples_per_s, 1)}
    if run.parts_ms:
        parts_ms = {name: [round(statistics.fmean(values), 3)] for name, values in run.parts_ms.items()}
        parts_ms[SPREAD] = [round(1e3 * run.spread_s, 3)]
        return {**fields, **measured, "step_s": [round(statistics.fmean(run.step_s), 6)], "parts_ms": parts_ms}
    kept = statistics.quantiles(run.step_s, n=100, method="inclusive")
    return {**fields, **measured, "step_s": [round(step, 5) for step in kept]}


if __name__ == "__main__":
    sys.exit(main())
