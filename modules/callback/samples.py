"""Samples of what the model makes: images, texts or sounds."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from modules.callback.base import Callback, Training
from modules.callback.files import make_image, make_sound, make_text
from modules.evaluator.base import MakesArtifacts, list_evaluators
from modules.task.base import MakesSamples, Sounds, StepContext


class Samples(Callback):
    """Saves samples every few steps: those of the task, or the artifacts of the evaluator.

    They come from the weights that the run delivers, such as an average. Examples and random numbers are the same at each time,
    so that the samples can be compared.
    """

    is_component = True
    needs = ("whole_model",)
    shows_samples = True

    def __init__(self, every_steps: int = 100, num_examples: int = 16) -> None:
        """
        Args:
            every_steps: steps between two times; also before the first step and after the last.
            num_examples: of the validation split, which the task gets.
        """
        for name, value in (("every_steps", every_steps), ("num_examples", num_examples)):
            if value < 1:
                raise ValueError(f"Samples wants {name} of at least 1, but got {value}")
        self.every_steps, self.num_examples = every_steps, num_examples

    def artifacts(self, model: nn.Module, done: int, training: Training) -> Mapping[str, bytes]:
        if done % self.every_steps and done != training.num_steps:
            return {}
        with training.delivered_weights(), _evaluation_mode(model), torch.no_grad():
            if isinstance(training.task, MakesSamples):
                return self._make_samples(training.task, model, done, training)
            parts = list_evaluators(training.evaluator).items()
            if makers := [(prefix, part) for prefix, part in parts if isinstance(part, MakesArtifacts)]:
                on_cpu = all(each.device.type == "cpu" for each in model.parameters())
                model = model if on_cpu else copy.deepcopy(model).cpu()
                made = [(prefix, part.artifacts(model, training.val)) for prefix, part in makers]
                return {
                    f"{prefix.replace('/', '_')}{name}": content
                    for prefix, files in made
                    for name, content in files.items()
                }
        raise ValueError(
            f"Samples: task {type(training.task).__name__} has no method `samples`, and evaluator "
            f"{type(training.evaluator).__name__} no method `artifacts`; write one of them, or remove the callback"
        )

    def _make_samples(self, task: MakesSamples, model: nn.Module, done: int, training: Training) -> dict[str, bytes]:
        indices = torch.arange(min(self.num_examples, len(training.val)))
        device = next(model.parameters()).device
        batch = tree_map_only(Tensor, lambda each: each.to(device), training.val.batch(indices, indices))
        context = StepContext(done, training.num_steps, is_training=False, seed=training.seed)
        files: dict[str, bytes] = {}
        for name, samples in task.samples(model, batch, context).items():
            files |= _make_files(name, samples)
        return files


def _make_files(name: str, samples: Tensor | Sequence[str] | Sounds) -> dict[str, bytes]:
    if isinstance(samples, Tensor):
        return {f"{name}.png": make_image(samples)}
    if isinstance(samples, Sounds):
        return {
            f"{name}_{number}.wav": make_sound(each, samples.sample_rate_hz)
            for number, each in enumerate(samples.waves)
        }
    return {f"{name}.txt": make_text(samples)}


@contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch every module to evaluation mode, and those that were in training mode back."""
    trained = [module for module in model.modules() if module.training]
    try:
        model.eval()
        yield
    finally:
        for module in trained:
            module.training = True
