"""The command line. It reads words and calls one function; nothing heavy is imported on the way to `--help`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from experiments.faults import InputError, did_you_mean

VERSION = "0.1.0"
SUMMARY = "Turns YAML into trained, tracked, reproducible models."
EPILOG = """overrides, in Hydra's grammar:
  model=mlp            choose an option of a group    optimizer.lr=0.01    set a value
  +tags.team=vision    add a key to a free map        ~tags.team           remove a key

exit codes: 0 done, 1 the run failed or was stopped, 2 the input is wrong"""


class _Parser(argparse.ArgumentParser):
    """argparse, with its complaints in the house's form."""

    def error(self, message: str) -> NoReturn:
        if "invalid choice: " in message:
            word = message.split("invalid choice: ")[1].split("'")[1]
            name = message.split(":")[0].removeprefix("argument ")
            known = message.rpartition("choose from ")[2].rstrip(")").replace("'", "").split(", ")
            message = f"{name}: {word!r} is not known; {did_you_mean(word, known)}"
        elif "unrecognized arguments: " in message:
            words = message.partition("unrecognized arguments: ")[2]
            message = f"{words}: no such flag; flags of this command: `{self.prog} --help`; overrides are key=value"
        raise InputError([message], f"`{self.prog}`")


def make_parser() -> tuple[_Parser, dict[str, _Parser]]:
    """The whole command line, and the part of each command."""
    parser = _Parser("lathe", description=SUMMARY, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"lathe {VERSION}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name, help=summary, description=summary, epilog=EPILOG if name in ("run", "plan") else None,
            formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        )  # fmt: skip

    for name, summary in (("run", "train one experiment"), ("plan", "say what a run would need, or why it cannot run")):
        part = command(name, summary)
        part.add_argument("overrides", nargs="*", metavar="OVERRIDE")
        part.add_argument("--cfg", nargs="?", const="job", choices=["job"], help="print the configuration and stop")
        _add_composition(part)
    part = command("resume", "go on with a run from its last checkpoint")
    part.add_argument("run", metavar="RUN", help="folder or id of the run, or the id's beginning")
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
    part = command("completion", 'print the completion script of a shell: eval "$(lathe completion bash)"')
    part.add_argument("shell", choices=["bash", "zsh", "fish"])
    return parser, commands.choices


def _add_composition(part: argparse.ArgumentParser) -> None:
    _add_config_dir(part)
    _add_trust(part)


def _add_config_dir(part: argparse.ArgumentParser) -> None:
    part.add_argument(
        "--config-dir", action="append", default=[], metavar="DIR", help="folder with groups and options of your own"
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
    if os.getcwd() not in sys.path:  # last, so that a folder of the user's can hide nothing
        sys.path.append(os.getcwd())
    parser, parts = make_parser()
    try:
        if words and words[0] in parts:  # flags and overrides may stand in any order
            asked = parts[words[0]].parse_intermixed_args(words[1:], argparse.Namespace(command=words[0]))
        else:
            asked = parser.parse_args(words)
        if asked.command is None:
            parser.print_help()
            return 0
        from experiments import commands

        return commands.call(asked)
    except InputError as err:
        print(err, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `lathe options | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
