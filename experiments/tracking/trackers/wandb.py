"""Weights & Biases as a tracker: an offline mirror in the run folder, for `wandb sync`. It never uses the network."""

from __future__ import annotations

import contextlib
import html
import json
import os
import shlex
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.run.journal import MetricsEvent
from experiments.tracking.store_uri import StoreError
from experiments.tracking.trackers.base import RunInfo, StoredRun, Tracker, make_folder
from experiments.tracking.trackers.media import MediaFile, find_media, read_histograms
from experiments.trial.parameters import mask_password

COMPLETE = "complete"
"""File beside the offline runs: the process that wrote them ended in order, so they have all that it sent."""


class Wandb(Tracker):
    """Writes `wandb/offline-run-...-TRIAL_ID` in the run folder; an attempt continues the run of the same id.

    W&B writes in a process of its own. If that is killed, the mirror may lack its last points, and is written again from the
    start.
    """

    is_component = True
    _info: RunInfo
    _run: Any = None

    def __init__(self, project: str = "lathe", entity: str | None = None) -> None:
        """
        Args:
            project: W&B's project.
            entity: W&B's user or team; None: the default of the login that runs `wandb sync`.
        """
        self.project, self.entity = project, entity

    def open(self, run: RunInfo, known_id: str, *, fresh: bool = False) -> StoredRun:
        """Continue a complete mirror, or begin a new one. W&B itself starts with the first value."""
        self._info = run
        folder = make_folder(run, "wandb")
        if os.path.lexists(other := run.trial.folder / ".wandb"):  # W&B would write there instead
            raise StoreError(f"{other} is in the place of {folder}; remove it", is_permanent=True)
        is_complete = (folder / COMPLETE).exists() and not fresh
        if not is_complete:
            if self._run is not None:  # an error ended the last sync, so W&B may lack a part of it
                with contextlib.suppress(Exception):
                    self._run.finish()
                self._run = None
            shutil.rmtree(folder)
            folder.mkdir()
        page = f"wandb sync {shlex.quote(str(folder))}/offline-run-*"
        began = folder.stat().st_ctime_ns  # another id than before, so that everything is sent
        run_id = known_id if is_complete and known_id else f"{run.trial.folder.name}-{began}"
        return StoredRun(run_id, has_points=is_complete, page=page)

    @property
    def _folder(self) -> Path:
        return self._info.trial.folder / "wandb"

    def _start(self) -> Any:
        """Start W&B, without what it would record by itself."""
        if self._run is None:
            os.environ["WANDB_ERROR_REPORTING"] = "false"  # W&B would send its own errors even without a login
            import wandb

            (self._folder / COMPLETE).unlink(missing_ok=True)
            trial = self._info.trial
            config = json.loads(mask_password(json.dumps(trial.config)))
            self._run = wandb.init(
                mode="offline", dir=str(trial.folder), id=trial.folder.name, resume="allow", project=self.project,
                entity=self.entity, name=self._info.name, group=trial.provenance.get("sweep"), config=config,
                settings=wandb.Settings(
                    silent=True, console="off", disable_git=True, save_code=False, x_disable_stats=True, x_disable_meta=True
                ),
            )  # fmt: skip
            self._run.define_metric("step")
            self._run.define_metric(
                "*", step_metric="step"
            )  # W&B's own step may not go back, as a test of an earlier step does
        return self._run

    def log_metrics(self, points: Sequence[MetricsEvent]) -> None:
        run = self._start()
        for point in points:
            run.log({"step": point["step"], **point["metrics"]})

    def log_artifact(self, path: Path, name: str) -> None:
        """Mirror the images of an artifact, and the sounds, texts and histograms that callbacks made."""
        for media in find_media(path, name):
            run = self._start()
            for tag, value in _make_values(media).items():
                run.log({"step": media.step, tag: value})

    def log_params(self, params: Mapping[str, str]) -> None:
        """Add values of the plan; W&B has the configuration as it is."""
        late = {key: text for key, text in params.items() if key not in self._info.params}
        if late:
            self._start().config.update(late, allow_val_change=True)

    def set_tags(self, tags: Mapping[str, str], name: str | None = None) -> None:
        own = {key: text for key, text in tags.items() if not key.startswith("mlflow.")}
        if own:
            self._start().summary.update(own)
        if name is not None:
            self._start().name = name

    def set_status(self, state: str, ended: float | None) -> None:
        """End W&B's process with the run, which makes it write everything."""
        if ended is not None and self._run is not None:
            self._run.finish(exit_code=0 if state in ("finished", "pruned") else 1)
            self._run = None
            (self._folder / COMPLETE).touch()


def _make_values(media: MediaFile) -> dict[str, Any]:
    import wandb

    if media.kind == "histograms":
        found = read_histograms(media.path)
        return {each.name: wandb.Histogram(np_histogram=(each.counts, each.edges)) for each in found}
    if media.kind == "text":
        text = media.path.read_text(encoding="utf-8", errors="replace")
        return {media.tag: wandb.Html(f"<pre>{html.escape(text)}</pre>")}
    return {media.tag: (wandb.Audio if media.kind == "sound" else wandb.Image)(str(media.path))}
