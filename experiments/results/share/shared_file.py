"""A shared file from an untrusted sender: everything in it is checked before it is used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.source_map import SourceMap
from experiments.results.share import rules
from experiments.results.share.archive import read as read_archive
from experiments.results.share.parse import parse
from experiments.trial.record import RunRecord
from experiments.trial.trial import Trial, trial_id

if TYPE_CHECKING:
    from experiments.config.experiment import Experiment


@dataclass(frozen=True)
class SharedFile:
    """A shared file, read and checked."""

    path: Path
    values: Mapping[str, Any]
    """As the file says; `SharedFileSchema` describes the keys."""
    configuration: dict[str, Any]
    """With the local defaults for all settings of the machine."""
    origins: SourceMap
    """Where the values of the configuration are written."""
    code_files: Mapping[str, bytes]
    """The uncommitted code, by its name in the archive; empty outside an archive."""

    @property
    def trial_id(self) -> str:
        """As the file says; an edited configuration has another (`warnings`)."""
        return str(self.values["trial_id"])

    @property
    def warnings(self) -> list[str]:
        """Problems that do not prevent a run."""
        config = self.configuration
        if not all(isinstance(config.get(group), dict) for group in ("data", "hardware")):
            return []
        if (own := trial_id(config)) == self.trial_id:
            return []
        return [
            f"the configuration in {self.path} has the trial id {own}, and the file says {self.trial_id}: it was edited, or "
            "this version of Lathe computes ids differently; results may differ from the expected ones"
        ]

    def record(self) -> RunRecord:
        """The shared run, to compare another run with."""
        data = {key: value for key, value in self.values["data"].items() if value is not None}
        metrics = self.values["expected"]["metrics"].items()
        return RunRecord(
            name=self.path.name,
            trial_id=self.trial_id,
            config=self.configuration,
            code=self.values["code"],
            environment=self.values["environment"],
            data=data if "num_files" in data else {"files": None, **data},
            streams={name: list(zip(points["steps"], points["values"], strict=True)) for name, points in metrics},
            is_sampled=True,
        )

    def warnings_for(self, trial: Trial) -> Iterator[str]:
        """What the receiver should know about a run of this file: its warnings, and where the code differs."""
        yield from self.warnings
        digests = {entry.get("sha256") for entry in trial.provenance["code"]}
        for entry in self.values["code"]:
            if entry["sha256"] in digests:
                continue
            if entry["git_sha"]:
                commit = f"commit {entry['git_sha'][:12]}{', with changes' if entry['dirty'] else ''}"
                hint = f"`lathe reproduce {self.path}` restores it"
            else:
                commit, hint = "not in a git checkout", "Lathe cannot restore it; ask the sender if the results differ"
            yield f"the code of '{entry['name']}' here differs from the shared code ({commit}); {hint}"

    def experiment(
        self, overrides: Sequence[str] = (), *, config_dirs: Sequence[str | Path] = (), trust: Sequence[str] = ()
    ) -> Experiment:
        """The configuration with overrides, checked against the schema and the allow-list.

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
    """Read a YAML file or an archive that `lathe share` wrote. This runs no code and writes nothing.

    Raises:
        InputError: the file is damaged or breaks a rule; with every problem that can be found.
    """
    archive = read_archive(path)
    values, origins = parse(path, archive)
    for key in rules.LOCAL:  # these values are local ones, not those of the file
        origins.forget(key)
    return SharedFile(path, values, rules.reset(values["configuration"]), origins, archive.code)
