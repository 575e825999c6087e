from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.cli.command import Command
from experiments.cli.commands import COMMANDS
from experiments.cli.completion import COMPLETERS, SCRIPTS, complete
from tests.support.ledgers import claim_trial, finish_trial, make_idle_sweep
from tests.support.waiting import PATIENCE_S


def completions(line: str) -> list[str]:
    """The answers for a line whose last word is being typed."""
    return complete(line.split(" "))


def test_the_first_word_is_a_command() -> None:
    assert completions("lathe rep") == ["reproduce", "report"]
    assert completions("lathe ")[:2] == ["run", "plan"]
    assert completions("lathe --v") == ["--version"]
    assert completions("lathe nonsense ") == []


def test_groups_keys_and_values_of_the_schema_complete() -> None:
    assert completions("lathe run mod")[0] == "model="
    assert completions("lathe run model=ml") == ["model=mlp"]
    assert completions("lathe run +model=ml") == ["+model=mlp"]
    assert completions("lathe run max_") == ["max_steps=", "max_epochs="]
    assert completions("lathe plan precision=") == ["precision=fp32", "precision=bf16", "precision=fp16"]
    assert completions("lathe plan checkpoint.best_m") == ["checkpoint.best_metric=", "checkpoint.best_mode="]
    assert completions("lathe plan checkpoint.best_mode=") == ["checkpoint.best_mode=max", "checkpoint.best_mode=min"]
    assert completions("lathe run ~tag") == ["~tags"]


def test_keys_follow_the_selected_options() -> None:
    assert "model.hidden_sizes=" in completions("lathe run model=mlp model.")
    assert "model.hidden_sizes=" not in completions("lathe run model.")
    assert completions("lathe run optimizer=sgd optimizer.nest") == ["optimizer.nesterov="]
    assert "optimizer.nesterov=true" in completions("lathe run optimizer=sgd optimizer.nesterov=")


def test_constructor_arguments_complete_except_objects_that_cannot_be_typed() -> None:
    actual = completions("lathe run optimizer=sgd optimizer.")
    assert "optimizer.dampening=" in actual
    assert "optimizer.params=" not in actual
    assert "optimizer._target_=" not in actual


def test_experiments_overrides_and_flags_of_the_zoo_complete() -> None:
    assert completions("lathe zoo digits_") == ["digits_lenet"]
    assert completions("lathe zoo word2vec word2vec") == ["word2vec_nce"]
    assert completions("lathe zoo --run launcher=sl") == ["launcher=slurm"]
    assert completions("lathe zoo --ru") == ["--run"]


def test_flags_and_their_folders_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("mine/model", "more", ".hidden"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "mine/model/dense.yaml").write_text("_target_: mypackage.Deep\ndepth: 3\n")
    monkeypatch.chdir(tmp_path)
    assert completions("lathe run --c") == ["--cfg", "--config-dir"]
    assert completions("lathe run --config-dir ") == ["mine/", "more/"]
    assert completions("lathe run --config-dir=mi") == ["--config-dir=mine/"]
    assert completions("lathe run -cd mine/") == ["mine/model/"]
    assert completions("lathe plan --config-dir mine model=den") == ["model=dense"]
    assert completions("lathe plan --config-dir=mine model=dense model.") == ["model.depth="]
    assert completions("lathe options --config-dir mine model=den") == ["model=dense"]


def test_resume_and_sync_complete_run_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run in ("runs/single/0123456789", "runs/single/abcdef0123", "elsewhere/single/fedcba9876"):
        (tmp_path / run).mkdir(parents=True)
        (tmp_path / run / "trial.yaml").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LATHE_RUNS", raising=False)
    assert completions("lathe resume ") == ["0123456789", "abcdef0123"]
    assert completions("lathe sync abcdef0123 ") == ["0123456789"]
    assert completions("lathe resume --runs-dir elsewhere ") == ["fedcba9876"]
    monkeypatch.setenv("LATHE_RUNS", "elsewhere")
    assert completions("lathe resume f") == ["fedcba9876"]


