"""Selects the final model of a run, and writes it as a folder that can predict. Imports no torch."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.components.model_signature import (
    ModelInterface,
    TensorKind,
    available_answers,
    name_tensors,
    numpy_dtype,
)
from experiments.core.errors import InputError
from experiments.core.files.packages import PREFIX, PROJECT_ROOT
from experiments.run import journal
from experiments.run.checkpoint import WEIGHTS as CHECKPOINT_WEIGHTS
from experiments.run.checkpoint import Checkpoint, Checkpoints
from experiments.run.state import determine_state
from experiments.tracking.model import mlflow_model
from experiments.tracking.model.model_code import (
    LOADER,
    PREDICTOR,
    RAW_PREDICTOR,
    collect_code,
    find_trusted_packages,
)
from experiments.tracking.model.raw_inputs import RawInputs
from experiments.trial.code_copy import CODE
from experiments.trial.trial import Trial, to_yaml

if TYPE_CHECKING:
    import numpy as np

FORMAT = 1
METADATA, WEIGHTS, READER = "model.yaml", "model.safetensors", "reader.json"
PREDICTION = "prediction"
"""The answer of `lathe predict --json`, the default of a model that takes raw inputs."""
EXAMPLE_TOKENS = 8
"""Length of a text in the input example."""


@dataclass(frozen=True)
class FinalModel:
    """The checkpoint that is the final model of a run, and why."""

    checkpoint: Checkpoint
    reason: str
    """Such as "best by val/accuracy_top1=0.97", or "last"."""

    @property
    def weights(self) -> Path:
        return self.checkpoint.weights


def find_final_model(trial: Trial) -> FinalModel:
    """Find the checkpoint that a run delivers.

    Raises:
        InputError: the run is not finished, or the checkpoint is missing or damaged.
    """
    name, state = trial.folder.name, _find_state(trial)
    if state != "finished":
        raise InputError(
            [
                f"run '{name}' is {state}, and only a finished run has a final model; run `lathe resume {trial.reference}`"
            ]
        )
    checkpoints = Checkpoints(trial.folder, 1, needed=CHECKPOINT_WEIGHTS)
    checkpoint = checkpoints.delivered()
    if checkpoints.warnings:
        raise InputError([f"{warning}; restore the file, or train again" for warning in checkpoints.warnings])
    if checkpoint is None:
        raise InputError([f"run '{name}' has no checkpoint in {checkpoints.folder}; restore it, or train again"])
    metric = str(trial.config["checkpoint"]["best_metric"])
    value = checkpoint.state.get("val", {}).get(metric)
    is_best = checkpoints.has_best and value is not None
    return FinalModel(checkpoint, f"best by {metric}={value:.6g}" if is_best else "last")


def _find_state(trial: Trial) -> str:
    """Return the state from the outcome, else from the journal, which is all that a trial of a sweep has."""
    events = [event for event in journal.replay(trial.folder) if event["event"] == "state"]
    outcome = trial.outcome()
    if not events and outcome is None:
        return "not started"
    last = events[-1] if events else None
    return determine_state(outcome, last, last["time"] if last else 0.0, alive=True).state


def read_interface(trial: Trial) -> ModelInterface | None:
    """Read the inputs and outputs of the model from the journal; None for old runs without them."""
    texts: dict[str, Any] = {}
    for event in journal.replay(trial.folder):
        if event["event"] == "params":
            texts |= {
                key: event["params"][f"plan.{key}"] for key in ModelInterface.KEYS if f"plan.{key}" in event["params"]
            }
    return ModelInterface.from_dict(texts) if {"inputs", "outputs"} <= set(texts) else None


def describe_model(trial: Trial, model: FinalModel, interface: ModelInterface) -> dict[str, Any]:
    """Make the content of `model.yaml`: the configuration of the model, its inputs and its outputs."""
    config = trial.config
    counts = {config["data"].get(key) for key in ("num_classes", "vocab_size")}
    outputs, inputs = interface.outputs, interface.inputs
    has_classes = (
        isinstance(outputs, TensorKind)
        and outputs.dtype.startswith(("float", "bfloat"))
        and outputs.shape[-1] in counts
    )
    reads_tokens = isinstance(inputs, TensorKind) and inputs.dtype.startswith("int")
    return {
        "lathe_model": FORMAT,
        "name": config["name"],
        "trial": trial.id,
        "step": model.checkpoint.step,
        "chosen": model.reason,
        **interface.to_dict(),
        "num_classes": outputs.shape[-1] if isinstance(outputs, TensorKind) and has_classes else None,
        "vocab_size": config["data"].get("vocab_size") if reads_tokens else None,
        "batch_size": config["batch_size_eval"],
        "trust": find_trusted_packages(config["model"]),
        "model": config["model"],
    }


def write_model(
    trial: Trial, model: FinalModel, interface: ModelInterface, trust: Collection[str], folder: Path, *, link: bool,
    raw: RawInputs | None = None,
) -> None:  # fmt: skip
    """Write the model of a run as a folder that MLflow or `predictor.load` loads on any machine.

    Args:
        trial: the run.
        model: its final model.
        interface: inputs and outputs of the model.
        trust: packages whose code may be included.
        folder: a new folder.
        link: hard-link the weights to the checkpoint if the disk supports it.
        raw: what it needs to take raw inputs; None: it takes arrays.

    Raises:
        InputError: code of the model cannot be included.
        OSError: the disk is full.
    """
    nodes = {"model": trial.config["model"], **(raw.config if raw else {})}
    code = collect_code(nodes, find_project(trial), trust, RAW_PREDICTOR if raw else PREDICTOR)
    metadata = describe_model(trial, model, interface) | nodes | {"trust": find_trusted_packages(nodes)}
    summary = {key: metadata[key] for key in ("name", "trial", "step", "chosen")} | (dict(raw.summary) if raw else {})
    with tempfile.TemporaryDirectory() as scratch:
        data, sources = Path(scratch, "model"), Path(scratch, "code")
        for subfolder in (data, sources):
            subfolder.mkdir()
        (data / METADATA).write_text(to_yaml(metadata), encoding="utf-8")
        if raw and raw.reader is not None:
            (data / READER).write_text(json.dumps(raw.reader, ensure_ascii=False), encoding="utf-8")
        signature = _make_signature(interface, metadata, trial.config["data"])
        if raw:
            answers = (PREDICTION, *signature.answers)
            signature = replace(signature, inputs=raw.inputs, outputs={}, answers=answers, example=raw.example)
        mlflow_model.save(folder, data, code.copy(sources), LOADER, signature, code.requirements, summary)
    from experiments.components.adapter import whole_weights  # imports torch

    with whole_weights(trial, model.weights, trust) as weights:
        _copy_weights(weights, folder / "data" / "model" / WEIGHTS, link)
    mlflow_model.record_size(folder)


def find_project(trial: Trial) -> Path:
    """The folder of Lathe's packages that the run was trained with, else of the current ones."""
    frozen = trial.folder.parent / CODE / PREFIX.removesuffix(".")
    return frozen if frozen.is_dir() else PROJECT_ROOT


