from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from modules.objective.noise_contrastive import NoiseContrastive

WINDOW, TIME, NUM_NOISE = 1, 3, 4


def _given() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    near = torch.randn(2, TIME, 2 * WINDOW + 1, generator=generator)
    far = torch.randn(2, TIME, NUM_NOISE, generator=generator)
    pairs = torch.tensor([[[0, 0, 1], [1, 0, 1], [1, 0, 0]], [[0, 0, 1], [0, 0, 0], [0, 0, 0]]], dtype=torch.bool)
    log_noise = torch.randn(2, TIME, generator=generator), torch.randn(2, NUM_NOISE, generator=generator)
    return (near, far), (pairs, *log_noise)


@pytest.mark.parametrize("correct", [False, True])
def test_it_is_the_sum_over_pairs_written_out(correct: bool) -> None:
    (near, far), (pairs, log_words, log_noise) = _given()
    loss, metrics = NoiseContrastive(5, correct)((near, far), (pairs, log_words, log_noise))
    means = []
    for row in range(2):
        surprises = []
        for at, by in pairs[row].nonzero().tolist():
            true = near[row, at, by] - correct * (math.log(5) + log_words[row, at + by - WINDOW])
            noise = far[row, at] - correct * (math.log(5) + log_noise[row])
            false = -torch.sigmoid(-noise).log().mean() * 5
            surprises.append(-torch.sigmoid(true).log() + false)
        means.append(torch.stack(surprises).mean())
    torch.testing.assert_close(loss, torch.stack(means).mean())
    assert metrics["loss_nats"] == loss


def test_what_is_no_pair_does_not_matter() -> None:
    (near, far), targets = _given()
    other = near.clone()
    other[~targets[0]] = 1e4
    far_too = far.clone()
    far_too[1, 1:] = 1e4  # words without a pair
    loss, _ = NoiseContrastive(5, True)((other, far_too), targets)
    torch.testing.assert_close(loss, NoiseContrastive(5, True)((near, far), targets)[0])


def test_an_example_without_a_pair_has_no_loss() -> None:
    (near, far), (pairs, *rest) = _given()
    loss, _ = NoiseContrastive(5, False)((near, far), (torch.zeros_like(pairs), *rest))
    assert loss == 0


def test_estimation_makes_scores_log_probabilities() -> None:
    """Two words, one of them noise three times out of four: the best scores are the logarithms of 0.3 and 0.7."""
    noise, true = torch.tensor([0.25, 0.75]), torch.tensor([0.3, 0.7])
    scores = torch.zeros(2, requires_grad=True)
    optimizer = torch.optim.Adam([scores], lr=0.05)
    objective = NoiseContrastive(20, True)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        around = torch.multinomial(true, 512, replacement=True, generator=generator)
        drawn = torch.multinomial(noise, 512 * 20, replacement=True, generator=generator).view(512, 20)
        near = torch.stack([scores[around]] * 3, 1)[:, None].expand(512, 1, 3)
        pairs = torch.tensor([[[False, True, False]]]).expand(512, 1, 3)
        targets = pairs, noise.log()[around][:, None], noise.log()[drawn]
        loss, _ = objective((near, scores[drawn][:, None]), targets)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    torch.testing.assert_close(scores.detach().exp(), true, atol=0.05, rtol=0)


def test_other_outputs_are_reported() -> None:
    with pytest.raises(ValueError, match="NoiseContrastive wants two tensors of logits and three of targets"):
        NoiseContrastive(5, True)(torch.zeros(2, 3), torch.zeros(2))
    with pytest.raises(ValueError, match="num_negatives_per_pair of at least 1, but got 0"):
        NoiseContrastive(0, True)
