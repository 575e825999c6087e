"""A generative adversarial network with gradient penalty, on points in the plane.

Shows: two phases with an optimizer each, and a gradient with respect to inputs.
Source: Gulrajani et al. 2017, arXiv:1704.00028.
"""

from itertools import pairwise

import torch
from lathe.modules.data.base import Batch
from lathe.modules.data.tensors import TensorSplit
from lathe.modules.task.base import Loss, Phase, StepContext, Task
from torch import Tensor, nn


def mlp(*sizes: int) -> nn.Sequential:
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class GanModel(nn.Module):
    """A generator of points, and a critic that rates them."""

    def __init__(self, noise_size: int, num_features: int, hidden_size: int) -> None:
        super().__init__()
        self.noise_size = noise_size
        self.generator = mlp(noise_size, hidden_size, num_features)
        self.critic = mlp(num_features, hidden_size, 1)

    def forward(self, noise: Tensor) -> Tensor:
        points: Tensor = self.generator(noise)
        return points


class Gan(Task):
    """Trains the critic in every step, and the generator in every ``critic_steps``-th."""

    needs = ("inputs", "whole_model", "phases")

    def __init__(self, penalty_weight: float = 10.0, critic_steps: int = 1) -> None:
        self.penalty_weight, self.critic_steps = penalty_weight, critic_steps

    def phases(self) -> tuple[Phase, ...]:
        return (Phase("critic", ("critic.",)), Phase("generator", ("generator.",), every_steps=self.critic_steps))

    def loss(self, model: GanModel, batch: Batch, context: StepContext) -> Loss:
        real, _ = batch
        fake = model.generator(context.randn(len(real), model.noise_size, device=real.device))
        if context.phase == "generator":
            loss = -model.critic(fake).mean()
            return Loss(loss, {"generator_loss": loss.detach()})
        fake = fake.detach()
        share = context.rand(len(real), 1, device=real.device)
        with torch.enable_grad():  # also in an evaluation
            between = (share * real + (1 - share) * fake).requires_grad_()
            (slope,) = torch.autograd.grad(model.critic(between).sum(), between, create_graph=True)
        penalty = (slope.norm(dim=1) - 1).square().mean()
        distance = model.critic(real).mean() - model.critic(fake).mean()
        loss = self.penalty_weight * penalty - distance
        return Loss(loss, {"distance": distance.detach(), "penalty": penalty.detach()})


class Ring:
    """Points on a circle."""

    def __init__(self, num_train: int = 1024) -> None:
        self.num_train = num_train

    def load(self, split: str) -> TensorSplit:
        generator = torch.Generator().manual_seed({"train": 0, "val": 1, "test": 2}[split])
        angle = torch.rand(self.num_train if split == "train" else 256, generator=generator) * 2 * torch.pi
        return TensorSplit(torch.stack([angle.cos(), angle.sin()], 1), torch.zeros(len(angle), dtype=torch.int64))

    def example(self, batch_size: int) -> Batch:
        return torch.zeros(batch_size, 2), torch.zeros(batch_size, dtype=torch.int64)
