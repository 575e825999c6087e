"""Files that an evaluator makes with the trained model, as artifacts of the run."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.components.assemble import Components
from experiments.core import atomic
from experiments.run.folder_watch import try_again_once_back
from experiments.run.journal import Journal
from modules.data.base import Split
from modules.evaluator.base import MakesArtifacts, list_evaluators
from modules.parallel.base import Engine


class EvaluatorArtifacts:
    """Calls the evaluator with a copy of the model on the CPU, so it works the same with every engine."""

    def __init__(self, components: Components, is_first: bool) -> None:
        """
        Args:
            components: of which the evaluator writes files only if it is a `MakesArtifacts`, and the data know the names of the
                classes. The model is whole: no engine has taken parts of it away. The copy holds no weights during training.
            is_first: whether this rank writes.
        """
        parts = list_evaluators(components.evaluator).items()
        self.makers = {prefix: part for prefix, part in parts if isinstance(part, MakesArtifacts)}
        self.skeleton = _make_skeleton(components.setup.model) if self.makers and is_first else None
        self.data = components.data

    def write(self, engine: Engine, split: Split, folder: Path, journal: Journal) -> None:
        """Write the files and log them as artifacts. All ranks call this, as each has a part of the weights.

        Args:
            engine: has trained the model.
            split: passed to the evaluator.
            folder: gets the files, such as ``attempts/1/test`` in the run folder.
        """
        if not self.makers:
            return
        weights = engine.weights()
        if self.skeleton is None:
            return
        model = _fill(self.skeleton, weights)
        if (names := getattr(self.data, "class_names", None)) is not None:
            with contextlib.suppress(AttributeError):  # a split of a user may have slots
                split.class_names = list(names)  # type: ignore[attr-defined]  # a split need not have it
        with torch.inference_mode():
            files = {
                f"{prefix.replace('/', '_')}{name}": content
                for prefix, maker in self.makers.items()
                for name, content in maker.artifacts(model.eval(), split).items()
            }
        if not files:
            return
        try_again_once_back(folder.parent, lambda: _write_files(folder, files))
        journal.artifact("/".join(folder.parts[-3:]))


def _write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        atomic.write_bytes(folder / name, content)


def _make_skeleton(model: nn.Module) -> nn.Module:
    """Return a copy whose weights take no memory. Everything else, such as non-persistent buffers, is copied."""
    known = {id(tensor): _make_empty(tensor) for tensor in _list_weights(model)}
    return copy.deepcopy(model, known)


def _fill(skeleton: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """Load weights into the skeleton. It keeps its tensors, because a module may refer to them by further names."""
    for tensor in _list_weights(skeleton):
        tensor.untyped_storage().resize_(tensor.numel() * tensor.element_size())
    skeleton.load_state_dict(weights)
    return skeleton


def _list_weights(model: nn.Module) -> list[Tensor]:
    return [value for value in model.state_dict(keep_vars=True).values() if isinstance(value, Tensor)]


def _make_empty(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor.detach())
    empty.untyped_storage().resize_(0)
    return type(tensor)(empty, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
