"""The rows of the zoo, from the headers of the experiments.

    # Family:    images
    # Measure:   test/accuracy_top1 0.97 to 0.99
    # Published: 0.992 (20,000 steps of 50)
    # Measure:   test/accuracy_top1 with data=fashion_mnist

Each `Measure` is a row: a metric, the expected range of its mean if it is known, and overrides of the experiment. The
`Published` below it belongs to that row. Like all parts of a header, it may continue on the next lines. An experiment without
`Measure` is a row that cannot be measured.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from experiments.config import options
from experiments.config.option_errors import YamlError, read_within_limits
from experiments.config.overrides import read_override
from experiments.config.rules.trusted_files import find_in_overrides
from experiments.config.source_map import shown_path
from experiments.core.errors import InputError, did_you_mean

LABELS = ("Question", "Expect", "Run", "Source", "Family", "Measure", "Published", "Cost")
MEASURE = re.compile(r"(?P<metric>\w+/\S+)(?: (?P<low>\S+) to (?P<high>\S+))?(?: with (?P<overrides>\S.*))?")
OTHER = "other"
"""The family of experiments that name none."""


@dataclass(frozen=True)
class Row:
    """An experiment, or an experiment with overrides, and the metric to measure."""

    experiment: str
    facts: Mapping[str, str]
    """By the labels of the header, such as Question and Source."""
    metric: str | None = None
    expected: tuple[float, float] | None = None
    """Lowest and highest expected mean."""
    overrides: tuple[str, ...] = ()
    published: str = ""
    data: str = ""
    """The option of the group data."""

    @property
    def name(self) -> str:
        """The name of its record and runs: the experiment and the values of its overrides."""
        values = [text.partition("=")[2] or text for text in self.overrides]
        return "-".join([self.experiment, *(re.sub(r"\W+", "_", value).strip("_") for value in values)])

    @property
    def family(self) -> str:
        return self.facts.get("Family", OTHER)

    @property
    def overrides_of_command(self) -> list[str]:
        """The overrides that compose it."""
        return [f"experiment={self.experiment}", *self.overrides]

    @property
    def command(self) -> str:
        return shlex.join(["lathe", "run", *self.overrides_of_command])


def read_rows(config_dirs: Sequence[str] = ()) -> list[Row]:
    """The rows of all experiments, built-in and of the user, by name.

    Raises:
        InputError: with every header that cannot be read.
    """
    problems: list[str] = []
    rows: list[Row] = []
    files = options.groups(options.user_folders(config_dirs))["experiment"]
    for name, path in files.items():
        try:
            rows += [replace(row, data=_data_of(row, files)) for row in _rows_of(name, path)]
        except InputError as err:
            problems += err.problems
    names = [row.name for row in rows]
    problems += [f"two rows have the name '{name}'; give one of them other overrides" for name in _repeated(names)]
    if problems:
        raise InputError(problems, "the zoo")
    return rows


def select_rows(known: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """The rows with these names, or of the experiments with these names; all rows without names.

    Raises:
        InputError: with every unknown name.
    """
    all_names = {row.name for row in known} | {row.experiment for row in known}
    if wrong := [name for name in names if name not in all_names]:
        raise InputError(
            [f"NAME={name}: there is no such experiment; {did_you_mean(name, all_names)}" for name in wrong]
        )
    return [row for row in known if not names or row.name in names or row.experiment in names]


def _data_of(row: Row, files: Mapping[str, Path]) -> str:
    """The data of a row, read from its file: composing every experiment would take seconds."""
    in_overrides = [text.partition("=")[2] for text in row.overrides if text.startswith("data=")]
    default = _named_data(options.CONF_DIR / "config.yaml", {})
    return in_overrides[-1] if in_overrides else _named_data(files[row.experiment], files) or default


def _named_data(path: Path, files: Mapping[str, Path]) -> str:
    """The last option for data in a defaults list, or in that of a parent."""
    try:
        content = yaml.load(read_within_limits(path), Loader=yaml.CSafeLoader)
    except YamlError as err:
        raise InputError([f"{shown_path(path)} {err}"]) from err
    except (OSError, ValueError, yaml.YAMLError) as err:
        raise InputError([f"{shown_path(path)} cannot be read: {str(err).splitlines()[0]}; correct it"]) from err
    option = ""
    for entry in content.get("defaults") or () if isinstance(content, dict) else ():
        if isinstance(entry, dict):
            option = str(entry.get("override /data", entry.get("data", option)))
        elif entry != "_self_" and entry in files:
            option = _named_data(files[entry], {name: files[name] for name in files if name != entry}) or option
    return option


def _repeated(names: Sequence[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def _rows_of(name: str, path: Path) -> Iterator[Row]:
    facts: dict[str, str] = {}
    measures: list[tuple[str, str]] = []
    published = ""
    for label, text in _facts(path):
        if label == "Measure":
            measures.append((text, published))
            published = ""
        elif label != "Published":
            facts[label] = text
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
        problem = f"{shown_path(path)}: `Measure: {text}` is not a metric with an optional range and overrides; write "
        raise InputError(
            [problem + "`# Measure: test/accuracy_top1 0.97 to 0.99 with data=mnist` or a part of it"]
        ) from None
    for key, effect in find_in_overrides(map(read_override, overrides), ("launcher",)):
        where = f"{shown_path(path)}: `Measure: {text}` sets {key}, which {effect}"
        raise InputError([f"{where}; remove it there, and give `{key}=...` on the command line"])
    return Row(name, facts, match["metric"], ends, overrides, published)


def _facts(path: Path) -> list[tuple[str, str]]:
    """Label and text of every part of a header; continued lines are joined.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        lines = options.header(path)
    except (OSError, ValueError) as err:
        raise InputError([f"{shown_path(path)} cannot be read: {str(err).splitlines()[0]}; correct it"]) from err
    facts: list[tuple[str, str]] = []
    for line in lines:
        label, colon, text = line.partition(":")
        if colon and label in LABELS:
            facts.append((label, text.strip()))
        elif facts:
            facts[-1] = (facts[-1][0], f"{facts[-1][1]} {line}".strip())
    return facts
