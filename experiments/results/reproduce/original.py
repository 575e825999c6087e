"""The original of a reproduction: a run folder, or a shared file with or without uncommitted code."""

from __future__ import annotations

import tempfile
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.config.allowlist import trusted
from experiments.config.source_map import SourceMap
from experiments.config.validate import check_config
from experiments.core.errors import ConfigError, InputError
from experiments.core.files.paths import user_path
from experiments.results.reproduce.verdict import last_step
from experiments.run import journal
from experiments.trial.code_snapshot import take_snapshots
from experiments.trial.initial_weights import FILE, check_copy, get_initial_weights
from experiments.trial.lookup import check_readable, find_run, read_mlflow_ids
from experiments.trial.own_runs import check_own
from experiments.trial.record import RunRecord, record_trial
from experiments.trial.resume import check_repeatable
from experiments.trial.trial import Trial


@dataclass(frozen=True)
class Original:
    """A run that is reproduced."""

    record: RunRecord
    files: Path | None
    """Folder of the uncommitted code; None if it is not available or not trusted."""
    overrides: Sequence[str]
    config_dirs: Sequence[str]
    trust: Sequence[str]
    """Packages that the user trusts; never those that the original names."""
    link: Mapping[str, Any]
    """Identifies the original in the repetition: run, run_key, mlflow_run_id, mlflow_experiment_id."""
    is_finished: bool
    is_trusted: bool = True
    """True: any commit may run. False: only the commit that is checked out here and its ancestors."""
    mixed: Sequence[str] = ()
    """How its attempts differ from each other, so that one run cannot give the same bits."""
    problems: Sequence[str] = ()
    """Parts of the original that are known to be missing before it is run."""
    initial: Path | None = None
    """The initial weights; None: random ones."""
    source: str | None = None
    """The trial id of the configuration that the overrides changed; None: the overrides compose it."""

    @property
    def last_step(self) -> int:
        return last_step(self.record.streams)


@contextmanager
def open_original(args: Namespace) -> Iterator[Original]:
    """The run or shared file that the command names. The code of an archive is in a scratch folder while the context is open.

    Raises:
        InputError: it does not exist, has no metrics, is another user's, or names code that is not trusted here.
    """
    path = user_path(args.run)
    if path.name == "trial.yaml" and path.is_file():
        yield _checked(_of_trial(_check_own(check_readable(Trial(path.parent.resolve())), args), args), args)
    elif path.is_file():
        with tempfile.TemporaryDirectory(prefix="lathe-bundle-") as scratch:
            yield _checked(_of_shared(path, Path(scratch), args), args)
    else:
        yield _checked(_of_trial(_check_own(find_run(args.run, Path(args.runs_dir)), args), args), args)


def _check_own(trial: Trial, args: Namespace) -> Trial:
    """The run, if the command may run its code; `--check` runs none."""
    if args.check is None:
        check_own(trial.folder, Path(args.runs_dir), trust_code=args.trust_code)
    return trial


def _checked(original: Original, args: Namespace) -> Original:
    problems = []
    if not original.record.streams:
        problems.append(f"{args.run} has no metrics to compare with; run it first")
    first = min((points[0][0] for points in original.record.streams.values()), default=0)
    if args.steps is not None and args.steps < max(1, first):
        problems.append(
            f"--steps {args.steps}: the first point of {args.run} is at step {first}; write {max(1, first)} or more"
        )
    if problems:
        raise InputError(problems)
    return original


def _check_configuration(
    record: RunRecord, trust: Sequence[str], name: str, *, is_trusted: bool, origins: SourceMap | None = None
) -> None:
    """Check the configuration by today's rules before any code is restored.

    Code that differs from today's may have other arguments. If the user trusts it, it may also have other components.

    Raises:
        ConfigError: with every problem.
    """
    subject = f"the configuration of {name}"
    try:
        check_config(record.config, trust, subject, origins=origins)
    except ConfigError as err:
        with suppress(ConfigError):
            check_config(record.config, trust, subject, other_arguments=True, other_classes=is_trusted)
            if _has_other_code(record, trust):
                return
        raise err from None


