"""No training: the evaluator alone says what a trained model, or several, can do."""

from __future__ import annotations

from torch import nn

from modules.data.base import Tree
from modules.task.base import Evaluation, Loss, StepContext, Task


class EvaluationOnly(Task):
    """Evaluates models that cannot be trained as they stand, such as several that work one after another."""

    is_component = True
    needs = ("inputs",)

    def loss(self, model: nn.Module, batch: Tree, context: StepContext) -> Loss:
        raise ValueError("task EvaluationOnly trains nothing; set max_steps=0")

    def evaluate(self, model: nn.Module, batch: Tree, context: StepContext) -> Evaluation:
        return Evaluation({})
