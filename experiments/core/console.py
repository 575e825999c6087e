"""Output for people: a progress bar on a terminal, plain lines in a file or pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.errors import MarkupError
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.text import Text

from experiments.core.safe_output import escape_controls, get_raw_stream

SHOWN_PER_EVALUATION = 6
FILE_WIDTH = 160


def make_console(stream: TextIO | None = None) -> Console:
    """A console as wide as the terminal; for a file or pipe wide enough that paths are not wrapped."""
    raw = get_raw_stream(stream or sys.stdout)
    terminal = _SafeConsole(file=raw)
    return terminal if terminal.is_terminal else _SafeConsole(file=raw, width=FILE_WIDTH)


class _SafeConsole(Console):
    """A console that escapes control characters in texts; the control sequences of `rich` itself stay.

    A text that looks like markup and is none, such as ``a[/b]``, is shown as it is.
    """

    def render_str(self, text: str, **style: Any) -> Text:
        try:
            return super().render_str(text, **style)
        except MarkupError:
            return super().render_str(text, **{**style, "markup": False})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(escape_controls(segment.text), segment.style)


class Display:
    """Shows the progress of one training."""

    def __init__(self, stream: TextIO) -> None:
        self.console = make_console(stream)
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._num_steps = 0

    @contextmanager
    def training(self, name: str, num_steps: int, *, has_bar: bool = True) -> Iterator[None]:
        """Show a progress bar while the context is open; without one, or in a file, only lines."""
        self._num_steps = num_steps
        if not self.console.is_terminal or not has_bar:
            yield
            return
        columns = (  # a narrow terminal cuts columns off from the right
            TextColumn("{task.description}", style="bold", markup=False), BarColumn(bar_width=16), MofNCompleteColumn(),
            TimeRemainingColumn(compact=True), TextColumn("{task.fields[values]}", markup=False),
        )  # fmt: skip
        with Progress(*columns, console=self.console, transient=True) as progress:
            self._progress = progress
            self._task = progress.add_task(name, total=num_steps, values="starting")
            yield
        self._progress = None

    def started(self, step: int) -> None:
        """Show that the first step begins; earlier attempts did ``step`` steps."""
        if step:
            self.say(f"resumed after step {step}")
        if self._progress:
            self._progress.reset(self._task, completed=step, total=self._num_steps)

    def metrics(self, step: int, new: dict[str, float], latest: dict[str, float]) -> None:
        """Show new metrics. Those of the test split belong to the delivered step, which may be an earlier one."""
        is_test = any(name.startswith("test/") for name in new)
        if self._progress and not is_test:
            self._progress.update(self._task, completed=step, values=_bar_text(latest))
        if is_test or any(name.startswith("val/") for name in new):
            texts = [f"{name} {value:.4g}" for name, value in list(new.items())[:SHOWN_PER_EVALUATION]]
            if not is_test:
                texts = [f"{name} {latest[name]:.4g}" for name in _train_metrics(latest)[:1]] + texts
            self.say(f"step {step}/{self._num_steps}  " + "  ".join(texts))

    def say(self, line: str) -> None:
        """Print one plain line."""
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def waiting(self, what: str) -> AbstractContextManager[object]:
        """Show a spinner during work that has no steps."""
        return self.console.status(escape(what)) if self.console.is_terminal else nullcontext()


def _bar_text(latest: dict[str, float]) -> str:
    parts = []
    parts += [f"{name} {latest[name]:.4f}" for name in _train_metrics(latest)[:1]]
    scores = [name for name in latest if name.startswith("val/") and not name.endswith("loss_nats")]
    parts += [f"{name} {latest[name]:.4f}" for name in scores[:1]]
    if "perf/samples_per_s" in latest:
        parts.append(f"{latest['perf/samples_per_s']:,.0f} samples/s")
    return "  ".join(parts)


def _train_metrics(latest: dict[str, float]) -> list[str]:
    """Names of the training metrics; the loss comes first."""
    return [name for name in latest if name.startswith("train/")]