def _copy_weights(weights: Path, to: Path, link: bool) -> None:
    if link:
        try:
            os.link(weights, to)
        except OSError:  # another disk, or one without hard links
            link = False
    if not link:
        shutil.copyfile(weights, to)
    shutil.copymode(to.with_name(METADATA), to)  # safetensors files are readable by their owner only


def _make_signature(
    interface: ModelInterface, metadata: Mapping[str, Any], data: Mapping[str, Any]
) -> mlflow_model.MlflowSignature:
    inputs, outputs = name_tensors("input", interface.inputs), name_tensors("output", interface.outputs)
    time = min(EXAMPLE_TOKENS, data.get("context_tokens") or EXAMPLE_TOKENS)
    arrays = {name: make_example(kind, time, metadata["vocab_size"]) for name, kind in inputs.items()}
    return mlflow_model.MlflowSignature(
        inputs={name: (numpy_dtype(kind), kind.shape) for name, kind in inputs.items()},
        outputs={name: (numpy_dtype(kind), kind.shape) for name, kind in outputs.items()},
        answers=available_answers(metadata["num_classes"]),
        example=arrays if isinstance(interface.inputs, tuple) else arrays["inputs"],
    )


def make_example(kind: TensorKind, time: int, vocab_size: int | None) -> np.ndarray:
    """Make one artificial example: floats from 0 to 1, or integers that count. Never real data, which may be private.

    Args:
        kind: dtype and shape of the tensor.
        time: length of a text.
        vocab_size: size of the vocabulary; None: all integers are 0.
    """
    import numpy as np

    shape = [1, *(time if size < 0 else size for size in kind.shape[1:])]
    size = int(np.prod(shape))
    is_float = np.dtype(numpy_dtype(kind)).kind == "f"
    values: np.ndarray = np.linspace(0.0, 1.0, size) if is_float else np.arange(size) % (vocab_size or 1)
    return values.reshape(shape).astype(numpy_dtype(kind))
