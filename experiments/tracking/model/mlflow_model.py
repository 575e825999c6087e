"""Models in MLflow: their folders, logged models and registered versions. Does not know run folders."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.run import journal
from experiments.tracking.mlflow_client import Store, get_store_errors, to_ms
from experiments.tracking.trackers.mlflow_metric import make_metric_name

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

DEVICE = {"device": "auto"}
"""Default of `mlflow.pyfunc.load_model(uri, model_config={"device": "cpu"})`."""
STEP_TAG, NOTE_TAG, VERSIONS_TAG = "lathe.step", "mlflow.note.content", "mlflow.modelVersions"
NAME_CHARS = str.maketrans(dict.fromkeys("/:.%\"'", "_"))
"""Characters that MLflow 3.17 refuses in the name of a model."""

TensorShape = tuple[str, tuple[int, ...]]
"""A numpy dtype, and a shape with -1 for any size."""
ColumnType = str
"""MLflow's type of a column of a table."""
ANY, STRING = "any", "string"
"""MLflow refuses a column of whole numbers where a signature says double, and a double where it says long or string, even
if it is only there for missing values. So a column of raw data can have any type, and the model checks its values."""


@dataclass(frozen=True)
class MlflowSignature:
    """The signature of a model in MLflow, and an example of its inputs."""

    inputs: Mapping[str, TensorShape | ColumnType]
    """Tensors by name, of which a single one needs none; or columns by name, "" for one without. Empty: not known."""
    outputs: Mapping[str, TensorShape | ColumnType]
    answers: Sequence[str]
    """Values of the parameter `answer`; the first one is the default."""
    example: Any
    """Arrays, a data frame or texts; None: there is none."""


