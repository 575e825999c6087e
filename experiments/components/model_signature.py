"""What a model takes and gives: the kinds of its tensors, in words that a run notes and an exported model repeats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from modules.data.base import Tensors


@dataclass(frozen=True)
class TensorKind:
    """Dtype and shape of a tensor; -1 where any size will do: the batch, and the time of a text."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        sizes = [str(size) if size >= 0 else "time" if axis else "batch" for axis, size in enumerate(self.shape)]
        return f"{self.dtype} [{', '.join(sizes)}]"

    @classmethod
    def parse(cls, text: str) -> TensorKind:
        """The kind that ``str`` wrote."""
        dtype, _, sizes = text.rstrip("]").partition(" [")
        return cls(dtype, tuple(int(size) if size.isdecimal() else -1 for size in sizes.split(", ")))


TensorKinds = TensorKind | tuple[TensorKind, ...]
ANSWERS = ("outputs", "probabilities", "labels")
"""What may be asked of a model: what it gives; of a classifier also the softmax of that, and the best class."""


@dataclass(frozen=True)
class ModelInterface:
    """What a model takes and gives; a tuple where it is several tensors."""

    inputs: TensorKinds
    outputs: TensorKinds
    class_names: tuple[str, ...] | None = None
    """What the data calls its classes; None where it only numbers them."""

    WORDS: ClassVar = ("inputs", "outputs", "class_names")

    def words(self) -> dict[str, Any]:
        """As plain values: inputs, outputs and class_names."""
        names = None if self.class_names is None else list(self.class_names)
        return {"inputs": _written(self.inputs), "outputs": _written(self.outputs), "class_names": names}

    @classmethod
    def of_words(cls, words: Mapping[str, Any]) -> ModelInterface:
        """The interface that `words` wrote."""
        names = words.get("class_names")
        return cls(_read(words["inputs"]), _read(words["outputs"]), None if names is None else tuple(names))


def infer_interface(inputs: Tensors, outputs: Tensors) -> ModelInterface:
    """The interface that a batch and what the model gave for it show.

    Any batch will do, and any time of a text that is answered token by token: what a model cannot do, it refuses itself.
    """
    is_text = (
        not isinstance(inputs, tuple)
        and not isinstance(outputs, tuple)
        and not inputs.is_floating_point()
        and inputs.dim() == 2
        and outputs.shape[:2] == inputs.shape
    )
    free = 2 if is_text else 1
    return ModelInterface(_kinds(inputs, free), _kinds(outputs, free))


def available_answers(num_classes: int | None) -> tuple[str, ...]:
    """What may be asked of a model; of one without classes only what it gives."""
    return ANSWERS if num_classes else ANSWERS[:1]


def name_tensors(word: str, kinds: TensorKinds) -> dict[str, TensorKind]:
    """Every tensor by the name of its array: ``input_0``, ``input_1`` ... where there are several, else ``inputs``."""
    return {f"{word}_{n}": kind for n, kind in enumerate(kinds)} if isinstance(kinds, tuple) else {f"{word}s": kinds}


def numpy_dtype(kind: TensorKind) -> str:
    """What numpy calls a tensor's dtype; float32 for the one that it does not know."""
    return "float32" if kind.dtype == "bfloat16" else kind.dtype


def _kinds(tensors: Tensors, free: int) -> TensorKinds:
    return tuple(_kind(tensor, free) for tensor in tensors) if isinstance(tensors, tuple) else _kind(tensors, free)


def _kind(tensor: Tensor, free: int) -> TensorKind:
    return TensorKind(str(tensor.dtype).removeprefix("torch."), (*[-1] * free, *tensor.shape[free:]))


def _written(kinds: TensorKinds) -> str | list[str]:
    return [str(kind) for kind in kinds] if isinstance(kinds, tuple) else str(kinds)


def _read(written: str | list[str]) -> TensorKinds:
    return TensorKind.parse(written) if isinstance(written, str) else tuple(TensorKind.parse(text) for text in written)
