"""The conditions of a search for runs: comparisons of keys and metrics with and, or, not and parentheses."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import yaml

from experiments.core.errors import InputError

Lookup = Callable[[str], Any]
"""The value of a run for a key; None if the run has no such key."""

TOKEN = re.compile(
    r"""\s*(?:(?P<op><=|>=|!=|==|[<>=~])|(?P<paren>[()])|(?P<text>"[^"]*"|'[^']*')|(?P<word>[^\s()<>=!~"']+))"""
)
ORDERED = ("<", "<=", ">", ">=")
OPERATORS = ("and", "or", "not")
MAX_NESTING = 50
TIMES = ("created",)
"""Keys whose values are times; a condition writes them as dates."""
GRAMMAR = "write KEY OP VALUE with <, <=, >, >=, =, != or ~ (contains), joined by and, or, not and parentheses"
"""A key or value with other signs, such as a metric ``val/F1 (macro)``, is in quotes."""
EXAMPLE = "such as 'optimizer.lr<0.01 and val/accuracy_top1>0.9'"


@dataclass(frozen=True)
class Comparison:
    """Compares one key with one value."""

    key: str
    op: str
    value: str
    at: int
    """Position of the key in the text."""

    def holds(self, lookup: Lookup) -> bool:
        """A run without the key matches no comparison with it."""
        value = lookup(self.key)
        if value is None:
            return False
        if self.op == "~":
            texts = (as_text(value), as_text(value, spaced=True))
            return any(self.value.casefold() in text.casefold() for text in texts)
        if self.op in ORDERED:
            return _ordered(self.op, value, self._number())
        return _equal(value, self.value, self._time()) == (self.op != "!=")

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
    """Several conditions: all must hold, or any."""

    parts: tuple[Condition, ...]
    needs_all: bool

    def holds(self, lookup: Lookup) -> bool:
        return (all if self.needs_all else any)(part.holds(lookup) for part in self.parts)


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
        InputError: it is not a valid condition; the message marks the position.
    """
    return _ConditionParser(text).whole()


def condition_error(text: str, at: int, message: str) -> InputError:
    """An error in a condition, with a mark under its position."""
    shown = " ".join(text.splitlines())
    return InputError([f"{message}\n      {shown}\n      {' ' * at}^"], "the condition")


@dataclass(frozen=True)
class _Token:
    kind: str
    """A group of `TOKEN`, or "logic" for and, or and not, or "end"."""
    text: str
    at: int

    @property
    def value(self) -> str:
        """The text without its quotes."""
        return self.text[1:-1] if self.kind == "text" else self.text


class _ConditionParser:
    """A recursive descent parser: one method per rule of the grammar."""

    def __init__(self, text: str) -> None:
        self._text, self._index, self._depth = text, 0, 0
        self._tokens = list(self._read())

    def whole(self) -> Condition:
        condition = self._or()
        if self._next.kind != "end":
            self._fail(f"{self._next.text!r} does not belong to a comparison; join comparisons with and or or")
        return condition

    def _read(self) -> Iterator[_Token]:
        at, end = 0, len(self._text.rstrip())
        while at < end:
            match = TOKEN.match(self._text, at)
            if match is None:
                at += len(self._text[at:]) - len(self._text[at:].lstrip())
                raise condition_error(self._text, at, f"{self._text[at]!r} starts a value that does not end; {GRAMMAR}")
            kind = str(match.lastgroup)
            text = match[kind]
            if kind == "word" and text.lower() in OPERATORS:
                kind, text = "logic", text.lower()
            yield _Token(kind, text, match.start(match.lastgroup or 0))
            at = match.end()
        yield _Token("end", "", end)

    @property
    def _next(self) -> _Token:
        return self._tokens[self._index]

    def _take(self, *texts: str) -> bool:
        """Skip the next token and return True, if it is one of these."""
        if self._next.text in texts and self._next.kind in ("logic", "paren"):
            self._index += 1
            return True
        return False

    def _or(self) -> Condition:
        parts = [self._and()]
        while self._take("or"):
            parts.append(self._and())
        return parts[0] if len(parts) == 1 else Joined(tuple(parts), needs_all=False)

    def _and(self) -> Condition:
        parts = [self._not()]
        while self._take("and"):
            parts.append(self._not())
        return parts[0] if len(parts) == 1 else Joined(tuple(parts), needs_all=True)

    def _not(self) -> Condition:
        self._depth += 1
        if self._depth > MAX_NESTING:
            self._fail(f"the condition is nested more than {MAX_NESTING} levels deep; write a simpler one")
        if self._take("not"):
            condition: Condition = Not(self._not())
        elif self._take("("):
            condition = self._or()
            if not self._take(")"):
                self._fail("a parenthesis is not closed; write ) here")
        else:
            condition = self._comparison()
        self._depth -= 1
        return condition

    def _comparison(self) -> Comparison:
        key, at = self._next, self._next.at
        if key.kind not in ("word", "text"):
            self._fail(f"a key is missing here; {GRAMMAR}, {EXAMPLE}")
        name = key.value
        self._index += 1
        op = self._next
        if op.kind != "op":
            self._fail(f"an operator is missing after {key.text}; {GRAMMAR}, {EXAMPLE}")
        self._index += 1
        value = self._next
        if value.kind not in ("word", "text", "logic"):
            self._fail(f"a value is missing after {key.text}{op.text}; write a number, a word, or text in quotes")
        text = value.value
        if name in TIMES and op.text != "~" and timestamp(text) is None:
            self._fail(f"{text} is not a date; write one such as 2026-11-24 or 2026-11-24T15:30")
        if name not in TIMES and op.text in ORDERED and as_number(text) is None:
            self._fail(f"{text} is not a number, but {op.text} compares numbers; write a number, or use = or ~")
        self._index += 1
        return Comparison(name, op.text, text, at)

    def _fail(self, message: str) -> NoReturn:
        raise condition_error(self._text, self._next.at, message)


def as_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def timestamp(text: str) -> float | None:
    """Unix time of an ISO date; without a time zone in the local one."""
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError, OSError):
        return None


def as_text(value: Any, *, spaced: bool = False) -> str:
    """A value as the user types it: true, null, 0.01, [64,64]; ``spaced``: as tables show it, [64, 64]."""
    separators = (", ", ": ") if spaced else (",", ":")
    return value if isinstance(value, str) else json.dumps(value, separators=separators, default=str)


def _ordered(op: str, actual: Any, wanted: float) -> bool:
    if isinstance(actual, bool) or not isinstance(actual, (int, float)):
        return False
    return {"<": actual < wanted, "<=": actual <= wanted, ">": actual > wanted, ">=": actual >= wanted}[op]


def _equal(actual: Any, value: str, time: float | None) -> bool:
    wanted = as_number(value) if time is None else time
    if wanted is not None and isinstance(actual, (int, float)) and not isinstance(actual, bool):
        return actual == wanted or (math.isnan(actual) and math.isnan(wanted))
    return as_text(actual) == value or (isinstance(actual, (list, dict)) and _is_same(actual, value))


def _is_same(actual: Any, text: str) -> bool:
    """Whether a text is this list or map, however it is spaced: as JSON, or as YAML, which tables show."""
    for read, error in ((json.loads, ValueError), (yaml.safe_load, yaml.YAMLError)):
        with contextlib.suppress(error):
            if read(text) == json.loads(as_text(actual)):
                return True
    return False
