"""Predicts with an exported model: arrays in, arrays out. Exported with the model; imports no training code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from experiments.components.instantiate import instantiate
from experiments.components.model_signature import (
    ModelInterface,
    TensorKind,
    available_answers,
    name_tensors,
    numpy_dtype,
)
from experiments.core.errors import InputError, did_you_mean

METADATA, WEIGHTS = "model.yaml", "model.safetensors"
Arrays = np.ndarray | dict[str, np.ndarray]


def load(folder: Path, device: str = "auto") -> Predictor:
    """Load the model of an exported folder.

    Args:
        folder: contains `model.yaml` and `model.safetensors`.
        device: a torch device; "auto": the first GPU, else the CPU.

    Raises:
        InputError: the weights are damaged, or do not match the code.
    """
    return prepare(yaml.safe_load((folder / METADATA).read_text(encoding="utf-8")), folder / WEIGHTS, device)


def prepare(metadata: Mapping[str, Any], weights: Path, device: str = "auto") -> Predictor:
    """Build the model that the metadata describes, and load its weights.

    Args:
        metadata: the content of `model.yaml`.
        weights: a safetensors file.
        device: as for `load`.

    Raises:
        InputError: the weights are damaged, or do not match the code.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.random.fork_rng(devices=[]):  # the random initial weights are replaced below
        model: nn.Module = instantiate(metadata["model"], "model", metadata["trust"])
    _load_weights(model, weights)
    return Predictor(model.to(device).eval(), metadata, torch.device(device))


class Predictor:
    """A model that converts arrays to its input tensors, and its outputs to answers."""

    def __init__(self, model: nn.Module, metadata: Mapping[str, Any], device: torch.device) -> None:
        """
        Args:
            model: in evaluation mode, on the device.
            metadata: the content of `model.yaml`.
            device: where it computes.
        """
        self.model, self.device = model, device
        self.interface = ModelInterface.from_dict(metadata)
        self.answers = available_answers(metadata["num_classes"])
        self.batch_size: int = metadata["batch_size"]
        self.vocab_size: int | None = metadata["vocab_size"]

    def predict(self, inputs: Any, params: Mapping[str, Any] | None = None) -> Arrays:
        """Predict a batch of any size.

        Args:
            inputs: an array or nested lists; a mapping ``input_0``, ``input_1`` ... if the model has several inputs.
            params: ``answer``, one of `answers`; default: "outputs".

        Returns:
            One answer per example; a mapping ``output_0`` ... if the model has several outputs. Labels are class names if
            the data has them, else numbers.

        Raises:
            ValueError: the inputs do not match the model, or it does not have this answer.
        """
        answer = str((params or {}).get("answer") or "outputs")
        if answer not in self.answers:
            raise ValueError(f"answer={answer} is not an answer of this model; {did_you_mean(answer, self.answers)}")
        tensors = self._tensors(inputs)
        sizes = [len(tensor) for tensor in tensors]
        if min(sizes) < 1 or min(sizes) < max(sizes):
            raise ValueError(f"inputs have {sizes} examples; give at least one, and the same number for every input")
        # In batches of the same size as in training evaluation: bounded memory and bit-identical outputs.
        starts = range(0, sizes[0], self.batch_size)
        parts = [
            self._forward(tuple(tensor[start : start + self.batch_size] for tensor in tensors)) for start in starts
        ]
        joined = [torch.cat(column) for column in zip(*parts, strict=True)]
        if isinstance(self.interface.outputs, tuple):
            names = name_tensors("output", self.interface.outputs)
            return {name: _to_numpy(tensor) for name, tensor in zip(names, joined, strict=True)}
        return self._answer(joined[0], answer)

    def _forward(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        own = tuple(tensor.to(self.device) for tensor in tensors)
        with torch.inference_mode():
            outputs = self.model(own if isinstance(self.interface.inputs, tuple) else own[0])
        return tuple(tensor.cpu() for tensor in (outputs if isinstance(outputs, tuple) else (outputs,)))

    def _answer(self, outputs: Tensor, answer: str) -> np.ndarray:
        if answer == "outputs":
            return _to_numpy(outputs)
        if answer == "probabilities":
            return _to_numpy(outputs.float().softmax(-1))
        labels: np.ndarray = outputs.argmax(-1).numpy()
        names = self.interface.class_names
        return labels if names is None else np.array(names)[labels]

    def _tensors(self, inputs: Any) -> tuple[Tensor, ...]:
        kinds = self.interface.inputs
        if isinstance(inputs, Mapping):
            own = name_tensors("input", kinds)
            if set(inputs) != set(own):
                raise ValueError(f"inputs={sorted(inputs)} do not match this model; give {', '.join(own)}")
            return tuple(self._tensor(name, inputs[name], kind) for name, kind in own.items())
        if isinstance(kinds, tuple):
            raise ValueError(
                f"inputs are one array, but this model takes {', '.join(name_tensors('input', kinds))}; give a mapping"
            )
        return (self._tensor("inputs", inputs, kinds),)

    def _tensor(self, name: str, value: Any, kind: TensorKind) -> Tensor:
        array = np.asarray(value)
        dtype = np.dtype(numpy_dtype(kind))
        fits = array.ndim == len(kind.shape) and all(
            wanted in (-1, size) for wanted, size in zip(kind.shape, array.shape, strict=True)
        )
        if not fits or not np.can_cast(array.dtype, dtype, casting="same_kind"):
            raise ValueError(
                f"{name} is {array.dtype} {list(array.shape)}, but this model takes {kind}; reshape or convert it"
            )
        if self.vocab_size and array.size and dtype.kind in "iu":
            # On a GPU an index out of range makes the device unusable for the whole process.
            low, high = int(array.min()), int(array.max())
            if low < 0 or high >= self.vocab_size:
                raise ValueError(
                    f"{name} has token ids from {low} to {high}; they must be from 0 to {self.vocab_size - 1}"
                )
        return torch.from_numpy(np.array(array, dtype)).to(getattr(torch, kind.dtype))


def _to_numpy(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def _load_weights(model: nn.Module, path: Path) -> None:
    """Load weights from a file that has tied weights once, under the first of their names.

    Raises:
        InputError: the file cannot be read, or belongs to another model.
    """
    try:
        saved = load_file(path)
    except (SafetensorError, OSError) as err:
        raise InputError(
            [f"{path} cannot be read: {err}; use an earlier checkpoint, or export the model again"]
        ) from err
    first: dict[int, str] = {}
    own = model.state_dict(keep_vars=True)
    names = {name: first.setdefault(id(tensor), name) for name, tensor in own.items()}
    problems = [f"{name}: in the model, not in the file" for name in {*names.values()} - {*saved}]
    problems += [f"{name}: in the file, not in the model" for name in {*saved} - {*names.values()}]
    problems += [
        f"{name}: {list(saved[name].shape)} in the file, {list(own[name].shape)} in the model"
        for name in {*names.values()} & {*saved}
        if saved[name].shape != own[name].shape
    ]
    if problems:
        raise InputError(sorted(problems), f"the model, whose code does not match the weights in {path.name},")
    model.load_state_dict({name: saved[tied] for name, tied in names.items()})
