"""Supervised learning: the objective compares the model's outputs with the targets."""

from __future__ import annotations

from torch import Tensor, nn

from modules.data.base import Tree
from modules.objective.base import CountsTargets, Objective, apply_objective
from modules.task.base import Evaluation, Loss, StepContext, Task


class Supervised(Task):
    """Trains ``objective(model(inputs), targets)`` on batches of (inputs, targets). Every engine can run it."""

    is_component = True

    def loss(self, model: nn.Module, batch: Tree, context: StepContext) -> Loss:
        inputs, targets = batch
        return Loss(*apply_objective(self.objective, model(inputs), targets))

    def weight(self, batch: Tree) -> Tensor | None:
        return self.objective.count_targets(batch[1]) if isinstance(self.objective, CountsTargets) else None

    def evaluate(self, model: nn.Module, batch: Tree, context: StepContext) -> Evaluation:
        inputs, targets = batch
        outputs = model(inputs)
        return Evaluation(apply_objective(self.objective, outputs, targets)[1], outputs, targets)


def is_supervised(task: Task) -> bool:
    """Whether a task only compares outputs and targets by the objective, so that an engine may do it by itself."""
    return type(task).loss is Supervised.loss and type(task).evaluate is Supervised.evaluate


def make_supervised(objective: Objective) -> Supervised:
    """Return the task of an objective."""
    task = Supervised()
    task.objective = objective
    return task