def _has_other_code(record: RunRecord, trust: Sequence[str]) -> bool:
    with tempfile.TemporaryDirectory() as scratch:
        known = {entry["sha256"] for entry in take_snapshots((), trust, Path(scratch), [])}
    return any(entry["sha256"] not in known for entry in record.code)


def _of_trial(trial: Trial, args: Namespace) -> Original:
    provenance, ids, outcome = trial.provenance, read_mlflow_ids(trial), trial.outcome()
    if args.check is None:
        check_repeatable(trial)
    record, trust = record_trial(trial), trusted(args.trust)
    if first := trial.attempts()[:1]:
        record = replace(record, config=trial.read_attempt_config(int(first[0].name)))
    _check_configuration(record, trust, args.run, is_trusted=True)
    has_initial = bool(get_initial_weights(record.config))
    if has_initial:
        check_copy(trial.folder, provenance)
    return Original(
        record=record,
        files=record.code_folder,
        overrides=provenance["overrides"],
        config_dirs=provenance["config_dirs"],
        trust=trust,
        initial=trial.folder / FILE if has_initial else None,
        source=provenance.get("source"),
        link={
            "run": trial.folder.name,
            "run_key": provenance.get("run_key"),
            "mlflow_run_id": ids.get("run_id"),
            "mlflow_experiment_id": ids.get("experiment_id"),
        },
        is_finished=outcome is not None and outcome["status"] == "finished",
        mixed=list(_mixed(trial)),
        problems=[f"code: {warning}" for warning in provenance["warnings"] if "code snapshot" in warning],
    )


def _mixed(trial: Trial) -> Iterator[str]:
    """The differences between the attempts of a run."""
    configs = [trial.read_attempt_config(int(path.name)) for path in trial.attempts()]
    changed = {key for config in configs[1:] for key in config if config[key] != configs[0].get(key)}
    if changed:
        yield f"the attempts of the original differ in {', '.join(sorted(changed))}"
    threads = set[str]()
    for path in journal.journals(trial.folder):
        events = journal.read(path, max_bytes=1 << 16)[0]
        noted = [event["params"].get("plan.cpu_threads") for event in events if event["event"] == "params"]
        threads |= {str(count) for count in noted if count is not None}
    if len(threads) > 1:
        yield f"the attempts of the original used {' and '.join(sorted(threads))} threads"


def _of_shared(path: Path, scratch: Path, args: Namespace) -> Original:
    from experiments.results.share.shared_file import read

    shared, trust = read(path), trusted(args.trust)
    record = shared.record()
    problems = list[str]()
    files = None
    dirty = [entry for entry in shared.values["code"] if entry["dirty"]]
    bundle = shared.values["bundle"]
    if bundle and args.trust_code:
        files = scratch / "code"
        files.mkdir()
        for name, content in shared.code_files.items():
            (scratch / name).write_bytes(content)
    elif dirty and bundle:
        problems.append(
            f"code: the uncommitted code in {path.name} is not used; add --trust-code if you trust its sender"
        )
    elif dirty:
        problems.append(f"code: {path.name} lacks the uncommitted changes of the run; ask the sender to use --bundle")
    try:
        _check_configuration(record, trust, args.run, is_trusted=bool(args.trust_code), origins=shared.origins)
    except ConfigError as err:
        raise ConfigError([*err.problems, *problems], err.subject) from err
    return Original(
        record=record,
        files=files,
        overrides=shared.values["overrides"],
        config_dirs=[],
        trust=trust,
        source=shared.trial_id,
        link={
            "run": shared.values["name"],
            "run_key": None,
            "mlflow_run_id": None,
            "mlflow_experiment_id": None,
            "file": path.name,
        },
        is_finished=True,
        is_trusted=bool(args.trust_code),
        problems=[*shared.warnings, *problems],
    )
