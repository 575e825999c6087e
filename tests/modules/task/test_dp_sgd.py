"""Differential privacy: clipping of each example, noise, epsilon, and what cannot be trained with it."""

from __future__ import annotations

import importlib.util
from math import log
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.objective.cross_entropy import CrossEntropy
from modules.task.base import StepContext
from modules.task.dp_sgd import DpSgd

has_opacus = pytest.mark.skipif(
    importlib.util.find_spec("opacus") is None, reason="opacus is an extra: pip install 'lathe-dl[privacy]'"
)
INPUTS, TARGETS = torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2, 0, 1, 2])


def make_task(objective: Any = None, **values: Any) -> DpSgd:
    task = DpSgd(**{"batch_size": 6, "num_train": 60, "delta": None, **values})
    task.objective = objective or CrossEntropy()
    return task


def make_model() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3))


def gradients_of(task: DpSgd, model: nn.Module, rows: slice, seed: int = 7) -> tuple[list[Tensor], dict[str, Tensor]]:
    context = StepContext(2, 9, seed=seed, first_row=rows.start, num_rows=6)
    model.zero_grad()
    loss = task.loss(model, (INPUTS[rows], TARGETS[rows]), context)
    loss.mean.backward()  # type: ignore[no-untyped-call]
    return [each.grad.clone() for each in model.parameters() if each.grad is not None], dict(loss.metrics)


def test_each_gradient_is_clipped_and_noise_is_added_to_the_sum() -> None:
    model, parts = make_model(), list[tuple[Tensor, ...]]()
    for number in range(6):
        loss, _ = CrossEntropy()(model(INPUTS[number : number + 1]), TARGETS[number : number + 1])
        parts.append(torch.autograd.grad(loss, [*model.parameters()]))
    norms = torch.stack([torch.cat([each.flatten() for each in own]).norm() for own in parts])
    clip_norm = float(norms.median())
    num_clipped = int((norms > clip_norm).sum())
    assert 0 < num_clipped < 6
    factors = (clip_norm / norms).clamp(max=1)
    sums = [torch.einsum("b,b...->...", factors, torch.stack(each)) for each in zip(*parts, strict=True)]
    clipped, metrics = gradients_of(make_task(clip_norm=clip_norm, noise_multiplier=0.0), model, slice(0, 6))
    torch.testing.assert_close(clipped, [each / 6 for each in sums])
    assert float(metrics["clipped_fraction"]) == pytest.approx(num_clipped / 6)
    torch.testing.assert_close(metrics["loss_nats"], CrossEntropy()(model(INPUTS), TARGETS)[0])
    noisy, _ = gradients_of(make_task(clip_norm=clip_norm, noise_multiplier=2.0), model, slice(0, 6))
    generator = torch.Generator().manual_seed(7)
    noise = [torch.randn(each.shape, generator=generator) * 2.0 * clip_norm / 6 for each in sums]
    torch.testing.assert_close(noisy, [a + b for a, b in zip(clipped, noise, strict=True)])


def test_the_gradient_does_not_depend_on_micro_batches_and_replicas() -> None:
    task, model = make_task(), make_model()
    whole, _ = gradients_of(task, model, slice(0, 6))
    parts = [gradients_of(task, model, slice(first, first + 2))[0] for first in (0, 2, 4)]
    torch.testing.assert_close(whole, [torch.stack(each).mean(0) for each in zip(*parts, strict=True)])
    other, _ = gradients_of(task, model, slice(0, 6), seed=8)
    assert not torch.allclose(whole[0], other[0])


def test_frozen_weights_get_no_gradient() -> None:
    task, model = make_task(clip_norm=0.01), make_model()
    model[0].requires_grad_(False)
    gradients, _ = gradients_of(make_task(), model, slice(0, 6))
    assert [list(each.shape) for each in gradients] == [[3, 4], [3]]
    task.check(model, (INPUTS[:2] * 0, TARGETS[:2] * 0))


@has_opacus
def test_epsilon_is_that_of_opacus_and_follows_from_the_number_of_steps() -> None:
    from opacus.accountants import RDPAccountant

    task = make_task(batch_size=256, num_train=60_000, noise_multiplier=1.1, delta=1e-5)
    accountant = RDPAccountant()
    accountant.history = [(1.1, 256 / 60_000, 14_000)]
    assert task.compute_epsilon(14_000) == pytest.approx(accountant.get_epsilon(1e-5))
    fresh = make_task(batch_size=256, num_train=60_000, noise_multiplier=1.1, delta=1e-5)
    assert fresh.compute_epsilon(14_000) == task.compute_epsilon(14_000)  # no history: a resumed run has the same
    whole = make_task(batch_size=60, noise_multiplier=5.0, delta=1e-5)  # without sampling it has a closed form
    bounds = [3 * a / 50 + log((a - 1) / a) - (log(1e-5) + log(a)) / (a - 1) for a in RDPAccountant.DEFAULT_ALPHAS]
    assert whole.compute_epsilon(3) == pytest.approx(min(bounds))
    _, metrics = gradients_of(task, make_model(), slice(0, 6))
    assert float(metrics["epsilon"]) == pytest.approx(task.compute_epsilon(3))  # step 2 is the third


class Centred(nn.Module):
    """Subtracts the mean of the batch."""

    def forward(self, states: Tensor) -> Tensor:
        return states - states.mean(0)


class BatchSoftmax:
    """A loss that compares the examples of a batch."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        loss = -outputs.log_softmax(0)[:, 0].mean()
        return loss, {"loss_nats": loss.detach()}


@pytest.mark.parametrize(
    ("layer", "objective", "message"),
    [
        (nn.BatchNorm1d(5), CrossEntropy(), r"keeps statistics of the batch in 0 \(BatchNorm1d\); use nn\.GroupNorm"),
        (nn.Identity(), BatchSoftmax(), "is not the mean of the losses of its examples .* BatchSoftmax mixes examples"),
        (Centred(), CrossEntropy(), "is not the mean of the losses of its examples"),
    ],
    ids=["batch norm", "objective", "layer"],
)
def test_what_mixes_examples_is_refused(layer: nn.Module, objective: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task(objective).check(nn.Sequential(layer, nn.Linear(5, 3)), (INPUTS[:2] * 0, TARGETS[:2] * 0))


def test_a_mean_over_tokens_is_refused() -> None:
    batch = torch.zeros(2, 4, 5), torch.zeros(2, 4, dtype=torch.int64)
    with pytest.raises(ValueError, match="is a mean over the targets of the whole batch"):
        make_task(CrossEntropy(mean_over="tokens")).check(make_model(), batch)


def test_layers_that_treat_examples_alone_are_accepted() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(16, 3))
    make_task().check(model, (torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)))
    assert model.training


def test_a_layer_without_gradients_of_examples_is_refused() -> None:
    class Branching(nn.Linear):
        def forward(self, states: Tensor) -> Tensor:
            return super().forward(states if states.sum() > 0 else -states)

    with pytest.raises(
        ValueError, match=r"cannot compute a gradient for each example of this model: .*; use layers that"
    ):
        make_task().check(Branching(5, 3), (INPUTS[:2] * 0, TARGETS[:2] * 0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"clip_norm": 0.0}, "clip_norm above 0"),
        ({"noise_multiplier": -1.0}, "noise_multiplier of at least 0"),
        ({"delta": 1.0}, "delta between 0 and 1"),
        ({"noise_multiplier": 0.0, "delta": 1e-5}, "epsilon is infinite; set delta=null"),
    ],
)
def test_wrong_values_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_task(**values)
