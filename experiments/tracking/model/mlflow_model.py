"""A model as MLflow knows it: its folder, its entry at a run's side, its registered versions. Knows nothing of run folders."""

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
from experiments.trial.parameters import clean_key

if TYPE_CHECKING:
    import numpy as np
    from mlflow.models import ModelSignature

DEVICE = {"device": "auto"}
"""What `mlflow.pyfunc.load_model(uri, model_config={"device": "cpu"})` may say otherwise."""
STEP_TAG, NOTE_TAG, VERSIONS_TAG = "lathe.step", "mlflow.note.content", "mlflow.modelVersions"
NAME_CHARS = str.maketrans(dict.fromkeys("/:.%\"'", "_"))
"""What MLflow 3.17 takes in no name of a model."""

TensorShape = tuple[str, tuple[int, ...]]
"""What numpy calls a dtype, and a shape with -1 for any size."""


@dataclass(frozen=True)
class MlflowSignature:
    """What MLflow tells of a model: its signature and an example of its inputs."""

    inputs: Mapping[str, TensorShape]
    """By name; of a single one the name is not used."""
    outputs: Mapping[str, TensorShape]
    answers: Sequence[str]
    """What its parameter `answer` may be; the first is the default."""
    example: np.ndarray | dict[str, np.ndarray]


def save(
    folder: Path, data: Path, code: Sequence[Path], loader: str, takes: MlflowSignature, requirements: Sequence[str],
    metadata: Mapping[str, Any],
) -> None:  # fmt: skip
    """Write the folder of a model, all but its weights.

    Args:
        folder: that is not there yet.
        data: goes into it as ``data/NAME``, and that is what the loader is given.
        code: files and folders that go to where it imports from.
        loader: the module among them that loads it.
        takes: its signature and example.
        requirements: what has to be installed, without MLflow, which adds itself.
        metadata: plain values that a reader finds in the file `MLmodel`.
    """
    get_store_errors()
    os.environ["MLFLOW_UV_AUTO_DETECT"] = "false"  # else it looks for a lock file in whatever folder one is in
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of MLflow's own type hints
        from mlflow.pyfunc import save_model
    save_model(
        str(folder),
        loader_module=loader,
        data_path=str(data),
        code_paths=[str(path) for path in code],
        signature=_make_signature(takes),
        input_example=takes.example,
        pip_requirements=list(requirements),  # inferred ones take 15 s (2026-11)
        model_config=dict(DEVICE),
        metadata=dict(metadata),
    )


def _make_signature(takes: MlflowSignature) -> ModelSignature:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ParamSchema, ParamSpec, Schema, TensorSpec

    def schema(named: Mapping[str, TensorShape]) -> Schema:
        specs = [(np.dtype(dtype), shape, name) for name, (dtype, shape) in named.items()]
        return Schema([TensorSpec(dtype, shape, name if len(specs) > 1 else None) for dtype, shape, name in specs])

    answer = ParamSpec("answer", "string", takes.answers[0])
    return ModelSignature(schema(takes.inputs), schema(takes.outputs), ParamSchema([answer]))


def load_example(folder: Path) -> Any:
    """The example that `save` wrote, as it is given to a model."""
    from mlflow.models import Model

    return Model.load(str(folder)).load_input_example(str(folder))


def record_size(folder: Path) -> None:
    """Say how large a model is, once its weights are there."""
    from mlflow.models import Model

    model = Model.load(str(folder))
    model.model_size_bytes = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    model.save(str(folder / "MLmodel"))


@dataclass(frozen=True)
class ModelDescription:
    """What is said of a model at the side of its run."""

    name: str
    """What tables call it."""
    step: int
    """Of the run, after which it was so."""
    tags: Mapping[str, str]
    params: Mapping[str, str]
    """By which tables compare."""
    points: Sequence[journal.MetricsEvent]
    """Of the run's curves, those that tell how good it is."""
    note: Callable[[str], str]
    """Its description in Markdown, by what it is loaded by."""


