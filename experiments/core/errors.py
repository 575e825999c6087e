"""What the user's input may be wrong about, told all at once; and what ends a training."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

MAX_LISTED = 12


class InputError(Exception):
    """The user's input is wrong: exit code 2, and one line a problem, each with name, value, rule and way out."""

    def __init__(self, problems: list[str], subject: str = "the command") -> None:
        self.problems = problems
        self.subject = subject
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"{type(self).__name__}: {subject} has {count}:\n" + "\n".join(f"  - {p}" for p in problems))


class ConfigError(InputError):
    """The configuration does not compose or does not fit its schema."""

    def __init__(self, problems: list[str], subject: str = "the configuration") -> None:
        super().__init__(problems, subject)


class PlanError(InputError):
    """The configuration is well formed, but it cannot run as it stands."""


class TrainingError(Exception):
    """The training cannot go on; the message names the step and a way out."""


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """The way out of a misspelling: the nearest known names, else ``otherwise`` or the names there are."""
    names = sorted({*known} - {name})
    near = get_close_matches(name, names, n=2, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(repr(n) for n in near)}?"
    if otherwise:
        return otherwise
    more = f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else ""
    return f"known: {', '.join(names[:MAX_LISTED])}{more}" if names else "there are none"
