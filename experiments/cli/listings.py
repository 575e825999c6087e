"""`lathe options` and `lathe data`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from rich.markup import escape
from rich.table import Table

from experiments.config import options as option_files
from experiments.config.source_map import shown_path
from experiments.core import renamed
from experiments.core.console import make_console
from experiments.core.errors import InputError, did_you_mean
from experiments.core.secrets import resolve


def options(args: argparse.Namespace) -> int:
    """Print groups, their options and keys.

    Raises:
        InputError: there is no such group or option.
    """
    groups = _groups(args)
    if args.group == "sweeps":
        from experiments.sweep.sweep_files import list_sweep_files

        groups = {"sweeps": list_sweep_files(args.config_dir)}
    make_console().print(_options_table(args.group, groups))
    return 0


def data(args: argparse.Namespace) -> int:
    """Print every data set.

    Raises:
        InputError: with every file that cannot be read.
    """
    make_console().print(_data_table(_groups(args)["data"]))
    return 0


def _groups(args: argparse.Namespace) -> dict[str, dict[str, Path]]:
    return option_files.groups(option_files.user_folders(args.config_dir))


def _options_table(selection: str | None, groups: Mapping[str, Mapping[str, Path]]) -> Table:
    """Groups and options, the options of one group, or the keys of one option.

    Args:
        selection: None, a group such as "model", or an option such as "model=mlp".
        groups: the file of every option.

    Raises:
        InputError: there is no such group or option.
    """
    group, _, option = (selection or "").partition("=")
    if not group:
        table = Table("group", "options", title="groups", title_justify="left")
        for name, known in groups.items():
            table.add_row(name, ", ".join(known))
        return table
    if group not in groups:
        raise InputError([f"there is no group '{group}'; {did_you_mean(group, groups)}"])
    if not option:
        table = Table("option", "", title=f"options of {group}", title_justify="left")
        for name, path in groups[group].items():
            table.add_row(escape(f"{group}={name}"), escape(" ".join(_header(path)[:1])))
        return table
    if option not in groups[group]:
        raise InputError([f"{selection}: there is no such option; {renamed.suggestion(option, groups[group])}"])
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
    """Read the file of an option.

    Raises:
        InputError: the file cannot be read, or is not a map.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.MarkedYAMLError as err:
        line = f":{err.problem_mark.line + 1}" if err.problem_mark else ""
        raise InputError([f"{shown_path(path)}{line} is not valid YAML: {err.problem}; correct that line"]) from err
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as err:
        raise InputError([f"{shown_path(path)} cannot be read: {str(err).splitlines()[0]}; correct it"]) from err
    if content is not None and not isinstance(content, dict):
        kind = "a list" if isinstance(content, list) else "a single value"
        raise InputError([f"{shown_path(path)} is {kind}, not a map; write `key: value` lines"])
    return content or {}


def _header(path: Path) -> list[str]:
    try:
        return option_files.header(path)
    except (OSError, ValueError) as err:
        raise InputError([f"{shown_path(path)} cannot be read: {str(err).splitlines()[0]}; correct it"]) from err


def _data_table(known: Mapping[str, Path]) -> Table:
    """A table of every data set: whether its files are present, its splits, size, licence and source.

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
    for option, path in known.items():
        facts = dict(line.split(": ", 1) for line in _header(path) if ": " in line)
        table.add_row(f"data={option}", "present", presences[option])
        for name in ("Splits", "Size", "Licence", "Source"):
            table.add_row("", name.lower(), facts.get(name, "?"))
        table.add_section()
    return table


def _presence(path: Path) -> str:
    content = _content(path)
    if missing := [f"data.{key}" for key, value in content.items() if value == "???"]:
        return f"yours: set {' and '.join(missing)}"
    if "folder" not in content:
        return "built in"
    root = Path(resolve("${oc.env:LATHE_DATA,~/.cache/lathe/data}"))
    folder = root / str(content["folder"])
    names = content.get("files")
    files = [str(name) for name in names] if isinstance(names, (list, dict)) else []
    is_present = all((folder / name).is_file() for name in files) if files else folder.is_dir()
    return "yes" if is_present else f"no: put {', '.join(files) if files else 'it'} into {folder}"
