"""Reads YAML of which nothing is known: plain values alone, bounded before they are made, and no text that deceives."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import yaml

from experiments.core.errors import InputError

MAX_MB = 20
DEEPEST = 20
MOST_NODES = 250_000
LONGEST_KEY = 250
LONGEST_TEXT = 65_536
MOST_TOLD = 20
LARGEST = 2**63  # what torch and most formats count with
SAFE_DIGITS = 15  # no shorter number reaches that, to whatever base
BLANK = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
"""Letters and signs, to Unicode, of which nothing is seen."""
LOADER = yaml.CSafeLoader


@dataclass(frozen=True)
class Document:
    """One file: its values, and the nodes that know their lines."""

    values: dict[str, Any]
    node: yaml.MappingNode

    def of(self, key: str) -> yaml.Node | None:
        """The node of a key of the root."""
        return next((inner for name, inner in self.node.value if name.value == key), None)


def load(content: bytes, place: str) -> Document:
    """The values of a file: maps, lists, text, numbers, true, false and null.

    Args:
        content: the whole of it.
        place: what messages call it.

    Raises:
        InputError: it is no such file, or it is larger, deeper or stranger than anything that was shared.
    """
    subject = f"the shared file {place}"
    try:
        _bound(content, place, subject)
        text = content.decode("utf-8")
        _examine(text, place, subject)
        node = yaml.compose(text, Loader=LOADER)
    except UnicodeDecodeError as err:
        raise InputError([f"{place} is no text in UTF-8 (byte {err.start}); ask for the file again"], subject) from err
    except yaml.MarkedYAMLError as err:
        line = f":{err.problem_mark.line + 1}" if err.problem_mark else ""
        raise InputError([f"{place}{line} is no valid YAML: {err.problem}; ask for the file again"], subject) from err
    except yaml.YAMLError as err:  # a character that YAML does not know
        told = " ".join(str(err).split(" in ")[0].split())
        raise InputError([f"{place} is no valid YAML: {told}; ask for the file again"], subject) from err
    if not isinstance(node, yaml.MappingNode):
        raise InputError([f"{place} is no map of YAML; name a file that `lathe share` wrote"], subject)
    if problems := list(islice(_problems(node, place), MOST_TOLD)):
        raise InputError(problems, subject)
    return Document(_made(node), node)


def _bound(content: bytes, place: str, subject: str) -> None:
    if len(content) > MAX_MB * 1e6:
        raise InputError(
            [f"{place} has more than {MAX_MB} MB, and no shared file has; ask for the file again"], subject
        )


def _examine(text: str, place: str, subject: str) -> None:
    """Look at the events of the parser, which make nothing: what would be costly or strange to make is refused."""
    depth = num_nodes = num_documents = 0
    for event in yaml.parse(text, Loader=LOADER):
        fault = None
        if isinstance(event, yaml.DocumentStartEvent):
            num_documents += 1
            fault = "begins a second document, and a shared file has one" if num_documents > 1 else None
        elif isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            fault = "repeats a part by a name (&name, *name), and in a shared file all is written out"
        elif getattr(event, "tag", None) is not None:
            fault = "names a type (!type), and a shared file holds plain values"
        num_nodes += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            fault = f"is nested more than {DEEPEST} deep"
        elif num_nodes > MOST_NODES:
            fault = f"holds more than {MOST_NODES:,} values"
        if fault is not None:
            raise InputError([f"{place}:{_line(event)} {fault}; ask for the file again"], subject)


def _problems(node: yaml.Node, place: str) -> Iterator[str]:
    """What the values of a tree are not to be, by line."""
    if isinstance(node, yaml.ScalarNode):
        if fault := _fault(node):
            yield f"{place}:{_line(node)} {fault}"
    elif isinstance(node, yaml.MappingNode):
        names = set[str]()
        for name, inner in node.value:
            if fault := _fault_of_key(name, names):
                yield f"{place}:{_line(name)} {fault}"
                continue
            names.add(name.value)
            yield from _problems(inner, place)
    else:
        for inner in node.value:
            yield from _problems(inner, place)


def _fault_of_key(node: yaml.Node, before: set[str]) -> str | None:
    if not isinstance(node, yaml.ScalarNode) or node.tag != "tag:yaml.org,2002:str":
        return "has a key that is no text; quote it, or ask for the file again"
    if len(node.value) > LONGEST_KEY:
        return f"has a key of {len(node.value):,} characters, and {LONGEST_KEY} are the most; ask for the file again"
    if node.value in before:
        return f"gives {node.value!r} a second time; take one of them out"
    return _fault_of_text(node.value)


def _fault(node: yaml.ScalarNode) -> str | None:
    kind, text = node.tag.rpartition(":")[2], node.value
    if len(text) > LONGEST_TEXT:
        return f"has a text of {len(text):,} characters, and {LONGEST_TEXT:,} are the most; ask for the file again"
    if kind == "int" and len(text) > SAFE_DIGITS and (len(text) > 70 or abs(_whole(text)) >= LARGEST):
        return f"{text[:12]}... is a number beyond 2^63; write a smaller one"
    if kind not in ("str", "int", "float", "bool", "null"):
        return f"{text} is a {kind} to YAML; quote it if text is meant"
    return _fault_of_text(text)


def _whole(text: str) -> int:
    return int(yaml.load(text, Loader=LOADER))


def _fault_of_text(text: str) -> str | None:
    strange = next(filter(is_deceptive, text), None)
    if strange is None:
        return None
    return f"has the invisible character U+{ord(strange):04X} in a text; ask for the file again"


def is_deceptive(character: str) -> bool:
    """True for what steers a terminal, or shows as nothing or something else: control characters, changes of direction."""
    if character in "\n\t\u200d":  # the last joins emoji
        return False
    return character in BLANK or unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def _line(part: yaml.Node | yaml.Event) -> int:
    return int(part.start_mark.line) + 1 if part.start_mark else 1


def _made(node: yaml.Node) -> Any:
    maker = LOADER("")
    try:
        return maker.construct_document(node)
    finally:
        maker.dispose()
