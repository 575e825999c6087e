"""Runs the callbacks of a training, and keeps their state, and that of data which the model makes, in the checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.core import atomic
from experiments.run.folder_watch import try_again_once_back
from experiments.train.callbacks.training_view import TrainingView
from modules.callback.base import Callback
from modules.data.base import Collector, Split
from modules.parallel.checkpoint_format import (
    DELIVERED,
    copy_to_cpu,
    name_tensors,
    read_tree,
    write_tensors,
    write_tree,
)

STATE = "callbacks"
"""Name of the files with the states, without suffix."""
COLLECTOR = "the data"
"""Name of the collector's state among those of the callbacks; no callback can have it."""
END = "the end"
MEDIA = "media"
"""Folder in the run folder of the files that callbacks make."""


class RunCallbacks:
    """The callbacks of one attempt. All ranks call each method at the same step."""

    def __init__(
        self, model: nn.Module, callbacks: Mapping[str, Callback], train: Split | Collector | None, *, is_first: bool
    ) -> None:
        """
        Args:
            model: that the engine has prepared.
            callbacks: by name.
            train: the training data; if the model makes it, it has a state.
            is_first: whether this rank writes the checkpoints.
        """
        self.model, self.is_first = model, is_first
        self.callbacks = dict(callbacks)
        self.stateful: dict[str, Callback | Collector] = {
            **self.callbacks,
            **({COLLECTOR: train} if isinstance(train, Collector) else {}),
        }
        self.change_weights = any("whole_model" in callback.needs for callback in self.callbacks.values())
        """Whether a callback may change weights."""
        self.training: TrainingView | None = None
        """What the callbacks may use; without it they make no files."""
        self.end_reason: str | None = None
        """Why the training ends before its last step; None: it goes on."""
        for callback in self.callbacks.values():
            callback.on_start(self.model)

    def on_step_end(self, done: int, metrics: Mapping[str, Tensor]) -> None:
        for callback in self.callbacks.values():
            callback.on_step_end(self.model, done, metrics)

    def write_artifacts(self, done: int) -> None:
        """Write the files that the callbacks make after this step, and log each folder as an artifact.

        A resumed attempt that repeats the step writes the same path again, and a tracker gets it once.
        """
        if self.training is None:
            return
        for name, callback in self.callbacks.items():
            files = callback.artifacts(self.model, done, self.training)
            if files and self.is_first:
                path = f"{MEDIA}/{name}/step_{done:08d}"
                run_folder = self.training.run_folder
                try_again_once_back(run_folder, partial(_write_files, run_folder, path, files))
                self.training.journal.artifact(path)

    def on_evaluation(self, done: int, metrics: Mapping[str, float]) -> None:
        reasons = [callback.on_evaluation(done, metrics) for callback in self.callbacks.values()]
        self.end_reason = next((reason for reason in reasons if reason is not None), None)

    @contextmanager
    def delivered_weights(self) -> Iterator[None]:
        """Give the model the weights that the run delivers."""
        weights = self._find_delivered()
        if not weights:
            yield
            return
        own = name_tensors(self.model)
        kept = {name: own[name].detach().clone() for name in weights}
        try:
            _copy(weights, own)
            yield
        finally:
            _copy(kept, own)

    def _find_delivered(self) -> dict[str, Tensor]:
        weights: dict[str, Tensor] = {}
        for callback in self.callbacks.values():
            weights |= callback.delivered_weights() or {}
        return weights

    def snapshot(self) -> Callable[[Path], None]:
        """Copy the states; returns a function that writes them into the folder of a checkpoint."""
        if not self.stateful or not self.is_first:
            return lambda folder: None
        states = {name: each.state_dict() for name, each in self.stateful.items()}
        tree = torch.utils._pytree.tree_map_only(Tensor, copy_to_cpu, {**states, END: self.end_reason})
        delivered = self._find_delivered()
        whole = {**name_tensors(self.model), **delivered} if delivered else {}
        whole = {name: copy_to_cpu(tensor) for name, tensor in whole.items()}

        def write(folder: Path) -> None:
            write_tree(folder, STATE, tree)
            if whole:
                write_tensors(folder / DELIVERED, whole)

        return write

    def load(self, folder: Path) -> None:
        """Restore the states from a checkpoint.

        Raises:
            ValueError: the checkpoint has no state of a callback, or a damaged one.
        """
        if not self.stateful:
            return
        states = read_tree(folder, STATE)
        missing = [name for name in (*self.stateful, END) if name not in states]
        if missing:
            raise ValueError(f"the checkpoint has no state of {', '.join(missing)}; start a new run")
        for callback in self.callbacks.values():
            callback.on_start(self.model)
        for name, each in self.stateful.items():
            each.load_state_dict(states[name])
        self.end_reason = states[END]


def _write_files(run_folder: Path, path: str, files: Mapping[str, bytes]) -> None:
    folder = run_folder
    for part in path.split("/"):  # without the parents of the run folder: one that was removed must not come back empty
        folder = folder / part
        folder.mkdir(exist_ok=True)
    for name, content in files.items():
        atomic.write_bytes(folder / name, content)


@torch.no_grad()
def _copy(weights: Mapping[str, Tensor], to: Mapping[str, Tensor]) -> None:
    for name, weight in weights.items():
        to[name].copy_(weight)
