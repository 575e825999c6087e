"""Copies sweeps to their trackers; in MLflow a parent run, and a child run per trial. All data comes from the ledger and
the journals."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from experiments.core.errors import InputError
from experiments.core.files.read_file import DamagedFileError
from experiments.core.lock import LockHeldError, locked_within_limits
from experiments.run.failure import DATA_LOST
from experiments.sweep.ledger import Entry
from experiments.sweep.status.progress import Progress, ProgressReader
from experiments.sweep.sweep import Sweep, find_by_full_name, format_reference
from experiments.sweep.templates import read_templates
from experiments.tracking import mlflow_client, mlflow_view, run_tags, store_uri, sweep_tags
from experiments.tracking.mlflow_client import Store
from experiments.tracking.run_sync import RunSync, sync_run
from experiments.tracking.store_uri import StoreError
from experiments.tracking.sweep_metrics import BestSoFar
from experiments.tracking.sweep_progress_file import SweepUploadProgress
from experiments.tracking.trackers.make_tracker import MLFLOW, list_trackers
from experiments.tracking.trackers.mlflow import mark_lost
from experiments.tracking.trackers.sweep_trackers import MAX_FAILURES_IN_A_ROW, SweepTrackers, make_mark, make_member
from experiments.trial.debug_run import wants_model
from experiments.trial.own_runs import check_own
from experiments.trial.trial import Trial, find_trial

REPORT, PAGE = "report", "report.html"
"""The folder in a sweep folder where `lathe report` writes, and the file that it writes last."""
SAVE_EVERY = 50
DAMAGE_ERRORS = (DamagedFileError, OSError, ValueError, KeyError, TypeError)
"""What reading a damaged folder raises."""


class SyncSummary(NamedTuple):
    """The result of a sync of several runs: runs in the store, points sent, and one line per failure."""

    runs: int
    """Without the parent runs of sweeps."""
    points: int
    failures: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    """What does not make a sync fail, such as a final model that could not be logged, or a store that was repaired."""


def sync_all(
    runs_dir: Path, names: Sequence[str] = (), trust: tuple[str, ...] = (), *, trust_code: bool = False
) -> SyncSummary:
    """Sync sweeps and runs by name; without names all in `runs_dir`.

    Args:
        runs_dir: folder of the runs.
        names: of sweeps and runs.
        trust: packages whose code a logged model may include.
        trust_code: also sync runs of other users, to the store that their configurations name.
    """
    chosen: dict[Path, set[str] | None] = {}
    """Selected trials by folder of a run or sweep; None: all trials."""
    failures: list[str] = []
    for name in names:
        try:
            _add_choice(name, runs_dir, chosen)
        except InputError as err:
            failures += err.problems
    if not names:
        chosen = {path.parent: None for path in sorted(runs_dir.glob("*/sweep.yaml"))}
        chosen |= {path.parent: None for path in sorted(runs_dir.glob("single/*/trial.yaml"))}
    runs, points, warnings = 0, 0, list[str]()
    for folder, trials in chosen.items():
        try:
            check_own(folder, runs_dir, trust_code=trust_code)
            done = _sync(folder, trials, trust)
        except InputError as err:
            failures += err.problems
        except StoreError as err:
            failures.append(str(err))
        except DAMAGE_ERRORS as err:
            failures.append(_describe_damage(folder, err))
        else:
            runs, points, failures = runs + done.runs, points + done.points, [*failures, *done.failures]
            warnings += done.warnings
    return SyncSummary(runs, points, tuple(failures), tuple(warnings))


def _add_choice(name: str, runs_dir: Path, chosen: dict[Path, set[str] | None]) -> None:
    sweep = find_by_full_name(name, runs_dir)
    if sweep is not None:
        chosen[sweep.folder] = None
        return
    folder = find_trial(name, runs_dir).folder
    if not (folder.parent / "sweep.yaml").is_file():
        chosen[folder] = None
    elif (trials := chosen.setdefault(folder.parent, set())) is not None:
        trials.add(folder.name)


def _sync(folder: Path, trials: Collection[str] | None, trust: tuple[str, ...]) -> SyncSummary:
    if (folder / "sweep.yaml").is_file():
        return SweepSync(Sweep(folder, trust)).sync(trials)
    done = sync_run(Trial(folder), trust)
    return SyncSummary(1, done.points, (), (done.warning,) if done.warning else ())


def _describe_damage(folder: Path, err: Exception) -> str:
    if isinstance(err, DamagedFileError):
        return "; ".join(err.problems)
    reason = f"{type(err).__name__}: {' '.join(str(err).split())}"
    return f"{folder} is damaged ({reason}); restore it, or move it out of {folder.parent}"


def read_tracking_config(sweep: Sweep) -> dict[str, Any]:
    """Read the tracking settings of a sweep; all its trials share them."""
    config = _read_config(sweep)
    return {**config["tracking"], "log_model": wants_model(config)}


def _read_config(sweep: Sweep) -> dict[str, Any]:
    config: dict[str, Any] = read_templates(sweep.folder)[0]["config"]
    return config


class SweepSync:
    """Syncs one sweep, once or repeatedly. Each sync holds the lock of the sweep, so that two processes take turns.

    A trial whose end is in the store is not read again, and without a change MLflow is not called.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep
        self._ledger = sweep.ledger()
        self._ledger.state = self._curve = BestSoFar(sweep.spec["mode"])
        self._reader = ProgressReader(sweep, self._ledger)
        self._children: dict[str, RunSync] = {}
        self._trackers = SweepTrackers(sweep, _read_config(sweep))
        self._names: dict[str, str] = {}
        self._attached = ""  # the run id that this process found in the store
        self._seen = ""  # version of the ledger and of sweep.yaml at the last read
        self._synced = ""  # the same at the last complete sync
        self._progress: Progress | None = None
        self._over = False
        self.is_refused = False
        """Whether the last sync failed with an error that no retry can mend."""

    def sync(self, only: Collection[str] | None = None) -> SyncSummary:
        """Copy what is new to every tracker and set every status. The next sync retries what one of them refused.

        Args:
            only: ids of trials to sync; None: all.
        """
        self.is_refused = False
        has_mlflow = MLFLOW in list_trackers(_read_config(self.sweep))
        done = self._sync_mlflow(only) if has_mlflow else SyncSummary(0, 0, ())
        if not self._trackers.labels:
            return done
        try:
            with locked_within_limits(self.sweep.folder / "sync.lock"):
                self._look()
                chosen = [entry for entry in self._entries() if only is None or entry.id in only]
                points, failures = self._trackers.sync(chosen, self._names)
        except LockHeldError as err:
            return done._replace(failures=(*done.failures, f"sweep {self.sweep.name!r} is not synced: {err}"))
        is_mlflow_refused = self.is_refused or not has_mlflow
        self.is_refused = bool(failures) and all(err.is_permanent for err in failures)
        self.is_refused = self.is_refused and (is_mlflow_refused or (self._over and not done.failures))
        return SyncSummary(
            done.runs if has_mlflow else len(chosen), max(done.points, points),
            (*done.failures, *map(str, failures)), done.warnings,
        )  # fmt: skip

    def _sync_mlflow(self, only: Collection[str] | None) -> SyncSummary:
        tracking = self._tracking
        try:
            uri = store_uri.resolve_store(tracking["store"], self.sweep.runs_dir)
        except StoreError as err:
            self.is_refused = err.is_permanent
            return SyncSummary(0, 0, (str(err),))
        errors = mlflow_client.get_store_errors()
        try:
            return mlflow_client.retry_damaged(uri, self.sweep.runs_dir, lambda: self._sync(uri, only))
        except errors as err:
            self._attached = self._synced = ""
            name, again = self.sweep.name, format_reference(self.sweep)
            error = mlflow_client.make_store_error(err, name, tracking["store"], uri, again)
            self.is_refused = error.is_permanent
            return SyncSummary(0, 0, (str(error),))

    def _sync(self, uri: str, only: Collection[str] | None) -> SyncSummary:
        with locked_within_limits(self.sweep.folder / "sync.lock"):
            progress = SweepUploadProgress.load(self._path, self._tracking["store"] or uri)
            self._look()
            store = mlflow_client.open_store(uri, self.sweep.runs_dir)
            if not self._attached or self._attached != progress.run_id:
                self._attach(store, progress)
            chosen = [entry for entry in self._entries() if only is None or entry.id in only]
            points, failures = self._sync_children(store, progress, chosen)
            warning = None
            if self._synced != self._seen:
                self._update_parent(store, progress)
                warning = self._log_best(progress) if self._over else None
            self._synced = self._seen if not failures and only is None else ""
            runs = sum(entry.id in progress.children for entry in chosen)
            warnings = [*store.take_warnings(), *([warning] if warning else [])]
            return SyncSummary(runs, points, tuple(failures), tuple(warnings))

    def is_over(self) -> bool:
        """Read the ledger; whether no trial runs and none will start."""
        self._ledger.read()
        return self._is_over()

    def is_at_work(self) -> bool:
        """Whether a trial was running when the ledger was last read."""
        return any(entry.state == "running" for entry in self._ledger.state.entries.values())

    def _is_over(self) -> bool:
        return sweep_tags.is_over(self.sweep.spec, self.sweep.is_adaptive, self._ledger.state)

    @cached_property
    def _tracking(self) -> dict[str, Any]:
        return read_tracking_config(self.sweep)

    @property
    def _path(self) -> Path:
        return self.sweep.folder / "sync.json"

    def _entries(self) -> list[Entry]:
        """List the trials that have a run: a worker has claimed them."""
        return [entry for entry in self._ledger.state.entries.values() if entry.attempt > 0]

    def _look(self) -> None:
        """Read new events of the ledger; if it has grown or sweep.yaml has changed, update names and progress."""
        spec = self.sweep.folder / "sweep.yaml"
        changed_ns = spec.stat().st_mtime_ns
        size = self._ledger.path.stat().st_size if self._ledger.path.exists() else 0
        seen = f"{changed_ns} {size} {self.is_over()}"  # a time budget ends a sweep without an event
        if seen == self._seen:
            return
        if not self._seen.startswith(f"{changed_ns} "):
            self.sweep = Sweep(self.sweep.folder, self.sweep.trust)
            self._reader = ProgressReader(self.sweep, self._ledger)
        self._progress = self._reader.read()  # may read newer events than `seen`; then the next sync reads again
        self._over = self._is_over()
        with_seed, alone = int(self.sweep.spec["num_seeds"]) > 1, self.sweep.name
        self._names = sweep_tags.make_run_names(self._progress.rows, with_seed=with_seed, alone=alone)
        self._seen = seen

    def _attach(self, store: Store, progress: SweepUploadProgress) -> None:
        """Find or create the parent run, before any child."""
        run = store.get_run(progress.run_id) if progress.run_id else None
        if run is None:
            tags = sweep_tags.make_sweep_tags(self.sweep, _read_config(self.sweep))
            started = self._ledger.state.opened or (self.sweep.folder / "sweep.yaml").stat().st_mtime
            key = {"lathe.sweep_key": self.sweep.key, "lathe.kind": "sweep"}
            run = store.find_or_create_run(
                self._tracking["experiment"], key, name=self.sweep.name, started=started, tags=tags
            )
        if run.run_id != progress.run_id or run.was_deleted:
            code = sorted(path for path in (self.sweep.folder / "code").glob("*") if path.is_file())
            progress.run_id, progress.experiment_id, progress.children = run.run_id, run.experiment_id, {}
            progress.points, progress.status, progress.spec = 0, None, ""
            progress.tags = run_tags.select_transient_tags(run.tags)
            progress.view = progress.view_key = progress.report = ""
            progress.artifacts = ["provenance.yaml", *(f"code/{path.name}" for path in code)]
        params = sweep_tags.make_params(self.sweep.spec)
        store.log_params(run.run_id, {key: text for key, text in params.items() if key not in run.params})
        progress.save(self._path)
        self._attached = run.run_id

    def _sync_children(
        self, store: Store, progress: SweepUploadProgress, entries: Sequence[Entry]
    ) -> tuple[int, list[str]]:
        """Sync the runs of trials; return the number of points sent and the failures."""
        points, refusals, unsaved, failures = 0, 0, 0, list[str]()
        for entry in entries:
            trial = self.sweep.trial(entry)
            mark = make_mark(trial, entry, self._names[entry.id])
            if entry.state != "running" and progress.children.get(entry.id, ["", ""])[1] == mark:
                continue
            if not (trial.folder / "trial.yaml").exists():  # removed, or never written; the note of the parent lists it
                if entry.id in progress.children and entry.failure == DATA_LOST:
                    run_id = progress.children[entry.id][0]
                    mark_lost(store, run_id, entry.reason or DATA_LOST, entry.since)
                    progress.children[entry.id] = [run_id, mark]
                    unsaved += 1
                continue
            try:
                synced = self._child(trial, entry, progress)
            except StoreError as err:
                failures.append(str(err))
                refusals += 1
                if refusals == MAX_FAILURES_IN_A_ROW:
                    break
                continue
            except DAMAGE_ERRORS as err:
                failures.append(_describe_damage(trial.folder, err))
                continue
            refusals, points = 0, points + synced[1]
            unsaved += progress.children.get(entry.id) != [synced[0], mark]
            progress.children[entry.id] = [synced[0], mark]
            if unsaved >= SAVE_EVERY:
                progress.save(self._path)
                unsaved = 0
        if unsaved:
            progress.save(self._path)
        return points, failures

    def _child(self, trial: Trial, entry: Entry, progress: SweepUploadProgress) -> tuple[str, int]:
        """Sync the run of one trial; return its id and the number of points sent."""
        run = self._children.setdefault(entry.id, RunSync(trial))
        member = make_member(self.sweep, entry, self._names[entry.id], progress.run_id)
        synced = run.sync(reconcile=False, member=member)
        if entry.state != "running":
            del self._children[entry.id]
        return str(synced.run_id), synced.points

    def _log_best(self, progress: SweepUploadProgress) -> str | None:
        """Log the final model of the best trial of a sweep that is over; `lathe export` logs those of other trials.

        Returns:
            Why that failed; None otherwise.
        """
        assert self._progress is not None
        best = self._progress.best
        if best is None or not self._tracking.get("log_model"):
            return None
        own_trials = {*best.trials} & {*progress.children}
        rows = [row for row in self._progress.rows if row.id in own_trials and row.state == "finished"]
        if not rows:  # the result is reused from another sweep, which has its model
            return None
        choose = max if self._progress.mode == "max" else min
        winner = choose(rows, key=lambda row: best.value if row.value is None else row.value)
        try:
            run = RunSync(Trial(self.sweep.folder / winner.id), self.sweep.trust)
            run.log_model(self._tracking.get("register_as"))
        except InputError as err:
            reason = "; ".join(err.problems)
        except StoreError as err:
            reason = str(err)
        else:
            return None
        return f"the model of the best trial '{winner.id}' of sweep '{self.sweep.name}' was not logged: {reason}"

    def _save_view(self, store: Store, progress: SweepUploadProgress) -> None:
        """Save the view of the present spec, if the UI of the store supports saved views."""
        view = mlflow_view.make_view(self.sweep)
        digest = hashlib.sha256(view.text.encode()).hexdigest() if view else "none"
        if digest == progress.view:
            return
        progress.view_key = ""
        if view is not None and mlflow_view.has_saved_views(store.ui_version()):
            store.set_experiment_tag(progress.experiment_id, view.tag, view.text)
            progress.view_key = view.key
        progress.view = digest
        progress.save(self._path)

    def _update_parent(self, store: Store, progress: SweepUploadProgress) -> None:
        """Update the parent run: curves, tags and note, then its status, and files last."""
        assert self._progress is not None
        self._save_view(store, progress)
        new = self._curve.curve[progress.points :]
        store.log_metrics(progress.run_id, new)
        page = f"#/experiments/{progress.experiment_id}/runs"
        links = {trial: f"{page}/{run_id}" for trial, (run_id, _) in progress.children.items()}
        tags = sweep_tags.make_live_tags(self._progress, self._over)
        view = mlflow_view.make_page_path(
            self.sweep.spec, self.sweep.key, progress.experiment_id, progress.view_key or None
        )
        tags["mlflow.note.content"] = sweep_tags.make_note(self.sweep, self._progress, self._names, links, view)
        tags |= run_tags.make_changed_tags(self.sweep.folder)
        store.set_tags(progress.run_id, run_tags.diff_tags(progress.tags, tags))
        times = [entry.since for entry in self._ledger.state.entries.values()]
        ended = max(times, default=self._progress.opened) if self._over else None
        status: list[Any] = [sweep_tags.determine_status(self._progress, self._over), ended]
        if status != progress.status:
            store.set_status(progress.run_id, status[0], ended)
        progress.points, progress.tags, progress.status = progress.points + len(new), tags, status
        spec = _hash_file(self.sweep.folder / "sweep.yaml")
        report = _hash_file(self.sweep.folder / REPORT / PAGE)
        if spec != progress.spec and "sweep.yaml" not in progress.artifacts:
            progress.artifacts.insert(0, "sweep.yaml")
        if report != progress.report and REPORT not in progress.artifacts:
            progress.artifacts.append(REPORT)
        progress.save(self._path)
        while progress.artifacts:
            store.upload(progress.run_id, self.sweep.folder, progress.artifacts[0])
            uploaded = progress.artifacts.pop(0)
            progress.spec = spec if uploaded == "sweep.yaml" else progress.spec
            progress.report = report if uploaded == REPORT else progress.report
            progress.save(self._path)


def _hash_file(path: Path) -> str:
    """Hash a file; return "" if it does not exist."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""
