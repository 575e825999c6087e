"""What is known of a run: from its folder, a shared file, or an experiment that has not run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config.allowlist import trusted
from experiments.run import journal
from experiments.run.metrics import MetricSeries, read_series
from experiments.trial.code_snapshot import take_snapshots
from experiments.trial.environment import describe_machine, installed_packages
from experiments.trial.trial import Trial, fingerprint_data, resolve_runs_dir, trial_id

if TYPE_CHECKING:
    from experiments.config.experiment import Experiment

LOGGED_ENVIRONMENT = {
    "plan.cpu_threads": "cpu_threads",
    "env.cpu_capability": "cpu_capability",
    "env.device_name": "device_name",
    "env.torch": "torch",
}
"""Parameters of a journal that describe the environment, and their names in a record."""


@dataclass(frozen=True)
class RunRecord:
    """Everything that two runs can differ by, as plain data."""

    name: str
    """As the user named it."""
    trial_id: str
    config: Mapping[str, Any]
    """Resolved, but for `${oc.env:NAME}`."""
    code: Sequence[Mapping[str, Any]]
    """One entry for each checkout, of `code_snapshot.take_snapshots`: name, sha256, git_sha, dirty, diff, untracked."""
    environment: Mapping[str, Any]
    """python, platform, packages (by name), and from the journal cpu_threads, cpu_capability, device_name, torch."""
    data: Mapping[str, Any]
    """files (checksums by name, or None), and of a run also splits (digest and num_examples by name)."""
    streams: Mapping[str, MetricSeries] = field(default_factory=dict)
    """Empty for an experiment that has not run."""
    run_key: str | None = None
    code_folder: Path | None = None
    """Folder of the files that the entries of ``code`` name under diff and untracked."""
    is_sampled: bool = False
    """Whether the series contain only some of the points, as in a shared file."""


def record_trial(trial: Trial, name: str | None = None) -> RunRecord:
    """The record of a run folder."""
    provenance = trial.provenance
    logged, splits = _read_journals(trial.folder)
    environment = {key: provenance[key] for key in ("python", "platform", "packages") if key in provenance}
    return RunRecord(
        name=name or trial.folder.name,
        trial_id=trial.id,
        config=trial.config,
        code=[{"sha256": "", **entry} for entry in provenance["code"]],
        environment=environment | logged,
        data={**(provenance.get("data") or {}), "splits": splits},
        streams=read_series(trial.folder),
        run_key=provenance.get("run_key"),
        code_folder=find_code_folder(trial),
    )


def find_code_folder(trial: Trial) -> Path:
    """Folder of the uncommitted changes of a run; trials of a sweep share that of the sweep."""
    sweep = trial.folder.parent
    return (sweep if (sweep / "sweep.yaml").is_file() else trial.folder) / "code"


@contextmanager
def record_experiment(experiment: Experiment, name: str) -> Iterator[RunRecord]:
    """The record of an experiment that is not frozen; its code is in a temporary folder while the context is open."""
    with tempfile.TemporaryDirectory(prefix="lathe-code-") as scratch:
        folder, trust = Path(scratch), trusted(experiment.trust)
        yield RunRecord(
            name=name,
            trial_id=trial_id(experiment.config),
            config=experiment.config,
            code=take_snapshots(experiment.config_dirs, trust, folder, [], resolve_runs_dir(experiment.config)),
            environment=describe_environment(),
            data=fingerprint_data(experiment.config["data"]),
            code_folder=folder,
        )


def describe_environment() -> dict[str, Any]:
    """The environment of this process, for a record."""
    machine = describe_machine()
    return {"python": machine["python"], "platform": machine["platform"], "packages": installed_packages()}


def _read_journals(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The environment and the data splits that the attempts logged; the first value counts."""
    logged, splits = dict[str, Any](), dict[str, dict[str, Any]]()
    for event in journal.replay(folder):
        if event["event"] == "params":
            for key, value in event["params"].items():
                if key in LOGGED_ENVIRONMENT:
                    logged.setdefault(LOGGED_ENVIRONMENT[key], value)
        elif event["event"] == "data":
            split = {"digest": event["digest"], "num_examples": event["num_examples"]}
            splits.setdefault(event["split"], split)
    return logged, splits
