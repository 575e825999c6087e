"""Logs the final model of a run to the run's store, once, and registers it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass

from experiments.components.model_signature import ModelInterface, available_answers
from experiments.config.allowlist import trusted
from experiments.core.errors import InputError
from experiments.run import journal
from experiments.run.metrics import REPEATABLE, read_metric_events
from experiments.tracking import run_tags
from experiments.tracking.mlflow_client import Store
from experiments.tracking.model.final_model import (
    FinalModel,
    describe_model,
    find_final_model,
    read_interface,
    write_model,
)
from experiments.tracking.model.mlflow_model import ModelDescription, ModelStore
from experiments.trial.parameters import flatten_config, truncate
from experiments.trial.trial import Trial

MAX_AUTOMATIC_GB = 2.0
"""Of weights that are logged without being asked for by name: they stand on the disk once more, or go over a network."""


@dataclass(frozen=True)
class RunToLog:
    """A run in its store."""

    into: Store
    experiment_id: str
    run_id: str
    name: str


def log(trial: Trial, run: RunToLog, *, however_large: bool = False) -> str:
    """Log the final model of a run, unless it has been; its id.

    Args:
        trial: the run.
        run: it in its store.
        however_large: do it though the weights take more than `MAX_AUTOMATIC_GB`.

    Raises:
        InputError: the run has no model that can be logged.
    """
    models = ModelStore(run.into)
    known = models.of_run(run.experiment_id, run.run_id)
    if known is not None and known[1]:
        return known[0]
    chosen, interface = find_final_model(trial), read_interface(trial)
    if interface is None:
        raise InputError([f"run '{trial.folder.name}' did not note what its model takes; train it again to log it"])
    if not however_large:
        _refuse_too_large(trial, chosen)
    folder = trial.folder / ".model"  # on the disk of the weights, which then need not be copied
    shutil.rmtree(folder, ignore_errors=True)
    try:
        write_model(trial, chosen, interface, trusted(trial.provenance["trust"]), folder, link=True)
        return models.log(folder, run.experiment_id, run.run_id, _describe(trial, run, chosen, interface))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def register(trial: Trial, run: RunToLog, model_id: str, name: str) -> str:
    """Register a logged model under a name, unless it is; its version."""
    return ModelStore(run.into).register(model_id, run.run_id, name, _make_origin_tags(trial))


def _refuse_too_large(trial: Trial, chosen: FinalModel) -> None:
    size_gb = chosen.weights.stat().st_size / 1e9
    if size_gb > MAX_AUTOMATIC_GB:
        raise InputError(
            [
                f"its weights have {size_gb:.1f} GB, and above {MAX_AUTOMATIC_GB:g} GB no model is logged by itself; "
                f"`lathe export {trial.reference} -o DIR --register-as NAME` does it, and tracking.log_model=false is silent"
            ]
        )


def _describe(trial: Trial, run: RunToLog, chosen: FinalModel, interface: ModelInterface) -> ModelDescription:
    step = chosen.checkpoint.step
    return ModelDescription(
        name=run.name,
        step=step,
        tags=run_tags.make_user_tags(trial.config)
        | run_tags.make_origin_tags(trial.provenance)
        | {**_make_origin_tags(trial), "lathe.checkpoint": chosen.why},
        params=flatten_config(trial.config),
        points=_select_points(trial, step),
        note=lambda uri: _make_note(trial, chosen, interface, uri),
    )


def _make_origin_tags(trial: Trial) -> dict[str, str]:
    named = {"lathe.run_key": trial.provenance["run_key"], "lathe.trial_id": trial.id}
    return {key: truncate(str(value)) for key, value in named.items()}


def _make_note(trial: Trial, chosen: FinalModel, interface: ModelInterface, uri: str) -> str:
    """A model's description: what it takes and gives, and how to use it, as Markdown."""
    words = interface.words()
    answers = available_answers(describe_model(trial, chosen, interface)["num_classes"])
    lines = [
        f"**{trial.config['name']}** after step {chosen.checkpoint.step}: {chosen.why}",
        "",
        f"- takes `{words['inputs']}`",
        f"- gives `{words['outputs']}`",
    ]
    if len(answers) > 1:
        lines += [f"- or, by the parameter `answer`: {' or '.join(f'`{answer}`' for answer in answers[1:])}"]
    lines += ["", "```python", "import mlflow", f'model = mlflow.pyfunc.load_model("{uri}")']
    lines += ["model.predict(model.input_example)", "```", "", "```"]
    lines += [f"mlflow models serve --env-manager local -m {uri}", "```"]
    return truncate("\n".join(lines))


def _select_points(trial: Trial, step: int) -> list[journal.MetricsEvent]:
    """What was measured of these very weights."""
    events = [event for event in read_metric_events(trial.folder) if event["step"] == step]
    measured = REPEATABLE[1:]  # that of training is a mean over steps before
    kept = [{key: value for key, value in event["metrics"].items() if key.startswith(measured)} for event in events]
    return [{**event, "metrics": metrics} for event, metrics in zip(events, kept, strict=True) if metrics]
