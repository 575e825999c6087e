"""Regression with L-BFGS, an optimizer that computes the loss several times in a step.

Shows: an optimizer with a closure, on the whole data in each step.
Source: Liu and Nocedal 1989, doi:10.1007/BF01589116.
"""

import torch
from lathe.modules.data.base import Batch
from lathe.modules.data.tensors import TensorSplit
from lathe.modules.task.base import Evaluation, Loss, StepContext, Task
from torch import Tensor, nn


class Curve(nn.Module):
    """One hidden layer."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(1, hidden_size), nn.Tanh(), nn.Linear(hidden_size, 1))

    def forward(self, x: Tensor) -> Tensor:
        """float [batch, 1] to float [batch, 1]."""
        y: Tensor = self.layers(x)
        return y


class Regression(Task):
    """The mean squared error."""

    needs = ("closure",)

    def loss(self, model: nn.Module, batch: Batch, context: StepContext) -> Loss:
        x, y = batch
        error = (model(x) - y).square().mean()
        return Loss(error, {"squared_error": error.detach()})

    def evaluate(self, model: nn.Module, batch: Batch, context: StepContext) -> Evaluation:
        x, y = batch
        predicted = model(x)
        return Evaluation({"squared_error": (predicted - y).square().mean()}, predicted, y)


class Wave:
    """Noisy points of a sine."""

    def __init__(self, num_train: int, noise_std: float) -> None:
        self.num_train, self.noise_std = num_train, noise_std

    def load(self, split: str) -> TensorSplit:
        generator = torch.Generator().manual_seed({"train": 0, "val": 1, "test": 2}[split])
        x = torch.rand(self.num_train if split == "train" else 100, 1, generator=generator) * 2 - 1
        noise = torch.randn(len(x), 1, generator=generator) * self.noise_std
        return TensorSplit(x, torch.sin(torch.pi * x) + noise)

    def example(self, batch_size: int) -> Batch:
        return torch.zeros(batch_size, 1), torch.zeros(batch_size, 1)
