"""`fast_dev_run` and `overfit_batches`: what they train and evaluate on, and that they are no result."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments.cli.main import main
from experiments.config.compose import compose
from experiments.core.errors import PlanError
from experiments.plan.plan import make_plan
from experiments.run.checkpoint import Checkpoints
from experiments.run.metrics import read_last_values, read_series
from experiments.train.loading.limited_split import LimitedSplit, limit_evaluation, limit_training
from experiments.trial.debug_run import wants_model
from experiments.trial.trial import trial_id
from modules.data.base import Batch, Stream, StreamShard
from modules.data.tensors import TensorSplit

TINY = ("model=softmax", "tracking=off", "system_every_s=null")


def make_split(num_examples: int) -> TensorSplit:
    return TensorSplit(torch.arange(num_examples).float()[:, None], torch.arange(num_examples))


def run_here(tmp_path: Path, *overrides: str) -> Path:
    assert main(["run", "--here", *TINY, *overrides, f"runs_dir={tmp_path}"]) == 0
    return next(tmp_path.glob("single/*/trial.yaml")).parent


def test_a_fast_dev_run_does_two_of_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ("fast_dev_run=true", "batch_size_eval=16", "schedule.warmup_steps=200", "callback=ema")
    folder = run_here(tmp_path, *overrides, "checkpoint.keep_last=9")
    assert Checkpoints(folder, 1).list_steps() == [1, 2]
    series = read_series(folder)
    assert [step for step, _ in series["val/accuracy_top1"]] == [1, 2]
    assert [step for step, _ in series["train/loss_nats"]] == [1, 2]
    assert (read_last_values(folder)["test/accuracy_top1"] * 2 * 16).is_integer()
    assert capsys.readouterr().out.count("no result") == 2
    config = compose([*TINY, *overrides]).config
    assert not wants_model({**config, "tracking": {"log_model": True}})
    assert trial_id(config) != trial_id({**config, "fast_dev_run": False})


def test_the_same_batches_are_learnt_by_heart(tmp_path: Path) -> None:
    length = ("max_steps=40", "eval_every_steps=40", "optimizer.lr=0.1", "batch_size_global=20")
    metrics = read_last_values(run_here(tmp_path, "overfit_batches=2", *length))
    assert metrics["val/accuracy_top1"] == metrics["test/accuracy_top1"] == 1
    assert metrics["val/loss_nats"] == metrics["test/loss_nats"]


def test_training_and_evaluation_get_the_same_examples_and_seeds() -> None:
    config = {"overfit_batches": 2, "seed": 3, "batch_size_eval": 4, "fast_dev_run": False}
    whole = make_split(11)
    train = limit_training(whole, config, 3)
    val = limit_evaluation(make_split(5), train, config, 1)
    assert val is train
    assert len(val) == 6
    assert isinstance(copy.copy(train), LimitedSplit)
    assert isinstance(train, LimitedSplit)
    assert torch.equal(train.order(3, torch.Generator()), torch.arange(6))
    first, again = (train.batch(torch.arange(6), torch.full((6,), seed))[1] for seed in (1, 2))
    assert isinstance(first, Tensor)
    assert isinstance(again, Tensor)
    assert torch.equal(first, again)
    assert len(set(first.tolist())) == 6
    fast = {"overfit_batches": None, "fast_dev_run": True, "batch_size_eval": 2}
    assert [len(limit_evaluation(make_split(size), whole, fast, 2)) for size in (5, 11)] == [5, 8]


class Endless(Stream):
    in_memory = True

    def batch(self, step: int, shard: StreamShard, seed: int) -> Batch:
        raise AssertionError("not needed")


@pytest.mark.parametrize(
    ("train", "message"),
    [(make_split(5), "needs 6 examples, and the training split has 5; use at most 1"), (Endless(), "have no end")],
    ids=["too few", "stream"],
)
def test_what_cannot_be_repeated_is_refused(train: TensorSplit | Endless, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        limit_training(train, {"overfit_batches": 2, "seed": 0}, 3)
    with pytest.raises(PlanError, match="overfit_batches=21 needs 1344 examples"):
        make_plan(compose(["overfit_batches=21"]).config)
