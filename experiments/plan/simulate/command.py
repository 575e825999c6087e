"""Says how fast replicas would train together, before there are any: `lathe simulate`."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.config.allowlist import trusted
from experiments.core.atomic import write_text
from experiments.core.console import make_console
from experiments.core.errors import InputError, did_you_mean
from experiments.core.format import to_json
from experiments.plan.simulate import distributions as times
from experiments.plan.simulate import from_plan as planned
from experiments.plan.simulate import from_run as recorded
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
    """The words of the command, checked."""

    run: str | None
    overrides: tuple[str, ...]
    workers: tuple[int, ...]
    modes: tuple[str, ...]
    choices: Choices
    more: dict[str, Any]
    """Fields of the cluster."""


def command(asked: argparse.Namespace) -> int:
    """Do what `lathe simulate` asks for.

    Raises:
        InputError: it cannot be done as it was asked.
    """
    told = read_words(asked)
    source = read_run(told.run, Path(asked.runs_dir)) if told.run else None
    config = configuration(told, asked, source)
    cluster, num_samples = calibrated(told, asked, source, config)
    results = [simulate(cluster, mode, workers, told.choices) for workers in told.workers for mode in told.modes]
    pairs = [
        _compared(source[1], find_trial(name, Path(asked.runs_dir)), asked.cores) for name in asked.against if source
    ]
    if asked.json:
        print(to_json(document(cluster, results, num_samples, pairs)))
    else:
        for line in heading(cluster, told.workers, source[1] if source else None):
            make_console().print(line, highlight=False, markup=False, soft_wrap=True)
        make_console().print(results_table(results, num_samples))
        if pairs:
            make_console().print(comparison_table(pairs))
    if asked.output:
        write(Path(asked.output).expanduser(), cluster, results, num_samples, pairs, quiet=asked.json)
    return 0


def _compared(source: RecordedRun, trial: Trial, cores: float | None) -> tuple[RecordedRun, SimulationResult]:
    """Another run, and what is simulated of it on the hardware that it says it was on."""
    from experiments.plan.estimate import machine_of

    other, machine = recorded.read(trial), machine_of(trial.config["hardware"])
    return other, predicted(source, other, machine if cores is None else replace(machine, concurrent_devices=cores))


def read_words(asked: argparse.Namespace) -> SimulationArgs:
    """Check what can be checked without looking at a run or an experiment.

    Raises:
        InputError: with every problem.
    """
    problems: list[str] = []
    named = [word for word in asked.words if "=" not in word and not word.startswith(("~", "+"))]
    if len(named) > 1:
        problems.append(f"'{named[1]}' is a second run, and one is simulated; `--against {named[1]}` compares with it")
    if asked.against and not named:
        problems.append(f"--against {asked.against[0]} compares what a run predicts; name that run too, before it")
    workers = _numbers(asked.workers, problems) if asked.workers else WORKERS
    modes = tuple(dict.fromkeys(asked.mode.split(","))) if asked.mode else tuple(MODES)
    problems += [f"--mode {mode} is not known; {did_you_mean(mode, MODES)}" for mode in modes if mode not in MODES]
    least = {"--servers": 1, "--backup": 1, "--group-size": 1, "--max-staleness": 0, "--samples": 1, "--seed": 0}
    for flag, lowest in least.items():
        value = getattr(asked, flag[2:].replace("-", "_"))
        if value is not None and value < lowest:
            problems.append(f"{flag} {value} is less than {lowest}; write a larger number")
    if asked.cores is not None and not 1 <= asked.cores <= MOST_WORKERS:
        problems.append(
            f"--cores {asked.cores:g} is not from 1 to {MOST_WORKERS:,}; write how many workers a node serves"
        )
    num_slow, slowness = _slow(asked.slow, problems)
    most = max(workers) or MOST_WORKERS  # 0 is what cannot be read
    if num_slow > most:
        problems.append(
            f"--slow {asked.slow}: {num_slow} are slow of {most} workers at most; lower it, or raise --workers"
        )
    if asked.backup is not None and asked.backup >= most:
        problems.append(
            f"--backup {asked.backup} of {most} workers at most leaves none that is waited for; lower it, or raise --workers"
        )
    if asked.times and asked.times != "measured":
        try:
            times.parse(asked.times, 1.0)
        except InputError as err:
            problems += err.problems
    if asked.group_size is not None and asked.group_size > most:
        problems.append(f"--group-size {asked.group_size} of {most} workers at most; lower it, or raise --workers")
    if problems:
        raise InputError(problems)
    choices = Choices(asked.backup, asked.group_size, asked.max_staleness, asked.seed)
    more: dict[str, Any] = {"num_slow": num_slow, "slowness": slowness}
    if asked.servers is not None:
        more["num_servers"] = asked.servers
    overrides = tuple(word for word in asked.words if word not in named)
    return SimulationArgs(named[0] if named else None, overrides, workers, modes, choices, more)


def _numbers(text: str, problems: list[str]) -> tuple[int, ...]:
    """Numbers of workers, as one types them."""
    words = text.split(",")
    numbers = [int(word) if word.isdecimal() else 0 for word in words]
    for word, number in zip(words, numbers, strict=True):
        if not 0 < number <= MOST_WORKERS:
            rule = f"write whole numbers from 1 to {MOST_WORKERS:,}, such as 1,2,4"
            problems.append(f"--workers {text}: {word!r} is no number of workers; {rule}")
            break
    return tuple(dict.fromkeys(numbers))


def _slow(text: str | None, problems: list[str]) -> tuple[int, float]:
    """How many workers are slow, and how many times slower; as in ``1:3``."""
    if text is None:
        return 0, 1.0
    count, _, factor = text.partition(":")
    try:
        found = int(count), float(factor)
    except ValueError:
        found = 0, 0.0
    if found[0] < 1 or not 1 <= found[1] < 1e6:
        problems.append(f"--slow {text} is not COUNT:FACTOR; write 1:3 for one worker that takes three times as long")
    return found


def read_run(name: str, runs_dir: Path) -> tuple[Trial, RecordedRun]:
    """The run, and what its journals tell.

    Raises:
        InputError: there is no such run, or it has measured nothing.
    """
    trial = find_trial(name, runs_dir)
    return trial, recorded.read(trial)


def configuration(
    told: SimulationArgs, asked: argparse.Namespace, source: tuple[Trial, RecordedRun] | None
) -> dict[str, Any]:
    """Of the run, with what overrides change of its hardware; or of the experiment.

    Raises:
        InputError: it does not compose, or what the run computed would be another thing.
    """
    if source is None:
        from experiments.config.compose import compose

        return compose(told.overrides, config_dirs=asked.config_dir, trust=asked.trust).config
    config = source[0].config
    strange = [word for word in told.overrides if word.lstrip("+~").partition("=")[0].partition(".")[0] != "hardware"]
    if strange:
        rule = "what a run measured holds for its own experiment"
        raise InputError(
            [f"{word}: {rule}, so only hardware can be changed beside a run; leave it out" for word in strange]
        )
    if told.overrides:
        from experiments.config.compose import change

        config = change(config, told.overrides, source[0].id, config_dirs=asked.config_dir, trust=asked.trust).config
    return config


def calibrated(
    told: SimulationArgs, asked: argparse.Namespace, source: tuple[Trial, RecordedRun] | None, config: dict[str, Any]
) -> tuple[Cluster, int]:
    """The cluster, and how many examples the whole training sees.

    Raises:
        InputError: the experiment cannot run, or nothing was measured.
    """
    cluster, num_samples = _as_known(told, asked, source, config)
    if asked.cores is not None:
        cluster = replace(cluster, machine=replace(cluster.machine, concurrent_devices=asked.cores))
    return cluster, num_samples


def _as_known(
    told: SimulationArgs, asked: argparse.Namespace, source: tuple[Trial, RecordedRun] | None, config: dict[str, Any]
) -> tuple[Cluster, int]:
    trust = trusted(asked.trust)
    if source is None:
        if asked.times == "measured":
            raise InputError(["--times measured needs a run that has measured; name one, or a distribution"])
        cluster = planned.cluster_of(config, asked.times, trust, **told.more)
        from experiments.plan.plan import make_plan

        return cluster, asked.samples or make_plan(config).num_steps * config["batch_size_global"]
    from experiments.plan.estimate import machine_of

    run = source[1]
    cluster = run.cluster(machine_of(config["hardware"]), **told.more)
    if asked.times and asked.times != "measured":
        cluster = replace(cluster, times=times.parse(asked.times, cluster.times.mean_s))
    return cluster, asked.samples or run.num_samples or run.batch_size


def document(
    cluster: Cluster,
    results: Sequence[SimulationResult],
    num_samples: int,
    pairs: Sequence[tuple[RecordedRun, SimulationResult]],
) -> dict[str, Any]:
    """All of it, as plain values."""
    return {
        "source": cluster.name,
        "cluster": {
            "compute_s_mean": cluster.times.mean_s, "compute_s": str(cluster.times), "batch_size": cluster.batch_size,
            "num_bytes": cluster.num_bytes, "apply_s": cluster.apply_s, "servers": cluster.num_servers,
            "slow_workers": cluster.num_slow, "slowness": cluster.slowness, "machine": cluster.machine,
            "measured_talk": cluster.measured_talk,
        },
        "num_samples": num_samples,
        "results": [{**result.document(), "time_to_samples_s": result.time_to_s(num_samples)} for result in results],
        "against": [
            {
                "run": other.name, "mode": other.mode, "workers": other.workers,
                "predicted_examples_per_s": found.examples_per_s, "measured_examples_per_s": other.examples_per_s,
                "error": found.examples_per_s / other.examples_per_s - 1,
            }
            for other, found in pairs
        ],
    }  # fmt: skip


def write(
    folder: Path, cluster: Cluster, results: Sequence[SimulationResult], num_samples: int,
    pairs: Sequence[tuple[RecordedRun, SimulationResult]], *, quiet: bool,
) -> None:  # fmt: skip
    """Write the figure, and the numbers as JSON and CSV.

    Raises:
        InputError: the folder cannot be written.
    """
    from experiments.core.figures import standalone_svg
    from experiments.plan.simulate.figure import draw

    picture = draw(cluster, results)
    told = document(cluster, results, num_samples, pairs)
    rows = [{name: value for name, value in row.items() if name != "stale_shares"} for row in told["results"]]
    text = io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "simulation.json", to_json(told) + "\n")
        write_text(folder / "simulation.csv", text.getvalue())
        write_text(folder / "simulation.svg", standalone_svg(picture.svg, ""))
        (folder / "simulation.png").write_bytes(picture.png)
    except OSError as err:
        raise InputError([f"-o {folder} cannot be written ({err.strerror}); choose another folder"]) from err
    if not quiet:
        print(f"figure   {folder / 'simulation.png'}\nnumbers  {folder / 'simulation.csv'}, simulation.json")
