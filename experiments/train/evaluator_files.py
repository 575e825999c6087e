"""Files that an evaluator makes with the trained model, as artifacts of the run."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.core import atomic
from experiments.run.journal import Journal
from modules.data.base import Split
from modules.evaluator.base import MakesArtifacts
from modules.parallel.base import Engine


class EvaluatorArtifacts:
    """Asks a copy of the model on the CPU, so that it is the same for every engine: none has to hand out outputs."""

    def __init__(self, evaluator: object, model: nn.Module, is_first: bool) -> None:
        """
        Args:
            evaluator: writes files only if it is a `MakesArtifacts`.
            model: before an engine takes parts of it away; of its weights no second ones are held while it trains.
            is_first: whether this rank writes.
        """
        self.evaluator = evaluator if isinstance(evaluator, MakesArtifacts) else None
        self.outline = _outline(model) if self.evaluator is not None and is_first else None

    def show(self, engine: Engine, split: Split, folder: Path, journal: Journal) -> None:
        """Write the files and log them as artifacts; called by all ranks, as each has a part of the weights.

        Args:
            engine: has trained the model.
            split: some of its examples are shown.
            folder: of one attempt and this split, such as ``attempts/1/test`` below the run's.
        """
        if self.evaluator is None:
            return
        weights = engine.weights()
        if self.outline is None:
            return
        model = _filled(self.outline, weights)
        with torch.inference_mode():
            files = self.evaluator.artifacts(model.eval(), split)
        if not files:
            return
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            atomic.write_bytes(folder / name, content)
        journal.artifact("/".join(folder.parts[-3:]))


def _outline(model: nn.Module) -> nn.Module:
    """A copy whose weights take no memory. What is not among them, such as buffers that are not persistent, is copied."""
    known = {id(tensor): _without_memory(tensor) for tensor in _weights_of(model)}
    return copy.deepcopy(model, known)


def _filled(outline: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """The outline itself with weights: in the same tensors, as a module may hold them under further names."""
    for tensor in _weights_of(outline):
        tensor.untyped_storage().resize_(tensor.numel() * tensor.element_size())
    outline.load_state_dict(weights)
    return outline


def _weights_of(model: nn.Module) -> list[Tensor]:
    return [value for value in model.state_dict(keep_vars=True).values() if isinstance(value, Tensor)]


def _without_memory(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor.detach())
    empty.untyped_storage().resize_(0)
    return type(tensor)(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
