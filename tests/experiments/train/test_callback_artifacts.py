"""Files that callbacks make during a training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from experiments.core.errors import InputError
from experiments.run.journal import read
from modules.callback.samples import Samples
from modules.data.base import Tree
from modules.task.base import Sounds, StepContext
from modules.task.supervised import Supervised
from tests.experiments.train.test_trainer import Attempt

SHORT = ("max_steps=6", "eval_every_steps=4", "checkpoint.every_steps=4", "optimizer.lr=0.01", "log_every_steps=1")
FINDER = ("callback=[histograms,lr_finder]", "callback.lr_finder.num_steps=12")


class Speaker(Supervised):
    """A task that makes samples of every kind."""

    def samples(
        self, model: nn.Module, batch: Tree, context: StepContext
    ) -> Mapping[str, Tensor | Sequence[str] | Sounds]:
        assert not model.training
        assert not torch.is_grad_enabled()
        inputs, _ = batch
        noise = context.randn(len(inputs))
        return {"drawn": inputs[:2], "said": [f"{noise[0]:.4f}"], "heard": Sounds(torch.zeros(2, 7), 8000)}


def files_of(attempt: Attempt) -> dict[str, bytes]:
    media = attempt.folder / "media"
    return {str(path.relative_to(media)): path.read_bytes() for path in media.rglob("*") if path.is_file()}


def test_a_range_test_and_histograms_leave_the_training_as_it_was_and_a_resume_repeats_their_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Attempt(tmp_path / "whole", *SHORT, *FINDER, "batch_size_per_device=16")
    plain = Attempt(tmp_path / "plain", *SHORT, "batch_size_per_device=16")
    plain.run()
    whole.run()
    assert whole.curve("train/loss_nats") == plain.curve("train/loss_nats")
    for one, two in zip(whole.weights().values(), plain.weights().values(), strict=True):
        assert torch.equal(one, two)
    assert "learning rates from 1e-06 to 1 tried: try optimizer.lr=0." in capsys.readouterr().out
    events = read(whole.folder / "journal.jsonl")[0]
    (found,) = [
        event["params"] for event in events if event["event"] == "params" and "lr_finder.suggestion" in event["params"]
    ]
    result = json.loads(files_of(whole)["lr_finder/step_00000000/range_test.json"])
    assert result["suggestion"] == found["lr_finder.suggestion"]
    assert result["loss"][0] == plain.curve("train/loss_nats")[1]  # the first batch, before any update
    assert [event["path"] for event in events if event["event"] == "artifact"] == [
        "media/histograms/step_00000000", "media/lr_finder/step_00000000", "media/histograms/step_00000004",
        "media/histograms/step_00000006",
    ]  # fmt: skip

    stops = iter([None] * 5 + ["SIGTERM"] * 9)
    folder = tmp_path / "resumed"
    Attempt(folder, *SHORT, *FINDER, "batch_size_per_device=16", should_stop=lambda: next(stops)).run()
    first = files_of(resumed := Attempt(folder, *SHORT, *FINDER, "batch_size_per_device=16"))
    assert resumed.run() == ("finished", None)
    assert files_of(whole) == files_of(resumed) == {**files_of(resumed), **first}


def test_gradients_in_a_histogram_are_those_that_the_optimizer_got(tmp_path: Path) -> None:
    clipped = ("callback=histograms", "callback.histograms.match=['*.weight']", "grad_clip_norm=1e-3")
    attempt = Attempt(tmp_path, *SHORT, *clipped)
    attempt.run()
    content = json.loads(files_of(attempt)["histograms/step_00000006/histograms.json"])
    model = attempt.training.components.setup.model
    own = {name: each for name, each in model.named_parameters() if name.endswith(".weight")}
    assert [*content] == [f"{kind}/{name}" for kind in ("weights", "gradients") for name in own]
    for name, each in own.items():
        assert each.grad is not None
        assert content[f"gradients/{name}"]["std"] == pytest.approx(float(each.grad.std(correction=0)))
        assert content[f"gradients/{name}"]["high"] < 1e-3


def test_samples_come_from_the_task_and_from_the_delivered_weights(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, *SHORT, "callback=ema")
    attempt.training.components.callbacks["samples"] = Samples(4, num_examples=3)  # type: ignore[index]
    attempt.training.components.setup.task = Speaker()
    attempt.run()
    files = files_of(attempt)
    names = [
        f"samples/step_0000000{step}/{name}"
        for step in (0, 4, 6)
        for name in ("drawn.png", "heard_0.wav", "heard_1.wav")
    ]
    assert {*names} < {*files}
    said = {name: text for name, text in files.items() if name.endswith("said.txt")}
    assert len(said) == 3
    assert len({*said.values()}) == 1  # the same random numbers at each time
    assert attempt.training.components.setup.model.training


def test_samples_come_from_the_evaluator_if_the_task_makes_none(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, *SHORT)
    attempt.training.components.callbacks["samples"] = Samples(4)  # type: ignore[index]
    kind = type(attempt.training.components.evaluator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "artifacts", lambda self, model, split: {"a.txt": str(len(split)).encode()}, raising=False)
        attempt.run()
    assert files_of(attempt)["samples/step_00000006/a.txt"].isdigit()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("callback=lr_finder", "optimizer.lr=0.0"), "optimizer.lr=0.0 cannot be raised"),
        (
            ("callback=lr_finder", "callback.lr_finder.metric=mse"),
            "metric=mse is not among the metrics of a training step; use",
        ),
        (("callback=histograms", "callback.histograms.match=['*.wieght']"), "matches no parameter of the model"),
    ],
    ids=["lr", "metric", "match"],
)
def test_what_a_callback_cannot_use_is_wrong_input(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        Attempt(tmp_path, *SHORT, *overrides).run()


def test_a_range_test_alone_does_not_train(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path, *FINDER, "max_steps=0")
    before = {name: each.clone() for name, each in attempt.training.components.setup.model.state_dict().items()}
    assert attempt.run() == ("finished", None)
    assert all(torch.equal(each, before[name]) for name, each in attempt.weights().items())
    with Image.open(tmp_path / "media" / "lr_finder" / "step_00000000" / "learning_rate.png") as picture:
        assert picture.size == (750, 450)
    assert not (tmp_path / ".before_first_step").exists()
