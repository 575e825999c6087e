"""The tables that a command ends with, as a person reads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.markup import escape
from rich.table import Table

from experiments.config import options
from experiments.config.source_map import shown_path
from experiments.core.errors import InputError, did_you_mean
from experiments.core.secrets import resolve
from experiments.run.metric_series import REPEATABLE

if TYPE_CHECKING:
    from experiments.launch.run_trial import RunResult


def closing_table(result: RunResult) -> Table:
    """What came out, and where everything lies."""
    trial = result.trial
    table = Table(title=escape(f"{trial.config['name']}: {result.status}"), show_header=False, title_justify="left")
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in sorted(result.metrics.items()):
        if name.startswith(REPEATABLE):
            table.add_row(escape(name), f"{value:.6g}")
    table.add_section()
    folder = trial.folder
    table.add_row("run", folder.name)
    table.add_row("folder", escape(str(folder)))
    checkpoints = sorted((folder / "checkpoints").glob("step_*"))
    if checkpoints:
        table.add_row("checkpoint", f"checkpoints/{checkpoints[-1].name}")
    table.add_row("log", f"attempts/{result.attempt}/log.txt")
    if result.mlflow.get("run_id"):
        table.add_row("MLflow run", str(result.mlflow["run_id"]))
        if result.mlflow.get("model"):
            table.add_row("MLflow model", str(result.mlflow["model"]))
        table.add_row("compare", escape(f"lathe ui --runs-dir {trial.runs_dir}"))
    if result.status != "finished":
        trust = "".join(f" --trust {name}" for name in trial.provenance["trust"])
        how = "go on, once mended" if result.status == "failed" else "go on"
        table.add_row(how, escape(f"lathe resume {trial.reference}{trust}"))
    return table


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
            table.add_row(escape(f"{group}={name}"), escape(" ".join(_header(path)[:1])))
        return table
    if option not in groups[group]:
        raise InputError([f"GROUP={asked}: there is no such option; {did_you_mean(option, groups[group])}"])
    return _keys_table(group, option, groups[group][option])


def _keys_table(group: str, option: str, path: Path) -> Table:
    content = _content(path)
    table = Table(
        "key", "value", title=escape(f"{group}={option}: {' '.join(_header(path)[:1])}"), title_justify="left"
    )
    for key, value in content.items():
        if key != "defaults":
            table.add_row(escape(str(key) if group == "experiment" else f"{group}.{key}"), escape(str(value)))
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
