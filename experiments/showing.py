"""What an evaluator has to show of the trained model, as files of the run to look at."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from experiments import atomic
from experiments.journal import Journal
from modules.data.base import Split
from modules.evaluator.base import Shows
from modules.parallel.base import Engine


class Showing:
    """Asks a copy of the model on the CPU, so that it is the same for every engine: none has to hand out outputs."""

    def __init__(self, evaluator: object, model: nn.Module, is_first: bool) -> None:
        """
        Args:
            evaluator: shows nothing where it is no `Shows`.
            model: before an engine takes parts of it away.
            is_first: whether this rank writes.
        """
        self.evaluator = evaluator if isinstance(evaluator, Shows) else None
        self.copy = copy.deepcopy(model) if self.evaluator is not None and is_first else None

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
        if self.copy is None:
            return
        self.copy.load_state_dict(weights)
        with torch.inference_mode():
            files = self.evaluator.files(self.copy.eval(), split)
        if not files:
            return
        folder.mkdir(exist_ok=True)
        for name, content in files.items():
            atomic.write_bytes(folder / name, content)
        journal.artifact("/".join(folder.parts[-3:]))
