"""A shared file, read as what a stranger wrote: everything is checked before anything of it is used."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.allowlist import trusted
from experiments.config.source_map import SourceMap
from experiments.core.errors import InputError
from experiments.results.share import archive as bundle
from experiments.results.share import rules as shared_rules
from experiments.results.share.parse import Reader
from experiments.results.share.strict_yaml import MOST_TOLD, load
from experiments.run.metrics import MetricSeries
from experiments.trial.record import CodeRecord
from experiments.trial.trial import Trial

if TYPE_CHECKING:
    from experiments.config.experiment import Experiment


@dataclass(frozen=True)
class SharedFile:
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
    expected: Mapping[str, MetricSeries]
    """Points of the metrics, thinned."""
    bundle: Mapping[str, str] | None
    """SHA-256 of the other files of the archive; None where there is no archive."""
    origins: SourceMap = field(default_factory=SourceMap)
    """Where the values of the configuration are written."""
    warnings: Sequence[str] = ()
    """What does not fit together, but keeps nothing from running."""

    def record(self) -> CodeRecord:
        """It, as what another run is compared with."""
        told = {key: value for key, value in self.data.items() if value is not None}
        data = {"files": None, **told} if "num_files" not in told else told
        return CodeRecord(
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
        from experiments.config.compose import change

        return change(
            self.configuration,
            overrides,
            self.trial_id,
            origins=self.origins,
            config_dirs=config_dirs,
            trust=trust,
        )


def read(path: Path) -> SharedFile:
    """Read a YAML file, or an archive with one, that `lathe share` wrote. Nothing is executed and nothing written.

    Raises:
        InputError: it is damaged, is no such file, or says what such a file must not; with every problem.
    """
    archive = bundle.inspect(path) if bundle.is_archive(path) else None
    content = archive.text if archive else bundle.content(path)
    place = f"{path}/{bundle.TEXT}" if archive else str(path)
    found = load(content, place)
    reader = Reader(found, place)
    problems = list(islice(reader.problems(archive), MOST_TOLD))
    if problems:
        raise InputError(list(dict.fromkeys(problems)), f"the shared file {path}")
    return _shared(reader, path)


def _shared(reader: Reader, path: Path) -> SharedFile:
    """What was read, once nothing is wrong with it."""
    values = reader.values
    config = shared_rules.reset(values["configuration"])
    metrics = values["expected"]["metrics"].items()
    return SharedFile(
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
        origins=reader.placed(),
        warnings=[*reader.edited(config)],
    )
