"""Reads YAML from an untrusted file: plain values only, within limits, and without characters that deceive a reader."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

import yaml

from experiments.core.errors import InputError

MAX_MB = 20
MAX_DEPTH = 20
MAX_NODES = 250_000
MAX_KEY, MAX_TEXT, MAX_DIGITS = 250, 65_536, 70
MAX_INT = 2**63 - 1
BLANK = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
"""Characters that Unicode counts as letters or symbols, but that are invisible."""
LOADER = yaml.CSafeLoader
_CONSTRUCTOR = yaml.constructor.SafeConstructor()
SCALARS: dict[str, Callable[[yaml.ScalarNode], Any]] = {
    "str": _CONSTRUCTOR.construct_scalar,
    "int": _CONSTRUCTOR.construct_yaml_int,
    "float": _CONSTRUCTOR.construct_yaml_float,
    "bool": _CONSTRUCTOR.construct_yaml_bool,
    "null": _CONSTRUCTOR.construct_yaml_null,
}


def load(content: bytes, location: str) -> tuple[dict[str, Any], yaml.MappingNode]:
    """Read the root map of a file: its values, and its node, which knows the lines.

    Args:
        content: the whole file.
        location: the file's name in messages.

    Raises:
        InputError: it is not valid YAML, or holds something that `lathe share` never writes.
    """
    line, hint = "", "ask the sender for a new file"
    try:
        if len(content) > MAX_MB * 1e6:
            raise yaml.MarkedYAMLError(problem=f"the file has more than {MAX_MB} MB")
        text = content.decode("utf-8")
        _check_events(text)
        node = yaml.compose(text, Loader=LOADER)
        if not isinstance(node, yaml.MappingNode):
            raise yaml.MarkedYAMLError(problem="the file is not a YAML map")
        return _construct(node), node
    except UnicodeDecodeError as err:
        problem = f"the file is not UTF-8 text (byte {err.start})"
    except yaml.MarkedYAMLError as err:
        problem = str(err.problem)
        if err.problem_mark:
            line, hint = f":{err.problem_mark.line + 1}", f"correct this line, or {hint}"
    except yaml.YAMLError as err:  # a control character
        problem = " ".join(str(err).split(" in ")[0].split())
    raise InputError([f"{location}{line}: {problem}; {hint}"], f"the shared file {location}")


def _error(part: yaml.Node | yaml.Event, problem: str) -> yaml.MarkedYAMLError:
    mark: Any = part.start_mark
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def _check_events(text: str) -> None:
    """Refuse what would be costly or unsafe to construct; parser events construct nothing."""
    depth = num_nodes = num_documents = 0
    for event in yaml.parse(text, Loader=LOADER):
        num_documents += isinstance(event, yaml.DocumentStartEvent)
        num_nodes += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if num_documents > 1:
            raise _error(event, "a second YAML document is not allowed")
        if getattr(event, "anchor", None) is not None:  # an alias has one too
            raise _error(event, "anchors and aliases (&name, *name) are not allowed")
        if getattr(event, "tag", None) is not None:
            raise _error(event, "type tags (!type) are not allowed, only plain values")
        if depth > MAX_DEPTH:
            raise _error(event, f"values are nested more than {MAX_DEPTH} levels deep")
        if num_nodes > MAX_NODES:
            raise _error(event, f"the file holds more than {MAX_NODES:,} values")


def _construct(node: yaml.Node) -> Any:
    if isinstance(node, yaml.SequenceNode):
        return [_construct(item) for item in node.value]
    if isinstance(node, yaml.ScalarNode):
        return _construct_scalar(node)
    values = dict[str, Any]()
    for key, item in node.value:
        if not key.tag.endswith(":str"):
            raise _error(key, "a key is not text (write text in quotes)")
        _check_text(key, MAX_KEY)
        if key.value in values:
            raise _error(key, f"the key {key.value!r} is repeated")
        values[key.value] = _construct(item)
    return values


def _construct_scalar(node: yaml.ScalarNode) -> Any:
    _check_text(node, MAX_TEXT)
    kind = node.tag.rpartition(":")[2]
    if kind not in SCALARS:
        raise _error(node, f"YAML reads {node.value} as a {kind} (write text in quotes)")
    if kind == "int" and len(node.value) > MAX_DIGITS:
        raise _error(node, "a whole number is larger than 2^63")
    value = SCALARS[kind](node)
    if kind == "int" and abs(value) > MAX_INT:
        raise _error(node, f"{node.value} is larger than 2^63")
    return value


def _check_text(node: yaml.ScalarNode, max_length: int) -> None:
    if len(node.value) > max_length:
        raise _error(node, f"a text has {len(node.value):,} characters; the limit is {max_length:,}")
    if (character := next(filter(is_deceptive, node.value), None)) is not None:
        raise _error(node, f"a text holds the invisible character U+{ord(character):04X}")


def is_deceptive(character: str) -> bool:
    """True for a character that controls a terminal, is invisible, or changes the direction of text."""
    if character in "\n\t\u200d":  # the last joins emoji
        return False
    return character in BLANK or unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
