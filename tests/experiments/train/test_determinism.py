"""The levels of determinism: torch's options, warnings and recorded parameters."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from experiments.run.journal import read
from experiments.run.metrics import read_series
from experiments.train.determinism import set_level
from tests.conftest import Lathe

SMALL = (
    "model=lenet",
    "model.conv_channels=[2,3]",
    "model.hidden_size=7",
    "tracking=off",
    "max_steps=6",
    "eval_every_steps=3",
)


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    with warnings.catch_warnings():  # restores filters and showwarning
        yield
    set_level("seeded", lambda warning: None)


@pytest.mark.parametrize(
    ("level", "deterministic", "timed"), [("bitwise", True, False), ("seeded", False, False), ("off", False, True)]
)
def test_a_level_is_set(level: str, deterministic: bool, timed: bool) -> None:
    set_level(level, lambda warning: None)
    assert torch.are_deterministic_algorithms_enabled() is deterministic
    assert torch.backends.cudnn.benchmark is timed
    assert (torch.get_float32_matmul_precision() == "high") is (level == "off")


def test_a_nondeterministic_operation_is_reported_once_and_other_warnings_are_still_shown() -> None:
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        set_level("bitwise", messages.append)
        for _ in range(2):
            torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
        warnings.warn("another matter", stacklevel=1)
    assert [str(other.message) for other in others if issubclass(other.category, UserWarning)] == ["another matter"]
    assert messages == [
        "determinism=bitwise: put_ has no deterministic form, so two runs may differ in their last bits"
    ]


@pytest.mark.slow
def test_every_level_gives_the_same_curves_twice_on_a_cpu(lathe: Lathe, tmp_path: Path) -> None:
    curves = {}
    for level in ("bitwise", "seeded", "off"):
        for name, env in (("one", {}), ("two", None)):  # a new interpreter, with another seed of hashes, and a fork
            done = lathe("run", *SMALL, f"determinism={level}", f"runs_dir={name}", env=env)
            assert done.returncode == 0, done.stderr
        one, two = (read_series(next((tmp_path / name / "single").glob("*/"))) for name in ("one", "two"))
        assert one.keys() == two.keys() >= {"train/loss_nats", "val/accuracy_top1", "test/loss_nats"}
        assert one == two
        curves[level] = one
        for name in ("one", "two"):
            (tmp_path / name).rename(tmp_path / f"{level}-{name}")
    assert curves["bitwise"] == curves["seeded"]  # on a CPU a LeNet uses only deterministic operations


@pytest.mark.slow
def test_a_run_records_what_its_last_bits_depend_on(lathe: Lathe, tmp_path: Path) -> None:
    assert lathe("run", *SMALL, "determinism=bitwise", "hardware.cpu_threads=1").returncode == 0
    events, _ = read(next((tmp_path / "runs" / "single").glob("*/")) / "attempts" / "1" / "journal.jsonl")
    params = next(event["params"] for event in events if event["event"] == "params")
    assert params["plan.cpu_threads"] == 1
    assert params["env.determinism"] == "bitwise"
    assert params["env.torch"] == torch.__version__
    assert params["env.cpu_capability"] == torch.backends.cpu.get_cpu_capability()
    assert params["env.device_name"] == ("cpu" if not torch.cuda.is_available() else torch.cuda.get_device_name())


def test_an_unknown_level_is_refused(lathe: Lathe) -> None:
    done = lathe("run", "determinism=bitwize")
    assert done.returncode == 2
    assert "determinism=bitwize" in done.stderr
    assert "bitwise, seeded" in done.stderr
