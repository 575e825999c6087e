"""What a person sees: a progress bar on a terminal, plain lines elsewhere, and the tables before and after."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from experiments import options
from experiments.faults import InputError, did_you_mean
from experiments.secrets import resolve

if TYPE_CHECKING:
    from experiments.footprint import Footprint
    from experiments.launch import Result
    from experiments.plan import Plan

SHOWN_PER_EVALUATION = 6
WIDTH_OF_A_FILE = 160


def console(stream: TextIO | None = None) -> Console:
    """A terminal as wide as it is; a file or pipe wide enough that no path is folded."""
    found = Console(file=stream)
    return found if found.is_terminal else Console(file=stream, width=WIDTH_OF_A_FILE)


class Display:
    """Progress of one training."""

    def __init__(self, stream: TextIO) -> None:
        self.console = console(stream)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._num_steps = 0

    @contextmanager
    def training(self, plan: Plan) -> Iterator[None]:
        """Show the steps of a training for as long as the context is open."""
        self._num_steps = plan.num_steps
        if not self.console.is_terminal:
            yield
            return
        columns = (
            TextColumn("[bold]{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[values]}"),
            TimeRemainingColumn(compact=True),
        )  # fmt: skip
        with Progress(*columns, console=self.console, transient=True) as progress:
            self._progress = progress
            self._task = progress.add_task(plan.name, total=plan.num_steps, values="starting")
            yield
        self._progress = None

    def started(self, step: int) -> None:
        """The job has its data and its model; ``step`` steps were done before."""
        if step:
            self.say(f"resumed after step {step}")
        if self._progress:
            self._progress.reset(self._task, completed=step, total=self._num_steps)

    def metrics(self, step: int, new: dict[str, float], latest: dict[str, float]) -> None:
        """A point of the curves came in."""
        if self._progress:
            self._progress.update(self._task, completed=step, values=_bar_text(latest))
        if any(not name.startswith(("train/", "perf/")) for name in new):
            texts = [f"{name} {value:.4g}" for name, value in list(new.items())[:SHOWN_PER_EVALUATION]]
            if "train/loss_nats" in latest:
                texts.insert(0, f"train/loss_nats {latest['train/loss_nats']:.4g}")
            self.say(f"step {step}/{self._num_steps}  " + "  ".join(texts))

    def say(self, line: str) -> None:
        """One plain line."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def waiting(self, what: str) -> AbstractContextManager[object]:
        """A sign of life during something that has no steps."""
        return self.console.status(what) if self.console.is_terminal else nullcontext()


def _bar_text(latest: dict[str, float]) -> str:
    parts = []
    if "train/loss_nats" in latest:
        parts.append(f"loss {latest['train/loss_nats']:.4f}")
    scores = [name for name in latest if name.startswith("val/") and not name.endswith("loss_nats")]
    parts += [f"{name} {latest[name]:.4f}" for name in scores[:1]]
    if "perf/samples_per_s" in latest:
        parts.append(f"{latest['perf/samples_per_s']:,.0f} samples/s")
    return "  ".join(parts)


