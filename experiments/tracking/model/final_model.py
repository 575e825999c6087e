"""Which weights are a run's final model, and everything that has to be known to predict with them. Imports no torch."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.components.model_signature import (
    ModelInterface,
    TensorKind,
    available_answers,
    name_tensors,
    numpy_dtype,
)
from experiments.config.allowlist import HOUSE
from experiments.core.errors import InputError
from experiments.run import journal
from experiments.run.checkpoint import Checkpoint, Checkpoints
from experiments.run.state import determine_state
from experiments.tracking.model import mlflow_model
from experiments.tracking.model.model_code import LOADER, collect_code, find_trusted_packages
from experiments.trial.code_copy import CODE
from experiments.trial.trial import Trial, to_yaml

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1
METADATA, WEIGHTS = "model.yaml", "model.safetensors"
EXAMPLE_TOKENS = 8
"""Tokens of the text that is the example."""


@dataclass(frozen=True)
class FinalModel:
    """The checkpoint that is a run's model, and why it is."""

    checkpoint: Checkpoint
    why: str
    """Such as "best by val/accuracy_top1=0.97", or "last"."""

    @property
    def weights(self) -> Path:
        return self.checkpoint.folder / WEIGHTS


def find_final_model(trial: Trial) -> FinalModel:
    """The best checkpoint of a run where one was marked, else the last.

    Raises:
        InputError: the run is not finished, or that checkpoint is not there or not whole.
    """
    name, state = trial.folder.name, _find_state(trial)
    if state != "finished":
        raise InputError(
            [f"run '{name}' is {state}, and only a finished one has a final model; `lathe resume {trial.reference}`"]
        )
    checkpoints = Checkpoints(trial.folder, 1)
    best = checkpoints.best()
    found = best if best or checkpoints.warnings else checkpoints.latest()
    if checkpoints.warnings:
        raise InputError([f"{warning}; bring the file back, or train again" for warning in checkpoints.warnings])
    if found is None:
        raise InputError([f"run '{name}' has no checkpoint in {checkpoints.folder}; bring it back, or train again"])
    metric = str(trial.config["checkpoint"]["best_metric"])
    value = found.state.get("val", {}).get(metric)
    return FinalModel(found, f"best by {metric}={value:.6g}" if best and value is not None else "last")


def _find_state(trial: Trial) -> str:
    """What the launching side saw, else the run's own last word, which is all that a sweep's trial has."""
    events = [event for event in journal.replay(trial.folder) if event["event"] == "state"]
    outcome = trial.outcome()
    if not events and outcome is None:
        return "not begun"
    last = events[-1] if events else None
    return determine_state(outcome, last, last["time"] if last else 0.0, alive=True).state


def read_interface(trial: Trial) -> ModelInterface | None:
    """What the model takes and gives, as its training noted; None for a run from before that was noted."""
    words: dict[str, Any] = {}
    for event in journal.replay(trial.folder):
        if event["event"] == "params":
            words |= {
                key: event["params"][f"plan.{key}"] for key in ModelInterface.WORDS if f"plan.{key}" in event["params"]
            }
    return ModelInterface.of_words(words) if {"inputs", "outputs"} <= set(words) else None


def describe_model(trial: Trial, chosen: FinalModel, interface: ModelInterface) -> dict[str, Any]:
    """What `model.yaml` says: the model's part of the configuration, and how arrays become tensors and outputs answers."""
    config = trial.config
    counts = {config["data"].get(key) for key in ("num_classes", "vocab_size")}
    outputs, inputs = interface.outputs, interface.inputs
    has_classes = (
        isinstance(outputs, TensorKind)
        and outputs.dtype.startswith(("float", "bfloat"))
        and outputs.shape[-1] in counts
    )
    reads_words = isinstance(inputs, TensorKind) and inputs.dtype.startswith("int")
    return {
        "lathe_model": FORMAT,
        "name": config["name"],
        "trial": trial.id,
        "step": chosen.checkpoint.step,
        "chosen": chosen.why,
        **interface.words(),
        "num_classes": outputs.shape[-1] if isinstance(outputs, TensorKind) and has_classes else None,
        "vocab_size": config["data"].get("vocab_size") if reads_words else None,
        "batch_size": config["batch_size_eval"],
        "trust": find_trusted_packages(config["model"]),
        "model": config["model"],
    }


def write_model(
    trial: Trial, chosen: FinalModel, interface: ModelInterface, trust: Collection[str], folder: Path, *, link: bool
) -> None:
    """Write the model of a run as a folder that MLflow, or `predictor.load`, takes anywhere.

    Args:
        trial: the run.
        chosen: of it.
        interface: of its model.
        trust: packages whose code may go along.
        folder: that is not there yet.
        link: share the weights with the checkpoint where the disk lets a file have two names.

    Raises:
        InputError: code of it cannot go along.
        OSError: the disk is full.
    """
    frozen = trial.folder.parent / CODE
    code = collect_code(trial.config["model"], frozen if frozen.is_dir() else HOUSE, trust)
    facts = describe_model(trial, chosen, interface)
    told = {key: facts[key] for key in ("name", "trial", "step", "chosen")}
    with tempfile.TemporaryDirectory() as scratch:
        data, sources = Path(scratch, "model"), Path(scratch, "code")
        for place in (data, sources):
            place.mkdir()
        (data / METADATA).write_text(to_yaml(facts), encoding="utf-8")
        takes = _make_signature(interface, facts, trial.config["data"])
        mlflow_model.save(folder, data, code.copy(sources), LOADER, takes, code.requirements, told)
    _copy_weights(chosen.weights, folder / "data" / "model" / WEIGHTS, link)
    mlflow_model.record_size(folder)


def _copy_weights(weights: Path, to: Path, link: bool) -> None:
    if link:
        try:
            os.link(weights, to)
        except OSError:  # another disk, or one that knows no second names
            link = False
    if not link:
        shutil.copyfile(weights, to)
    shutil.copymode(to.with_name(METADATA), to)  # safetensors makes its files for their owner alone


def _make_signature(
    interface: ModelInterface, facts: Mapping[str, Any], data: Mapping[str, Any]
) -> mlflow_model.MlflowSignature:
    inputs, outputs = name_tensors("input", interface.inputs), name_tensors("output", interface.outputs)
    time = min(EXAMPLE_TOKENS, data.get("context_tokens") or EXAMPLE_TOKENS)
    arrays = {name: make_example(kind, time, facts["vocab_size"]) for name, kind in inputs.items()}
    return mlflow_model.MlflowSignature(
        inputs={name: (numpy_dtype(kind), kind.shape) for name, kind in inputs.items()},
        outputs={name: (numpy_dtype(kind), kind.shape) for name, kind in outputs.items()},
        answers=available_answers(facts["num_classes"]),
        example=arrays if isinstance(interface.inputs, tuple) else arrays["inputs"],
    )


def make_example(kind: TensorKind, time: int, vocab_size: int | None) -> np.ndarray:
    """One made-up example: numbers that rise from 0 to 1, or count. Never one of the data, which may be nobody's business.

    Args:
        kind: of the tensor.
        time: length of a text.
        vocab_size: of a text's words; None: whole numbers are all 0.
    """
    import numpy as np

    shape = [1, *(time if size < 0 else size for size in kind.shape[1:])]
    size = int(np.prod(shape))
    is_float = np.dtype(numpy_dtype(kind)).kind == "f"
    values: np.ndarray = np.linspace(0.0, 1.0, size) if is_float else np.arange(size) % (vocab_size or 1)
    return values.reshape(shape).astype(numpy_dtype(kind))
