"""The name, the tags and the note of a run in MLflow and other trackers. Does not import MLflow."""

from __future__ import annotations

import getpass
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.core.files.read_file import MissingFileError, read_yaml_map
from experiments.run import journal
from experiments.run.annotations import FILE, read_annotations
from experiments.run.metric_comparison import VERDICT
from experiments.run.state import RunState
from experiments.trial.parameters import clean_keys, format_param, make_inert, mask_password, truncate
from experiments.trial.trial import Trial


@dataclass(frozen=True)
class SweepMember:
    """What a sweep knows about the run of one of its trials."""

    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    state: RunState
    """From the ledger, which overrides the files of the trial."""
    since: float
    """Time of that state: the start of a run whose journal has no event yet."""
    measured: journal.MetricsEvent | None = None
    """The cost metrics of the ledger, once the trial has ended."""


def make_run_tags(trial: Trial) -> dict[str, str]:
    """Make the tags that are the same for all attempts of a run, and its note."""
    provenance = trial.provenance
    values = {
        "lathe.kind": "run",
        "lathe.run_key": provenance["run_key"],
        "lathe.trial_id": provenance["trial_id"],
        "lathe.folder": str(trial.folder.resolve()),
        "mlflow.note.content": make_note(trial),
    }
    values |= make_reproduction_tags(trial)
    return (
        make_user_tags(read_annotations(trial.folder).apply_to_tags(trial.config.get("tags")))
        | make_origin_tags(provenance)
        | {key: truncate(str(value)) for key, value in values.items()}
    )


def make_reproduction_tags(trial: Trial) -> dict[str, str]:
    """Make the tags of a reproduction: the original run, the verdict and the note; empty for any other run."""
    link, verdict = trial.provenance.get("reproduces"), read_verdict(trial)
    if not link:
        return {}
    values = {
        "lathe.reproduces": link.get("run_key") or link.get("file"),
        "lathe.reproduces_run": link.get("mlflow_run_id"),
        "lathe.verdict": verdict.get("verdict"),
        "mlflow.note.content": make_note(trial),
    }
    return {key: truncate(str(value)) for key, value in values.items() if value}


def read_verdict(trial: Trial) -> dict[str, Any]:
    """Read the verdict of a reproduction; empty while there is none.

    Raises:
        DamagedFileError: the file is damaged.
    """
    try:
        return read_yaml_map(trial.folder / VERDICT)
    except MissingFileError:
        return {}


def make_user_tags(tags: Mapping[str, Any]) -> dict[str, str]:
    """Make the tags that the user set."""
    return clean_keys({str(key): truncate(str(value)) for key, value in tags.items()})


def choose_name(trial: Trial, default: str) -> str:
    """The name of `lathe rename`, or the default."""
    return read_annotations(trial.folder).name or default


def make_annotation_tags(trial: Trial) -> dict[str, str]:
    """Make the tags and the note that the user gave to a run after its start; empty if there is nothing."""
    if not (trial.folder / FILE).exists():
        return {}
    return make_changed_tags(trial.folder) | {"mlflow.note.content": make_note(trial)}


def make_changed_tags(folder: Path) -> dict[str, str]:
    """Make the tags that `lathe tag` has changed of a run or a sweep; one that was removed is empty."""
    return make_user_tags({key: text or "" for key, text in read_annotations(folder).tags.items()})


def make_origin_tags(provenance: Mapping[str, Any]) -> dict[str, str]:
    """Make the tags that name the user and the code."""
    values = {"mlflow.user": _get_user(), "mlflow.source.type": "LOCAL", "mlflow.source.name": "lathe"}
    code = [entry for entry in provenance.get("code") or [] if entry.get("git_sha")]
    if code:
        values["mlflow.source.git.commit"] = code[0]["git_sha"]
        values["mlflow.source.git.branch"] = code[0].get("branch") or "(detached)"
        values["git.dirty"] = "true" if any(entry.get("dirty") for entry in code) else "false"
    return {key: truncate(str(value)) for key, value in values.items()}


