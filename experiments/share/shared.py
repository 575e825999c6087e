"""A shared file, read as what a stranger wrote: everything is checked before anything of it is used."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from experiments import signature
from experiments.compare.record import Record
from experiments.compare.streams import Stream
from experiments.faults import InputError, did_you_mean
from experiments.origins import Origins, shown
from experiments.share import bundle, shared_rules
from experiments.share.strict_yaml import MOST_TOLD, Document, load
from experiments.targets import trusted
from experiments.trial import Trial, trial_id
from experiments.validate import Validation

if TYPE_CHECKING:
    from experiments.compose import Experiment

VERSION = 1
MOST_SETTINGS = 5000  # noting where each is written takes time with the square of their number
MOST_POINTS = 10_000
LONGEST_WORD = 200
MOST_SHOWN = 200
SCHEMA = "experiments.share.shared_schema"
ID, SHA256, GIT_SHA = re.compile(r"[0-9a-f]{10}"), re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40,64}")
NAME = re.compile(r"[^\W_.-][^/\\\n]*")
PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Shared:
    """What a shared file says; its keys have the meaning of `shared_schema.File`."""

    path: Path
    name: str
    note: str | None
    configuration: dict[str, Any]
    trial_id: str
    """As the file says; the configuration may make another (`warnings`)."""
    overrides: Sequence[str]
    code: Sequence[Mapping[str, Any]]
    environment: Mapping[str, Any]
    data: Mapping[str, Any]
    seeds: Mapping[str, int]
    expected: Mapping[str, Stream]
    """Points of the metrics, thinned."""
    bundle: Mapping[str, str] | None
    """SHA-256 of the other files of the archive; None where there is no archive."""
    origins: Origins = field(default_factory=Origins)
    """Where the values of the configuration are written."""
    warnings: Sequence[str] = ()
    """What does not fit together, but keeps nothing from running."""

    def record(self) -> Record:
        """It, as what another run is compared with."""
        told = {key: value for key, value in self.data.items() if value is not None}
        data = {"files": None, **told} if "num_files" not in told else told
        return Record(
            name=self.path.name,
            trial_id=self.trial_id,
            config=self.configuration,
            code=self.code,
            environment=self.environment,
            data=data,
            streams=self.expected,
            is_sampled=True,
        )

    def check_code(self, trust: Collection[str]) -> None:
        """Refuse a configuration that names code which is not on the list, whatever else it says.

        Raises:
            InputError: with every such name.
        """
        if problems := list(shared_rules.strangers(self.configuration, self.origins, trusted(trust))):
            raise InputError(problems, f"the shared file {self.path}")

    def warnings_for(self, trial: Trial) -> Iterator[str]:
        """What whoever runs it here should know: what does not fit together, and that the code is another."""
        yield from self.warnings
        here = {entry["sha256"] for entry in trial.provenance["code"]}
        for entry in self.code:
            if entry["sha256"] not in here:
                commit = f" (commit {entry['git_sha'][:12]}{', with changes' if entry['dirty'] else ''})"
                yield (
                    f"the code here is not that of '{entry['name']}' as it was shared{commit if entry['git_sha'] else ''}; "
                    f"`lathe reproduce {self.path}` restores it"
                )

    def experiment(
        self, overrides: Sequence[str] = (), *, config_dirs: Sequence[str | Path] = (), trust: Sequence[str] = ()
    ) -> Experiment:
        """Its configuration with overrides, checked against the schema and the list of code that may run.

        Raises:
            InputError: with every problem.
        """
        from experiments.compose import change

        return change(
            self.configuration,
            overrides,
            self.trial_id,
            origins=self.origins,
            config_dirs=config_dirs,
            trust=trust,
        )


def read(path: Path) -> Shared:
    """Read a YAML file, or an archive with one, that `lathe share` wrote. Nothing is executed and nothing written.

    Raises:
        InputError: it is damaged, is no such file, or says what such a file must not; with every problem.
    """
    archive = bundle.inspect(path) if bundle.is_archive(path) else None
    content = archive.text if archive else bundle.content(path)
    place = f"{path}/{bundle.TEXT}" if archive else str(path)
    found = load(content, place)
    reader = _Reader(found, place)
    problems = list(islice(reader.problems(archive), MOST_TOLD))
    if problems:
        raise InputError(list(dict.fromkeys(problems)), f"the shared file {path}")
    return reader.shared(path)


class _Reader:
    """Checks the values of one file against the schema and the rules, and makes a `Shared` of them."""

    def __init__(self, document: Document, place: str) -> None:
        self.values, self.document, self.place = document.values, document, place
        self.origins = Origins()

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
        yield from self._code()
        yield from self._points()
        yield from shared_rules.faults(self.values["configuration"], self._placed())
        yield from bundle.mismatches(self.values["bundle"], self.values["code"], archive)

    def _too_many(self) -> str | None:
        node = self.document.of("configuration")
        if node is not None and _num_nodes(node) > MOST_SETTINGS:
            return f"configuration has more than {MOST_SETTINGS:,} values; ask for the file again"
        return None

    def _placed(self) -> Origins:
        """Where the values of the configuration are written; what they are is cut to one short line, as messages show it."""
        node, origins = self.document.of("configuration"), self.origins
        if node is not None and not origins.texts:
            origins.add_node(node, "", Path(self.place))
            origins.texts = {key: in_a_line(text) for key, text in origins.texts.items()}
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
        inner = ("environment", "data", "expected")
        parts += [(f"{name}.", values[name], name.title()) for name in inner if name in values]
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
            yield f"code[{index}].", entry, "Code"
        for name, part in self.values["data"]["splits"].items():
            yield f"data.splits.{name}.", part, "Split"
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

    def _code(self) -> Iterator[str]:
        for index, entry in enumerate(self.values["code"]):
            key = f"code[{index}]"
            if not NAME.fullmatch(entry["name"]) or len(entry["name"]) > LONGEST_WORD:
                yield f"{key}.name={_shown(entry['name'])} is no name of a folder; ask for the file again"
            if not SHA256.fullmatch(entry["sha256"]):
                yield f"{key}.sha256={_shown(entry['sha256'])} is no SHA-256; it has 64 hexadecimal digits"
            if entry["git_sha"] is not None and not GIT_SHA.fullmatch(entry["git_sha"]):
                yield f"{key}.git_sha={_shown(entry['git_sha'])} is no commit; it has 40 hexadecimal digits"

    def _points(self) -> Iterator[str]:
        for name, points in self.values["expected"]["metrics"].items():
            key, steps, values = f"expected.metrics.{name}", points["steps"], points["values"]
            if len(steps) != len(values):
                yield f"{key} has {len(steps)} steps and {len(values)} values; there must be one of each a point"
            if len(steps) > MOST_POINTS:
                yield f"{key} has {len(steps):,} points, and {MOST_POINTS:,} are the most; ask for the file again"
            if any(after <= before for before, after in pairwise(steps)) or any(step < 0 for step in steps):
                yield f"{key}.steps do not ascend from 0; ask for the file again"

    def shared(self, path: Path) -> Shared:
        """What was read, once nothing is wrong with it."""
        values = self.values
        config = shared_rules.reset(values["configuration"])
        metrics = values["expected"]["metrics"].items()
        return Shared(
            path=path,
            name=values["name"],
            note=values["note"],
            configuration=config,
            trial_id=values["trial_id"],
            overrides=values["overrides"],
            code=values["code"],
            environment=values["environment"],
            data=values["data"],
            seeds=values["seeds"],
            expected={name: list(zip(points["steps"], points["values"], strict=True)) for name, points in metrics},
            bundle=values["bundle"],
            origins=self._placed(),
            warnings=[*self._edited(config)],
        )

    def _edited(self, config: dict[str, Any]) -> Iterator[str]:
        if isinstance(config.get("data"), dict) and isinstance(config.get("hardware"), dict):
            own = trial_id(config)
            if own != self.values["trial_id"]:
                yield (
                    f"the configuration in {self.place} makes trial {own}, and was shared as {self.values['trial_id']}: "
                    "someone has edited it, or this Lathe counts other keys; what is expected of it may not hold"
                )


def _misfits(node: dict[str, Any], schema: str, prefix: str) -> list[str]:
    """What of a map is of another type than its schema says; its numbers are brought to one spelling."""
    validation = Validation(Origins())
    validation.fields(node, f"{SCHEMA}.{schema}", prefix)
    return list(map(in_a_line, validation.problems))


def in_a_line(text: str) -> str:
    """A text of a stranger as part of a message: one line, and not a long one."""
    text = " ".join(text.split())
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _shown(value: Any) -> str:
    return in_a_line(shown(value))


def _num_nodes(node: yaml.Node) -> int:
    if isinstance(node, yaml.MappingNode):
        return 1 + sum(_num_nodes(inner) for _, inner in node.value)
    if isinstance(node, yaml.SequenceNode):
        return 1 + sum(map(_num_nodes, node.value))
    return 1
