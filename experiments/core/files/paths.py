"""Paths that a user types: with `~`, too long, empty, or of a user that does not exist."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from experiments.core.errors import InputError

MAX_NAME, MAX_PATH = 255, 4095
"""Bytes of one name and of a path, on Linux and macOS."""
MAX_SHOWN = 80


def user_path(text: str | os.PathLike[str], name: str = "") -> Path:
    """A path as a user typed it, with `~` and `~user` replaced by the home folder.

    Args:
        text: the path.
        name: of the flag or key that it belongs to, for the message.

    Raises:
        InputError: it is empty, too long, or has a NUL character; or there is no such user.
    """
    typed = os.fspath(text)
    setting = f"{name} {_shorten(typed)}".strip()
    if not typed.strip():
        raise InputError([f"{name or 'a path'} is empty; write the path (is a shell variable unset?)"])
    if "\0" in typed:
        raise InputError([f"{setting!r} has a NUL character; no path has one"])
    try:
        path = Path(typed).expanduser()
    except RuntimeError as err:
        home = typed.split("/", maxsplit=1)[0]
        if home == "~":
            raise InputError([f"{setting}: your home folder is not known; set the environment variable HOME"]) from err
        raise InputError(
            [f"{setting}: there is no user '{home[1:]}'; write `./{home}` for a file of this name"]
        ) from err
    longest = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if longest > MAX_NAME or len(os.fsencode(path)) > MAX_PATH:
        what, limit = ("a name", MAX_NAME) if longest > MAX_NAME else ("the path", MAX_PATH)
        raise InputError([f"{setting}: {what} has more than {limit} bytes; choose a shorter one"])
    try:
        path.stat()
    except OSError as err:
        if err.errno == errno.ELOOP:  # `Path.resolve` raises RuntimeError for it
            raise InputError([f"{setting} is a link that leads to itself; name another path"]) from err
    return path


def _shorten(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
