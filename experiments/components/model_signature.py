"""Inputs and outputs of a model: dtypes and shapes of its tensors, as text for journals and exported models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from torch import Tensor

    from modules.data.base import Tensors
    from modules.evaluator.base import AnyEvaluator


@dataclass(frozen=True)
class TensorKind:
    """Dtype and shape of a tensor; -1 for a free size: the batch, and the time of a text."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        sizes = [str(size) if size >= 0 else "time" if axis else "batch" for axis, size in enumerate(self.shape)]
        return f"{self.dtype} [{', '.join(sizes)}]"

    @classmethod
    def parse(cls, text: str) -> TensorKind:
        """Parse the output of ``str``."""
        dtype, _, sizes = text.rstrip("]").partition(" [")
        return cls(dtype, tuple(int(size) if size.isdecimal() else -1 for size in sizes.split(", ")))


TensorKinds = TensorKind | tuple[TensorKind, ...]
ANSWERS = ("outputs", "probabilities", "labels")
"""What a model can return: its outputs; a classifier also their softmax and the best class."""


@dataclass(frozen=True)
class ModelInterface:
    """Inputs and outputs of a model; a tuple for several tensors."""

    inputs: TensorKinds
    outputs: TensorKinds
    class_names: tuple[str, ...] | None = None
    """Names of the classes; None if the data only numbers them."""
    takes: str | None = None
    """What `lathe predict` reads for the model: "row", "image", "audio" or "text"; None: it cannot predict."""

    needs_files: bool | None = None
    """Whether that needs what the data set saves of its files; None: no."""

    KEYS: ClassVar = ("inputs", "outputs", "class_names", "takes", "needs_files")

    def to_dict(self) -> dict[str, Any]:
        """As plain values, by the names in `KEYS`."""
        names = None if self.class_names is None else list(self.class_names)
        return {
            "inputs": _format(self.inputs), "outputs": _format(self.outputs), "class_names": names, "takes": self.takes,
            "needs_files": self.needs_files,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelInterface:
        """Read what `to_dict` wrote."""
        names = values.get("class_names")
        class_names = None if names is None else tuple(names)
        inputs, outputs = _read(values["inputs"]), _read(values["outputs"])
        return cls(inputs, outputs, class_names, values.get("takes"), values.get("needs_files"))


def infer_interface(inputs: Tensors, outputs: Tensors) -> ModelInterface:
    """Infer the interface from a batch and the outputs of the model for it.

    The batch size is free, and so is the time of a text with one output for each token.
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


def add_reader(interface: ModelInterface, data: object, evaluator: AnyEvaluator) -> ModelInterface:
    """Add what `lathe predict` reads for the model: nothing if the data set cannot read inputs or no evaluator predicts."""
    from modules.data.base import InputReader, SavesReader
    from modules.evaluator.base import find_predicting

    if not isinstance(data, InputReader) or find_predicting(evaluator) is None:
        return interface
    return replace(interface, takes=data.takes, needs_files=isinstance(data, SavesReader) or None)


def describe_other_kind(inputs: Tensors, recorded: str | list[str]) -> str | None:
    """Describe inputs that are of another kind than the recorded one; None if they are of the same.

    Args:
        inputs: of a batch.
        recorded: as `ModelInterface.to_dict` writes the inputs; its free sizes fit any size.
    """
    kinds, own = _read(recorded), _kinds(inputs, 1)
    pairs = (kinds, own) if isinstance(kinds, tuple) and isinstance(own, tuple) else ((kinds,), (own,))
    if len(pairs[0]) == len(pairs[1]) and all(map(_is_same, *pairs)):
        return None
    text = _format(own)
    return text if isinstance(text, str) else ", ".join(text)


def _is_same(recorded: TensorKinds, actual: TensorKinds) -> bool:
    if not isinstance(recorded, TensorKind) or not isinstance(actual, TensorKind):
        return False
    sizes = zip(recorded.shape, actual.shape, strict=False)
    is_same_shape = len(recorded.shape) == len(actual.shape) and all(size in (-1, other) for size, other in sizes)
    return is_same_shape and recorded.dtype == actual.dtype


def available_answers(num_classes: int | None) -> tuple[str, ...]:
    """What a model can return; without at least two classes only its outputs: a regression has one output and no class."""
    return ANSWERS if num_classes is not None and num_classes > 1 else ANSWERS[:1]


def name_tensors(singular: str, kinds: TensorKinds) -> dict[str, TensorKind]:
    """Tensors by name: ``input_0``, ``input_1`` ... if there are several, else ``inputs``."""
    return (
        {f"{singular}_{n}": kind for n, kind in enumerate(kinds)}
        if isinstance(kinds, tuple)
        else {f"{singular}s": kinds}
    )


def numpy_dtype(kind: TensorKind) -> str:
    """The numpy name of a dtype; float32 for bfloat16, which numpy lacks."""
    return "float32" if kind.dtype == "bfloat16" else kind.dtype


def _kinds(tensors: Tensors, free: int) -> TensorKinds:
    return tuple(_kind(tensor, free) for tensor in tensors) if isinstance(tensors, tuple) else _kind(tensors, free)


def _kind(tensor: Tensor, free: int) -> TensorKind:
    return TensorKind(str(tensor.dtype).removeprefix("torch."), (*[-1] * free, *tensor.shape[free:]))


def _format(kinds: TensorKinds) -> str | list[str]:
    return [str(kind) for kind in kinds] if isinstance(kinds, tuple) else str(kinds)


def _read(text: str | list[str]) -> TensorKinds:
    return TensorKind.parse(text) if isinstance(text, str) else tuple(TensorKind.parse(one) for one in text)
