"""The loss of connectionist temporal classification."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from modules.data.base import END, IGNORED, PADDING, UNKNOWN
from modules.objective.ctc import Ctc


def collapse(path: tuple[int, ...]) -> list[int]:
    return [token for place, token in enumerate(path) if token != PADDING and (place == 0 or path[place - 1] != token)]


def sum_over_alignments(log_probs: Tensor, text: list[int]) -> float:
    """The probability of a text, by listing all alignments."""
    frames, vocab_size = log_probs.shape
    paths = [path for path in product(range(vocab_size), repeat=frames) if collapse(path) == text]
    return sum(float(log_probs[range(frames), path].sum().exp()) for path in map(list, paths))


def test_ctc_sums_over_all_alignments_and_leaves_out_special_tokens() -> None:
    torch.manual_seed(0)
    logits, lengths = torch.randn(2, 4, 6, requires_grad=True), torch.tensor([4, 3])
    targets = torch.tensor([[5, 5, END, IGNORED], [UNKNOWN, END, IGNORED, IGNORED]])
    loss, metrics = Ctc()((logits, lengths), (targets, torch.tensor([7, 8])))
    log_probs = logits.detach().log_softmax(-1)
    wanted = [
        -torch.tensor(sum_over_alignments(log_probs[0], [5, 5])).log() / 2,
        -torch.tensor(sum_over_alignments(log_probs[1, :3], [UNKNOWN])).log(),
    ]
    assert float(loss.detach()) == pytest.approx(float(sum(wanted)) / 2, rel=1e-5)
    assert float(metrics["share_too_long"]) == 0
    loss.backward()  # type: ignore[no-untyped-call]
    assert not logits.grad[1, 3].any(), "a frame after the end has no influence"  # type: ignore[index]


def test_a_text_without_an_alignment_has_no_influence_and_is_counted() -> None:
    logits = torch.zeros(2, 2, 6, requires_grad=True)
    targets = torch.tensor([[5, 5], [4, 5]])  # two equal tokens need three frames
    loss, metrics = Ctc()((logits, torch.tensor([2, 2])), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(metrics["share_too_long"]) == 0.5
    assert torch.isfinite(logits.grad).all()  # type: ignore[arg-type]
    assert not logits.grad[0].any()  # type: ignore[index]


@pytest.mark.parametrize(
    ("outputs", "targets"),
    [
        (torch.zeros(2, 3, 6), torch.zeros(2, 3)),
        ((torch.zeros(2, 3, 6), torch.zeros(3)), torch.zeros(2, 3)),
        ((torch.zeros(2, 3, 6), torch.zeros(2)), torch.zeros(2)),
    ],
)
def test_other_outputs_are_refused(outputs: Tensor | tuple[Tensor, ...], targets: Tensor) -> None:
    with pytest.raises(ValueError, match="choose a model that scores frames"):
        Ctc()(outputs, targets)
