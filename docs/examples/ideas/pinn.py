"""A physics-informed network: solve a differential equation by its residual.

Shows: second derivatives with respect to inputs, and training data without an end (a stream).
Source: Raissi et al. 2019, doi:10.1016/j.jcp.2018.10.045.
"""

import math

import torch
from lathe.modules.data.base import Batch, StreamShard
from lathe.modules.data.sampling.example_random import ExampleRandom, example_seeds
from lathe.modules.data.tensors import TensorSplit
from lathe.modules.task.base import Evaluation, Loss, StepContext, Task
from torch import Tensor, nn


class Solution(nn.Module):
    """A function on [0, 1] that is 0 at both ends."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(1, hidden_size),
            nn.Tanh(),
            nn.Linear(hidden_size, hidden_size),
            nn.Tanh(),
            nn.Linear(hidden_size, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """float [batch, 1] to float [batch, 1]."""
        values: Tensor = x * (1 - x) * self.layers(x)
        return values


class Poisson(Task):
    """u''(x) = -pi^2 sin(pi x), with the solution sin(pi x)."""

    needs = ("inputs", "whole_model")

    def loss(self, model: nn.Module, batch: Batch, context: StepContext) -> Loss:
        with torch.enable_grad():  # also in an evaluation
            x = batch[0].detach().requires_grad_()
            (slope,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
            (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
            residual = (bend + math.pi**2 * torch.sin(math.pi * x)).square().mean()
        return Loss(residual, {"residual": residual.detach()})

    def evaluate(self, model: nn.Module, batch: Batch, context: StepContext) -> Evaluation:
        x, solution = batch
        error = (model(x) - solution).square().mean()
        return Evaluation({"squared_error": error} | dict(self.loss(model, batch, context).metrics))


class RandomPoints:
    """New points in every step, the same for any number of replicas."""

    in_memory = True

    def batch(self, step: int, shard: StreamShard, seed: int) -> Batch:
        x = ExampleRandom(example_seeds(seed, shard.first_example(step), shard.size)).uniform(1)
        return x, torch.sin(math.pi * x)


class Interval:
    """Random points to train on; a grid for the evaluation."""

    def load(self, split: str) -> RandomPoints | TensorSplit:
        x = torch.linspace(0, 1, 65 if split == "val" else 100)[:, None]
        return RandomPoints() if split == "train" else TensorSplit(x, torch.sin(math.pi * x))

    def example(self, batch_size: int) -> Batch:
        return torch.zeros(batch_size, 1), torch.zeros(batch_size, 1)
