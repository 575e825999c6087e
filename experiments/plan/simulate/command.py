"""`lathe simulate`: predicts the speed of data-parallel training for any number of workers."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.config.allowlist import trusted
from experiments.config.validate import check_config
from experiments.core.atomic import write_text
from experiments.core.console import make_console
from experiments.core.errors import InputError, did_you_mean
from experiments.core.files.paths import user_path
from experiments.core.format import to_json
from experiments.plan.simulate import distributions, from_plan, from_run
from experiments.plan.simulate.cluster import Cluster
from experiments.plan.simulate.from_run import RecordedRun, predicted
from experiments.plan.simulate.modes import MODES, Choices, simulate
from experiments.plan.simulate.result import SimulationResult
from experiments.plan.simulate.tables import comparison_table, heading, results_table
from experiments.trial.trial import Trial, find_trial

MOST_WORKERS = 10_000
WORKERS = (1, 2, 4, 8, 16, 32, 64)


@dataclass(frozen=True)
class SimulationArgs:
    """The checked arguments of the command."""

    run: str | None
    overrides: tuple[str, ...]
    workers: tuple[int, ...]
    modes: tuple[str, ...]
    choices: Choices
    more: dict[str, Any]
    """Fields of the cluster."""


def command(args: argparse.Namespace) -> int:
    """Run `lathe simulate`.

    Raises:
        InputError: an argument is wrong, or the experiment or run cannot be simulated.
    """
    sim_args = read_arguments(args)
    source = read_run(sim_args.run, Path(args.runs_dir)) if sim_args.run else None
    config = load_config(sim_args, args, source)
    cluster, num_samples = calibrate(sim_args, args, source, config)
    results = [
        simulate(cluster, mode, workers, sim_args.choices) for workers in sim_args.workers for mode in sim_args.modes
    ]
    pairs = [_compared(source[1], find_trial(name, Path(args.runs_dir)), args.cores) for name in args.against if source]
    if args.json:
        print(to_json(make_document(cluster, results, num_samples, pairs)))
    else:
        for line in heading(cluster, sim_args.workers, source[1] if source else None):
            make_console().print(line, highlight=False, markup=False, soft_wrap=True)
        make_console().print(results_table(results, num_samples))
        if pairs:
            make_console().print(comparison_table(pairs))
    if args.output:
        write(user_path(args.output, "-o"), cluster, results, num_samples, pairs, quiet=args.json)
    return 0


def _compared(source: RecordedRun, trial: Trial, cores: float | None) -> tuple[RecordedRun, SimulationResult]:
    """Another run, and its simulation on the hardware of its configuration."""
    from experiments.plan.estimate import make_machine

    other, machine = from_run.read(trial), make_machine(trial.config["hardware"])
    return other, predicted(source, other, machine if cores is None else replace(machine, concurrent_devices=cores))


def read_arguments(args: argparse.Namespace) -> SimulationArgs:
    """Check the arguments that need no run or experiment.

    Raises:
        InputError: lists every problem.
    """
    problems: list[str] = []
    run_names = [argument for argument in args.words if "=" not in argument and not argument.startswith(("~", "+"))]
    if len(run_names) > 1:
        problems.append(
            f"'{run_names[1]}' is a second run, but one run is simulated; `--against {run_names[1]}` compares with it"
        )
    if args.against and not run_names:
        problems.append(f"--against {args.against[0]} needs a run to predict from; name that run before it")
    workers = _numbers(args.workers, problems) if args.workers else WORKERS
    modes = tuple(dict.fromkeys(args.mode.split(","))) if args.mode else tuple(MODES)
    problems += [f"--mode {mode} is not known; {did_you_mean(mode, MODES)}" for mode in modes if mode not in MODES]
    least = {"--servers": 1, "--backup": 1, "--group-size": 1, "--max-staleness": 0, "--samples": 1, "--seed": 0}
    for flag, lowest in least.items():
        value = getattr(args, flag[2:].replace("-", "_"))
        if value is not None and value < lowest:
            problems.append(f"{flag} {value} is less than {lowest}; write a larger number")
    if args.cores is not None and not 1 <= args.cores <= MOST_WORKERS:
        problems.append(
            f"--cores {args.cores:g} is not from 1 to {MOST_WORKERS:,}; write how many workers a node runs at once"
        )
    num_slow, slowness = _slow(args.slow, problems)
    most = max(workers) or MOST_WORKERS  # 0 if no number is valid
    if num_slow > most:
        problems.append(
            f"--slow {args.slow}: {num_slow} slow workers are more than the {most} workers; lower it, or raise --workers"
        )
    if args.backup is not None and args.backup >= most:
        problems.append(
            f"--backup {args.backup} of {most} workers leaves no worker that counts; lower it, or raise --workers"
        )
    if args.times and args.times != "measured":
        try:
            distributions.parse(args.times, 1.0)
        except InputError as err:
            problems += err.problems
    if args.group_size is not None and args.group_size > most:
        problems.append(f"--group-size {args.group_size} is more than the {most} workers; lower it, or raise --workers")
    if problems:
        raise InputError(problems)
    choices = Choices(args.backup, args.group_size, args.max_staleness, args.seed)
    more: dict[str, Any] = {"num_slow": num_slow, "slowness": slowness}
    if args.servers is not None:
        more["num_servers"] = args.servers
    overrides = tuple(argument for argument in args.words if argument not in run_names)
    return SimulationArgs(run_names[0] if run_names else None, overrides, workers, modes, choices, more)


def _numbers(text: str, problems: list[str]) -> tuple[int, ...]:
    """Parse numbers of workers, such as ``1,2,4``."""
    tokens = text.split(",")
    numbers = [int(token) if token.isdecimal() else 0 for token in tokens]
    for token, number in zip(tokens, numbers, strict=True):
        if not 0 < number <= MOST_WORKERS:
            rule = f"write whole numbers from 1 to {MOST_WORKERS:,}, such as 1,2,4"
            problems.append(f"--workers {text}: {token!r} is not a number of workers; {rule}")
            break
    return tuple(dict.fromkeys(numbers))


def _slow(text: str | None, problems: list[str]) -> tuple[int, float]:
    """Parse the number of slow workers and how many times slower they are, such as ``1:3``."""
    if text is None:
        return 0, 1.0
    count, _, factor = text.partition(":")
    try:
        slow_workers = int(count), float(factor)
    except ValueError:
        slow_workers = 0, 0.0
    if slow_workers[0] < 1 or not 1 <= slow_workers[1] < 1e6:
        problems.append(f"--slow {text} is not COUNT:FACTOR; write 1:3 for one worker that takes three times as long")
    return slow_workers


def read_run(name: str, runs_dir: Path) -> tuple[Trial, RecordedRun]:
    """Find a run and read its speed from its journals.

    Raises:
        InputError: the run does not exist, or has no measurements.
    """
    trial = find_trial(name, runs_dir)
    return trial, from_run.read(trial)


def load_config(
    sim_args: SimulationArgs, args: argparse.Namespace, source: tuple[Trial, RecordedRun] | None
) -> dict[str, Any]:
    """The configuration of the run, with overrides of its hardware, or of the experiment.

    Raises:
        InputError: it cannot be composed, or an override changes more than the hardware of a run.
    """
    if source is None:
        from experiments.config.compose import compose

        return compose(sim_args.overrides, config_dirs=args.config_dir, trust=args.trust).config
    config = source[0].config
    check_config(config, trusted(args.trust), f"run '{source[0].folder.name}'", with_rules=False)
    others = [
        override_text
        for override_text in sim_args.overrides
        if override_text.lstrip("+~").partition("=")[0].partition(".")[0] != "hardware"
    ]
    if others:
        rule = "a run's measurements hold only for its own experiment"
        raise InputError(
            [
                f"{override_text}: {rule}, so you can change only its hardware; remove this override"
                for override_text in others
            ]
        )
    if sim_args.overrides:
        from experiments.config.compose import change

        config = change(config, sim_args.overrides, source[0].id, config_dirs=args.config_dir, trust=args.trust).config
    return config


def calibrate(
    sim_args: SimulationArgs, args: argparse.Namespace, source: tuple[Trial, RecordedRun] | None, config: dict[str, Any]
) -> tuple[Cluster, int]:
    """The cluster, and the number of examples of the whole training.

    Raises:
        InputError: the experiment cannot run, or ``--times measured`` has no run.
    """
    cluster, num_samples = _make_cluster(sim_args, args, source, config)
    if args.cores is not None:
        cluster = replace(cluster, machine=replace(cluster.machine, concurrent_devices=args.cores))
    return cluster, num_samples


def _make_cluster(
    sim_args: SimulationArgs, args: argparse.Namespace, source: tuple[Trial, RecordedRun] | None, config: dict[str, Any]
) -> tuple[Cluster, int]:
    trust = trusted(args.trust)
    if source is None:
        if args.times == "measured":
            raise InputError(["--times measured needs a run with measurements; name a run, or choose a distribution"])
        cluster = from_plan.make_cluster(config, args.times, trust, **sim_args.more)
        from experiments.plan.plan import make_plan

        return cluster, args.samples or make_plan(config).num_steps * config["batch_size_global"]
    from experiments.plan.estimate import make_machine

    run = source[1]
    cluster = run.cluster(make_machine(config["hardware"]), **sim_args.more)
    if args.times and args.times != "measured":
        cluster = replace(cluster, times=distributions.parse(args.times, cluster.times.mean_s))
    return cluster, args.samples or run.num_samples or run.batch_size


def make_document(
    cluster: Cluster,
    results: Sequence[SimulationResult],
    num_samples: int,
    pairs: Sequence[tuple[RecordedRun, SimulationResult]],
) -> dict[str, Any]:
    """The whole simulation as plain values, for JSON."""
    return {
        "source": cluster.name,
        "cluster": {
            "compute_s_mean": cluster.times.mean_s, "compute_s": str(cluster.times), "batch_size": cluster.batch_size,
            "num_bytes": cluster.num_bytes, "apply_s": cluster.apply_s, "servers": cluster.num_servers,
            "slow_workers": cluster.num_slow, "slowness": cluster.slowness, "machine": cluster.machine,
            "measured_message_times": cluster.measured_message_times,
        },
        "num_samples": num_samples,
        "results": [{**result.document(), "time_to_samples_s": result.time_to_s(num_samples)} for result in results],
        "against": [
            {
                "run": other.name, "mode": other.mode, "workers": other.workers,
                "predicted_examples_per_s": prediction.examples_per_s, "measured_examples_per_s": other.examples_per_s,
                "error": prediction.examples_per_s / other.examples_per_s - 1,
            }
            for other, prediction in pairs
        ],
    }  # fmt: skip


def write(
    folder: Path, cluster: Cluster, results: Sequence[SimulationResult], num_samples: int,
    pairs: Sequence[tuple[RecordedRun, SimulationResult]], *, quiet: bool,
) -> None:  # fmt: skip
    """Write the figure, and the numbers as JSON and CSV.

    Raises:
        InputError: the files cannot be written.
    """
    from experiments.core.figures import standalone_svg
    from experiments.plan.simulate.figure import draw

    picture = draw(cluster, results)
    content = make_document(cluster, results, num_samples, pairs)
    rows = [{name: value for name, value in row.items() if name != "stale_fractions"} for row in content["results"]]
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "simulation.json", to_json(content) + "\n")
        write_text(folder / "simulation.csv", text.getvalue())
        write_text(folder / "simulation.svg", standalone_svg(picture.svg, ""))
        (folder / "simulation.png").write_bytes(picture.png)
    except OSError as err:
        raise InputError([f"-o {folder} cannot be written ({err.strerror}); choose another folder"]) from err
    if not quiet:
        print(f"figure   {folder / 'simulation.png'}\nnumbers  {folder / 'simulation.csv'}, simulation.json")
