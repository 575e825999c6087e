"""The rows of the zoo: what the headers of the experiments say of their source, and of what is to come out.

    # Family:    images
    # Measure:   test/accuracy_top1 0.97 to 0.99
    # Published: 0.992 (20,000 steps of 50)
    # Measure:   test/accuracy_top1 with data=fashion_mnist

Each `Measure` is a row: a metric, the range that is expected of its mean where that is known, and overrides where the row
is the experiment with something else in it. The `Published` below it is of that row; those words end at the line's end or
go on in the lines below, as all of a header's do. An experiment without a `Measure` is a row that nobody can measure.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from experiments.config import options
from experiments.config.source_map import shown_path
from experiments.core.errors import InputError, did_you_mean

WORDS = ("Question", "Expect", "Run", "Source", "Family", "Measure", "Published", "Cost")
MEASURE = re.compile(r"(?P<metric>\w+/\S+)(?: (?P<low>\S+) to (?P<high>\S+))?(?: with (?P<overrides>\S.*))?")
OTHER = "other"
"""The family of what names none."""


@dataclass(frozen=True)
class Row:
    """An experiment, or an experiment with overrides, and what is to be measured of it."""

    experiment: str
    facts: Mapping[str, str]
    """By the words of the header, such as Question and Source."""
    metric: str | None = None
    expected: tuple[float, float] | None = None
    """Lowest and highest mean that is no surprise."""
    overrides: tuple[str, ...] = ()
    published: str = ""
    data: str = ""
    """The option of the group data that it is trained on."""

    @property
    def name(self) -> str:
        """Of its record and its runs: the experiment's, and the values by which it differs from that."""
        values = [word.partition("=")[2] or word for word in self.overrides]
        return "-".join([self.experiment, *(re.sub(r"\W+", "_", value).strip("_") for value in values)])

    @property
    def family(self) -> str:
        return self.facts.get("Family", OTHER)

    @property
    def words(self) -> list[str]:
        """What composes it."""
        return [f"experiment={self.experiment}", *self.overrides]

    @property
    def command(self) -> str:
        return shlex.join(["lathe", "run", *self.words])


def rows(config_dirs: Sequence[str] = ()) -> list[Row]:
    """The rows of all experiments, the house's own and the user's, by name.

    Raises:
        InputError: with every header that cannot be read.
    """
    problems: list[str] = []
    found: list[Row] = []
    files = options.groups(options.user_folders(config_dirs))["experiment"]
    for name, path in files.items():
        try:
            found += [replace(row, data=_data_of(row, files)) for row in _rows_of(name, path)]
        except InputError as err:
            problems += err.problems
    names = [row.name for row in found]
    problems += [f"two rows are called '{name}'; give one of them other overrides" for name in _twice(names)]
    if problems:
        raise InputError(problems, "the zoo")
    return found


def chosen(known: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The rows of these names, or of the experiments of these names; all where there is none.

    Raises:
        InputError: with every name that is of neither.
    """
    all_names = {row.name for row in known} | {row.experiment for row in known}
    if wrong := [name for name in names if name not in all_names]:
        raise InputError(
            [f"NAME={name}: there is no such experiment; {did_you_mean(name, all_names)}" for name in wrong]
        )
    return [row for row in known if not names or row.name in names or row.experiment in names]


def _data_of(row: Row, files: Mapping[str, Path]) -> str:
    """What data a row names, read from its file: to compose every experiment takes seconds, and many are only listed."""
    typed = [word.partition("=")[2] for word in row.overrides if word.startswith("data=")]
    default = _named_data(options.HOUSE / "config.yaml", {})
    return typed[-1] if typed else _named_data(files[row.experiment], files) or default


def _named_data(path: Path, files: Mapping[str, Path]) -> str:
    """The option that the last word of a defaults list names for the data, those of its parents among them."""
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    except (OSError, ValueError, yaml.YAMLError) as err:
        raise InputError([f"{shown_path(path)} cannot be read: {str(err).splitlines()[0]}; mend it"]) from err
    found = ""
    for entry in content.get("defaults") or () if isinstance(content, dict) else ():
        if isinstance(entry, dict):
            found = str(entry.get("override /data", entry.get("data", found)))
        elif entry != "_self_" and entry in files:
            found = _named_data(files[entry], {name: files[name] for name in files if name != entry}) or found
    return found


def _twice(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _rows_of(name: str, path: Path) -> Iterator[Row]:
    facts: dict[str, str] = {}
    measures: list[tuple[str, str]] = []
    published = ""
    for word, text in _facts(path):
        if word == "Measure":
            measures.append((text, published))
            published = ""
        elif word != "Published":
            facts[word] = text
        elif measures:
            measures[-1] = (measures[-1][0], text)
        else:
            published = text
    if not measures:
        yield Row(name, facts, published=published)
    for text, of_row in measures:
        yield _row(name, path, facts, text, of_row)


def _row(name: str, path: Path, facts: Mapping[str, str], text: str, published: str) -> Row:
    match = MEASURE.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        ends = (float(match["low"]), float(match["high"])) if match["low"] else None
        if ends is not None and not ends[0] <= ends[1]:
            raise ValueError
        overrides = tuple(shlex.split(match["overrides"] or ""))
    except ValueError:
        told = f"{shown_path(path)}: `Measure: {text}` names no metric and its range; write it as "
        raise InputError(
            [told + "`# Measure: test/accuracy_top1 0.97 to 0.99 with data=mnist`, without what is not known"]
        ) from None
    return Row(name, facts, match["metric"], ends, overrides, published)


def _facts(path: Path) -> list[tuple[str, str]]:
    """Word and text of every line of a header, those joined that go on in the next.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        lines = options.header(path)
    except (OSError, ValueError) as err:
        raise InputError([f"{shown_path(path)} cannot be read: {str(err).splitlines()[0]}; mend it"]) from err
    found: list[tuple[str, str]] = []
    for line in lines:
        word, colon, text = line.partition(":")
        if colon and word in WORDS:
            found.append((word, text.strip()))
        elif found:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line}".strip())
    return found
