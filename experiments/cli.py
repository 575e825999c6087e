"""The command line. It reads words and calls one function; nothing heavy is imported on the way to `--help`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NoReturn

from experiments.faults import InputError, did_you_mean

VERSION = "0.1.0"
SHELLS = ["bash", "zsh", "fish"]
SUMMARY = "Turns YAML into trained, tracked, reproducible models."
EXAMPLES = """examples:
  lathe run experiment=digits_lenet       train a small network, in less than a minute
  lathe plan model=mlp optimizer.lr=0.01  say what a run would need
  lathe options model                     list the models

"""
SETUP = """once and for all:
  echo 'eval "$(lathe completion bash)"' >> ~/.bashrc     (zsh likewise, in ~/.zshrc)
  echo 'lathe completion fish | source' >> ~/.config/fish/config.fish"""
EPILOG = """overrides, in Hydra's grammar:
  model=mlp            choose an option of a group    optimizer.lr=0.01    set a value
  +tags.team=vision    add a key to a free map        ~tags.team           remove a key

exit codes: 0 done, 1 the run failed or was stopped, 2 the input is wrong"""


class _Help(argparse.RawDescriptionHelpFormatter):
    """A column for the flags in which the longest fits."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


class _Parser(argparse.ArgumentParser):
    """argparse, with its complaints in the house's form."""

    def error(self, message: str) -> NoReturn:
        name, _, rest = message.removeprefix("argument ").partition(": ")
        flag = name.split("/")[-1]
        if name == "the following arguments are required":
            message = f"{rest.partition(',')[0]} is missing; usage: {self._usage()}"
        elif name == "unrecognized arguments":
            message = self._unrecognized(rest.split()[0])
        elif rest.startswith("invalid choice: "):
            message = self._unknown_word(flag, rest)
        elif rest.startswith("expected one argument"):
            message = f"{flag} stands without a value; usage: {self._usage()}"
        elif rest.startswith("invalid int value: "):
            value = rest.rpartition(": ")[2].strip("'")
            message = f"{flag} {value} is not a whole number; write `{flag} 5001` or the like"
        raise InputError([message], f"`{self.prog}`")

    def _usage(self) -> str:
        return " ".join(self.format_usage().removeprefix("usage: ").split())

    def _unrecognized(self, word: str) -> str:
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        if word in ("-m", "--multirun"):
            return f"{word} asks for a sweep, and this version has none; give each key one value and leave {word} out"
        if word.startswith("-"):
            return f"{word} is no flag of this command; {did_you_mean(word.split('=')[0], flags)}"
        return f"{word} is one word too many; usage: {self._usage()}"

    def _unknown_word(self, name: str, rest: str) -> str:
        word = rest.split("'")[1]
        known = rest.rpartition("choose from ")[2].rstrip(")").replace("'", "").split(", ")
        if name == "COMMAND" and "=" in word:
            return f"{word} is an override, and a command comes first; write `lathe run {word}`"
        if name.startswith("-"):
            return f"{name} {word} is not known; {did_you_mean(word, known)}"
        return f"{word!r} is not a {name}; {did_you_mean(word, known)}"


def make_parser() -> tuple[_Parser, dict[str, _Parser]]:
    """The whole command line, and the part of each command."""
    parser = _Parser("lathe", description=SUMMARY, epilog=EXAMPLES + EPILOG, formatter_class=_Help)
    parser.add_argument("--version", action="version", version=f"lathe {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=summary, description=summary, epilog=EPILOG if name in ("run", "plan") else None,
            formatter_class=_Help, allow_abbrev=False,
        )  # fmt: skip

    for name, summary in (("run", "train one experiment"), ("plan", "say what a run would need, or why it cannot run")):
        part = command(name, summary)
        part.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="as many as you like, see below")
        part.add_argument(
            "-c",
            "--cfg",
            nargs="?",
            const="job",
            choices=["job"],
            metavar="job",
            help="print the configuration, and do nothing else",
        )
        _add_composition(part)
    part = command("resume", "go on with a run from its last checkpoint")
    part.add_argument("run", metavar="RUN", help="folder or id of the run, or the id's beginning")
    part.add_argument(
        "overrides", nargs="*", metavar="OVERRIDE", help="where it goes on, such as parallel=zero3 hardware=h100_8"
    )
    _add_trust(part)
    _add_runs_dir(part)
    part = command("sync", "bring runs to MLflow's store")
    part.add_argument("runs", nargs="*", metavar="RUN", help="default: all in the runs folder")
    _add_runs_dir(part)
    part = command("ui", "open MLflow's UI on the runs")
    part.add_argument("--store", metavar="URI", help="default: the SQLite file in the runs folder")
    part.add_argument("--experiment", default="lathe", metavar="NAME", help="MLflow experiment to open (lathe)")
    part.add_argument("--port", type=int, help="default: a free one")
    _add_runs_dir(part)
    part = command("options", "list groups, their options and keys")
    part.add_argument("group", nargs="?", metavar="GROUP[=OPTION]")
    _add_config_dir(part)
    part = command("data", "list data sets: whether they are present, licence, source")
    _add_config_dir(part)
    part = command("completion", "print what makes a shell complete lathe's words")
    part.epilog = SETUP
    part.add_argument("shell", metavar="SHELL", choices=SHELLS, help="bash, zsh or fish")
    return parser, commands.choices


def _add_composition(part: argparse.ArgumentParser) -> None:
    _add_config_dir(part)
    _add_trust(part)


def _add_config_dir(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "-cd",
        "--config-dir",
        action="append",
        default=[],
        metavar="DIR",
        help="folder with groups and options of your own",
    )


def _add_trust(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE", help="let _target_ name classes of this package"
    )


def _add_runs_dir(part: argparse.ArgumentParser) -> None:
    default = os.environ.get("LATHE_RUNS", "runs")
    part.add_argument("--runs-dir", default=default, metavar="DIR", help=f"folder of the runs ({default})")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0 done, 1 the run failed, 2 the input is wrong."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["_complete"]:
        from experiments.completion import complete

        print("\n".join(complete(words[1:])))
        return 0
    parser, parts = make_parser()
    try:
        if words and words[0] in parts:  # flags and overrides may stand in any order
            alone = argparse.Namespace(command=words[0])
            asked = parts[words[0]].parse_intermixed_args(list(_cfg_apart(words[1:])), alone)
        else:
            asked = parser.parse_args(words)
        if asked.command is None:
            parser.print_help()
            return 0
        from experiments.targets import find_here, find_house, trusted

        find_house()
        find_here(trusted(getattr(asked, "trust", ())))
        from experiments import commands

        code = commands.call(asked)
        sys.stdout.flush()  # here, where a reader that has gone can be dealt with
        return code
    except InputError as err:
        print(err, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `lathe plan --cfg | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _cfg_apart(words: Sequence[str]) -> Iterator[str]:
    """The words of a command, `--cfg` kept from taking the override after it for its value."""
    for word, after in pairwise([*words, ""]):
        yield "--cfg=job" if word in ("-c", "--cfg") and ("=" in after or after.startswith("~")) else word


if __name__ == "__main__":
    sys.exit(main())
