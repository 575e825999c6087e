"""Reads text, JSON and YAML files that a crash, a full disk or a stranger may have damaged.

The readers wait for nothing (a FIFO), recurse no deeper than `MAX_DEPTH`, and report every fault with the file's name.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import yaml

from experiments.core.errors import InputError

MAX_MB = 256
MAX_DEPTH = 100
MAX_VALUES = 2_000_000
"""Of a YAML document, with its aliases written out."""
TOO_DEEP = f"its values are nested more than {MAX_DEPTH} levels deep"
_BLOCK_NESTING = re.compile(r"^[ \t?:-]*", re.MULTILINE)


PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")


class _PlainLoader(yaml.CSafeLoader):
    """Reads no dates, sets and bytes, which JSON lacks: a date stays text, and a tag for one is an error."""


_PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}
_PlainLoader.yaml_constructors = {
    tag: constructor
    for tag, constructor in yaml.CSafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in PLAIN
}


class DamagedFileError(InputError):
    """A file cannot be read, or its content is not what Lathe wrote.

    Attributes:
        path: the file.
        cause: what is wrong, in a few words.
    """

    def __init__(self, path: Path, cause: str, fix: str = "restore it from a copy, or move its folder away") -> None:
        self.path, self.cause = path, cause
        super().__init__([f"{path} is damaged: {cause}; {fix}"])


class MissingFileError(DamagedFileError):
    """There is no such file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "it is missing")


def open_regular(path: Path) -> IO[bytes]:
    """Open a regular file for reading.

    Raises:
        MissingFileError: there is no such file.
        DamagedFileError: it is a folder, a FIFO or a device, or it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # O_NONBLOCK: a FIFO waits for a writer
    except (FileNotFoundError, NotADirectoryError) as err:
        raise MissingFileError(path) from err
    except (OSError, ValueError) as err:  # ValueError: a NUL character in the path
        raise DamagedFileError(
            path, f"it cannot be read ({err.strerror if isinstance(err, OSError) else err})"
        ) from err
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamagedFileError(path, "it is not a regular file")
    return os.fdopen(descriptor, "rb")


def read_bytes(path: Path, max_mb: int = MAX_MB) -> bytes:
    """The content of a regular file.

    Raises:
        DamagedFileError: as `open_regular`, or it is larger than ``max_mb``.
    """
    with open_regular(path) as file:
        size_mb = os.fstat(file.fileno()).st_size / 1e6
        if size_mb > max_mb:
            raise DamagedFileError(path, f"it has {size_mb:,.0f} MB, but at most {max_mb} MB are read")
        try:
            return file.read()
        except OSError as err:
            raise DamagedFileError(path, f"it cannot be read ({err.strerror})") from err


def read_text(path: Path) -> str:
    """The text of a UTF-8 file.

    Raises:
        DamagedFileError: as `read_bytes`, or it is not UTF-8.
    """
    try:
        return read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as err:
        raise DamagedFileError(path, f"it is not UTF-8 text (byte {err.start})") from err


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        DamagedFileError: as `read_text`, or it is not JSON.
    """
    return _parse(path, parse_json)


def read_yaml(path: Path) -> Any:
    """The value of a YAML file.

    Raises:
        DamagedFileError: as `read_text`, or it is not YAML of plain values.
    """
    return _parse(path, parse_yaml)


def read_json_map(path: Path) -> dict[str, Any]:
    """As `read_json`; the value must be a map."""
    return _as_map(path, read_json(path))


def read_yaml_map(path: Path) -> dict[str, Any]:
    """As `read_yaml`; the value must be a map whose keys are texts."""
    return _as_map(path, read_yaml(path))


def _as_map(path: Path, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DamagedFileError(path, "it is empty" if value is None else "it is not a map")
    if not all(isinstance(key, str) for key in value):
        raise DamagedFileError(path, "one of its keys is not text")
    return value


def _parse(path: Path, parse: Callable[[str], Any]) -> Any:
    text = read_text(path)
    if not text.strip():
        raise DamagedFileError(path, "it is empty")
    try:
        return parse(text)
    except ValueError as err:
        raise DamagedFileError(path, str(err)) from err


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON document.

    Raises:
        ValueError: it is not JSON, or nested deeper than `MAX_DEPTH`.
    """
    num_brackets = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except ValueError as err:
        raise ValueError(f"it is not JSON ({err})") from err
    if num_brackets > MAX_DEPTH:
        _check_size(value)
    return value


def parse_yaml(text: str) -> Any:
    """The value of a YAML document of plain values.

    Raises:
        ValueError: it is not YAML, nested deeper than `MAX_DEPTH`, or larger than `MAX_VALUES` with its aliases written out.
    """
    try:
        is_too_deep = _may_be_deep(text) and _is_too_deep(text)
        value = None if is_too_deep else yaml.load(text, Loader=_PlainLoader)
    except yaml.MarkedYAMLError as err:
        line = f"line {err.problem_mark.line + 1}: " if err.problem_mark else ""
        raise ValueError(f"it is not valid YAML ({line}{err.problem})") from err
    except (
        yaml.reader.ReaderError,
        LookupError,
        TypeError,
        AttributeError,
        ValueError,
        ArithmeticError,
        RecursionError,
    ) as err:
        # PyYAML raises nearly anything for a wrong scalar with a tag, such as `!!bool x` or `!!timestamp x`.
        raise ValueError(" ".join(f"it is not valid YAML ({err})".split())) from err
    if is_too_deep:
        raise ValueError(TOO_DEEP)
    if "*" in text:
        _check_size(value)
    return value


def _may_be_deep(text: str) -> bool:
    """False for nearly every file: an upper bound of its depth, without parsing it."""
    num_brackets = text.count("[") + text.count("{")
    return num_brackets + max(map(len, _BLOCK_NESTING.findall(text))) > MAX_DEPTH


def _is_too_deep(text: str) -> bool:
    """Whether a document would overflow the stack of libyaml's composer; its parser does not recurse."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            return True
    return False


def _check_size(value: Any) -> None:
    """Refuse values that are too deep or, with aliases written out, too many."""
    measured: dict[int, tuple[int, int]] = {}

    def measure(node: Any, depth: int) -> tuple[int, int]:
        """Number of values in a node, and its height; a node that several aliases name is measured once."""
        if not isinstance(node, (dict, list)):
            return 1, 0
        if id(node) not in measured:
            if depth > MAX_DEPTH:  # it may contain itself
                raise ValueError(TOO_DEEP)
            inner = [measure(child, depth + 1) for child in (node.values() if isinstance(node, dict) else node)]
            measured[id(node)] = 1 + sum(size for size, _ in inner), 1 + max((height for _, height in inner), default=0)
        size, height = measured[id(node)]
        if height > MAX_DEPTH:
            raise ValueError(TOO_DEEP)
        if size > MAX_VALUES:
            raise ValueError(f"it holds more than {MAX_VALUES:,} values")
        return size, height

    measure(value, 0)