class ModelStore:
    """The models of one store."""

    def __init__(self, into: Store) -> None:
        self.uri, self._client = into.uri, into.client

    def of_run(self, experiment_id: str, run_id: str) -> tuple[str, bool] | None:
        """Id of the model that was logged here for a run, and whether it is complete; None where there is none."""
        found = self._client.search_logged_models([experiment_id], f"source_run_id = '{run_id}'")
        models = [(str(model.model_id), str(model.status) == "READY") for model in found if STEP_TAG in model.tags]
        return min(models, key=lambda model: not model[1], default=None)

    def log(self, folder: Path, experiment_id: str, run_id: str, about: ModelDescription) -> str:
        """Add a model to a run, unless it has one; half a one, that another left, is made whole.

        Args:
            folder: that `save` wrote; it is told where it belongs.
            experiment_id: of the run.
            run_id: whose model it is.
            about: it.

        Returns:
            Its id. Where it fails, nothing is left of it.
        """
        known = self.of_run(experiment_id, run_id)
        if known is not None and known[1]:
            return known[0]
        model_id = known[0] if known else self._made(experiment_id, run_id, about)
        try:
            self._stamp(model_id, folder, run_id)
            self._client.log_model_artifacts(model_id, str(folder))
            self._tell_run(model_id, run_id, about)
            self._client.finalize_logged_model(model_id, "READY")  # last of all: a complete one is not looked at again
        except BaseException:
            with contextlib.suppress(Exception):  # a store that is gone keeps half of it; the next one completes that
                self._client.delete_logged_model(model_id)
            raise
        return model_id

    def _made(self, experiment_id: str, run_id: str, about: ModelDescription) -> str:
        made = self._client.create_logged_model(
            experiment_id,
            about.name.translate(NAME_CHARS),
            source_run_id=run_id,
            tags={STEP_TAG: str(about.step), **about.tags},
            params=dict(about.params),
        )
        return str(made.model_id)

    def _stamp(self, model_id: str, folder: Path, run_id: str) -> None:
        from mlflow.models import Model

        model = Model.load(str(folder))
        model.run_id, model.model_id, model.model_uuid = run_id, model_id, model_id
        model.artifact_path = self._client.get_logged_model(model_id).artifact_location
        model.save(str(folder / "MLmodel"))

    def _tell_run(self, model_id: str, run_id: str, about: ModelDescription) -> None:
        """Name it among the run's outputs, and give it the points of the run that are its own."""
        from mlflow.entities import LoggedModelOutput, Metric

        outputs = self._client.get_run(run_id).outputs
        if model_id in {output.model_id for output in (outputs.model_outputs if outputs else ())}:  # only taken once
            return
        metrics = [
            Metric(clean_key(key), value, to_ms(event["time"]), event["step"], model_id=model_id, run_id=run_id)
            for event in about.points
            for key, value in event["metrics"].items()
        ]
        self._client.log_batch(run_id, metrics=metrics)
        self._client.set_logged_model_tags(model_id, {NOTE_TAG: about.note(f"models:/{model_id}")})
        self._client.log_outputs(run_id, [LoggedModelOutput(model_id, step=about.step)])

    def register(self, model_id: str, run_id: str, name: str, tags: Mapping[str, str]) -> str:
        """The version under which a model is registered by a name, made where there is none."""
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
            made = self._client.create_model_version(
                name, source, run_id=run_id, tags=dict(tags), description=own.get(NOTE_TAG), model_id=model_id
            )
        # By this tag MLflow's pages find the versions of a model; only its own `register_model` sets it.
        others = json.loads(own.get(VERSIONS_TAG, "[]"))
        version = {"name": name, "version": made.version}
        self._client.set_logged_model_tags(model_id, {VERSIONS_TAG: json.dumps([*others, version])})
        return str(made.version)


@contextlib.contextmanager
def _tracking(uri: str) -> Iterator[None]:
    """Make a store the one that MLflow means when it is told of none: its registry of an SQL store asks that one."""
    import mlflow

    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(before)
