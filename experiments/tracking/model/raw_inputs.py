"""What an exported model needs besides its weights to take rows, images, recordings or texts, as `lathe predict` does."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from experiments.components.model_signature import ModelInterface, TensorKind
from experiments.core.errors import InputError
from experiments.tracking.model.mlflow_model import ANY, STRING, ColumnType, TensorShape
from experiments.tracking.model.model_code import RAW_PREDICTOR, find_untrusted
from experiments.trial.trial import Trial

PARTS: Final = ("data", "evaluator")
SIZE: Final = 32
"""Pixels of the sides of an example image, if the model does not fix them."""
DTYPE: Final = "uint8"
SAMPLE_RATE: Final = 16000
"""Of an example recording, if the data set names none."""


@dataclass(frozen=True)
class RawInputs:
    """The data set and the evaluator of a run, as an exported model keeps them."""

    kind: str
    """What the model takes, in words."""
    config: Mapping[str, Any]
    """Their configuration."""
    reader: Any
    """What `SavesReader.save_reader` returned; None: the data set saves nothing."""
    inputs: Mapping[str, TensorShape | ColumnType]
    """For MLflow's signature; empty if the columns of a table are not known."""
    example: Any
    """An artificial input; None if the columns of a table are not known."""
    summary: Mapping[str, Any] = field(default_factory=dict)
    """For the metadata of MLflow's model: what each column holds, which MLflow's types do not say."""


def find_raw_inputs(trial: Trial, interface: ModelInterface, project: Path, trust: Collection[str]) -> RawInputs | None:
    """What the model of a run needs to take raw inputs; None if it can only take arrays.

    It can only take arrays if the data set reads no inputs or no evaluator predicts, if their code is not trusted, if a data
    set of texts saves no vocabulary, or if the code of the run is that of an earlier version of Lathe.

    Args:
        trial: the run.
        interface: of its model.
        project: the code that is exported.
        trust: packages whose code may be included.

    Raises:
        InputError: a file of the data set is needed, but missing or damaged.
    """
    config = {part: _without_root(trial.config[part]) for part in PARTS}
    is_known = (project / RAW_PREDICTOR.replace(".", "/")).with_suffix(".py").is_file()
    if interface.takes is None or not is_known or find_untrusted(config, trust):
        return None
    data, reader = _read_files(trial, trust) if interface.needs_files else (None, None)
    if interface.takes == "row":
        columns = config["data"].get("columns")
        known = columns if isinstance(columns, Mapping) else {}
        example = _make_example_rows(known) if known else None
        kinds = {name: "numbers" if "mean" in column else "texts" for name, column in known.items()}
        inputs = dict.fromkeys(known, ANY)
        return RawInputs("rows of a table", config, reader, inputs, example, {"columns": kinds} if known else {})
    if interface.takes == "image":
        return RawInputs("images", config, reader, {"inputs": (DTYPE, (-1,) * 4)}, _make_example_images(interface))
    if interface.takes == "audio":
        rate = config["data"].get("sample_rate") or SAMPLE_RATE
        return RawInputs("recordings", config, reader, {"inputs": ("float32", (-1, -1))}, _make_example_sounds(rate))
    return RawInputs("texts", config, reader, {"": STRING}, [_find_example_text(data)]) if data else None


def _read_files(trial: Trial, trust: Collection[str]) -> tuple[Any, Any]:
    """The data set, and what it saves of its files."""
    from experiments.components.instantiate import instantiate
    from modules.data.base import DataError

    data = instantiate(trial.config["data"], "data", trust)
    try:
        return data, data.save_reader()
    except DataError as err:
        raise InputError([str(err)]) from err


def _find_example_text(data: Any) -> str:
    """The first of some texts that the data set can read."""
    import torch

    from modules.data.base import HasVocabulary, Tokenized, UserInputError

    texts = ["a"]
    if isinstance(data, HasVocabulary):
        texts = [*data.words[:1], *texts]
    if isinstance(data, Tokenized):
        ids = torch.arange(data.tokenizer.num_tokens)
        texts = [text for count in (8, 16) if (text := data.tokenizer.decode(ids[count // 2 : count]).strip())] + texts
    for text in texts:
        try:
            data.read([text])
        except UserInputError:
            continue
        return text
    return texts[0]


def _make_example_images(interface: ModelInterface) -> Any:
    """uint8 [1, height, width, channels], pixels that count up, of the size of the model's inputs."""
    import numpy as np

    kind = interface.inputs
    shape = kind.shape[1:] if isinstance(kind, TensorKind) else ()
    channels, height, width = shape if len(shape) == 3 and min(shape) > 0 and shape[0] in (1, 3) else (3, SIZE, SIZE)
    return np.resize(np.arange(256, dtype=DTYPE), (1, height, width, channels))


def _make_example_sounds(sample_rate: int) -> Any:
    """float32 [1, samples], half a second of the tone A."""
    import numpy as np

    return np.sin(2 * np.pi * 440 / sample_rate * np.arange(sample_rate // 2, dtype="float32"))[None]


def _make_example_rows(columns: Mapping[str, Mapping[str, Any]]) -> Any:
    """A data frame with one row: the mean of each column of numbers, the most frequent text or words of the others."""
    import pandas as pd

    def make_cell(column: Mapping[str, Any]) -> Any:
        return " ".join(column["words"][:8]) if "words" in column else column.get("categories", [column.get("mean")])[0]

    return pd.DataFrame([{name: make_cell(column) for name, column in columns.items()}])


def _without_root(node: Any) -> Any:
    """A part of a configuration without the folder of all data sets, which is that of one machine."""
    if isinstance(node, Mapping):
        return {
            name: "." if name == "root" and isinstance(each, str) else _without_root(each)
            for name, each in node.items()
        }
    return [_without_root(each) for each in node] if isinstance(node, list) else node