def closing_table(result: Result) -> Table:
    """What came out, and where everything lies."""
    trial = result.trial
    table = Table(title=f"{trial.config['name']}: {result.status}", show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in sorted(result.metrics.items()):
        if not name.startswith("perf/"):
            table.add_row(name, f"{value:.6g}")
    table.add_section()
    folder = trial.folder
    table.add_row("run", folder.name)
    table.add_row("folder", str(folder))
    checkpoints = sorted((folder / "checkpoints").glob("step_*"))
    if checkpoints:
        table.add_row("checkpoint", str(checkpoints[-1]))
    table.add_row("log", str(folder / "attempts" / str(result.attempt) / "log.txt"))
    if result.mlflow.get("run_id"):
        table.add_row("MLflow run", str(result.mlflow["run_id"]))
        table.add_row("compare", f"lathe ui --runs-dir {trial.runs_dir}")
    if result.status in ("stopped", "killed", "failed"):
        table.add_row("go on", f"lathe resume {trial.reference}")
    return table


def plan_table(plan: Plan, footprint: Footprint, seconds_per_step: float | None) -> Table:
    """A plan as a person reads it."""
    table = Table(title=f"plan of '{plan.name}'", show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right")
    table.add_column(style="dim")
    mib = 2**20
    rows = [
        ("parameters", f"{footprint.num_parameters:,}", ""),
        ("weights", f"{footprint.weights_bytes / mib:.1f} MiB", "parameters and buffers"),
        ("gradients", f"{footprint.gradients_bytes / mib:.1f} MiB", ""),
        ("optimizer state", f"{footprint.optimizer_bytes / mib:.1f} MiB", ""),
        (
            "activations",
            f"{footprint.activations_bytes / mib:.1f} MiB",
            f"of {plan.batch_size_per_device} examples at once",
        ),
        ("memory", f"{footprint.total_bytes / mib:.1f} MiB", "of one device, without the framework and the data"),
        None,
        ("batch", f"{plan.batch_size_global:,}", _batch_arithmetic(plan)),
        ("training examples", *_epoch_texts(plan)),
        ("steps", f"{plan.num_steps:,}", _epochs_text(plan)),
        ("evaluations", f"{plan.num_evaluations:,}", ""),
        ("checkpoints", f"{plan.num_checkpoints:,}", "and the best"),
        None,
        ("work", f"{footprint.flops_per_step / 1e9:.3g} GFLOP", "a step, forward and backward"),
        ("work", f"{footprint.flops_per_step * plan.num_steps / 1e12:.3g} TFLOP", "in all"),
    ]
    for row in rows:
        if row is None:
            table.add_section()
        else:
            table.add_row(*row)
    if seconds_per_step is not None:
        guess = time.strftime("%H:%M:%S", time.gmtime(seconds_per_step * plan.num_steps))
        table.add_row("time, guessed", guess, f"at {seconds_per_step * 1e3:.3g} ms a step, evaluations apart")
    return table


def _epoch_texts(plan: Plan) -> tuple[str, str]:
    if plan.num_train is None:
        return "?", "known once they are read"
    return f"{plan.num_train:,}", f"{plan.steps_per_epoch:,} steps an epoch"


def _epochs_text(plan: Plan) -> str:
    return f"{plan.num_steps / plan.steps_per_epoch:.2f} epochs" if plan.steps_per_epoch else ""


def _batch_arithmetic(plan: Plan) -> str:
    return f"= {plan.num_devices} device x {plan.num_accumulation} accumulated x {plan.batch_size_per_device} at once"


def options_table(asked: str | None, groups: Mapping[str, Mapping[str, Path]]) -> Table:
    """Groups and options, the options of one group, or the keys of one option.

    Args:
        asked: None, a group such as "model", or an option such as "model=mlp".
        groups: the file of every option.

    Raises:
        InputError: there is no such group or option.
    """
    group, _, option = (asked or "").partition("=")
    if not group:
        table = Table("group", "options", title="groups", title_justify="left")
        for name, known in groups.items():
            table.add_row(name, ", ".join(known))
        return table
    if group not in groups:
        raise InputError([f"GROUP={group}: there is no such group; {did_you_mean(group, groups)}"])
    if not option:
        table = Table("option", "", title=f"options of {group}", title_justify="left")
        for name, path in groups[group].items():
            table.add_row(f"{group}={name}", " ".join(options.header(path)[:1]))
        return table
    if option not in groups[group]:
        raise InputError([f"GROUP={asked}: there is no such option; {did_you_mean(option, groups[group])}"])
    return _keys_table(group, option, groups[group][option])


def _keys_table(group: str, option: str, path: Path) -> Table:
    table = Table("key", "value", title=f"{group}={option}: {' '.join(options.header(path)[:1])}", title_justify="left")
    content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    for key, value in content.items():
        if key != "defaults":
            table.add_row(key if group == "experiment" else f"{group}.{key}", str(value))
    return table


def data_table(known: Mapping[str, Path]) -> Table:
    """Every data set: whether its files are there, its splits, size, licence and source."""
    table = Table(title="data sets", title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, path in known.items():
        facts = dict(line.split(": ", 1) for line in options.header(path) if ": " in line)
        table.add_row(f"data={name}", "present", _presence(path))
        for word in ("Splits", "Size", "Licence", "Source"):
            table.add_row("", word.lower(), facts.get(word, "?"))
        table.add_section()
    return table


def _presence(path: Path) -> str:
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "folder" not in content:
        return "built in"
    root = Path(resolve("${oc.env:LATHE_DATA,~/.cache/lathe/data}"))
    folder = root / str(content["folder"])
    files = content.get("files")
    there = all((folder / name).is_file() for name in files) if files else folder.is_dir()
    return "yes" if there else f"no: put {', '.join(files) if files else 'it'} into {folder}"
