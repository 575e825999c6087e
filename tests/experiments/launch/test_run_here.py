"""`lathe run --here`: a training in the process of the command; and the line of the user's code that an error comes from."""

from __future__ import annotations

import builtins
import cmd
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from experiments.cli.main import main
from experiments.components.user_code import find_user_frame
from experiments.config.compose import compose
from experiments.core.errors import InputError, TrainingError
from experiments.launch.no_terminal import NoTerminal, refuse_terminal
from experiments.launch.run_trial import run
from experiments.run.metrics import read_last_values
from experiments.tracking.model.final_model import find_final_model
from experiments.trial.trial import Trial, freeze

TINY = ("tracking=off", "model=softmax", "max_steps=3", "eval_every_steps=3", "system_every_s=null")
PARTS = """
import sys
from modules.data.digits import Digits
from modules.evaluator.accuracy import Accuracy
from modules.model.softmax import Softmax
from modules.objective.cross_entropy import CrossEntropy


class Net(Softmax):
    def forward(self, inputs):
        print("in the model", end="")
        return super().forward(fail(inputs))  # forward

class Built(Softmax):
    def __init__(self, num_features, num_classes):
        fail(None)  # constructor

class Loss(CrossEntropy):
    def __call__(self, outputs, targets):
        return super().__call__(outputs, fail(targets))  # objective

class Score(Accuracy):
    def update(self, outputs, targets):
        return super().update(outputs, fail(targets))  # evaluator

class Split:
    in_memory = False

    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split)

    def batch(self, *args):
        return self.split.batch(*fail(args))  # data

class Data(Digits):
    def load(self, name):
        return Split(super().load(name))

def fail(value):
    return value
"""
FAIL = "\ndef fail(value):\n    return [].index(value) if KIND is ValueError else {}[KIND]\n"


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the user's on the import path, `mine_NUMBER`, as each test needs a new name."""
    path = tmp_path / f"mine_{abs(hash(tmp_path)) % 10**9}.py"
    path.write_text(PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    return path


def frozen(tmp_path: Path, *overrides: str, trust: tuple[str, ...] = ()) -> Trial:
    return freeze(compose([f"runs_dir={tmp_path}/runs", *TINY, *overrides], trust=trust))


def test_a_run_here_has_the_same_results_and_files_as_one_in_a_process_of_its_own(
    tmp_path: Path, own_code: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trust, net = (own_code.stem,), f"model._target_={own_code.stem}.Net"
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    notify = f"notify.command='echo $LATHE_NOTIFY_STATE >> {tmp_path}/messages'"
    results = [run(frozen(tmp_path, net, notify, trust=trust), trust=trust, here=here) for here in (True, False)]
    assert (tmp_path / "messages").read_text() == "finished\nfinished\n"
    assert [(result.status, result.exit_code) for result in results] == [("finished", 0)] * 2
    values = [read_last_values(result.trial.folder) for result in results]
    same = [
        {name: value for name, value in each.items() if name.startswith(("train/", "val/", "test/"))} for each in values
    ]
    assert same[0] == same[1]
    assert "test/accuracy_top1" in same[0]
    checkpoints = [sorted(path.name for path in result.trial.folder.glob("checkpoints/*")) for result in results]
    assert checkpoints[0] == checkpoints[1] != []
    # Text without a line end reaches the terminal in both modes.
    out, err = capfd.readouterr()
    assert "in the model" in out
    assert "in the model" in err
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


@pytest.mark.parametrize("best_metric", ["val/accuracy_top1", "null"])
def test_no_steps_only_evaluate_the_initial_weights(tmp_path: Path, best_metric: str) -> None:
    trained = run(frozen(tmp_path, f"checkpoint.best_metric={best_metric}"), here=True)
    start = ("max_steps=0", f"init_from.weights={trained.trial.folder}", f"checkpoint.best_metric={best_metric}")
    result = run(frozen(tmp_path, *start, "schedule=cosine"), here=True)
    same = ("val/accuracy_top1", "val/loss_nats", "test/accuracy_top1", "test/loss_nats", "delivered/val/loss_nats")
    assert result.status == "finished"
    assert {name: result.metrics[name] for name in same} == {name: trained.metrics[name] for name in same}
    assert result.metrics["delivered/step"] == 0
    assert find_final_model(result.trial).checkpoint.step == 0
    assert run(result.trial, here=True).metrics["val/loss_nats"] == trained.metrics["val/loss_nats"]


@pytest.mark.parametrize("kind", ["KeyError", "ValueError"])
@pytest.mark.parametrize(
    ("part", "override"),
    [
        ("forward", "model._target_={}.Net"), ("constructor", "model._target_={}.Built"),
        ("objective", "objective._target_={}.Loss"), ("evaluator", "evaluator._target_={}.Score"),
        ("data", "data._target_={}.Data"), ("data", "num_data_workers=1 data._target_={}.Data"),
    ],
)  # fmt: skip
def test_an_error_shows_the_line_of_the_users_code_first(
    tmp_path: Path, own_code: Path, capsys: pytest.CaptureFixture[str], part: str, override: str, kind: str
) -> None:
    own_code.write_text(f"KIND = {kind}\n{PARTS}{FAIL}")
    arguments = [f"runs_dir={tmp_path}/runs", *TINY, *override.format(own_code.stem).split(), "--trust", own_code.stem]
    with pytest.raises((KeyError, ValueError)) as caught:
        main(["run", "--here", *arguments])
    shown = capsys.readouterr().err.splitlines()
    where = next(number for number, line in enumerate(shown) if line.startswith(str(own_code)))
    assert shown[where].startswith(f"{own_code}:")
    assert shown[where].endswith(", in fail")
    assert shown[where + 1] == "    return [].index(value) if KIND is ValueError else {}[KIND]"
    assert shown[where + 2].startswith(kind)
    assert "Traceback" not in "\n".join(shown)
    frames = caught.traceback
    assert part == "constructor" or "worker" in override or str(own_code) in str([frame.path for frame in frames])
    log = next(tmp_path.glob("runs/single/*/attempts/1/log.txt")).read_text()
    assert f"# {part}" in log
    assert "Traceback" in log


@pytest.mark.parametrize(
    ("source", "place"),
    [
        ("def broken(:\n    pass\n", ":1"),
        ("import no_such_module\n", ":1"),
        ("x = 1\nraise RuntimeError('at import')\n", ":2"),
    ],
)
def test_an_error_in_an_import_names_the_file_and_line(
    tmp_path: Path, own_code: Path, capsys: pytest.CaptureFixture[str], source: str, place: str
) -> None:
    (tmp_path / f"{own_code.stem}_part.py").write_text(source)
    own_code.write_text(f"import {own_code.stem}_part\n{PARTS}")
    net = f"model._target_={own_code.stem}.Net"
    with pytest.raises((SyntaxError, ImportError, RuntimeError)):
        main(["run", "--here", f"runs_dir={tmp_path}/runs", *TINY, net, "--trust", own_code.stem])
    shown = capsys.readouterr().err
    assert f"{own_code.stem}_part.py{place}, in <module>" in shown
    assert "Traceback" not in shown


def test_files_of_lathe_python_and_installed_packages_are_not_the_users(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        compose(["no.such=1"])
    assert find_user_frame(caught.value) is None


@pytest.mark.parametrize("name", ["secret.txt", "fifo.py"])
def test_an_error_with_the_text_of_a_data_file_opens_no_other_file(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.py")
    (tmp_path / "secret.txt").write_text("password\n")
    frame = f'  File "{tmp_path / name}", line 1, in f'
    text = f"Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n{frame}\n"
    assert find_user_frame(ValueError(text)) is None


@pytest.mark.parametrize(
    ("overrides", "need"),
    [
        (("parallel=data", "hardware.devices_per_node=2"), "hardware.nodes=1 hardware.devices_per_node=2 needs 2 processes"),
        (("parallel=async",), "starts processes for replicas and servers"),
        (("-m", "seed=1,2"), "-m starts a sweep"),
    ],
)  # fmt: skip
def test_here_is_refused_where_several_processes_are_needed(
    tmp_path: Path, overrides: tuple[str, ...], need: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--here", f"runs_dir={tmp_path}/runs", *TINY, *overrides]) == 2
    shown = capsys.readouterr().err
    assert "--here trains in the process of th" in shown
    assert need in shown
    assert "leave out --here" in shown
    assert not list(tmp_path.glob("runs/*/*"))


def test_ctrl_c_saves_the_step_and_a_second_one_ends_at_once(
    tmp_path: Path, own_code: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupts = (
        "TIMES = 1\ndef fail(value):\n    import signal\n    for _ in range(TIMES):\n        signal.raise_signal(2)\n"
    )
    own_code.write_text(f"{PARTS}{interrupts}    return value\n")
    trial = frozen(tmp_path, f"objective._target_={own_code.stem}.Loss", trust=(own_code.stem,))
    monkeypatch.setattr(
        "experiments.train.trainer.Trainer._check_evaluator", _set_interface
    )  # it calls the objective too
    result = run(trial, trust=(own_code.stem,), here=True)
    assert (result.status, result.reason) == ("interrupted", "SIGINT after step 1, which is saved")
    sys.modules[own_code.stem].TIMES = 2  # type: ignore[attr-defined]  # of the module of this test
    with pytest.raises(KeyboardInterrupt):
        run(trial, trust=(own_code.stem,), here=True)
    outcome = trial.outcome() or {}
    assert (outcome["status"], outcome["attempt"]) == ("interrupted", 2)
    assert "Ctrl-C ended it at once" in outcome["reason"]
    assert capsys.readouterr().err.count("press Ctrl-C again") == 2


def _set_interface(trainer: Any) -> None:
    from experiments.components.model_signature import infer_interface

    inputs, _ = trainer.components.data.example(2)
    trainer.interface = infer_interface(inputs, inputs.flatten(1)[:, :10])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: breakpoint(), "breakpoint() needs a terminal"),
        (lambda: input("name? "), "reading from standard input"),
        (lambda: cmd.Cmd().cmdloop(), "reading from standard input"),
        (lambda: list(sys.stdin), "reading from standard input"),
        (lambda: sys.stdin.read(), "reading from standard input"),
    ],
)
def test_a_debugger_without_a_terminal_ends_with_a_message(
    call: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdin", "breakpointhook"):
        monkeypatch.setattr(sys, name, getattr(sys, name))
    monkeypatch.delenv("PYTHONBREAKPOINT", raising=False)
    refuse_terminal()
    assert isinstance(sys.stdin, NoTerminal)
    with pytest.raises(TrainingError, match="add --here to `lathe run`") as caught:
        call()
    assert message in str(caught.value)
    monkeypatch.setenv("PYTHONBREAKPOINT", "0")
    builtins.breakpoint()
    assert os.environ["PYTHONBREAKPOINT"] == "0"
