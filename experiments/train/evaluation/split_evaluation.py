"""Evaluates trained weights on one split, for `lathe evaluate`: the evaluation of a training, without the training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from experiments.components.model_signature import describe_other_kind
from experiments.core.errors import InputError
from experiments.run.evaluations import PREFIX
from experiments.train.callbacks.run_callbacks import RunCallbacks
from experiments.train.evaluation.evaluation_loop import Batches, EvaluationLoop
from experiments.train.trainer import Trainer
from modules.data.base import Collector, Data

OUT_OF_RANGE = ("out of bounds", "index out of range in self")
"""Parts of torch's errors about a class that a loss, or a token that an embedding does not have."""


class _StoppedError(Exception):
    """The evaluation was asked to stop."""


@dataclass
class SplitEvaluation(Trainer):
    """Evaluates the initial weights on one split, and logs the metrics at the step at which these weights were saved."""

    evaluates: Mapping[str, Any] = field(default_factory=dict)
    """From `Trial.evaluates`."""

    def run(self) -> tuple[Literal["finished", "interrupted"], str | None]:
        """Evaluate.

        Returns:
            The final state, and why the evaluation was stopped.

        Raises:
            InputError: the weights do not fit the data, or this machine lacks the device.
        """
        name, split_name, self.done = self.evaluates["name"], self.evaluates["split"], self.evaluates["step"]
        model, engine = self.components.setup.model, self.components.engine
        with self._as_input_error():
            with self._explained():
                self._prepare()
            split, *others = (self._load_split(split_name, key) for key in ("", *self.components.evaluation_sets))
            if any(isinstance(each, Collector) or not hasattr(each, "__len__") for each in (split, *others)):
                raise ValueError(
                    f"--split {split_name}: these data have no end, and an evaluation shows every example once; "
                    "use --split val or test"
                )
            if problem := _find_other_classes(self.components.data, self.evaluates.get("class_names")):
                raise ValueError(problem)
        sets = dict(zip(self.components.evaluation_sets, others, strict=True))
        callbacks = RunCallbacks(model, {}, None, is_first=self.rank.number == 0)
        evaluation = EvaluationLoop(
            self.components, self.config, callbacks, self.shard, {split_name: sets}, self._check_stop
        )
        overrides = " ".join(self.evaluates["overrides"]) or "none"
        self.journal.params({f"evaluation.{name}.overrides": overrides, f"evaluation.{name}.split": split_name})
        self.on_running(0, None)
        try:
            with self._explained():
                metrics = evaluation.measure(split_name, split)
        except _StoppedError as err:
            return "interrupted", str(err)
        finally:
            evaluation.close()
        self.journal.metrics(self.done, {f"{PREFIX}{name}/{metric}": value for metric, value in metrics.items()})
        self.artifacts.write(engine, split, self.journal.path.parent / split_name, self.journal)
        engine.gather(0.0)  # no rank exits before rank 0 has written everything
        return "finished", None

    def _check_stop(self, batches: Batches) -> Batches:
        for batch in batches:
            if (reason := self.should_stop()) is not None:
                raise _StoppedError(f"{reason}; nothing of it is recorded")
            yield batch

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Explain an error of torch, if the data are not of the kind that the model was trained with.

        Raises:
            InputError: the inputs have another shape, or a target or a token is out of range.
        """
        try:
            yield
        except (RuntimeError, IndexError, TypeError) as err:
            example, trained_with = self.components.data.example(1), self.evaluates["inputs"]
            other = None
            if isinstance(example, tuple) and trained_with is not None:
                other = describe_other_kind(example[0], trained_with)
            if other is not None:
                problem = f"the data give {other}, and the model was trained with {trained_with}"
            elif isinstance(err, IndexError) and any(sign in str(err) for sign in OUT_OF_RANGE):
                problem = f"a target or a token of the data is out of range for the model ({err})"
            else:
                raise
            raise InputError([f"{problem}; choose data that fit the model"], "the evaluation") from err


def _find_other_classes(data: Data, trained: Sequence[str] | None) -> str | None:
    """Why the classes of loaded data are others than those of the training; None if they are the same, or have no names."""
    names = getattr(data, "class_names", None)
    if not names or not trained or list(names) == list(trained):
        return None
    return (
        f"the data have the classes {_shorten(names)}, but the model was trained with {_shorten(trained)}, in this order; "
        "choose data with the same classes"
    )


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
