"""The contract of a callback: what runs after steps and evaluations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from modules.data.base import Split
from modules.evaluator.base import AnyEvaluator
from modules.task.base import Need, Task


class Training(Protocol):
    """What a callback may use of the training, besides the model."""

    @property
    def num_steps(self) -> int:
        """Steps of the whole training."""
        ...

    @property
    def seed(self) -> int:
        """Of the experiment."""
        ...

    @property
    def task(self) -> Task:
        """The computation of a step."""
        ...

    @property
    def evaluator(self) -> AnyEvaluator:
        """The evaluator of the experiment."""
        ...

    @property
    def val(self) -> Split:
        """The validation split."""
        ...

    def delivered_weights(self) -> AbstractContextManager[None]:
        """Give the model the weights that the run delivers, such as an average, while the context is open."""
        ...

    def try_steps(self, learning_rates: Sequence[float], goes_on: Callable[[Mapping[str, float]], bool]) -> None:
        """Make steps on the first batches of the training, and then restore weights, buffers and optimizers.

        Only before the first step.

        Args:
            learning_rates: of each step, for the optimizer's first group of parameters; others change in proportion. The
                schedule does not apply.
            goes_on: called after each step with the metrics of its loss, which are the same on every rank; False: enough.

        Raises:
            ValueError: the engine or the optimizer has no learning rate that can be changed.
        """
        ...

    def log_params(self, params: Mapping[str, float | str]) -> None:
        """Record what was found before the training, by name."""
        ...

    def print(self, line: str) -> None:
        """Print a line, on the first rank only."""
        ...


class Callback:
    """Code that runs after each step and each evaluation, on every rank. Its state is in every checkpoint.

    Example::

        class CountClipped(Callback):
            def __init__(self):
                self.num_clipped = 0

            def on_step_end(self, model, done, metrics):
                self.num_clipped += float(metrics["grad_norm"]) > 1

            def state_dict(self):
                return {"num_clipped": self.num_clipped}

            def load_state_dict(self, state):
                self.num_clipped = state["num_clipped"]
    """

    needs: ClassVar[tuple[Need, ...]] = ()
    """``("whole_model",)``: it reads or changes weights, so each rank must have all of them."""
    refuses: ClassVar[tuple[Need, ...]] = ()
    """Needs of a task, a data set or an optimizer with which it does not work."""
    shows_samples: ClassVar[bool] = False
    """True: the task must make samples, or the evaluator artifacts."""

    def on_start(self, model: nn.Module) -> None:
        """Run before the first step of an attempt, and before `load_state_dict`."""

    def on_step_end(self, model: nn.Module, done: int, metrics: Mapping[str, Tensor]) -> None:
        """Run after a step.

        Args:
            model: on its device; a callback may change its weights.
            done: number of steps done.
            metrics: of the step, float [] each, on the device: reading one waits for it.
        """

    def on_evaluation(self, done: int, metrics: Mapping[str, float]) -> str | None:
        """Run after an evaluation on the validation split.

        Args:
            done: number of steps done.
            metrics: such as ``val/loss_nats``.

        Returns:
            Why the training should end now, as a finished run; None to go on.
        """
        return None

    def artifacts(self, model: nn.Module, done: int, training: Training) -> Mapping[str, bytes]:
        """Make files before the first step and after each step, such as pictures; {}: none.

        They are written to ``media/CALLBACK/step_DONE`` of the run folder and shown by the trackers. `modules.callback.files`
        makes images, sounds, texts and histograms. Called on every rank; only the first one writes.

        Args:
            model: on its device, in training mode; the gradients are those of this step, as the optimizer got them.
            done: number of steps done; 0: the training is about to start. A resumed attempt does not repeat step 0.
            training: what else there is.

        Returns:
            Contents by file name; the suffix states the kind: .png, .wav, .txt, or the name ``histograms.json``.
        """
        return {}

    def delivered_weights(self) -> Mapping[str, Tensor] | None:
        """Weights that are evaluated, exported and delivered in place of the trained ones, by name; None: the trained ones."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """Return the state: tensors, numbers and texts by name, also in lists and maps."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned; tensors are on the CPU."""
