"""The conditions by which runs are searched: comparisons of keys and metrics, joined by and, or, not and parentheses."""

from __future__ import annotations

import datetime
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

from experiments.core.errors import InputError

Lookup = Callable[[str], Any]
"""What a run has under a key; None where it has no such key."""

TOKEN = re.compile(
    r"""\s*(?:(?P<op><=|>=|!=|==|[<>=~])|(?P<paren>[()])|(?P<text>"[^"]*"|'[^']*')|(?P<word>[^\s()<>=!~"']+))"""
)
ORDERED = ("<", "<=", ">", ">=")
JOINTS = ("and", "or", "not")
MOST_NESTED = 50
TIMES = ("created",)
"""Keys whose values are times, and are written as dates."""
GRAMMAR = "write KEY OP VALUE with <, <=, >, >=, =, != or ~ (contains), joined by and, or, not and parentheses"
EXAMPLE = "such as 'optimizer.lr<0.01 and val/accuracy_top1>0.9'"


@dataclass(frozen=True)
class Comparison:
    """One key against one value."""

    key: str
    op: str
    value: str
    at: int
    """Where the key stands in the text."""

    def holds(self, lookup: Lookup) -> bool:
        """A run that has no such key fulfils no comparison with it."""
        found = lookup(self.key)
        if found is None:
            return False
        if self.op == "~":
            return self.value.casefold() in as_text(found).casefold()
        if self.op in ORDERED:
            return _ordered(self.op, found, self._number())
        return _equal(found, self.value, self._time()) == (self.op != "!=")

    def _number(self) -> float:
        time = self._time()
        return float(self.value) if time is None else time

    def _time(self) -> float | None:
        return timestamp(self.value) if self.key in TIMES else None


@dataclass(frozen=True)
class Not:
    inner: Condition

    def holds(self, lookup: Lookup) -> bool:
        return not self.inner.holds(lookup)


@dataclass(frozen=True)
class Joined:
    """Several conditions, of which all must hold, or one."""

    parts: tuple[Condition, ...]
    all_of_them: bool

    def holds(self, lookup: Lookup) -> bool:
        return (all if self.all_of_them else any)(part.holds(lookup) for part in self.parts)


Condition = Comparison | Not | Joined


def comparisons(condition: Condition) -> Iterator[Comparison]:
    """Every comparison in a condition, from left to right."""
    if isinstance(condition, Comparison):
        yield condition
    else:
        for part in condition.parts if isinstance(condition, Joined) else (condition.inner,):
            yield from comparisons(part)


def parse(text: str) -> Condition:
    """Read a condition.

    Raises:
        InputError: it is none; the message shows where.
    """
    return _ConditionParser(text).whole()


def problem(text: str, at: int, told: str) -> InputError:
    """A fault of a condition, with a mark under the place where it is."""
    shown = " ".join(text.splitlines())
    return InputError([f"{told}\n      {shown}\n      {' ' * at}^"], "the condition")


@dataclass(frozen=True)
class _Token:
    kind: str
    """Of `TOKEN`, or joint; end behind the last."""
    text: str
    at: int


class _ConditionParser:
    """One function a rule: what binds weaker calls what binds stronger."""

    def __init__(self, text: str) -> None:
        self._text, self._place, self._depth = text, 0, 0
        self._tokens = list(self._read())

    def whole(self) -> Condition:
        found = self._or()
        if self._next.kind != "end":
            self._fail(f"{self._next.text!r} is one word too many; join conditions with and or or")
        return found

    def _read(self) -> Iterator[_Token]:
        at, end = 0, len(self._text.rstrip())
        while at < end:
            match = TOKEN.match(self._text, at)
            if match is None:
                at += len(self._text[at:]) - len(self._text[at:].lstrip())
                raise problem(self._text, at, f"{self._text[at]!r} opens no value that ends; {GRAMMAR}")
            kind = str(match.lastgroup)
            text = match[kind]
            if kind == "word" and text.lower() in JOINTS:
                kind, text = "joint", text.lower()
            yield _Token(kind, text, match.start(match.lastgroup or 0))
            at = match.end()
        yield _Token("end", "", end)

    @property
    def _next(self) -> _Token:
        return self._tokens[self._place]

    def _take(self, *texts: str) -> bool:
        """Go on where the next token is one of these, and no value."""
        if self._next.text in texts and self._next.kind in ("joint", "paren"):
            self._place += 1
            return True
        return False

    def _or(self) -> Condition:
        parts = [self._and()]
        while self._take("or"):
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else Joined(tuple(parts), all_of_them=False)

    def _and(self) -> Condition:
        parts = [self._not()]
        while self._take("and"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else Joined(tuple(parts), all_of_them=True)

    def _not(self) -> Condition:
        self._depth += 1
        if self._depth > MOST_NESTED:
            self._fail(f"the condition is nested deeper than {MOST_NESTED} times; write a simpler one")
        if self._take("not"):
            found: Condition = Not(self._not())
        elif self._take("("):
            found = self._or()
            if not self._take(")"):
                self._fail("a parenthesis is not closed; write ) here")
        else:
            found = self._comparison()
        self._depth -= 1
        return found

    def _comparison(self) -> Comparison:
        key = self._next
        if key.kind != "word":
            self._fail(f"a key is missing here; {GRAMMAR}, {EXAMPLE}")
        self._place += 1
        op = self._next
        if op.kind != "op":
            self._fail(f"after {key.text} an operator is missing; {GRAMMAR}, {EXAMPLE}")
        self._place += 1
        value = self._next
        if value.kind not in ("word", "text", "joint"):
            self._fail(f"after {key.text}{op.text} a value is missing; write a number, a word, or text in quotes")
        text = value.text[1:-1] if value.kind == "text" else value.text
        if key.text in TIMES and op.text != "~" and timestamp(text) is None:
            self._fail(f"{text} is no date; write one such as 2026-11-24 or 2026-11-24T15:30")
        if key.text not in TIMES and op.text in ORDERED and as_number(text) is None:
            self._fail(f"{text} is no number, and {op.text} compares numbers; write one, or use = or ~")
        self._place += 1
        return Comparison(key.text, op.text, text, key.at)

    def _fail(self, told: str) -> NoReturn:
        raise problem(self._text, self._next.at, told)


def as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def timestamp(text: str) -> float | None:
    """Seconds of a date in this machine's time zone, or of one that names its own."""
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def as_text(value: Any) -> str:
    """A value as one types it: true, null, 0.01, [64,64]."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)


def _ordered(op: str, found: Any, value: float) -> bool:
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return False
    return {"<": found < value, "<=": found <= value, ">": found > value, ">=": found >= value}[op]


def _equal(found: Any, value: str, time: float | None) -> bool:
    wanted = as_number(value) if time is None else time
    if wanted is not None and isinstance(found, (int, float)) and not isinstance(found, bool):
        return found == wanted or (math.isnan(found) and math.isnan(wanted))
    return as_text(found) == value
