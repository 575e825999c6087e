"""Budget: the simulator predicts our own runs within 15 % (``python -m benchmarks.simulator [--record FILE] [NAME]``).

Runs of `lathe run` with 1, 2 and 4 processes train in turns of a few seconds while the others are stopped (SIGSTOP), so that
all see the same load from other users of the machine. Two independent runs with one process each take a turn too: they measure
how many cores the machine really has, which may be fewer than a virtual machine reports. The simulator predicts the speed of
the other runs from the number of cores and the journal of one run. ``--record`` saves the measurements for
tests/experiments/plan/simulate/test_measured_runs.py.
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
SOURCES = (1, 2)
"""Processes of the runs that the simulator predicts from; the budget applies to 1, which never waits."""
NUM_TURNS, TURN_S = 10, 2.0
MAX_STEP_RATIO = 5.0
"""A step that takes longer than this multiple of the median contains a stop of its run."""
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
    parser.add_argument("only", nargs="*", metavar="NAME", help=f"measure only this workload: {', '.join(WORKLOADS)}")
    parser.add_argument(
        "--record", metavar="FILE", help="save measurements in this file, beside those of other workloads"
    )
    args = parser.parse_args(argv)
    for name in args.only:
        if name not in WORKLOADS:
            parser.error(f"{name!r} is not one of {', '.join(WORKLOADS)}")
    measurements = {name: measure(WORKLOADS[name]) for name in args.only or WORKLOADS}
    if args.record:
        path, now = Path(args.record), {"date": time.strftime("%Y-%m-%d"), "cores": psutil.cpu_count()}
        record: dict[str, Any] = {"command": "python -m benchmarks.simulator", "workloads": {}}
        if path.exists():
            record = yaml.safe_load(path.read_text())
        for name, (cores, runs) in measurements.items():
            plain = [as_plain(run) for run in runs]
            record["workloads"][name] = {**now, "cores_measured": round(cores, 3), "runs": plain}
        path.write_text(yaml.safe_dump(record, sort_keys=False, width=120))
    print("| workload | from | predicted | measured | simulated | error |\n|---|---|---|---|---|---|")
    errors = []
    for name, (cores, runs) in measurements.items():
        print(f"| {name} | two independent runs | | {cores:.2f} cores | | |")
        for source, other, simulated in comparisons(runs, cores):
            error = simulated / other.examples_per_s - 1
            errors += [error] if source.workers == 1 else []
            rates = f"{other.examples_per_s:,.0f}/s | {simulated:,.0f}/s | {error:+.1%}"
            print(f"| {name} | {source.workers} | {other.workers} | {rates} |")
    print(f"\nlargest error from one process {max(map(abs, errors)):.1%}, budget {BUDGET:.0%}")
    return 0 if max(map(abs, errors)) <= BUDGET else 1


def comparisons(runs: Sequence[RecordedRun], cores: float) -> Iterator[tuple[RecordedRun, RecordedRun, float]]:
    """Yield a source, another run, and the examples per second of the other run that the simulator predicts."""
    for source in runs:
        for other in runs:
            if source.workers in SOURCES and other.workers != source.workers:
                on = this_machine(cores, max(source.workers, other.workers))
                yield source, other, predicted(source, other, on).examples_per_s


def this_machine(cores: float, processes: int) -> Machine:
    """Describe this machine with processes of one thread each and the default links."""
    from experiments.plan.estimate import make_machine

    hardware: dict[str, Any] = {
        "device": "cpu", "nodes": 1, "devices_per_node": processes, "cpu_threads": 1, "mfu": 0.3,
    }  # fmt: skip
    return replace(make_machine(hardware), concurrent_devices=cores)


def measure(workload: Sequence[str]) -> tuple[float, list[RecordedRun]]:
    """Train with each number of processes, in turns.

    Returns:
        The number of cores for two processes, and the runs with 1, 2 and 4 processes.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        turns = [[(folder / str(count), count)] for count in COUNTS] + [[(folder / "a", 1), (folder / "b", 1)]]
        started = [[_start(workload, count, path) for path, count in turn] for turn in turns]
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
            all_runs = [run for runs in started for run in runs]
            for run in all_runs:
                _signal(run, signal.SIGCONT)
                run.terminate()
            for run in all_runs:
                run.wait(60)
        *alone, twins = [
            [_without_stops(read(Trial(next(path.glob("single/*/trial.yaml")).parent))) for path, _ in turn]
            for turn in turns
        ]
    single_runs = [run for (run,) in alone]
    return sum(twin.examples_per_s for twin in twins) / single_runs[0].examples_per_s, single_runs


def _start(workload: Sequence[str], count: int, runs_dir: Path) -> subprocess.Popen[bytes]:
    batch = next(int(text.partition("=")[2]) for text in workload if text.startswith("batch_size_per_device="))
    more = [
        f"parallel={'data' if count > 1 else 'single'}", f"batch_size_global={count * batch}",
        f"hardware.devices_per_node={count}", f"runs_dir={runs_dir}",
    ]  # fmt: skip
    command = [sys.executable, "-m", "experiments.cli", "run", *SAME, *more, *workload]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)


def _wait_for_steps(run: subprocess.Popen[bytes], runs_dir: Path) -> None:
    while run.poll() is None:
        for path in runs_dir.glob("single/*/attempts/1/journal.jsonl"):
            if sum(event["event"] == "metrics" for event in journal.read(path)[0]) > 10:
                return
        time.sleep(0.2)
    raise SystemExit(f"a run in {runs_dir} exited with code {run.returncode} before its tenth step")


def _signal(run: subprocess.Popen[bytes], number: int) -> None:
    """Send a signal to a run and all its processes that still exist."""
    try:
        family = [psutil.Process(run.pid), *psutil.Process(run.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in family:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def _without_stops(run: RecordedRun) -> RecordedRun:
    """Return a run without the steps that contain a stop. Times of a part are logged with the next step."""
    most_s = MAX_STEP_RATIO * statistics.median(run.step_s)
    return replace(
        run,
        name=f"{run.workers} processes",
        step_s=tuple(round(step, 5) for step in run.step_s if step < most_s),
        parts_ms={name: tuple(one for one in parts if one < 1e3 * most_s) for name, parts in run.parts_ms.items()},
    )


def as_plain(run: RecordedRun) -> dict[str, Any]:
    """Return a run for a file: 99 quantiles of its step times, or their means if parts of steps were measured."""
    plain = asdict(run)
    fields = {key: plain[key] for key in ("name", "mode", "workers", "batch_size", "num_parameters")}
    measured = {"num_steps": len(run.step_s), "examples_per_s": round(run.examples_per_s, 1)}
    if run.parts_ms:
        parts_ms = {name: [round(statistics.fmean(values), 3)] for name, values in run.parts_ms.items()}
        parts_ms[SPREAD] = [round(1e3 * run.spread_s, 3)]
        return {**fields, **measured, "step_s": [round(statistics.fmean(run.step_s), 6)], "parts_ms": parts_ms}
    quantiles = statistics.quantiles(run.step_s, n=100, method="inclusive")
    return {**fields, **measured, "step_s": [round(step, 5) for step in quantiles]}


if __name__ == "__main__":
    sys.exit(main())