def test_runs_and_shared_files_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs" / "single" / "0a1b2c").mkdir(parents=True)
    (tmp_path / "runs" / "single" / "0a1b2c" / "trial.yaml").touch()
    (tmp_path / "deep" / "here").mkdir(parents=True)
    for name in ("lenet.yaml", "lenet.tar.gz", "lenet.py", "deep/mlp.yaml", ".hidden.yaml"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LATHE_RUNS", raising=False)
    assert completions("lathe share 0a") == ["0a1b2c"]
    assert completions("lathe share 0a1b2c ") == []
    assert completions("lathe run --from ") == ["0a1b2c", "deep/", "lenet.tar.gz", "lenet.yaml", "runs/"]
    assert completions("lathe plan --from deep/") == ["deep/here/", "deep/mlp.yaml"]
    assert completions("lathe run --from=le") == ["--from=lenet.tar.gz", "--from=lenet.yaml"]
    assert completions("lathe reproduce le") == ["lenet.tar.gz", "lenet.yaml"]
    assert completions("lathe diff 0a1b2c lenet.y") == ["lenet.yaml"]


def test_sweeps_and_trial_selectors_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = make_idle_sweep(
        tmp_path / "runs", "rates", [{"optimizer.lr": 0.1}, {"optimizer.lr": 0.01}, {"optimizer.lr": 0.1}]
    )
    claim_trial(sweep, "b00000000000")
    finish_trial(sweep, "b00000000000", 0.5)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LATHE_RUNS", raising=False)
    for command in ("status", "logs", "cancel", "resume"):
        assert completions(f"lathe {command} r") == ["rates"]
    assert completions("lathe status rates ") == []
    assert completions("lathe logs --attempt 2 rates b") == ["b00000000000", "b00000000001", "b00000000002"]
    assert completions("lathe logs rates optimizer.lr=0.1 ") == []
    assert completions("lathe cancel rates b") == ["b00000000001", "b00000000002"]
    assert completions("lathe cancel rates optimizer.") == ["optimizer.lr=0.1", "optimizer.lr=0.01"]
    assert completions("lathe cancel rates optimizer.lr=0.1 pending optimizer.") == ["optimizer.lr=0.01"]
    assert completions("lathe cancel --runs-dir elsewhere rates ") == ["pending", "running"]


def test_sweep_files_and_their_keys_complete(tmp_path: Path) -> None:
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps/mine.yaml").touch()
    assert "lr_batch" in completions("lathe sweep ")
    assert completions(f"lathe sweep --config-dir {tmp_path} mi") == ["mine"]
    assert completions("lathe sweep lr_batch model=ml") == ["model=mlp"]
    assert completions("lathe sweep lr_batch swe") == ["sweep."]
    assert completions("lathe sweep lr_batch sweep.budget.m") == ["sweep.budget.max_points="]
    assert completions("lathe sweep lr_batch sweep.pruner.f") == ["sweep.pruner.first_step=", "sweep.pruner.factor="]
    assert completions("lathe sweep lr_batch sweep.strategy=t") == ["sweep.strategy=tpe"]
    assert completions("lathe sweep lr_batch sweep.strategy.name=t") == ["sweep.strategy.name=tpe"]
    assert completions("lathe run -m sweep.mode=") == ["sweep.mode=max", "sweep.mode=min"]
    assert completions("lathe resume rates sweep.num") == ["sweep.num_seeds="]
    assert completions("lathe sweep lr_batch sweep.nonsense.a=") == []


def test_a_broken_file_gives_no_completions_and_no_error(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/broken.yaml").write_text("a: [1\n")
    assert completions(f"lathe run --config-dir {tmp_path} model=broken model.") == []


def test_options_and_choices_of_arguments_complete() -> None:
    assert completions("lathe options optim") == ["optimizer"]
    assert completions("lathe options model=len") == ["model=lenet"]
    assert completions("lathe completion ") == ["bash", "zsh", "fish"]
    assert completions("lathe cluster ") == ["up", "down", "status"]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_kind_of_completion_is_known(command: Command) -> None:
    kinds = {kind for argument in command.arguments for kind in (*argument.completes, *argument.completes_first)}
    assert kinds <= COMPLETERS.keys()


@pytest.fixture
def command(tmp_path: Path) -> dict[str, str]:
    """An environment with the command `lathe` and without the user's settings."""
    path = tmp_path / "bin/lathe"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m experiments.cli "$@"\n')
    path.chmod(0o755)
    for shell, script in SCRIPTS.items():
        (tmp_path / f"completion.{shell}").write_text(script)
    (tmp_path / "inputrc").write_text(
        "set bell-style none\nset show-all-if-ambiguous on\nset enable-bracketed-paste off\n"
    )
    return {
        **os.environ, "PATH": f"{path.parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "dumb",
        "INPUTRC": str(tmp_path / "inputrc"), "ZDOTDIR": str(tmp_path),
    }  # fmt: skip


class Terminal:
    """An interactive shell on a pseudo terminal."""

    def __init__(self, argv: list[str], env: dict[str, str], folder: Path) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            argv, stdin=slave, stdout=slave, stderr=slave, env=env, cwd=folder, start_new_session=True
        )
        os.close(slave)

    def type(self, keys: str, expected: str) -> str:
        """Type keys, wait until the expected text appears, and return the output."""
        os.write(self.master, keys.encode())
        shown, deadline = "", time.monotonic() + PATIENCE_S
        while expected not in shown and time.monotonic() < deadline:
            if select.select([self.master], [], [], 0.2)[0]:
                shown += os.read(self.master, 65536).decode(errors="replace")
        assert expected in shown, f"the terminal does not show {expected!r}, but {shown!r}"
        return shown

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)


def needs(shell: str) -> str:
    path = shutil.which(shell)
    if path is None:
        pytest.skip(f"{shell} is not installed")
    return path


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_shells_complete_typed_lines(shell: str, command: dict[str, str], tmp_path: Path) -> None:
    options = ["--norc", "--noprofile", "-i"] if shell == "bash" else ["-f", "-i"]
    terminal = Terminal([needs(shell), *options], command, tmp_path)
    to_start = "\x01"  # Ctrl-A: the completed line is printed rather than run
    try:
        terminal.type(f"set -o emacs; PS1='> '; source ./completion.{shell}; echo rea''dy\r", "ready")
        terminal.type(f"lathe run model=ml\t{to_start}echo \r", "\nlathe run model=mlp\r")
        terminal.type(f"lathe run optimizer=sgd optimizer.nest\ttr\t{to_start}echo \r", "sgd optimizer.nesterov=true\r")
        terminal.type(f"lathe plan check\tbest_mo\tmi\t{to_start}echo \r", "\nlathe plan checkpoint.best_mode=min\r")
        terminal.type("lathe plan model=\t\t", "cifar_cnn")
    finally:
        terminal.close()


def test_fish_completes_typed_lines(command: dict[str, str], tmp_path: Path) -> None:
    fish = needs("fish")

    def answers(line: str) -> list[str]:
        commands = f"source completion.fish; complete -C '{line}'"
        done = subprocess.run(
            [fish, "--no-config", "-c", commands], env=command, cwd=tmp_path, capture_output=True, text=True
        )
        assert done.stderr == ""
        return done.stdout.split()

    assert answers("lathe run model=ml") == ["model=mlp"]
    assert answers("lathe completion ") == ["bash", "fish", "zsh"]
    assert "model=lenet" in answers("lathe plan model=")
    assert answers("lathe run optimizer=sgd optimizer.nest") == ["optimizer.nesterov="]
