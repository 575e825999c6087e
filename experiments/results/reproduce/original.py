"""What is to be reproduced: a run folder, or a shared file with or without code of its own."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.config.allowlist import trusted
from experiments.core.errors import InputError
from experiments.results.reproduce.verdict import last_step
from experiments.run import journal
from experiments.trial.initial_weights import FILE, weights_of
from experiments.trial.lookup import find_run, mlflow_ids, whole
from experiments.trial.record import CodeRecord, of_trial
from experiments.trial.trial import Trial


@dataclass(frozen=True)
class Original:
    """A run that is to be run again."""

    record: CodeRecord
    files: Path | None
    """Where the files lie that say what was not committed; None: they are not here, or not trusted."""
    overrides: Sequence[str]
    config_dirs: Sequence[str]
    trust: Sequence[str]
    link: Mapping[str, Any]
    """What a repetition says that it reproduces: run, run_key, mlflow_run_id, mlflow_experiment_id."""
    is_finished: bool
    is_trusted: bool = True
    """Whether any commit that it names may be run; else only those that what is checked out here comes from."""
    mixed: Sequence[str] = ()
    """Why its attempts are not of one kind, so that no single run gives the same bits."""
    amiss: Sequence[str] = ()
    """What of it cannot be had back, known before it is tried."""
    initial: Path | None = None
    """The weights that it began with; None: those of chance."""
    source: str | None = None
    """The trial whose whole configuration its overrides changed; None: they compose it."""

    @property
    def last_step(self) -> int:
        return last_step(self.record.streams)


@contextmanager
def original(asked: Namespace) -> Iterator[Original]:
    """The run or shared file that the command names; what a bundle brings lies in a scratch folder meanwhile.

    Raises:
        InputError: there is none, it has nothing to compare with, or it names code that nobody trusts here.
    """
    path = Path(asked.run).expanduser()
    if path.name == "trial.yaml" and path.is_file():
        yield _checked(_of_trial(whole(Trial(path.parent.resolve()))), asked)
    elif path.is_file():
        with tempfile.TemporaryDirectory(prefix="lathe-bundle-") as scratch:
            yield _checked(_of_shared(path, Path(scratch), asked), asked)
    else:
        yield _checked(_of_trial(find_run(asked.run, Path(asked.runs_dir))), asked)


def _checked(found: Original, asked: Namespace) -> Original:
    problems = []
    if not found.record.streams:
        problems.append(f"{asked.run} has no metrics yet, so there is nothing to compare with; let it run first")
    strange = sorted({*found.trust} - {*trusted(asked.trust)})
    if strange:
        flags = " ".join(f"--trust {name}" for name in strange)
        problems.append(f"{asked.run} runs code of {', '.join(strange)}; say {flags} if you trust that")
    first = min((points[0][0] for points in found.record.streams.values()), default=0)
    if asked.steps is not None and asked.steps < max(1, first):
        problems.append(
            f"--steps {asked.steps}: the first point of {asked.run} is at step {first}; ask for {max(1, first)} or more"
        )
    if problems:
        raise InputError(problems)
    return found


def _of_trial(trial: Trial) -> Original:
    provenance, ids, outcome = trial.provenance, mlflow_ids(trial), trial.outcome()
    record = of_trial(trial)
    first = trial.attempts()[:1]
    return Original(
        record=replace(record, config=trial.config_of(int(first[0].name))) if first else record,
        files=record.code_folder,
        overrides=provenance.get("overrides") or [],
        config_dirs=provenance.get("config_dirs") or [],
        trust=provenance.get("trust") or [],
        initial=trial.folder / FILE if weights_of(record.config) is not None else None,
        source=provenance.get("source"),
        link={
            "run": trial.folder.name,
            "run_key": provenance.get("run_key"),
            "mlflow_run_id": ids.get("run_id"),
            "mlflow_experiment_id": ids.get("experiment_id"),
        },
        is_finished=outcome is not None and outcome["status"] == "finished",
        mixed=list(_mixed(trial)),
        amiss=[f"code: {warning}" for warning in provenance.get("warnings") or [] if "code snapshot" in warning],
    )


def _mixed(trial: Trial) -> Iterator[str]:
    """By what the attempts at a run differ from each other."""
    configs = [trial.config_of(int(path.name)) for path in trial.attempts()]
    changed = {key for config in configs[1:] for key in config if config[key] != configs[0].get(key)}
    if changed:
        yield f"the original's own attempts differ in {', '.join(sorted(changed))}"
    threads = set[str]()
    for path in journal.journals(trial.folder):
        events = journal.read(path, max_bytes=1 << 16)[0]
        noted = [event["params"].get("plan.cpu_threads") for event in events if event["event"] == "params"]
        threads |= {str(count) for count in noted if count is not None}
    if len(threads) > 1:
        yield f"the original's own attempts computed with {' and '.join(sorted(threads))} threads"


def _of_shared(path: Path, scratch: Path, asked: Namespace) -> Original:
    from experiments.results.share.shared_file import read

    shared = read(path)
    shared.check_code(asked.trust)
    amiss = list(shared.warnings)
    files = None
    dirty = [entry for entry in shared.values["code"] if entry["dirty"]]
    bundle = shared.values["bundle"]
    if bundle and asked.trust_code:
        files = scratch / "code"
        files.mkdir()
        for name, content in shared.code_files.items():
            (scratch / name).write_bytes(content)
    elif dirty and bundle:
        amiss.append(
            f"code: the uncommitted code in {path.name} is not used; --trust-code uses it, if you trust its sender"
        )
    elif dirty:
        amiss.append(f"code: the run had uncommitted changes, which {path.name} has not; ask for it with --bundle")
    return Original(
        record=shared.record(),
        files=files,
        overrides=shared.values["overrides"],
        config_dirs=[],
        trust=[],
        source=shared.trial_id,
        link={
            "run": shared.values["name"],
            "run_key": None,
            "mlflow_run_id": None,
            "mlflow_experiment_id": None,
            "file": path.name,
        },
        is_finished=True,
        is_trusted=bool(asked.trust_code),
        amiss=amiss,
    )
