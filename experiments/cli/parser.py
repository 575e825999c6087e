"""Makes the argument parsers of `lathe` from the table of commands."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from experiments.cli.command import Command
from experiments.cli.commands import COMMANDS
from experiments.cli.table.arguments import OVERRIDES_HELP, RUNS_DIR
from experiments.core.errors import InputError, did_you_mean
from experiments.core.files.paths import user_path
from experiments.core.runs_dir import choose_runs_dir

VERSION = "0.1.0"
SUMMARY = "Turns YAML into trained, tracked, reproducible models."
MAY_BE_EMPTY = ("OVERRIDE", "CONDITION", "INPUT", "A", "B", "TEXT")
"""Arguments whose command has its own message for an empty value, or a meaning."""
EXAMPLES = """examples:
  lathe run experiment=digits_lenet       train a small network in less than a minute
  lathe plan model=mlp optimizer.lr=0.01  show what a run needs
  lathe sweep lr_batch                    compare learning rates and batch sizes
  lathe options model                     list the models

"""


class _Help(argparse.RawDescriptionHelpFormatter):
    """Help with a column that is wide enough for the longest flag."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


class _Parser(argparse.ArgumentParser):
    """An argument parser that reports errors as `InputError`."""

    def error(self, message: str) -> NoReturn:
        name, _, rest = message.removeprefix("argument ").partition(": ")
        flag = name.split("/")[-1]
        if name == "the following arguments are required":
            message = f"{rest.partition(',')[0]} is missing; usage: {self._usage()}"
        elif name == "unrecognized arguments":
            message = self._unrecognized(rest.split()[0])
        elif rest.startswith("invalid choice: "):
            message = self._invalid_choice(flag, rest)
        elif rest.startswith("expected one argument"):
            message = f"{flag} needs a value; usage: {self._usage()}"
        elif rest.startswith("invalid float value: "):
            value = rest.rpartition(": ")[2].strip("'")
            message = f"{flag} {value} is not a number; write for example `{flag} 1e-6`"
        elif rest.startswith("invalid int value: "):
            value = rest.rpartition(": ")[2].strip("'")
            message = (
                f"{flag} {value} is not a whole number; write for example `{flag} {5001 if flag == '--port' else 4}`"
            )
        raise InputError([message], f"`{self.prog}`")

    def _usage(self) -> str:
        return " ".join(self.format_usage().removeprefix("usage: ").split())

    def _unrecognized(self, argument: str) -> str:
        if argument in ("-m", "--multirun"):
            return f"{argument} is not a flag of this command; `lathe run -m` takes it"
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        if argument.startswith("-"):
            return f"{argument} is not a flag of this command; {did_you_mean(argument.split('=')[0], flags)}"
        return f"{argument} is an unexpected argument; usage: {self._usage()}"

    def _invalid_choice(self, name: str, rest: str) -> str:
        value = rest.split("'")[1]
        known = rest.rpartition("choose from ")[2].rstrip(")").replace("'", "").split(", ")
        if name == "COMMAND" and "=" in value:
            return f"{value} is an override, but a command must come first; write `lathe run {value}`"
        if name.startswith("-"):
            return f"{name} {value} is not known; {did_you_mean(value, known)}"
        return f"{value!r} is not a {name}; {did_you_mean(value, known)}"


def make_parser() -> tuple[argparse.ArgumentParser, Mapping[str, argparse.ArgumentParser]]:
    """The parser of the whole command line, and the parser of each command by name."""
    parser = _Parser("lathe", description=SUMMARY, epilog=EXAMPLES + OVERRIDES_HELP, formatter_class=_Help)
    parser.add_argument("--version", action="version", version=f"lathe {VERSION}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    for command in COMMANDS:
        _add_arguments(
            subparsers.add_parser(
                command.name, help=command.summary, description=command.summary, epilog=command.epilog,
                formatter_class=_Help, allow_abbrev=False,
            ),
            command,
        )  # fmt: skip
    return parser, subparsers.choices


def _add_arguments(parser: argparse.ArgumentParser, command: Command) -> None:
    for argument in command.arguments:
        parser.add_argument(*argument.names, **argument.options)
    if RUNS_DIR in command.arguments:
        parser.set_defaults(runs_dir=str(choose_runs_dir()))


def check_values(command: Command, args: argparse.Namespace) -> None:
    """Refuse empty values, which a shell variable that is not set leaves, and read `~` in the folder of the runs.

    Raises:
        InputError: a value is empty, or the folder of the runs cannot be read.
    """
    problems = []
    for argument in command.arguments:
        name = str(argument.options.get("dest") or max(argument.names, key=len).lstrip("-")).replace("-", "_")
        given = getattr(args, name, None)
        label = argument.names[-1] if argument.is_flag else str(argument.options.get("metavar") or name)
        for value in given if isinstance(given, list) else [given]:
            if isinstance(value, str) and not value.strip() and label not in MAY_BE_EMPTY:
                fix = "write a value" if argument.is_required else "write a value, or leave it out"
                problems.append(f"{label} is empty; {fix} (is a shell variable unset?)")
    if problems:
        raise InputError(list(dict.fromkeys(problems)), f"`lathe {command.name}`")
    if RUNS_DIR in command.arguments:
        args.runs_dir = str(_check_runs_dir(user_path(args.runs_dir, "--runs-dir")))


def _check_runs_dir(runs_dir: Path) -> Path:
    """A folder that cannot be read must not look like one without runs."""
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.scandir(runs_dir).close()
    except OSError as err:
        raise InputError(
            [f"--runs-dir {runs_dir} cannot be read: {err.strerror}; name the folder of your runs"]
        ) from err
    return runs_dir
