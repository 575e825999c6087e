"""The tables that a command ends with, as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.table import Table

from experiments import options
from experiments.faults import InputError, did_you_mean
from experiments.origins import shown_path
from experiments.secrets import resolve

if TYPE_CHECKING:
    from experiments.footprint import Footprint
    from experiments.launch import Result
    from experiments.plan import Plan


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
        table.add_row("checkpoint", f"checkpoints/{checkpoints[-1].name}")
    table.add_row("log", f"attempts/{result.attempt}/log.txt")
    if result.mlflow.get("run_id"):
        table.add_row("MLflow run", str(result.mlflow["run_id"]))
        table.add_row("compare", f"lathe ui --runs-dir {trial.runs_dir}")
    if result.status != "finished":
        trust = "".join(f" --trust {name}" for name in trial.provenance["trust"])
        how = "go on, once mended" if result.status == "failed" else "go on"
        table.add_row(how, f"lathe resume {trial.reference}{trust}")
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
        guess = _duration(seconds_per_step * plan.num_steps)
        table.add_row("time, guessed", guess, f"at {seconds_per_step * 1e3:.3g} ms a step, evaluations apart")
    return table


def _duration(seconds: float) -> str:
    """Such as ``00:05:10`` or ``3 d 04:05:10``."""
    days, rest = divmod(round(seconds), 86400)
    if seconds < 1:
        return "under a second"
    clock = f"{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}"
    return f"{days:,} d {clock}" if days else clock


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
            table.add_row(f"{group}={name}", " ".join(_header(path)[:1]))
        return table
    if option not in groups[group]:
        raise InputError([f"GROUP={asked}: there is no such option; {did_you_mean(option, groups[group])}"])
    return _keys_table(group, option, groups[group][option])


def _keys_table(group: str, option: str, path: Path) -> Table:
    content = _content(path)
    table = Table("key", "value", title=f"{group}={option}: {' '.join(_header(path)[:1])}", title_justify="left")
    for key, value in content.items():
        if key != "defaults":
            table.add_row(str(key) if group == "experiment" else f"{group}.{key}", str(value))
    return table


def _content(path: Path) -> dict[Any, Any]:
    """What an option's file says.

    Raises:
        InputError: it cannot be read, or is no map.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as err:
        line = f":{err.problem_mark.line + 1}" if err.problem_mark else ""
        raise InputError([f"{shown_path(path)}{line} is no valid YAML: {err.problem}; mend that line"]) from err
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as err:
        raise InputError([f"{shown_path(path)} cannot be read: {str(err).splitlines()[0]}; mend it"]) from err
    if content is not None and not isinstance(content, dict):
        kind = "a list" if isinstance(content, list) else "a single value"
        raise InputError([f"{shown_path(path)} is {kind}, not a map; write `key: value` lines"])
    return content or {}


def _header(path: Path) -> list[str]:
    try:
        return options.header(path)
    except (OSError, ValueError) as err:
        raise InputError([f"{shown_path(path)} cannot be read: {str(err).splitlines()[0]}; mend it"]) from err


def data_table(known: Mapping[str, Path]) -> Table:
    """Every data set: whether its files are there, its splits, size, licence and source.

    Raises:
        InputError: with every file that cannot be read.
    """
    presences, problems = dict[str, str](), list[str]()
    for name, path in known.items():
        try:
            presences[name] = _presence(path)
        except InputError as err:
            problems += err.problems
    if problems:
        raise InputError(problems)
    table = Table(title="data sets", title_justify="left", show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, path in known.items():
        facts = dict(line.split(": ", 1) for line in _header(path) if ": " in line)
        table.add_row(f"data={name}", "present", presences[name])
        for word in ("Splits", "Size", "Licence", "Source"):
            table.add_row("", word.lower(), facts.get(word, "?"))
        table.add_section()
    return table


def _presence(path: Path) -> str:
    content = _content(path)
    if "folder" not in content:
        return "built in"
    root = Path(resolve("${oc.env:LATHE_DATA,~/.cache/lathe/data}"))
    folder = root / str(content["folder"])
    given = content.get("files")
    files = [str(name) for name in given] if isinstance(given, (list, dict)) else []
    there = all((folder / name).is_file() for name in files) if files else folder.is_dir()
    return "yes" if there else f"no: put {', '.join(files) if files else 'it'} into {folder}"