def make_note(trial: Trial) -> str:
    """Write the description of a run as Markdown: its components, its code and the commands that repeat it."""
    config, provenance = trial.config, trial.provenance
    overrides = [mask_password(str(text)) for text in provenance.get("overrides") or []]
    annotations = read_annotations(trial.folder)
    name = annotations.name or config["name"]
    lines = [f"**{name}**" + (f": {config['description']}" if config.get("description") else ""), ""]
    lines += [annotations.note, ""] if annotations.note else []
    lines += [
        f"- {group}: `{_format_component(config[group])}`"
        for group in ("model", "data", "optimizer")
        if config.get(group)
    ]
    source = provenance.get("source")
    label = f"overrides of the configuration of trial `{source}`" if source else "overrides"
    lines += [f"- {label}: {' '.join(f'`{text}`' for text in overrides) or 'none'}", *_describe_origin(trial)]
    lines += ["", "### Run again", ""]
    lines += format_code(provenance)
    folders, trust = format_flags(provenance)
    commands = [] if source else [shlex.join(["lathe", "run", *folders, *trust, *overrides])]
    lines += ["", "```", *commands, _format_resume(trial, trust)]
    lines += [" ".join(["lathe", "reproduce", trial.reference, *map(shlex.quote, trust)]), "```"]
    return truncate(make_inert("\n".join(lines)))


def _describe_origin(trial: Trial) -> list[str]:
    """Describe the run that this one reproduces, with a link if MLflow has it, and the verdict."""
    link = trial.provenance.get("reproduces") or {}
    if not link:
        return []
    name = f"`{link.get('run')}`"
    if link.get("mlflow_run_id") and link.get("mlflow_experiment_id"):
        name = f"[{name}](#/experiments/{link['mlflow_experiment_id']}/runs/{link['mlflow_run_id']})"
    verdict = read_verdict(trial)
    message = verdict.get("summary", verdict.get("told"))  # "told" in the first version
    return [f"- reproduces {name}" + (f": {message}" if message else "")]


def _format_resume(trial: Trial, trust: list[str]) -> str:
    """Format the command that resumes a run; a trial of a sweep resumes with its sweep."""
    if not trial.provenance.get("sweep"):
        return " ".join(["lathe", "resume", trial.reference, *map(shlex.quote, trust)])
    folder = trial.folder.parent
    return f"lathe resume {shlex.quote(folder.name if trial.reference == trial.folder.name else str(folder))}"


def format_code(provenance: Mapping[str, Any]) -> list[str]:
    """Format the version of the code as a Markdown list."""
    where = "the sweep's artifacts" if provenance.get("sweep") else "the artifacts"
    return [
        f"- {entry.get('name')} at `{entry.get('git_sha') or 'no commit'}`"
        + (f" with uncommitted changes (in {where}, `code`)" if entry.get("dirty") else "")
        for entry in provenance.get("code") or []
    ]


def format_flags(provenance: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Format the flags that the command had: configuration folders and trusted packages."""
    folders = [arg for name in provenance.get("config_dirs") or [] for arg in ("--config-dir", name)]
    return folders, [arg for name in provenance.get("trust") or [] for arg in ("--trust", name)]


def _format_component(part: object) -> str:
    """Format a component of the configuration as the call that builds it."""
    if not isinstance(part, dict):
        return truncate(format_param(part), 200)
    name = str(part.get("_target_", "")).rpartition(".")[2]
    arguments = ", ".join(f"{key}={format_param(value)}" for key, value in part.items() if not key.startswith("_"))
    return truncate(f"{name}({arguments})".replace("`", "'").replace("\n", " "), 200)


def _get_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container user without a name; OSError since Python 3.13
        return "unknown"


def select_transient_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Select the tags of an existing run that may be out of date."""
    return {key: text for key, text in tags.items() if text and key in ("lathe.reason", "lathe.failure", "lathe.host")}


def diff_tags(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """Return the tags to set; a tag that no longer applies becomes empty."""
    new = {key: value for key, value in now.items() if before.get(key) != value}
    return new | {key: "" for key in before if key not in now and before[key]}
