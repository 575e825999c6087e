"""Finds the line of the user's own code that an error comes from."""

from __future__ import annotations

import linecache
import os
import re
import sysconfig
import traceback
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from experiments.core.files.packages import OWN_FOLDERS, PROJECT_ROOT

OWN = (*OWN_FOLDERS, PROJECT_ROOT / "benchmarks", PROJECT_ROOT / "tests")
STDLIB = sysconfig.get_path("stdlib")
INSTALLED = ("site-packages", "dist-packages")
_FRAME = re.compile(r'^ *File "(?P<path>.+)", line (?P<line>\d{1,9}), in (?P<function>.+)$', re.MULTILINE)
_IN_WORKER = re.compile(r"Caught \w+ in DataLoader worker process \d+\.\nOriginal Traceback.*", re.DOTALL)


@dataclass(frozen=True)
class UserFrame:
    """A line of the user's code."""

    path: str
    line: int
    function: str
    source: str

    def __str__(self) -> str:
        """Two lines: the place, and the source line."""
        return f"{self.path}:{self.line}, in {self.function}\n    {self.source}"


def find_user_frame(err: BaseException, trust: Collection[str] = ()) -> UserFrame | None:
    """The innermost line of the user's code that an error, or the error that caused it, went through; None without one.

    Args:
        err: any exception, also one that torch brings back from a data worker with the traceback as its text.
        trust: packages of the user, which count as the user's code even where they are installed.
    """
    return find_user_error(err, trust)[1]


def find_user_error(err: BaseException, trust: Collection[str] = ()) -> tuple[BaseException, UserFrame | None]:
    """The first of an error and its causes that went through the user's code, and the line; else the error itself."""
    for each in _chain(err):
        frames = [frame for frame in _frames(each) if is_user_file(frame.path, trust)]
        if frames:
            return each, frames[-1]
    return err, None


def is_user_file(path: str, trust: Collection[str] = ()) -> bool:
    """Whether a source file is the user's: not of Lathe, of Python or of an installed package."""
    if not os.path.isfile(path):  # code that a library generates has no file
        return False
    parts = Path(path).resolve().parts
    for place in INSTALLED:
        if place in parts:
            rest = parts[len(parts) - parts[::-1].index(place) :]
            return bool(rest) and rest[0].removesuffix(".py") in trust
    if any(parts[: len(folder.parts)] == folder.parts for folder in OWN):
        return False
    return not path.startswith(STDLIB + os.sep)


def get_message(err: BaseException) -> str:
    """The message of an error; of one from a data worker only the last line, without the traceback in it."""
    text = str(err)
    if _IN_WORKER.search(text):
        return text.strip().rpartition("\n")[2].removeprefix(f"{type(err).__name__}: ").rstrip("'\"")
    return text


def _chain(err: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    following: BaseException | None = err
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        yield following
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)


def _frames(err: BaseException) -> Iterator[UserFrame]:
    for frame, line in traceback.walk_tb(err.__traceback__):
        yield _make_frame(frame.f_code.co_filename, line, frame.f_code.co_name)
    for match in _FRAME.finditer(str(err)) if _IN_WORKER.search(str(err)) else ():
        if match["path"].endswith(".py") and os.path.isfile(match["path"]):  # the text can be from a file of data
            yield _make_frame(match["path"], int(match["line"]), match["function"])
    if isinstance(err, SyntaxError) and err.filename and err.lineno:
        yield _make_frame(err.filename, err.lineno, "<module>")


def _make_frame(path: str, line: int, function: str) -> UserFrame:
    return UserFrame(path, line, function, linecache.getline(path, line).strip())