def save(
    folder: Path, data: Path, code: Sequence[Path], loader: str, signature: MlflowSignature, requirements: Sequence[str],
    metadata: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write the folder of a model without its weights.

    Args:
        folder: a new folder.
        data: copied to ``data/NAME``, the path that the loader receives.
        code: files and folders of code, copied to the import path of the model.
        loader: the module in the code that loads the model.
        signature: signature and input example.
        requirements: pip requirements, without MLflow, which adds itself.
        metadata: plain values for the file `MLmodel`.
    """
    get_store_errors()
    os.environ["MLFLOW_UV_AUTO_DETECT"] = "false"  # else it looks for a lock file in the current folder
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about type hints and data frames of MLflow itself
        from mlflow.pyfunc import save_model

        save_model(
            str(folder),
            loader_module=loader,
            data_path=str(data),
            code_paths=[str(path) for path in code],
            signature=_make_signature(signature),
            input_example=signature.example,
            pip_requirements=list(requirements),  # inferred ones take 15 s (2026-11)
            model_config=dict(DEVICE),
            metadata=dict(metadata),
        )


def _make_signature(signature: MlflowSignature) -> ModelSignature:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import AnyType

    any_type: Any = AnyType()  # type: ignore[no-untyped-call]  # of MLflow

    def spec(name: str, kind: TensorShape | ColumnType, is_alone: bool) -> Any:
        if isinstance(kind, str):
            return ColSpec(any_type if kind == ANY else kind, name or None)
        return TensorSpec(np.dtype(kind[0]), kind[1], None if is_alone else name)

    def schema(named: Mapping[str, TensorShape | ColumnType]) -> Schema | None:
        return Schema([spec(name, kind, len(named) == 1) for name, kind in named.items()]) if named else None

    answer = ParamSpec("answer", "string", signature.answers[0])
    return ModelSignature(schema(signature.inputs), schema(signature.outputs), ParamSchema([answer]))


def load_example(folder: Path) -> Any:
    """Load the input example that `save` wrote."""
    from mlflow.models import Model

    return Model.load(str(folder)).load_input_example(str(folder))


def record_size(folder: Path) -> None:
    """Record the size of a model, after its weights are written."""
    from mlflow.models import Model

    model = Model.load(str(folder))
    model.model_size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    model.save(str(folder / "MLmodel"))


@dataclass(frozen=True)
class ModelDescription:
    """The name, tags, parameters, metrics and note of a logged model."""

    name: str
    """Shown in tables."""
    step: int
    """The training step of the weights."""
    tags: Mapping[str, str]
    params: Mapping[str, str]
    """Columns for comparisons."""
    points: Sequence[journal.MetricsEvent]
    """The metrics of the run at this step."""
    note: Callable[[str], str]
    """Makes the Markdown description from the URI of the model."""


class ModelStore:
    """The models of one store."""

    def __init__(self, store: Store) -> None:
        self.uri, self._client = store.uri, store.client

    def find_model(self, experiment_id: str, run_id: str) -> tuple[str, bool] | None:
        """Find the id of the logged model of a run, and whether it is complete; None if there is none."""
        logged = self._client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
        models = [(str(model.model_id), str(model.status) == "READY") for model in logged if STEP_TAG in model.tags]
        return min(models, key=lambda model: not model[1], default=None)

    def log(self, folder: Path, experiment_id: str, run_id: str, about: ModelDescription) -> str:
        """Log a model for a run unless it has one; complete a model that another process left incomplete.

        Args:
            folder: written by `save`; its ids are updated.
            experiment_id: experiment of the run.
            run_id: run of the model.
            about: name, tags, metrics and note.

        Returns:
            The id of the model. After a failure the model is deleted.
        """
        known = self.find_model(experiment_id, run_id)
        if known is not None and known[1]:
            return known[0]
        model_id = known[0] if known else self._create(experiment_id, run_id, about)
        try:
            self._set_ids(model_id, folder, run_id)
            self._client.log_model_artifacts(model_id, str(folder))
            self._link_to_run(model_id, run_id, about)
            self._client.finalize_logged_model(model_id, "READY")  # last: a complete model is not changed again
        except BaseException:
            with contextlib.suppress(Exception):  # if the store is gone, the next sync completes the model
                self._client.delete_logged_model(model_id)
            raise
        return model_id

    def _create(self, experiment_id: str, run_id: str, about: ModelDescription) -> str:
        model = self._client.create_logged_model(
            experiment_id,
            about.name.translate(NAME_CHARS),
            source_run_id=run_id,
            tags={STEP_TAG: str(about.step), **about.tags},
            params=dict(about.params),
        )
        return str(model.model_id)

    def _set_ids(self, model_id: str, folder: Path, run_id: str) -> None:
        from mlflow.models import Model

        model = Model.load(str(folder))
        model.run_id, model.model_id, model.model_uuid = run_id, model_id, model_id
        model.artifact_path = self._client.get_logged_model(model_id).artifact_location
        model.save(str(folder / "MLmodel"))

    def _link_to_run(self, model_id: str, run_id: str, about: ModelDescription) -> None:
        """Add the model to the outputs of the run, and log its metrics."""
        from mlflow.entities import LoggedModelOutput, Metric

        outputs = self._client.get_run(run_id).outputs
        if model_id in {
            output.model_id for output in (outputs.model_outputs if outputs else ())
        }:  # MLflow takes it only once
            return
        metrics = [
            Metric(make_metric_name(key), value, to_ms(event["time"]), event["step"], model_id=model_id, run_id=run_id)
            for event in about.points
            for key, value in event["metrics"].items()
        ]
        self._client.log_batch(run_id, metrics=metrics)
        self._client.set_logged_model_tags(model_id, {NOTE_TAG: about.note(f"models:/{model_id}")})
        self._client.log_outputs(run_id, [LoggedModelOutput(model_id, step=about.step)])

    def register(self, model_id: str, run_id: str, name: str, tags: Mapping[str, str]) -> str:
        """Register a model under a name unless that is done; return the version."""
        from mlflow.exceptions import MlflowException

        source = f"models:/{model_id}"
        for known in self._client.search_model_versions(f"run_id='{run_id}'"):
            if known.name == name and known.source == source:
                return str(known.version)
        try:
            self._client.create_registered_model(name)
        except MlflowException as err:
            if err.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        own = self._client.get_logged_model(model_id).tags
        with _tracking(self.uri):
            registered = self._client.create_model_version(
                name, source, run_id=run_id, tags=dict(tags), description=own.get(NOTE_TAG), model_id=model_id
            )
        # MLflow's pages find the versions of a model by this tag, which only its own `register_model` sets.
        others = json.loads(own.get(VERSIONS_TAG, "[]"))
        version = {"name": name, "version": registered.version}
        self._client.set_logged_model_tags(model_id, {VERSIONS_TAG: json.dumps([*others, version])})
        return str(registered.version)


@contextlib.contextmanager
def _tracking(uri: str) -> Iterator[None]:
    """Make a store the default of MLflow: its registry in an SQL store uses the default."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
