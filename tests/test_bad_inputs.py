"""What is said of wrong input, whole and to the letter: `tests/bad_inputs/*.txt` hold what one would see in a shell.

A block there is any number of files (`$ cat > FILE` and its lines), a command, and all that it prints; FOLDER stands for
the folder it runs in. Whatever a block shows, the exit code is 2, nothing goes to standard output and no run is left.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from experiments.cli.main import main
from tests.conftest import Lathe


@dataclass
class Block:
    """One transcript."""

    command: str = ""
    message: str = ""
    files: dict[str, bytes] = field(default_factory=dict)


def transcripts() -> Iterator[Block]:
    for path in sorted((Path(__file__).parent / "bad_inputs").glob("*.txt")):
        for text in path.read_text(encoding="utf-8").strip("\n").split("\n\n"):
            yield parse(text)


def parse(text: str) -> Block:
    block = Block()
    for step in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        first, _, rest = step.partition("\n")
        if first.startswith("lathe "):
            block.command, block.message = first.removeprefix("lathe "), rest.rstrip("\n")
        else:
            how, _, name = first.partition(" > ")
            block.files[name] = rest.encode("latin1" if "latin1" in how else "utf-8")
    return block


BLOCKS = list(transcripts())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, and an environment that says nothing of this machine's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setenv("XDG_CONFIG_HOME", "config")
    monkeypatch.setenv("LATHE_DATA", "/nowhere/data")
    monkeypatch.delenv("LATHE_RUNS", raising=False)
    return tmp_path


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.command)
def test_errors_are_exactly_as_recorded(block: Block, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in block.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    code = main(shlex.split(block.command))
    shown = capsys.readouterr()
    assert shown.err.replace(str(folder), "FOLDER").rstrip("\n") == block.message
    assert shown.out == ""
    assert code == 2
    assert not (folder / "runs").exists()


def test_every_message_has_a_hint_and_no_secret() -> None:
    message = "\n".join(block.message for block in BLOCKS)
    lines = [line for line in message.splitlines() if line.startswith("  - ")]
    assert len(lines) > 100
    without = [line for line in lines if not re.search(r"[;:?] ?|\?$", line.removeprefix("  - "))]
    assert without == []
    assert not re.search(r"hunter2|ghp_|abcdef", message)
    assert "Traceback" not in message


@pytest.mark.parametrize("command", ["run max_step=3", "run data=mnist", "run -m max_step=3", "resume abc"])
def test_a_command_with_wrong_input_ends_with_2_and_leaves_no_process(
    command: str, lathe: Lathe, tmp_path: Path
) -> None:
    mark = f"bad-input-{os.getpid()}-{time.monotonic_ns()}"
    done = lathe(*command.split(), env={"LATHE_DATA": "/nowhere", "LATHE_TEST_MARK": mark})
    assert done.returncode == 2
    assert done.stdout == ""
    assert re.match(r"(InputError|ConfigError|PlanError): .* has a problem:\n  - .+\n$", done.stderr)
    assert [process for process in psutil.process_iter() if is_marked(process, mark)] == []
    assert list(tmp_path.iterdir()) == []


def is_marked(process: psutil.Process, mark: str) -> bool:
    """True for a process that has inherited the environment of the command under test."""
    try:
        return process.environ().get("LATHE_TEST_MARK") == mark
    except psutil.Error:
        return False


def test_a_plan_with_wrong_input_imports_no_torch(lathe: Lathe) -> None:
    done = lathe("plan", "max_step=3", env={"PYTHONVERBOSE": "1"})
    assert done.returncode == 2
    assert "import 'experiments.config.compose'" in done.stderr
    assert "import 'torch'" not in done.stderr
    assert "import 'mlflow'" not in done.stderr
