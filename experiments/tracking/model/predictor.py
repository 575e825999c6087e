"""Predicts with an exported model: arrays in, arrays out. Goes along with the model, and imports nothing that trains."""

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
    """The model of an exported folder, ready to predict.

    Args:
        folder: with `model.yaml` and `model.safetensors`.
        device: as torch calls it; "auto": the first GPU where there is one.

    Raises:
        InputError: the weights are damaged, or do not belong to the code.
    """
    return prepare(yaml.safe_load((folder / METADATA).read_text(encoding="utf-8")), folder / WEIGHTS, device)


def prepare(facts: Mapping[str, Any], weights: Path, device: str = "auto") -> Predictor:
    """The model that facts describe, ready to predict.

    Args:
        facts: as of `model.yaml`.
        weights: a file of safetensors.
        device: as of `load`.

    Raises:
        InputError: the weights are damaged, or do not belong to the code.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn, and then replaced
        model: nn.Module = instantiate(facts["model"], "model", facts["trust"])
    _load_weights(model, weights)
    return Predictor(model.to(device).eval(), facts, torch.device(device))


class Predictor:
    """A model with what is needed to turn arrays into its tensors, and its outputs into answers."""

    def __init__(self, model: nn.Module, facts: Mapping[str, Any], device: torch.device) -> None:
        """
        Args:
            model: in evaluation mode, on the device.
            facts: of `model.yaml`.
            device: where it computes.
        """
        self.model, self.device = model, device
        self.interface = ModelInterface.of_words(facts)
        self.answers = available_answers(facts["num_classes"])
        self.batch_size: int = facts["batch_size"]
        self.vocab_size: int | None = facts["vocab_size"]

    def predict(self, inputs: Any, params: Mapping[str, Any] | None = None) -> Arrays:
        """Predict a batch of any size.

        Args:
            inputs: an array, or what makes one; by name ``input_0``, ``input_1`` ... where the model takes several.
            params: ``answer``, one of `answers`; default: "outputs".

        Returns:
            The answers, an example each; by name ``output_0`` ... where the model gives several. Labels are numbers, or
            texts where the data names its classes.

        Raises:
            ValueError: the inputs are not what the model takes, or there is no such answer.
        """
        answer = str((params or {}).get("answer") or "outputs")
        if answer not in self.answers:
            raise ValueError(f"answer={answer} is not what this model gives; {did_you_mean(answer, self.answers)}")
        tensors = self._tensors(inputs)
        sizes = [len(tensor) for tensor in tensors]
        if min(sizes) < 1 or min(sizes) < max(sizes):
            raise ValueError(f"inputs have {sizes} examples; give at least one, and as many of every input")
        # In parts as training evaluated: it bounds the memory, and the same sizes give the same bits.
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
                raise ValueError(f"inputs={sorted(inputs)} are not what this model takes; give {', '.join(own)}")
            return tuple(self._tensor(name, inputs[name], kind) for name, kind in own.items())
        if isinstance(kinds, tuple):
            raise ValueError(
                f"inputs are one array, but this model takes {', '.join(name_tensors('input', kinds))}; give a map"
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
            # On a GPU an index that is too large would end the process and everything after it.
            low, high = int(array.min()), int(array.max())
            if low < 0 or high >= self.vocab_size:
                raise ValueError(f"{name} has numbers from {low} to {high}; keep them from 0 to {self.vocab_size - 1}")
        return torch.from_numpy(np.array(array, dtype)).to(getattr(torch, kind.dtype))


def _to_numpy(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def _load_weights(model: nn.Module, path: Path) -> None:
    """Give a model the weights of a file, in which tied ones stand once, under the first of their names.

    Raises:
        InputError: it cannot be read, or is of another model.
    """
    try:
        saved = load_file(path)
    except (SafetensorError, OSError) as err:
        raise InputError(
            [f"{path} cannot be read: {err}; take an earlier checkpoint, or export the model once more"]
        ) from err
    first: dict[int, str] = {}
    own = model.state_dict(keep_vars=True)
    names = {name: first.setdefault(id(tensor), name) for name, tensor in own.items()}
    problems = [f"{name}: the model has it, the file does not" for name in {*names.values()} - {*saved}]
    problems += [f"{name}: the file has it, the model does not" for name in {*saved} - {*names.values()}]
    problems += [
        f"{name}: {list(saved[name].shape)} in the file, {list(own[name].shape)} in the model"
        for name in {*names.values()} & {*saved}
        if saved[name].shape != own[name].shape
    ]
    if problems:
        raise InputError(sorted(problems), f"the model, whose code is not that of the weights in {path.name},")
    model.load_state_dict({name: saved[tied] for name, tied in names.items()})
