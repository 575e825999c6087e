"""Output in which names, notes and values of others cannot control the terminal: control characters are shown as escapes."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast

CONTROLS = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f"  # the terminal obeys these; newline and tab stay
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # these change the direction of text
    "\u2028\u2029\ud800-\udfff]"  # line separators, and bytes of a file name that are no UTF-8
)


def escape_controls(text: str) -> str:
    r"""A text with control characters as ``\u001b``, which is the same text in JSON. A carriage return becomes a new line."""
    if text.isascii() and text.isprintable():
        return text
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return CONTROLS.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


class SafeStream:
    """A text stream that escapes control characters; everything else is passed on to the stream below."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(escape_controls(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __iter__(self) -> Iterator[str]:
        return iter(self.stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def get_raw_stream(stream: TextIO) -> TextIO:
    """The stream below: `rich` writes control sequences of its own to it."""
    return stream.stream if isinstance(stream, SafeStream) else stream


@contextmanager
def safe_output() -> Iterator[None]:
    """Escape what is printed to standard output and standard error while the context is open."""
    before = sys.stdout, sys.stderr
    # Either is None if the parent process closed it.
    sys.stdout, sys.stderr = (cast(TextIO, stream and SafeStream(get_raw_stream(stream))) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
