"""Logs the final model of a run to its store, once, and registers it."""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass

from experiments.components.model_signature import ModelInterface, available_answers
from experiments.config.rules.adapter import find_adapter
from experiments.core.errors import InputError
from experiments.run import journal
from experiments.run.annotations import read_annotations
from experiments.run.metrics import read_metric_events
from experiments.tracking import run_tags
from experiments.tracking.mlflow_client import Store
from experiments.tracking.model.final_model import (
    PREDICTION,
    FinalModel,
    describe_model,
    find_final_model,
    find_project,
    read_interface,
    write_model,
)
from experiments.tracking.model.mlflow_model import ModelDescription, ModelStore
from experiments.tracking.model.model_code import find_untrusted
from experiments.tracking.model.raw_inputs import RawInputs, find_raw_inputs
from experiments.trial.initial_weights import FILE
from experiments.trial.parameters import flatten_config, make_inert, truncate
from experiments.trial.trial import Trial

MAX_AUTOMATIC_GB = 2.0
"""Larger weights are only logged on request: logging copies them to the disk or over the network."""


@dataclass(frozen=True)
class RunToLog:
    """A run and the store that it is in."""

    store: Store
    experiment_id: str
    run_id: str
    name: str


def log(trial: Trial, run: RunToLog, trust: Collection[str] = (), *, however_large: bool = False) -> str:
    """Log the final model of a run unless that is done; return its id.

    Args:
        trial: the run.
        run: the same run in its store.
        trust: packages whose code the model may include.
        however_large: also log weights of more than `MAX_AUTOMATIC_GB`.

    Raises:
        InputError: the run has no model that can be logged, or its code is not trusted.
    """
    models = ModelStore(run.store)
    known = models.find_model(run.experiment_id, run.run_id)
    if known is not None and known[1]:
        return known[0]
    model, interface = find_final_model(trial), read_interface(trial)
    if interface is None:
        raise InputError(
            [f"run '{trial.folder.name}' has no record of the inputs of its model; train it again to log the model"]
        )
    if problems := find_untrusted(trial.config["model"], trust):
        raise InputError(problems)
    if not however_large:
        _refuse_too_large(trial, model)
    folder = trial.folder / ".model"  # on the disk of the weights, so that a link replaces a copy
    shutil.rmtree(folder, ignore_errors=True)
    try:
        raw = _find_raw_inputs(trial, interface, trust)
        write_model(trial, model, interface, trust, folder, link=True, raw=raw)
        return models.log(folder, run.experiment_id, run.run_id, _describe(trial, run, model, interface, raw))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _find_raw_inputs(trial: Trial, interface: ModelInterface, trust: Collection[str]) -> RawInputs | None:
    """As `find_raw_inputs`; None if a file of the data set is needed and missing: the model then takes arrays."""
    try:
        return find_raw_inputs(trial, interface, find_project(trial), trust)
    except InputError:
        return None


def register(trial: Trial, run: RunToLog, model_id: str, name: str) -> str:
    """Register a logged model under a name unless that is done; return its version."""
    return ModelStore(run.store).register(model_id, run.run_id, name, _make_origin_tags(trial))


def _refuse_too_large(trial: Trial, model: FinalModel) -> None:
    files = [model.weights] + ([trial.folder / FILE] if find_adapter(trial.config) else [])
    size_gb = sum(path.stat().st_size for path in files) / 1e9
    if size_gb > MAX_AUTOMATIC_GB:
        raise InputError(
            [
                f"its weights have {size_gb:.1f} GB, and models above {MAX_AUTOMATIC_GB:g} GB are not logged automatically; "
                f"`lathe export {trial.reference} -o DIR --register-as NAME` logs it, "
                "and tracking.log_model=false disables this message"
            ]
        )


def _describe(
    trial: Trial, run: RunToLog, model: FinalModel, interface: ModelInterface, raw: RawInputs | None
) -> ModelDescription:
    step = model.checkpoint.step
    return ModelDescription(
        name=run.name,
        step=step,
        tags=run_tags.make_user_tags(read_annotations(trial.folder).apply_to_tags(trial.config.get("tags")))
        | run_tags.make_origin_tags(trial.provenance)
        | {**_make_origin_tags(trial), "lathe.checkpoint": model.reason},
        params=flatten_config(trial.config),
        points=_select_points(trial, step),
        note=lambda uri: _make_note(trial, model, interface, raw, uri),
    )


def _make_origin_tags(trial: Trial) -> dict[str, str]:
    named = {"lathe.run_key": trial.provenance["run_key"], "lathe.trial_id": trial.id}
    return {key: truncate(str(value)) for key, value in named.items()}


def _make_note(trial: Trial, model: FinalModel, interface: ModelInterface, raw: RawInputs | None, uri: str) -> str:
    """Write the description of a model as Markdown: its inputs, its outputs and how to use it."""
    texts = interface.to_dict()
    answers = available_answers(describe_model(trial, model, interface)["num_classes"])
    if raw is not None:
        texts = {"inputs": raw.kind, "outputs": "as lathe predict"}
        answers = (PREDICTION, *answers)
    lines = [
        f"**{trial.config['name']}** after step {model.checkpoint.step}: {model.reason}",
        "",
        f"- inputs: `{texts['inputs']}`",
        f"- outputs: `{texts['outputs']}`",
    ]
    if len(answers) > 1:
        lines += [f"- with the parameter `answer`: {' or '.join(f'`{answer}`' for answer in answers[1:])}"]
    lines += ["", "```python", "import mlflow", f'model = mlflow.pyfunc.load_model("{uri}")']
    lines += ["model.predict(model.input_example)", "```", "", "```"]
    lines += [f"mlflow models serve --env-manager local -m {uri}", "```"]
    return truncate(make_inert("\n".join(lines)))


def _select_points(trial: Trial, step: int) -> list[journal.MetricsEvent]:
    """Select the metrics of these weights."""
    events = [event for event in read_metric_events(trial.folder) if event["step"] == step]
    prefixes = ("val/", "test/")  # training metrics are means over earlier steps
    selected = [{key: value for key, value in event["metrics"].items() if key.startswith(prefixes)} for event in events]
    return [{**event, "metrics": metrics} for event, metrics in zip(events, selected, strict=True) if metrics]
