from __future__ import annotations

import argparse
import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.cli.command import Command, CommandArgument
from experiments.cli.commands import COMMANDS
from experiments.cli.main import main
from experiments.cli.parser import MAY_BE_EMPTY, check_values, make_parser
from experiments.core.errors import InputError
from tests.conftest import Lathe

HEAVY = ["hydra", "mlflow", "numpy", "omegaconf", "rich", "torch"]
NAMES = [command.name for command in COMMANDS]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["run", "--help"], ["_complete", "lathe", "run", "optimizer=sgd", "optimizer."]]
)
def test_help_and_completion_import_nothing_heavy(arguments: list[str]) -> None:
    code = f"""
import sys
from experiments.cli.main import main
try:
    main({arguments!r})
except SystemExit:
    pass
print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert len(done.stdout.splitlines()) > 3


def test_help_names_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert [name for name in NAMES if f"    {name}" not in shown] == []
    assert "exit codes: 0 done, 1 the run failed or was interrupted, 2 the input is wrong" in shown
    assert max(map(len, shown.splitlines())) <= 90


@pytest.mark.parametrize("command", NAMES)
def test_every_command_and_flag_has_a_help_text(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"usage: lathe {command} ")
    assert [action.dest for action in make_parser()[1][command]._actions if not action.help] == []


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_names_a_function_that_takes_the_arguments(command: Command) -> None:
    module, _, name = command.function.partition(":")
    function = getattr(importlib.import_module(module), name)
    (parameter,) = inspect.signature(function, eval_str=True).parameters.values()
    assert parameter.annotation is argparse.Namespace


POSITIONAL = [
    (command, named)
    for command in COMMANDS
    for named in command.arguments
    if not named.is_flag and named.options.get("metavar") not in MAY_BE_EMPTY
]


@pytest.mark.parametrize(("command", "named"), POSITIONAL, ids=lambda each: getattr(each, "name", ""))
def test_only_a_value_that_the_command_can_do_without_may_be_left_out(command: Command, named: CommandArgument) -> None:
    args = argparse.Namespace(**{named.names[0]: [""] if named.takes_many else "", "runs_dir": "."})
    with pytest.raises(InputError) as caught:
        check_values(command, args)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{named.options.get('metavar') or named.names[0]} is empty; write a value")
    assert ("leave it out" in problem) == (named.options.get("nargs") in ("?", "*"))


def test_the_version_is_that_of_the_package(lathe: Lathe) -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    assert lathe("--version").stdout == f"lathe {project['version']}\n"


def test_a_closed_pipe_is_not_an_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-P", "-m", "experiments.cli", "plan", "--cfg"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_deleted_current_folder_is_reported(tmp_path: Path) -> None:
    code = "import os; os.rmdir(os.getcwd()); from experiments.cli.main import main; exit(main(['plan']))"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("the current folder no longer exists; change to an existing folder\n")


def test_nothing_is_imported_from_the_current_folder(lathe: Lathe, tmp_path: Path) -> None:
    for name in ("hydra_plugins/evil/stranger.py", "dill/__init__.py", "mine/__init__.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    (tmp_path / "hydra_plugins" / "evil" / "__init__.py").touch()
    done = lathe("plan", "model=softmax", "--trust", "mine", env={})
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "ran").exists()
