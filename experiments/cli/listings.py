"""`lathe options`, `lathe schema` and `lathe data`."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from experiments.config import options as option_files
from experiments.config.reference.json_schema import write_schemas
from experiments.config.reference.keys import KeyReference, find_keys, known_keys
from experiments.config.source_map import shown_path
from experiments.core import renamed
from experiments.core.console import make_console
from experiments.core.errors import InputError, did_you_mean
from experiments.core.files.paths import user_path
from experiments.core.format import to_json
from experiments.core.secrets import resolve

SCHEMA = "experiments.config.schema."


def options(args: argparse.Namespace) -> int:
    """Print groups, their options and keys, or what a key means.

    Raises:
        InputError: there is no such group, option or key.
    """
    groups = _groups(args)
    if args.group == "sweeps":
        from experiments.sweep.sweep_files import list_sweep_files

        groups = {"sweeps": list_sweep_files(args.config_dir)}
    keys = [] if args.group is None or args.group.partition("=")[0] in groups else find_keys(args.group, groups)
    table = _reference_table(keys) if keys else _options_table(args.group, groups)
    if args.json:
        print(to_json({"keys": keys} if keys else _options_document(args.group, groups)))
    else:
        make_console().print(table)
    return 0


def schema(args: argparse.Namespace) -> int:
    """Write JSON Schema for the files of every group, and print how an editor finds it.

    Raises:
        InputError: a file cannot be written, or an option's file cannot be read.
    """
    folder = user_path(args.folder)
    try:
        num_schemas = write_schemas(_groups(args), folder)
    except OSError as err:
        raise InputError(
            [f"{args.folder}: the schemas cannot be written ({err.strerror}); name another folder"]
        ) from err
    print(f"{num_schemas} schemas in {folder}; the first line of a file for `model` in your configuration folder is")
    print(f"# yaml-language-server: $schema={folder.resolve()}/model.json")
    return 0


def data(args: argparse.Namespace) -> int:
    """Print every data set, or check the one of an experiment.

    Raises:
        InputError: with every file that cannot be read.
    """
    if args.action == "check":
        from experiments.train.loading.data_check import check_data

        return check_data(args)
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
        keys = known_keys(groups)
        if selection not in keys and "." in group:
            raise InputError(
                [f"there is no key '{group}'; {did_you_mean(group, keys, '`lathe options` lists the groups')}"]
            )
        raise InputError([f"there is no group or key '{group}'; {did_you_mean(group, [*groups, *keys])}"])
    if not option:
        table = Table("option", "", title=f"options of {group}", title_justify="left")
        for name, path in groups[group].items():
            table.add_row(escape(f"{group}={name}"), escape(" ".join(_header(path)[:1])))
        return table
    if option not in groups[group]:
        raise InputError([f"{selection}: there is no such option; {renamed.suggestion(option, groups[group])}"])
    prefix = "" if group == "experiment" else f"{group}."
    if group in option_files.find_own_groups(groups):
        prefix = f"user.{prefix}"
    return _keys_table(f"{group}={option}", prefix, groups[group][option])


def _options_document(selection: str | None, groups: Mapping[str, Mapping[str, Path]]) -> dict[str, Any]:
    """What `_options_table` shows of a valid selection, for a program."""
    group, _, option = (selection or "").partition("=")
    if not group:
        return {"groups": {name: [*known] for name, known in groups.items()}}
    if not option:
        return {"options": {name: " ".join(_header(path)[:1]) for name, path in groups[group].items()}}
    path = groups[group][option]
    return {"file": str(path), "header": _header(path), "values": option_files.content(path)}


def _reference_table(references: Sequence[KeyReference]) -> Table:
    """What a key means, for each class that has it."""
    table = Table(show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for reference in references:
        values = ", ".join(f"{value} ({option})" for option, value in reference.values.items())
        owner = "" if reference.owner.startswith(SCHEMA) else reference.owner
        rows = {
            "key": reference.key,
            "class": owner,
            "type": reference.type,
            "values": values,
            "meaning": reference.meaning,
        }
        for name, text in rows.items():
            if text:
                table.add_row(name, escape(text))
        table.add_section()
    return table


def _keys_table(selection: str, prefix: str, path: Path) -> Table:
    content = option_files.content(path)
    title = f"{selection}: {' '.join(_header(path)[:1])}"
    table = Table("key", "value", title=escape(title), title_justify="left")
    for key, value in content.items():
        if key != "defaults":
            table.add_row(escape(f"{prefix}{key}"), escape(str(value)))
    return table


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
            presences[name] = _presence(path, known)
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


def _presence(path: Path, known: Mapping[str, Path]) -> str:
    content = option_files.content(path)
    parts = [part for each in content.get("defaults", []) if (part := str(each).partition("@")[0]) in known]
    if parts:  # a set of other sets
        missing = [f"data={part}" for part in parts if _presence(known[part], known) not in ("yes", "built in")]
        return f"no: see {' and '.join(missing)}" if missing else "yes"
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
