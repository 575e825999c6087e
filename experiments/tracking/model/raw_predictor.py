"""Predicts as `lathe predict` does: rows of a table, images, recordings or texts in, answers out. Exported with the model."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from PIL import Image

from experiments.components.instantiate import instantiate
from experiments.core.errors import did_you_mean
from experiments.tracking.model import predictor
from experiments.tracking.model.predictor import Arrays, Predictor
from modules.data.base import InputReader, SavesReader, Tensors
from modules.data.own.json_rows import to_json_rows
from modules.evaluator.base import Predicts, find_predicting

READER = "reader.json"
FLOAT = 3
"""How a WAV file calls samples that are floats."""
SAMPLE_RATE = 16000
"""Of samples without a header, if the data set names none."""
PREDICTION = "prediction"
"""The default of the parameter `answer`: what `lathe predict --json` prints."""


def load(folder: Path, device: str = "auto") -> Predictor | RawPredictor:
    """Load the model of an exported folder, with the preprocessing of its data if the folder has it.

    Args:
        folder: contains `model.yaml`, `model.safetensors`, and what the data set saved of its files.
        device: a torch device; "auto": the first GPU, else the CPU.

    Raises:
        InputError: the weights are damaged, or do not match the code.
    """
    arrays = predictor.load(folder, device)
    metadata = yaml.safe_load((folder / predictor.METADATA).read_text(encoding="utf-8"))
    if "data" not in metadata:
        return arrays
    data = instantiate(metadata["data"], "data", metadata["trust"])
    evaluator = find_predicting(instantiate(metadata["evaluator"], "evaluator", metadata["trust"]))
    assert isinstance(data, InputReader)
    assert evaluator is not None
    if metadata["class_names"] is not None:
        data.class_names = metadata["class_names"]  # type: ignore[attr-defined]  # not all have them
    if isinstance(data, SavesReader):
        data.restore_reader(json.loads((folder / READER).read_text(encoding="utf-8")))
    return RawPredictor(arrays, data, evaluator)


class RawPredictor:
    """A model with the data set that reads its inputs and the evaluator that answers."""

    def __init__(self, arrays: Predictor, data: InputReader, evaluator: Predicts) -> None:
        """
        Args:
            arrays: predicts with the input tensors of the model.
            data: not loaded; its `read` needs no files.
            evaluator: of the training.
        """
        self.arrays, self.data, self.evaluator = arrays, data, evaluator
        self.answers = (PREDICTION, *arrays.answers)

    def get_raw_model(self) -> Predictor:
        """The predictor without preprocessing; `get_raw_model` of MLflow's model returns it."""
        return self.arrays

    def predict(self, inputs: Any, params: Mapping[str, Any] | None = None) -> pd.DataFrame | Arrays:
        """Predict any number of inputs.

        Args:
            inputs: of a table, a data frame or its columns, with missing values where a value is not known; images, uint8
                [images, height, width, 1, 3 or 4], or a list of such arrays or of the bytes of image files; recordings, float
                [recordings, samples] from -1 to 1 at the rate of the training, or a list of such arrays or of the bytes of
                WAV files; or texts.
            params: ``answer``, one of `answers`.

        Returns:
            "prediction": a row for each input, with what `lathe predict --json` prints. Other answers: as `Predictor.predict`.

        Raises:
            ValueError: an input cannot be read, or the model does not have this answer.
        """
        answer = str((params or {}).get("answer") or PREDICTION)
        if answer not in self.answers:
            raise ValueError(f"answer={answer} is not an answer of this model; {did_you_mean(answer, self.answers)}")
        with self._as_arguments(inputs) as values:
            if not values:
                raise ValueError("there are no inputs; give at least one")
            size = self.arrays.batch_size
            batches = [values[start : start + size] for start in range(0, len(values), size)]
            if answer != PREDICTION:
                return _join([self._answer(batch, answer) for batch in batches])
            with torch.inference_mode():
                found = [
                    each for batch in batches for each in self.evaluator.predict(self.arrays.model, self.data, batch)
                ]
        return pd.DataFrame([prediction.details for prediction in found])

    def _answer(self, values: Sequence[str], answer: str) -> Arrays:
        return self.arrays.predict(_to_arrays(self.data.read(values)), {"answer": answer})

    @contextmanager
    def _as_arguments(self, inputs: Any) -> Iterator[list[str]]:
        """The inputs as arguments of `lathe predict`; images and recordings become files."""
        if self.data.takes == "row":
            yield to_json_rows(inputs if isinstance(inputs, pd.DataFrame) else pd.DataFrame(inputs))
        elif self.data.takes == "text":
            values = (
                inputs.iloc[:, 0] if isinstance(inputs, pd.DataFrame) else np.atleast_1d(np.asarray(inputs, object))
            )
            yield [str(value) for value in values]
        else:
            with tempfile.TemporaryDirectory() as folder:
                files = [Path(folder, f"{self.data.takes}_{number}") for number in range(len(inputs))]
                for file, content in zip(files, inputs, strict=True):
                    if isinstance(content, bytes):
                        file.write_bytes(content)
                    elif self.data.takes == "image":
                        _write_image(file, content)
                    else:
                        _write_sound(file, content, getattr(self.data, "sample_rate", SAMPLE_RATE))
                try:
                    yield [str(file) for file in files]
                except ValueError as err:
                    raise ValueError(str(err).replace(f"{folder}/", "")) from err


def _write_image(file: Path, image: Any) -> None:
    """Write pixels.

    Raises:
        ValueError: they are no pixels.
    """
    pixels = np.asarray(image)
    channels = pixels.shape[2:] or (1,)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or channels[0] not in (1, 3, 4) or not pixels.size:
        raise ValueError(
            f"{file.name} is {pixels.dtype} {list(pixels.shape)}; give uint8 [height, width, 1, 3 or 4], or the bytes of an "
            "image file"
        )
    Image.fromarray(pixels[:, :, 0] if channels == (1,) and pixels.ndim == 3 else pixels).save(
        file, "PNG", compress_level=1
    )


def _write_sound(file: Path, sound: Any, sample_rate: int) -> None:
    """Write samples.

    Raises:
        ValueError: they are no samples.
    """
    samples = np.asarray(sound)
    if samples.dtype.kind != "f" or samples.ndim != 1 or not samples.size:
        raise ValueError(
            f"{file.name} is {samples.dtype} {list(samples.shape)}; give float [samples] from -1 to 1 at {sample_rate} samples "
            "per second, or the bytes of a WAV file"
        )
    content = samples.astype("<f4").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, FLOAT, 1, sample_rate, 4 * sample_rate, 4, 32)
    parts = b"WAVE" + form + struct.pack("<4sI", b"data", len(content)) + content
    file.write_bytes(struct.pack("<4sI", b"RIFF", len(parts)) + parts)


def _to_arrays(tensors: Tensors) -> Arrays:
    if isinstance(tensors, tuple):
        return {f"input_{number}": tensor.numpy() for number, tensor in enumerate(tensors)}
    return np.asarray(tensors.numpy())


def _join(parts: Sequence[Arrays]) -> Arrays:
    named = [part for part in parts if isinstance(part, dict)]
    if named:
        return {name: np.concatenate([part[name] for part in named]) for name in named[0]}
    return np.concatenate([np.asarray(part) for part in parts])
