"""Copies the journals of a run to its trackers, live or later. A repeated sync changes nothing."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from experiments.core.errors import InputError
from experiments.core.lock import locked_within_limits
from experiments.run import evaluations, journal
from experiments.run.failure import DATA_LOST
from experiments.run.state import determine_state, is_process_alive
from experiments.tracking import run_tags, store_uri
from experiments.tracking.run_tags import SweepMember
from experiments.tracking.store_uri import StoreError
from experiments.tracking.trackers.base import LoggedModel, RunInfo, StoredRun, Tracker
from experiments.tracking.trackers.make_tracker import MLFLOW, list_trackers, make_tracker
from experiments.tracking.trackers.progress_file import RunProgress
from experiments.trial.debug_run import wants_model
from experiments.trial.parameters import clean_key, flatten_config, format_param
from experiments.trial.trial import Trial

_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class SyncResult:
    """The result of one sync of a run; the ids are None before the first event of the run."""

    run_id: str | None
    experiment_id: str | None
    points: int
    model: LoggedModel | None = None
    """Its final model, if the store has it."""
    warning: str | None = None
    """Why the model could not be logged, or what was repaired in the store."""
    page: str = ""
    """Where to look at the run."""
    pages: Mapping[str, str] = field(default_factory=dict)
    """The same of several trackers, by label."""
    failures: tuple[StoreError, ...] = ()
    """Of the trackers that refused something."""


def sync_run(trial: Trial, trust: tuple[str, ...] = ()) -> SyncResult:
    """Copy the journals, parameters, artifacts and status of a run that its trackers do not have yet.

    Args:
        trial: the run.
        trust: packages whose code a tracker, and the logged model, may include.

    Raises:
        StoreError: a tracker refused something, after all others have everything; the next sync continues from there.
    """
    result = RunTrackers(trial, trust).sync(reconcile=True)
    if result.failures:
        raise result.failures[0]
    return result


class RunTrackers:
    """All trackers of a run. One that fails does not stop the others."""

    def __init__(self, trial: Trial, trust: tuple[str, ...] = ()) -> None:
        """
        Args:
            trial: the run.
            trust: packages whose code a tracker, and the logged model, may include.
        """
        self.trial = trial
        self.syncs = [RunSync(trial, trust, label) for label in list_trackers(trial.config)]

    def sync(self, *, reconcile: bool) -> SyncResult:
        """Sync with every tracker; the ids and the model are MLflow's. For the argument see `RunSync.sync`."""
        results, failures = dict[str, SyncResult](), list[StoreError]()
        for one in self.syncs:
            try:
                results[one.label] = one.sync(reconcile=reconcile)
            except StoreError as err:
                failures.append(err)
        points = max((result.points for result in results.values()), default=0)
        warning = "; ".join(filter(None, (result.warning for result in results.values()))) or None
        pages = {label: result.page for label, result in results.items() if result.page}
        mlflow = results.get(MLFLOW, SyncResult(None, None, 0))
        return replace(mlflow, points=points, warning=warning, failures=tuple(failures), pages=pages)

    def count_pending(self) -> int:
        """Count the events that a tracker does not have yet."""
        return max(one.count_pending() for one in self.syncs)

    def mark_gone(self) -> None:
        """Mark the run as failed, because its folder is gone, with every tracker that has it."""
        for one in self.syncs:
            with contextlib.suppress(StoreError):
                one.mark_gone()


