"""What a shared file may say, key by key: types, sizes, names, and that its parts fit together."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import yaml

from experiments.config import signature
from experiments.config.source_map import SourceMap
from experiments.config.validate import Validation
from experiments.core.errors import did_you_mean
from experiments.core.format import shown
from experiments.results.share import archive as bundle
from experiments.results.share import rules as shared_rules
from experiments.results.share.strict_yaml import MOST_TOLD, Document
from experiments.trial.trial import trial_id

VERSION = 1
MOST_SETTINGS = 5000  # noting where each is written takes time with the square of their number
MOST_POINTS = 10_000
MOST_CHECKOUTS = 16
MOST_THREADS = 1024
LONGEST_WORD = 200
MOST_SHOWN = 200
SCHEMA = "experiments.results.share.schema"
ID, SHA256, GIT_SHA = (
    re.compile(r"[0-9a-f]{10}"),
    re.compile(r"[0-9a-f]{64}"),
    re.compile(r"[0-9a-f]{40}([0-9a-f]{24})?"),
)
NAME = re.compile(r"[^\W_.-][^/\\\n]*")
METRIC = re.compile(r"[\w./@+-]+")
"""Name of a metric, or of a split of the data."""
PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Reader:
    """The values of one file, and what is wrong with them by the schema and the rules."""

    def __init__(self, document: Document, place: str) -> None:
        self.values, self.document, self.place = document.values, document, place
        self.origins = SourceMap()

    def problems(self, archive: bundle.Archive | None) -> Iterator[str]:
        """Everything that is wrong, as far as it can be judged: what is of the wrong type is not looked into."""
        version = self.values.get("lathe_share")
        if type(version) is not int:
            yield f"{self.place}: lathe_share is missing, or no number; name a file that `lathe share` wrote"
            return
        if version != VERSION:
            yield f"lathe_share={version}: this Lathe reads version {VERSION}; take the Lathe that wrote it"
            return
        if told := self._too_many():
            yield told
            return
        wrong = [*self._types()]
        yield from wrong
        if wrong:
            return
        yield from self._words()
        yield from self._data()
        wrong = [*self._code()]
        yield from wrong
        yield from self._points()
        yield from shared_rules.faults(self.values["configuration"], self.placed())
        if wrong:  # nothing is unpacked for an entry that cannot be right
            return
        yield from bundle.mismatches(self.values["bundle"], self.values["code"], archive)

    def _too_many(self) -> str | None:
        code = self.values.get("code")
        if isinstance(code, list) and len(code) > MOST_CHECKOUTS:
            return f"code has {len(code):,} checkouts, and {MOST_CHECKOUTS} are the most; ask for the file again"
        node = self.document.of("configuration")
        if node is not None and _num_nodes(node) > MOST_SETTINGS:
            return f"configuration has more than {MOST_SETTINGS:,} values; ask for the file again"
        return None

    def placed(self) -> SourceMap:
        """Where the values of the configuration are written; what they are is cut to one short line, as messages show it."""
        node, origins = self.document.of("configuration"), self.origins
        if node is not None and not origins.texts:
            origins.add_node(node, "", Path(self.place))
            origins.texts = {key: one_line(text) for key, text in origins.texts.items()}
        return origins

    def _keys(self, node: Any, schema: str, prefix: str) -> Iterator[str]:
        """What of a map is missing, or is no key of it."""
        if not isinstance(node, dict):
            yield f"{prefix[:-1]}={_shown(node)} is not a map; ask for the file again"
            return
        known = signature.read(f"{SCHEMA}.{schema}").arguments
        if missing := [f"{prefix}{name}" for name in known if name not in node]:
            yield f"{self.place} lacks {', '.join(missing)}; ask for the file again"
        for name in islice((name for name in node if name not in known), MOST_TOLD):
            yield f"{prefix}{name} is no key of a shared file; {did_you_mean(name, known)}"

    def _types(self) -> Iterator[str]:
        values = self.values
        parts = [("", values, "File")]
        inner = {"environment": "Environment", "data": "DataSection", "expected": "Expected"}
        parts += [(f"{name}.", values[name], schema) for name, schema in inner.items() if name in values]
        wrong = [problem for prefix, node, schema in parts for problem in self._keys(node, schema, prefix)]
        if not isinstance(values.get("configuration", {}), dict):
            wrong.append(f"configuration={_shown(values['configuration'])} is not a map; ask for the file again")
        if not wrong:
            # What it names is held against the list of code when it is to run, by whom the receiver trusts.
            wrong = _misfits({**values, "configuration": {}}, "File", "")
        if not wrong:
            for prefix, node, schema in self._inner():
                wrong += [*self._keys(node, schema, prefix)] or _misfits(node, schema, prefix)
        yield from wrong

    def _inner(self) -> Iterator[tuple[str, Any, str]]:
        """Every map inside a list or below a free name, with what it is called by and its schema."""
        for index, entry in enumerate(self.values["code"]):
            if isinstance(entry, dict):
                entry.setdefault("branch", None)
            yield f"code[{index}].", entry, "Code"
        for name, part in self.values["data"]["splits"].items():
            yield f"data.splits.{name}.", part, "SplitSection"
        for name, part in self.values["expected"]["metrics"].items():
            yield f"expected.metrics.{name}.", part, "Points"

    def _words(self) -> Iterator[str]:
        values = self.values
        if not ID.fullmatch(values["trial_id"]):
            yield f"trial_id={_shown(values['trial_id'])} is no id of a trial; it has 10 hexadecimal digits"
        single = {f"environment.{key}": value for key, value in values["environment"].items()} | {
            "name": values["name"],
            "data.names_and_sizes_sha256": values["data"]["names_and_sizes_sha256"],
        }
        for key, value in single.items():
            if isinstance(value, str) and (len(value) > LONGEST_WORD or "\n" in value or not value.strip()):
                yield f"{key}={_shown(value)} is not one line of 1 to {LONGEST_WORD} characters; write a shorter one"
        for name, version in values["environment"]["packages"].items():
            if not PACKAGE.fullmatch(name) or len(version) > LONGEST_WORD or re.search(r"\s", version):
                yield f"environment.packages.{name}={_shown(version)} is no package and its version; ask for the file again"
        if re.search(r"[/\\]", values["name"]):
            yield f"name={_shown(values['name'])} names a folder; write it without / and \\"
        for key, value in {"name": values["name"], "note": values["note"], **values["seeds"]}.items():
            if values["configuration"].get(key) != value:
                yield f"{key}={_shown(value)} is not the configuration's {key}; write the same in both places"

    def _data(self) -> Iterator[str]:
        data, threads = self.values["data"], self.values["environment"]["cpu_threads"]
        if (data["num_files"] is None) != (data["names_and_sizes_sha256"] is None):
            yield "data.num_files and data.names_and_sizes_sha256 go together, and one is null; ask for the file again"
        for name in data["splits"]:
            if not METRIC.fullmatch(name) or len(name) > LONGEST_WORD:
                yield f"data.splits.{one_line(name)} is no name of a split: letters, digits and ./@+-_; ask for the file again"
        if threads is not None and not 0 < threads <= MOST_THREADS:
            yield f"environment.cpu_threads={threads} is not 1 to {MOST_THREADS}; ask for the file again"

    def _code(self) -> Iterator[str]:
        files = [
            entry[kind] for entry in self.values["code"] for kind in ("diff", "untracked") if entry[kind] is not None
        ]
        for name in sorted({name for name in files if files.count(name) > 1}):
            yield f"code names {one_line(name)} twice, and a file is of one checkout; ask for the file again"
        for index, entry in enumerate(self.values["code"]):
            key = f"code[{index}]"
            if not NAME.fullmatch(entry["name"]) or len(entry["name"]) > LONGEST_WORD:
                yield f"{key}.name={_shown(entry['name'])} is no name of a folder; ask for the file again"
            if not SHA256.fullmatch(entry["sha256"]):
                yield f"{key}.sha256={_shown(entry['sha256'])} is no SHA-256; it has 64 hexadecimal digits"
            if entry["git_sha"] is not None and not GIT_SHA.fullmatch(entry["git_sha"]):
                yield f"{key}.git_sha={_shown(entry['git_sha'])} is no commit; it has 40 or 64 hexadecimal digits"

    def _points(self) -> Iterator[str]:
        for name, points in self.values["expected"]["metrics"].items():
            key, steps, values = f"expected.metrics.{one_line(name)}", points["steps"], points["values"]
            if not METRIC.fullmatch(name) or len(name) > LONGEST_WORD:
                yield f"{key} is no name of a metric: letters, digits and ./@+-_; ask for the file again"
            if len(steps) != len(values):
                yield f"{key} has {len(steps)} steps and {len(values)} values; there must be one of each a point"
            if len(steps) > MOST_POINTS:
                yield f"{key} has {len(steps):,} points, and {MOST_POINTS:,} are the most; ask for the file again"
            if any(after <= before for before, after in pairwise(steps)) or any(step < 0 for step in steps):
                yield f"{key}.steps do not ascend from 0; ask for the file again"

    def edited(self, config: dict[str, Any]) -> Iterator[str]:
        """A line where a configuration, as it is to run, makes another trial than was shared."""
        if isinstance(config.get("data"), dict) and isinstance(config.get("hardware"), dict):
            own = trial_id(config)
            if own != self.values["trial_id"]:
                yield (
                    f"the configuration in {self.place} makes trial {own}, and was shared as {self.values['trial_id']}: "
                    "someone has edited it, or this Lathe counts other keys; what is expected of it may not hold"
                )


def _misfits(node: dict[str, Any], schema: str, prefix: str) -> list[str]:
    """What of a map is of another type than its schema says; its numbers are brought to one spelling."""
    validation = Validation(SourceMap())
    validation.fields(node, f"{SCHEMA}.{schema}", prefix)
    return list(map(one_line, validation.problems))


def one_line(text: str) -> str:
    """A text of a stranger as part of a message: one line, and not a long one."""
    text = " ".join(text.split())
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _shown(value: Any) -> str:
    return one_line(shown(value))


def _num_nodes(node: yaml.Node) -> int:
    if isinstance(node, yaml.MappingNode):
        return 1 + sum(_num_nodes(inner) for _, inner in node.value)
    if isinstance(node, yaml.SequenceNode):
        return 1 + sum(map(_num_nodes, node.value))
    return 1
