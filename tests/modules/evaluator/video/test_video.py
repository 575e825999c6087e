from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.data.base import END
from modules.evaluator.video.clip_facts import ClipFacts
from modules.evaluator.video.frames import Frames
from modules.model.base import State
from modules.model.video.clip_describer import ClipDescriber
from modules.model.video.frame_predictor import FramePredictor
from tests.support.clips import NAMES, make_clips


class Says(nn.Module):
    """Gives the sentences of clips, whatever their frames are: the first argument is their pair ids."""

    def __init__(self, data: Any, sentence: str | None = None) -> None:
        super().__init__()
        self.data, self.sentence = data, sentence

    def encode(self, source: Tensor) -> State:
        texts = [self.sentence or self.data.pair(int(number)).references[2] for number in source]
        rows = [[*(self.data.tokens[word] for word in text.split()), END] for text in texts]
        longest = max(map(len, rows))
        return torch.tensor([row + [END] * (longest - len(row)) for row in rows]), torch.zeros(len(rows)).long()

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        texts, place = state
        logits = F.one_hot(texts[torch.arange(len(texts)), place], 40).float() * 100
        return logits.log_softmax(-1), (texts, place + 1)


def test_errors_are_those_of_the_frames_and_of_both_baselines() -> None:
    torch.manual_seed(0)
    frames, last, logits = torch.rand(3, 2, 1, 4, 5), torch.rand(3, 1, 4, 5), torch.randn(3, 2, 1, 4, 5)
    evaluator = Frames()
    sums = sum(evaluator.update(logits[row], (frames[row], last[row])) for row in ([0], [1, 2]))
    assert isinstance(sums, Tensor)
    mean = frames.mean((0, 1)).expand_as(frames)
    again = last[:, None].expand_as(frames)

    def nats(predicted: Tensor) -> float:
        return float(F.binary_cross_entropy(predicted, frames, reduction="sum")) / 6

    def squared(predicted: Tensor) -> float:
        return float((predicted - frames).square().sum()) / 6

    expected = {
        "frame_nats": nats(logits.sigmoid()), "frame_squared_error": squared(logits.sigmoid()),
        "frame_nats_last_frame": nats(again.clamp(1e-3, 1 - 1e-3)), "frame_squared_error_last_frame": squared(again),
        "frame_nats_mean_frame": nats(mean), "frame_squared_error_mean_frame": squared(mean),
    }  # fmt: skip
    assert evaluator.compute(sums) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="use model=frame_predictor"):
        evaluator.update(logits, frames)


def test_strips_of_clips_are_shown_and_predicted(tmp_path: Path) -> None:
    data, model = make_clips(tmp_path, frame_size=8), FramePredictor(1, 2, 3, 3, 3)
    evaluator = Frames(num_clips=2)
    strip = evaluator.artifacts(model, data.load("test"))["clips.png"]
    (tmp_path / "in.png").write_bytes(strip)
    with pytest.raises(ValueError, match="the model reads 4 square frames"):
        evaluator.predict(model, data, [str(tmp_path / "in.png")])
    with pytest.raises(ValueError, match="multiples of 4, but got 10 x 10"):
        model(torch.zeros(1, 2, 1, 10, 10))


def test_true_sentences_have_exact_facts(tmp_path: Path) -> None:
    data = make_clips(tmp_path, class_names=NAMES)
    evaluator = ClipFacts(max_tokens=30, num_examples=None, num_examples_logged=3)
    evaluator.setup(data)
    numbers = torch.arange(5, 45)
    batch = ((numbers, numbers), (numbers, numbers))

    def measure(model: nn.Module) -> dict[str, float]:
        return evaluator.compute_with_model(model, evaluator.update_with_model(model, batch))

    right = measure(Says(data))
    assert right["exact_facts"] == right["exact_names"] == 1
    assert 0 < right["exact_facts_constant"] <= right["exact_names_constant"] < 1
    wrong = measure(Says(data, "the ant goes left"))
    assert wrong["exact_facts"] == wrong["exact_names"] == 0
    swapped = measure(Says(data, "you see the ant that stands still and the ant that stands still"))
    ants = [[fact.name for fact in each] == ["ant", "ant"] for each in data.facts("test")]
    assert swapped["exact_names"] == pytest.approx(sum(ants) / 40)
    with pytest.raises(ValueError, match="data=described_digits"):
        evaluator.setup(make_clips(tmp_path))


def test_a_describer_gives_the_same_scores_step_by_step() -> None:
    torch.manual_seed(0)
    model = ClipDescriber(1, 9, 2, 5, 11)
    frames, tokens = torch.rand(2, 3, 1, 9, 9), torch.randint(11, (2, 4))
    whole, state = model((frames, tokens)).log_softmax(-1), model.encode(frames)
    for time in range(4):
        scores, state = model.step(state, tokens[:, time])
        assert torch.allclose(scores, whole[:, time], atol=1e-6)