class RunSync:
    """Syncs a run with one tracker, once or repeatedly. Each sync holds the lock of the run, so that two processes take turns."""

    def __init__(self, trial: Trial, trust: tuple[str, ...] = (), label: str = MLFLOW) -> None:
        """
        Args:
            trial: the run.
            trust: packages whose code the tracker, and the logged model, may include.
            label: key of the tracker in `tracking.trackers`.
        """
        self.trial, self.trust, self.label = trial, trust, label
        self._tracker: Tracker | None = None
        self._attached = ""  # the run id that this process found in the store
        self._known_params: set[str] = set()
        self._last_steps: Mapping[str, int] = {}
        self._warnings: tuple[str, ...] = ()
        self._page = ""

    @property
    def tracker(self) -> Tracker:
        """The tracker, made when it is first needed.

        Raises:
            StoreError: its code is not trusted, or refuses the values of the configuration.
        """
        if self._tracker is None:
            self._tracker = make_tracker(self.trial, self.label, self.trust)
        return self._tracker

    def sync(self, *, reconcile: bool, member: SweepMember | None = None) -> SyncResult:
        """Copy what is new and set the status.

        Args:
            reconcile: whether to set a run to killed if its process is gone.
            member: for a trial of a sweep, whose parent run must exist.

        Raises:
            StoreError: the tracker refused something.
        """
        try:
            return self.tracker.guard(self.trial, lambda: self._sync(reconcile, member))
        except StoreError:
            self._attached = ""
            raise

    def _sync(self, reconcile: bool, member: SweepMember | None) -> SyncResult:
        with locked_within_limits(self.trial.folder / "sync.lock"):
            progress = RunProgress.load(self._path, self._address)
            attached = self._attached and self._attached == progress.run_id
            attached = attached and not self._has_lost_journals(progress.offsets)
            if not attached and not self._attach(progress, member):
                return SyncResult(None, None, 0)
            points = self._upload(progress) + self._upload_evaluations(progress)
            if member is not None and member.measured is not None:
                self.tracker.log_metrics(self._select_new([member.measured]))
            self._set_status(progress, reconcile, member)
            self._upload_artifacts(progress)
            should_log = self._should_log_model(progress, member)
            model, warning = self._try_model(progress) if should_log else (None, None)
        warning = "; ".join([*self._warnings, *([warning] if warning else [])]) or None
        self._warnings = ()
        return SyncResult(progress.run_id, progress.experiment_id, points, model, warning, self._page)

    def log_model(self, register_as: str | None = None) -> LoggedModel:
        """Log and register the final model of a run that is in the store, unless that is done.

        Raises:
            InputError: the run has no model.
            StoreError: the store refused it.
        """

        def log() -> LoggedModel | None:
            with locked_within_limits(self.trial.folder / "sync.lock"):
                progress = RunProgress.load(self._path, self._address)
                self._attach(progress, None)
                return self._log_model(progress, register_as, however_large=True)

        model = self.tracker.guard(self.trial, log)
        assert model is not None, f"{self.label} stores no models"
        return model

    def count_pending(self) -> int:
        """Count the events that are not in the store yet."""
        offsets = RunProgress.load(self._path, self._address).offsets
        lines = 0
        for path in journal.journals(self.trial.folder):
            with path.open("rb") as file:
                file.seek(offsets.get(path.parent.name, 0))
                lines += sum(line.endswith(b"\n") for line in file)
        return lines

    @property
    def _path(self) -> Path:
        return self.trial.folder / ("sync.json" if self.label == MLFLOW else f"sync_{self.label}.json")

    @property
    def _address(self) -> str:
        """What the progress file is about: another store, or another tracker, starts over."""
        if self.label == MLFLOW:
            return str(self.trial.config["tracking"]["store"] or store_uri.resolve_trial_store(self.trial))
        return json.dumps(self.trial.config["tracking"]["trackers"][self.label], sort_keys=True)

    def _attach(self, progress: RunProgress, member: SweepMember | None) -> bool:
        """Find or create the run in the store and log its parameters; False before the first event."""
        started = _find_start(self.trial) or (member.since if member else None)
        if started is None:
            return False
        name = run_tags.choose_name(self.trial, member.name if member else str(self.trial.config["name"]))
        params = flatten_config(self.trial.config) | dict(member.params if member else {})
        tags = run_tags.make_run_tags(self.trial) | dict(member.tags if member else {})
        info = RunInfo(self.trial, name, started, tags, params, is_trial=member is not None)
        run = self.tracker.open(info, progress.run_id)
        is_lost = self._has_lost_journals(progress.offsets, run)
        if is_lost:
            run = self.tracker.open(info, "", fresh=True)
        if is_lost or run.run_id != progress.run_id:
            self._start_over(progress, run)
        # A process that was killed may have set tags after it last saved what it had done.
        progress.tags |= run_tags.select_transient_tags(run.tags)
        self._known_params, self._last_steps = set(run.params), run.last_steps or {}
        self._warnings, self._page = run.warnings, run.page
        self._log_params(params)
        progress.save(self._path)
        self._attached = run.run_id
        return True

    def _has_lost_journals(self, offsets: Mapping[str, int], run: StoredRun | None = None) -> bool:
        """Whether journals that are in the store have lost lines, and later attempts have repeated their steps.

        The store would then have some points twice. Without a later attempt the store has more than the folder, and keeps it.

        Args:
            offsets: how many bytes of the journals are in the store, by attempt.
            run: that run in the store, if it was found without its progress file.
        """
        lost = [
            int(attempt) for attempt, size in offsets.items() if journal.find_loss(self.trial.folder, {attempt: size})
        ]
        attempts = [int(path.parent.name) for path in journal.journals(self.trial.folder)]
        if run is not None and run.has_points and not offsets:
            last = int(run.tags.get("lathe.attempt") or 0)
            lost += [last] if last and min(attempts, default=0) > last else []
        return bool(lost) and max(attempts, default=0) > max(lost)

    def mark_gone(self) -> None:
        """Mark the run as failed, because its folder is gone. The store must have it."""
        if not self._attached:
            return
        reason = f"its folder is gone: {self.trial.folder} was removed or renamed while it trained"

        def mark() -> None:
            self.tracker.set_tags({"lathe.state": "failed", "lathe.failure": DATA_LOST, "lathe.reason": reason})
            self.tracker.set_status("failed", time.time())

        self.tracker.guard(self.trial, mark)

    def _start_over(self, progress: RunProgress, run: StoredRun) -> None:
        code = sorted(path for path in (self.trial.folder / "code").glob("*") if path.is_file())
        progress.run_id, progress.experiment_id = run.run_id, run.experiment_id
        progress.offsets, progress.evaluations, progress.last_state, progress.last_time = {}, [], None, 0.0
        progress.name, progress.status = run.tags.get("mlflow.runName", ""), None
        progress.tags = run_tags.select_transient_tags(run.tags)
        progress.model, progress.versions = "", {}
        progress.artifacts = ["trial.yaml", "provenance.yaml", *(f"code/{path.name}" for path in code)]

    def _upload(self, progress: RunProgress) -> int:
        """Send the events beyond the offsets; after a crash between two saves they are sent again."""
        paths = journal.journals(self.trial.folder)
        points = 0
        for number, path in enumerate(paths):
            attempt = path.parent.name
            while True:
                offset = progress.offsets.get(attempt, 0)
                events, end = journal.read(path, offset, _BLOCK_BYTES)
                if end == offset:
                    break
                new = list(journal.first_writes(events, journal.highest_steps(paths[:number])))
                points += self._send(progress, new)
                progress.offsets[attempt] = end
                progress.save(self._path)
        return points

    def _upload_evaluations(self, progress: RunProgress) -> int:
        """Send what `lathe evaluate` has measured. It changes neither the curves nor the state of the run."""
        count = 0
        for folder in evaluations.list_finished(self.trial.folder):
            if folder.name in progress.evaluations:
                continue
            points = evaluations.read_points(folder)
            self.tracker.log_metrics(points)
            self._log_params({key: format_param(value) for key, value in evaluations.read_params(folder).items()})
            progress.artifacts += evaluations.read_artifacts(folder)
            progress.evaluations.append(folder.name)
            progress.save(self._path)
            count += sum(len(point["metrics"]) for point in points)
        return count

    def _send(self, progress: RunProgress, events: Sequence[journal.Event]) -> int:
        points = self._select_new([event for event in events if event["event"] == "metrics"])
        if points:
            self.tracker.log_metrics(points)
        if data := [event for event in events if event["event"] == "data"]:
            self.tracker.log_data(data)
        for event in events:
            progress.last_time = max(progress.last_time, event["time"])
            if event["event"] == "params":
                self._log_params({key: format_param(value) for key, value in event["params"].items()})
            elif event["event"] == "state":
                progress.last_state = dict(event)
            elif event["event"] == "artifact" and event["path"] not in progress.artifacts:
                progress.artifacts.append(event["path"])
        return sum(len(point["metrics"]) for point in points)

    def _select_new(self, points: Sequence[journal.MetricsEvent]) -> list[journal.MetricsEvent]:
        """Leave out the points that the tracker had when it opened the run."""
        last, new = self._last_steps, list[journal.MetricsEvent]()
        for point in points:
            metrics = {name: value for name, value in point["metrics"].items() if point["step"] > last.get(name, -1)}
            new += [{**point, "metrics": metrics}] if metrics else []
        return new

    def _log_params(self, texts: Mapping[str, str]) -> None:
        """Log new parameters; the value that was logged first stays."""
        new = {key: text for key, text in texts.items() if clean_key(key) not in self._known_params}
        if new:
            self.tracker.log_params(new)
        self._known_params.update(map(clean_key, texts))

    def _set_status(self, progress: RunProgress, reconcile: bool, member: SweepMember | None) -> None:
        last = progress.last_state
        if member is not None:
            now = member.state
        else:
            alive = not reconcile or last is None or is_process_alive(last["host"], last["pid"], last["time"])
            now = determine_state(self.trial.outcome(), last, progress.last_time, alive)
        tags = {"lathe.state": now.state, "lathe.attempt": str(now.attempt)}
        tags |= {"lathe.reason": now.reason} if now.reason else {}
        tags |= {"lathe.failure": now.failure} if now.failure else {}
        tags |= {"lathe.host": last["host"]} if last is not None else {}
        tags |= run_tags.make_reproduction_tags(self.trial)
        tags |= dict(member.tags if member else {}) | run_tags.make_annotation_tags(self.trial)
        status = [now.state, now.ended]
        name = run_tags.choose_name(self.trial, member.name if member else progress.name)
        if (tags, status, name) == (progress.tags, progress.status, progress.name):
            return
        new_name = name if name != progress.name else None
        self.tracker.set_tags(run_tags.diff_tags(progress.tags, tags), new_name)
        if status != progress.status:
            self.tracker.set_status(now.state, now.ended)
        progress.tags, progress.status, progress.name = tags, status, name
        progress.save(self._path)

    def _should_log_model(self, progress: RunProgress, member: SweepMember | None) -> bool:
        """Whether to log the model with this run; for the trials of a sweep the sweep selects one."""
        is_finished = progress.status is not None and progress.status[0] == "finished"
        return bool(member is None and is_finished and wants_model(self.trial.config))

    def _try_model(self, progress: RunProgress) -> tuple[LoggedModel | None, str | None]:
        """Log the model, or return the reason why that failed; the run is in the store in any case."""
        register_as = self.trial.config["tracking"].get("register_as")
        try:
            return self.tracker.guard(self.trial, lambda: self._log_model(progress, register_as)), None
        except InputError as err:
            reason = "; ".join(err.problems)
        except StoreError as err:
            reason = str(err)
        return None, f"the model of run '{self.trial.folder.name}' was not logged: {reason}"

    def _log_model(
        self, progress: RunProgress, register_as: str | None, *, however_large: bool = False
    ) -> LoggedModel | None:
        if progress.model and (register_as is None or register_as in progress.versions):
            return LoggedModel(progress.model, register_as or "", progress.versions.get(register_as or "", ""))
        model = self.tracker.log_model(self.trial, self.trust, register_as, however_large=however_large)
        if model is not None:
            progress.model = model.id
            progress.versions |= {model.name: model.version} if model.name else {}
            progress.save(self._path)
        return model

    def _upload_artifacts(self, progress: RunProgress) -> None:
        """Upload the listed files, last: a store that refuses files still gets the curves."""
        root = self.trial.folder.resolve()
        while progress.artifacts:
            path = (root / progress.artifacts[0]).resolve()
            if path.is_relative_to(root) and path.exists():  # not a link that leads out of the folder
                self.tracker.log_artifact(path, progress.artifacts[0])
            del progress.artifacts[0]
            progress.save(self._path)


def _find_start(trial: Trial) -> float | None:
    """Return the time of the first event, or of the end for a run that died before it."""
    for path in journal.journals(trial.folder):
        events, _ = journal.read(path, max_bytes=1)
        if events:
            return events[0]["time"]
    outcome = trial.outcome()
    return float(outcome["ended"]) if outcome else None
