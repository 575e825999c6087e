"""What is known of a run, wherever it comes from: a run folder, a shared file, an experiment that has not run."""

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

NOTED = {
    "plan.cpu_threads": "cpu_threads",
    "env.cpu_capability": "cpu_capability",
    "env.device_name": "device_name",
    "env.torch": "torch",
}
"""What a run's journal says of the environment, and what that is called here."""


@dataclass(frozen=True)
class RunRecord:
    """Everything that two runs can differ by, as plain data."""

    name: str
    """As the user named it."""
    trial_id: str
    config: Mapping[str, Any]
    """Resolved; `${oc.env:NAME}` stands as it is."""
    code: Sequence[Mapping[str, Any]]
    """An entry a checkout, as `snapshot.snapshots` gives it: name, sha256, git_sha, dirty, diff, untracked."""
    environment: Mapping[str, Any]
    """python, platform, packages (by name), and what the run itself noted: cpu_threads, cpu_capability, device_name, torch."""
    data: Mapping[str, Any]
    """files (checksums by name, or None), and splits: by name digest and num_examples, where it has run."""
    streams: Mapping[str, MetricSeries] = field(default_factory=dict)
    """Empty for an experiment that has not run."""
    run_key: str | None = None
    code_folder: Path | None = None
    """Where the files lie that the entries of ``code`` name under diff and untracked."""
    is_sampled: bool = False
    """Whether the streams hold only some of the points, as in a shared file."""


def record_trial(trial: Trial, name: str | None = None) -> RunRecord:
    """What a run folder holds."""
    provenance = trial.provenance
    noted, splits = _of_journals(trial.folder)
    told = {key: provenance[key] for key in ("python", "platform", "packages") if key in provenance}
    return RunRecord(
        name=name or trial.folder.name,
        trial_id=trial.id,
        config=trial.config,
        code=provenance.get("code") or [],
        environment=told | noted,
        data={**(provenance.get("data") or {}), "splits": splits},
        streams=read_series(trial.folder),
        run_key=provenance.get("run_key"),
        code_folder=find_code_folder(trial),
    )


def find_code_folder(trial: Trial) -> Path:
    """Where a run keeps what its checkouts differed by; a trial of a sweep in the sweep's folder."""
    sweep = trial.folder.parent
    return (sweep if (sweep / "sweep.yaml").is_file() else trial.folder) / "code"


@contextmanager
def record_experiment(experiment: Experiment, name: str) -> Iterator[RunRecord]:
    """What an experiment would be if it were frozen now; its code lies in a scratch folder while the context is open."""
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
    """The environment of this process, as a record holds it."""
    told = describe_machine()
    return {"python": told["python"], "platform": told["platform"], "packages": installed_packages()}


def _of_journals(folder: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What the attempts of a run noted of their environment and of the splits they read; what came first stands."""
    noted, splits = dict[str, Any](), dict[str, dict[str, Any]]()
    for event in journal.replay(folder):
        if event["event"] == "params":
            for key, value in event["params"].items():
                if key in NOTED:
                    noted.setdefault(NOTED[key], value)
        elif event["event"] == "data":
            told = {"digest": event["digest"], "num_examples": event["num_examples"]}
            splits.setdefault(event["split"], told)
    return noted, splits
