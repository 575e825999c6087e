"""The command line. It parses arguments and calls one function; `--help` and shell completion import nothing heavy."""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import io
import os
import re
import sys
from collections.abc import Iterator, Sequence

from experiments.cli.command import Command
from experiments.cli.commands import COMMANDS
from experiments.cli.parser import check_values, make_parser
from experiments.cli.project.project_file import (
    add_arguments,
    find_project,
    find_trusted_project,
    is_trusted,
    report_untrusted,
    set_variables,
)
from experiments.core.errors import InputError
from experiments.core.safe_output import safe_output

LOST_OUTPUT = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG, errno.EBADF)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        The exit code: 0 done, 1 the run failed, 2 the input is wrong.
    """
    _prepare_streams()
    with safe_output():
        return _main(list(sys.argv[1:] if argv is None else argv))


def _main(arguments: list[str]) -> int:
    trust: list[str] = []
    try:
        try:
            code = _run(arguments, trust)
        except SystemExit as end:  # `--help` and `--version`
            code = end.code if isinstance(end.code, int) else 0
        sys.stdout.flush()  # here, so that its errors are handled below
        return code
    except InputError as err:
        _print_input_error(err, trust)
        if "--json" in arguments:
            from experiments.core.format import to_json

            print(to_json({"error": type(err).__name__, "problems": err.problems}))
        return 2
    except KeyboardInterrupt as err:
        if "--here" in arguments:
            from experiments.cli.unexpected_error import print_user_frame

            print_user_frame(err, trust)
        print("interrupted", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `lathe plan --cfg | head`
        _discard_output()
        return 0
    except Exception as err:  # every error of Lathe itself ends in two lines and a file with the traceback
        if isinstance(err, OSError) and err.filename is None and err.errno in LOST_OUTPUT:
            _discard_output()
            print(
                f"the output cannot be written: {err.strerror}; free space, or write to another disk", file=sys.stderr
            )
            return 1
        from experiments.cli.unexpected_error import print_user_frame, report

        if "--here" in arguments and print_user_frame(err, trust):
            raise  # as from any script, so that Python, a debugger or a profiler sees it
        return report(err, trust)


def _run(arguments: list[str], trust: list[str]) -> int:
    """Parse the arguments and call the command; the packages of the user that may run are added to ``trust``."""
    if arguments[:1] == ["_complete"]:
        from experiments.cli.completion import complete

        with contextlib.suppress(InputError, OSError, ValueError):  # the user is still typing
            if (project := find_trusted_project()) is not None:
                set_variables(project)
            print("\n".join(complete(arguments[1:])))
        return 0
    if arguments[:1] == ["rehearse"]:
        print("`lathe rehearse` is now called `lathe cluster`; the old name works until 0.2.0", file=sys.stderr)
        arguments[0] = "cluster"
    is_command = (
        bool(arguments) and not arguments[0].startswith("-") and "--help" not in arguments and "-h" not in arguments
    )
    found = find_project() if is_command and arguments[0] != "trust" else None
    project = found if found is not None and is_trusted(found) else None
    if project is not None:
        project.check()
        set_variables(project)
    parser, command_parsers = make_parser()
    if arguments and arguments[0] in command_parsers:  # flags and overrides may come in any order
        namespace = argparse.Namespace(command=arguments[0])
        args = command_parsers[arguments[0]].parse_intermixed_args(list(_join_values(arguments[1:])), namespace)
    else:
        args = parser.parse_args(arguments)
    if args.command is None:
        parser.print_help()
        return 0
    command = next(command for command in COMMANDS if command.name == args.command)
    check_values(command, args)
    if project is not None:
        add_arguments(project, args)
    elif found is not None:
        report_untrusted(found, args)
    return _call(command, args, trust)


def _print_input_error(err: InputError, trust: list[str]) -> None:
    """Print the problems; if the user's own code caused them, its line comes first."""
    if err.__cause__ is not None or err.__context__ is not None:
        from experiments.components.user_code import find_user_frame

        if (frame := find_user_frame(err, trust)) is not None:
            print(frame, file=sys.stderr)
    print(err, file=sys.stderr)


def _prepare_streams() -> None:
    """Let output never fail for a character that the locale lacks, or because a standard stream is closed (`>&-`)."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # Otherwise the next file that is opened gets the number, and what a child process prints lands in it.
            descriptor = os.open(os.devnull, os.O_RDWR)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            os.set_inheritable(number, True)
            setattr(sys, name, open(number, "r" if number == 0 else "w", encoding="utf-8", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if stream is sys.stdout else "backslashreplace")


def _discard_output() -> None:
    """Send the rest of the output nowhere, so that the end of the process reports no second error."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _call(command: Command, args: argparse.Namespace, trust: list[str]) -> int:
    """Import and call the function of a command."""
    from experiments.config.allowlist import trusted
    from experiments.core.files.packages import allow_local_packages, check_own_packages, import_name

    check_own_packages()  # before the imports that would take another package of the same name
    from experiments.tracking.store_uri import StoreError
    from launchers.base import LaunchError

    trust += trusted(getattr(args, "trust", ()))
    allow_local_packages(trust)
    module, _, name = command.function.partition(":")
    try:
        code: int = getattr(importlib.import_module(import_name(module)), name)(args)
        return code
    except (LaunchError, StoreError) as err:
        print(f"{type(err).__name__}: {err}", file=sys.stderr)
        return 1


def _join_values(arguments: Sequence[str]) -> Iterator[str]:
    """Arguments in which argparse cannot mistake a value for a flag, or an override for the value of `--cfg`.

    ``--sort -KEY`` becomes ``--sort=-KEY``, and ``--cfg`` before an override becomes ``--cfg=job``.
    """
    for before, argument, after in zip(["", *arguments], arguments, [*arguments[1:], ""], strict=False):
        if _is_dashed_value(argument, after):
            yield f"{argument}={after}"
        elif not _is_dashed_value(before, argument):
            is_bare_cfg = argument in ("-c", "--cfg") and ("=" in after or after.startswith("~"))
            yield "--cfg=job" if is_bare_cfg else argument


def _is_dashed_value(flag: str, value: str) -> bool:
    """True where a value begins like a flag: `--sort -KEY`, or the wrong `--budget -5m`."""
    return (flag == "--sort" and bool(re.match(r"-\w", value))) or (
        flag == "--budget" and bool(re.match(r"-\d", value))
    )
