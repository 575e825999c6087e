"""What a trained model makes of some test examples, as files of the run to look at."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn

from experiments import atomic
from experiments.batches import evaluation_batches
from experiments.journal import Journal
from modules.data.base import Split
from modules.evaluator.base import Pictures
from modules.parallel.base import Engine


class Gallery:
    """Shows examples by a copy of the model on the CPU, so that it is the same for every engine: none has to hand out outputs."""

    def __init__(self, evaluator: object, model: nn.Module, is_first: bool) -> None:
        """
        Args:
            evaluator: shows nothing where it is no `Pictures`.
            model: before an engine takes parts of it away.
            is_first: whether this rank writes.
        """
        self.evaluator = evaluator if isinstance(evaluator, Pictures) and evaluator.num_pictures > 0 else None
        self.copy = copy.deepcopy(model) if self.evaluator is not None and is_first else None

    def show(self, engine: Engine, split: Split, folder: Path, journal: Journal) -> None:
        """Write the pictures and log them as artifacts; called by all ranks, as each has a part of the weights.

        Args:
            engine: has trained the model.
            split: its first examples are shown.
            folder: of one attempt, as ``attempts/1`` below the run's.
        """
        if self.evaluator is None:
            return
        weights = engine.weights()
        if self.copy is None:
            return
        self.copy.load_state_dict(weights)
        batches = evaluation_batches(split, min(self.evaluator.num_pictures, len(split)), num_workers=0)
        (inputs, targets), _ = next(batches)
        with torch.inference_mode():
            files = self.evaluator.pictures(inputs, self.copy.eval()(inputs), targets)
        (folder / "pictures").mkdir(exist_ok=True)
        for name, content in files.items():
            atomic.write_bytes(folder / "pictures" / name, content)
        journal.artifact("/".join((*folder.parts[-2:], "pictures")))
