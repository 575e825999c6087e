"""No training: the evaluator alone says what a trained model, or several, can do."""

from __future__ import annotations

from torch import nn

from modules.data.base import Tree
from modules.task.base import Evaluation, Loss, StepContext, Task


class EvaluationOnly(Task):
    """Evaluates models that are not trained as they stand, such as several that work one after another.

    A configuration with this task needs ``max_steps=0``.
    """

    is_component = True
    needs = ("inputs",)

    def loss(self, model: nn.Module, batch: Tree, context: StepContext) -> Loss:
        """Return 0. No training asks for it, only a plan, which counts the weights."""
        return Loss(next(model.parameters()).sum() * 0)

    def evaluate(self, model: nn.Module, batch: Tree, context: StepContext) -> Evaluation:
        inputs, targets = batch
        return Evaluation({}, model(inputs), targets)
