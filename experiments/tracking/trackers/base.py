"""The contract of a tracker: where the journals of runs are copied, such as MLflow or TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from experiments.components.instantiate import describe_error
from experiments.core.errors import InputError
from experiments.run.journal import DataEvent, MetricsEvent
from experiments.tracking.store_uri import StoreError
from experiments.trial.trial import Trial

T = TypeVar("T")


@dataclass(frozen=True)
class RunInfo:
    """What a tracker gets to know about a run when it opens it."""

    trial: Trial
    """Its folder, resolved configuration, id and provenance."""
    name: str
    started: float
    """Unix time of its first event."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """With the prefix ``mlflow.``: only for MLflow's UI."""
    params: Mapping[str, str] = field(default_factory=dict)
    """The configuration by dotted key, as text."""
    is_trial: bool = False
    """Whether it belongs to a sweep."""

    @property
    def own_tags(self) -> dict[str, str]:
        """The tags without those for MLflow's UI."""
        return {key: text for key, text in self.tags.items() if not key.startswith("mlflow.")}


def make_folder(run: RunInfo, name: str) -> Path:
    """Make a folder of a tracker in the run folder; a link, which could lead out of it, is refused.

    Raises:
        StoreError: it is a link.
    """
    folder = run.trial.folder / name
    if folder.is_symlink():
        raise StoreError(f"{folder} is a link, which could lead out of the run; remove it", is_permanent=True)
    folder.mkdir(exist_ok=True)
    return folder


@dataclass(frozen=True)
class StoredRun:
    """A run that a tracker has opened."""

    run_id: str
    """Another id than at the last sync means that the tracker has nothing: everything is copied again."""
    experiment_id: str = ""
    params: Collection[str] = ()
    """Names of the parameters that it has; they are not sent again."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """The tags that it has."""
    was_deleted: bool = False
    """Whether it was deleted and is restored now."""
    has_points: bool = False
    last_steps: Mapping[str, int] | None = None
    """The highest step that it has of each metric, and points up to there are not sent again; None: it stores a repeated point
    once."""
    warnings: tuple[str, ...] = ()
    """What was repaired."""
    page: str = ""
    """Where to look at the run: an address or a command."""


@dataclass(frozen=True)
class LoggedModel:
    """The final model of a run in its store."""

    id: str
    name: str = ""
    """The registered name; "" if it is not registered."""
    version: str = ""

    @property
    def uri(self) -> str:
        """The URI by which MLflow loads the model."""
        return f"models:/{self.name}/{self.version}" if self.name else f"models:/{self.id}"


class Tracker:
    """Copies one run to a store. A process of its own calls it, never the training.

    Only `open` and `log_metrics` are required. When a call returns, its data must survive the end of the process. After a
    crash between two calls, the last call is repeated; so store what comes twice once, or return `StoredRun.last_steps`.
    An exception ends this sync of this tracker alone, is reported with your file and line, and is tried again.
    The constructor gets the values of the YAML file, and touches neither files nor the network.

    Example: a tracker that appends each point to a CSV file.

        class Csv(Tracker):
            def open(self, run, known_id, *, fresh=False):
                self.path = run.trial.folder / "metrics.csv"
                lines = self.path.read_text().splitlines() if self.path.exists() else []
                rows = [line.split(",") for line in lines]
                return StoredRun(str(self.path), last_steps={name: int(step) for step, name, value in rows})

            def log_metrics(self, points):
                with self.path.open("a") as file:
                    for point in points:
                        file.writelines(f"{point['step']},{name},{value}\\n" for name, value in point["metrics"].items())
    """

    label = "tracker"
    """Its key in `tracking.trackers`, for messages."""

    def open(self, run: RunInfo, known_id: str, *, fresh: bool = False) -> StoredRun:
        """Find the run, or create it.

        Args:
            run: what to open.
            known_id: the id that the last sync got; "" at the first one.
            fresh: files of the run were lost and it trains again from the start, so set what you have of it aside.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method `open`")

    def log_metrics(self, points: Sequence[MetricsEvent]) -> None:
        """Store points: each has ``step``, ``time`` (Unix, in seconds) and ``metrics``, the values by name.

        The steps of a metric rise. A value may be NaN or infinite.
        """
        raise NotImplementedError(f"{type(self).__name__} has no method `log_metrics`")

    def log_params(self, params: Mapping[str, str]) -> None:
        """Store values of the configuration and of the plan, by dotted key."""

    def log_data(self, events: Sequence[DataEvent]) -> None:
        """Store which data the run reads: name, split, digest and number of examples."""

    def log_artifact(self, path: Path, name: str) -> None:
        """Store a file or a folder of the run.

        Args:
            path: where it is now.
            name: its path in the run folder, with ``/``.
        """

    def log_model(
        self, trial: Trial, trust: tuple[str, ...], register_as: str | None, *, however_large: bool
    ) -> LoggedModel | None:
        """Store the final model of a finished run, unless that is done; None if this tracker stores no models.

        Args:
            trial: the run; `experiments.tracking.model.final_model.find_final_model` finds its weights.
            trust: packages whose code the model may include.
            register_as: a name in the store's registry of models.
            however_large: the user asked for it, so store weights of any size.

        Raises:
            InputError: the run has no model that can be stored.
        """
        return None

    def set_tags(self, tags: Mapping[str, str], name: str | None = None) -> None:
        """Set or replace tags, and the name of the run unless it is None. A tag that no longer applies is ""."""

    def set_status(self, state: str, ended: float | None) -> None:
        """Store the state of the run.

        Args:
            state: running, finished, failed, interrupted, killed; of a trial also pending, pruned or cancelled.
            ended: Unix time of its end; None while it runs.
        """

    def guard(self, trial: Trial, work: Callable[[], T]) -> T:
        """Call ``work``, which uses this tracker, and turn every error of its store into a `StoreError`."""
        try:
            return work()
        except (InputError, StoreError):
            raise
        except Exception as err:  # of code that is not ours
            raise StoreError(
                f"tracking.trackers.{self.label} did not take {trial.folder.name!r}: {describe_error(err)}; "
                f"its journals hold everything, `lathe sync {trial.reference}` retries",
                is_permanent=isinstance(err, (ImportError, NotImplementedError)),
            ) from err
