"""Bootstrap your own latent: learn features of digits without labels.

Shows: two views of each example, and a teacher that is a moving average of the student, updated by a callback and saved with
the model. Source: Grill et al. 2020, arXiv:2006.07733; without batch normalisation, as in Richemond et al. 2020,
arXiv:2010.10241.
"""

from collections.abc import Mapping
from copy import deepcopy

import torch
from lathe.modules.callback.base import Callback
from lathe.modules.data.base import Batch
from lathe.modules.task.base import Loss, StepContext, Task
from torch import Tensor, nn
from torch.nn import functional


class ByolModel(nn.Module):
    """A student, its frozen teacher, and a predictor of the teacher's features."""

    def __init__(self, num_features: int, hidden_size: int, feature_size: int) -> None:
        super().__init__()
        self.student = nn.Sequential(
            nn.Linear(num_features, hidden_size),
            nn.LayerNorm(hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, feature_size),
        )
        self.predictor = nn.Sequential(
            nn.Linear(feature_size, hidden_size),
            nn.LayerNorm(hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, feature_size),
        )
        self.teacher = deepcopy(self.student).requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        features: Tensor = self.student(pixels)
        return features


class Byol(Task):
    """The student's prediction from one view is close to the teacher's features of the other."""

    needs = ("inputs", "whole_model")

    def __init__(self, drop_prob: float = 0.3) -> None:
        self.drop_prob = drop_prob

    def loss(self, model: ByolModel, batch: Batch, context: StepContext) -> Loss:
        pixels = batch[0].flatten(1)
        one, two = (self._make_view(pixels, context) for _ in range(2))
        loss = (self._distance(model, one, two) + self._distance(model, two, one)) / 2
        return Loss(loss, {"distance": loss.detach()})

    def _make_view(self, pixels: Tensor, context: StepContext) -> Tensor:
        """Leave out some pixels and change the brightness."""
        is_kept = context.rand(*pixels.shape, device=pixels.device) >= self.drop_prob
        return pixels * is_kept * (0.5 + context.rand(len(pixels), 1, device=pixels.device))

    @staticmethod
    def _distance(model: ByolModel, view: Tensor, other: Tensor) -> Tensor:
        with torch.no_grad():
            target = model.teacher(other)
        return 2 - 2 * functional.cosine_similarity(model.predictor(model.student(view)), target).mean()


class UpdateTeacher(Callback):
    """Moves the teacher towards the student after each step."""

    needs = ("whole_model",)

    def __init__(self, decay: float) -> None:
        self.decay = decay

    @torch.no_grad()
    def on_step_end(self, model: ByolModel, done: int, metrics: Mapping[str, Tensor]) -> None:
        for old, new in zip(model.teacher.parameters(), model.student.parameters(), strict=True):
            old.lerp_(new, 1 - self.decay)
