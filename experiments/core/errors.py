"""Errors that the user can fix, each with all its problems, and the error that ends a training."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MAX_LISTED = 12


class InputError(Exception):
    """The user's input is wrong (exit code 2). Each problem is one line with name, value, rule and fix."""

    def __init__(self, problems: list[str], subject: str = "the command") -> None:
        self.problems = problems
        self.subject = subject
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{type(self).__name__}: {subject} has {count}:\n" + "\n".join(f"  - {p}" for p in problems))


class ConfigError(InputError):
    """The configuration cannot be composed or does not match its schema."""

    def __init__(self, problems: list[str], subject: str = "the configuration") -> None:
        super().__init__(problems, subject)


class PlanError(InputError):
    """The configuration is valid, but it cannot run."""


class TrainingError(Exception):
    """The training cannot continue. The message names the step and a fix."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """A hint for a misspelt name: the nearest known names, else ``otherwise``, else all known names."""
    names = sorted({*known} - {name})
    near = get_close_matches(name, names, n=2, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(repr(n) for n in near)}?"
    if otherwise:
        return otherwise
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f"known: {', '.join(names[:MAX_LISTED])}{more}" if names else "there are none"
