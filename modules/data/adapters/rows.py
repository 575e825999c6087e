"""Makes batches of the rows of a data set: tensors, arrays, numbers and images in tuples and maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from modules.data.base import IGNORED, Batch, DataError


def stack_rows(rows: list[Any]) -> Batch:
    """Stack rows of equal shapes; see `to_tensor` for their parts.

    Raises:
        DataError: a part cannot be a tensor, or the shapes differ.
    """
    return cast(Batch, _join(rows, "", _stack))


class Pad:
    """Makes batches of sequences of different lengths: each is padded at its end to the longest of its batch.

    A replica pads its own examples only, so use a loss that ignores padding; then it is the same on any number of replicas.
    """

    is_component = True

    def __init__(self, values: Mapping[str, float] | None = None) -> None:
        """
        Args:
            values: the padding of each field: "inputs", "targets", or a key of rows that are maps. Default: -100, which losses
                ignore, for "targets" and "labels"; 0 for others.
        """
        self.values = {"targets": IGNORED, "labels": IGNORED, **(values or {})}

    def __call__(self, rows: list[Any]) -> Batch:
        return cast(Batch, _join(rows, "", self._pad))

    def _pad(self, tensors: list[Tensor], name: str) -> Tensor:
        if tensors[0].dim() == 0:
            return _stack(tensors, name)
        value = self.values.get(name.partition(".")[0], 0)
        padded = torch.full(
            (len(tensors), max(map(len, tensors)), *tensors[0].shape[1:]), value, dtype=tensors[0].dtype
        )
        for row, tensor in zip(padded, tensors, strict=True):
            if tensor.shape[1:] != row.shape[1:]:
                raise DataError(_differing(name, tensors))
            row[: len(tensor)] = tensor
        return padded


def select_fields(row: Any, fields: Mapping[str, str | Sequence[str]]) -> tuple[Any, Any]:
    """Return the inputs and targets of a row that is a map.

    Args:
        row: the map.
        fields: under "inputs" and "targets" the name of a field, or several names.

    Raises:
        DataError: the row has no such field.
    """
    if not isinstance(row, Mapping):
        raise DataError(
            f"data.fields={dict(fields)} names fields, but a row is {_describe(row)} and not a map; set data.fields=null"
        )
    inputs, targets = (
        row_field(row, names) if isinstance(names, str) else tuple(row_field(row, name) for name in names)
        for names in (fields["inputs"], fields["targets"])
    )
    return inputs, targets


def row_field(row: Mapping[str, Any], name: str) -> Any:
    """
    Raises:
        DataError: the row has no such field.
    """
    if name not in row:
        raise DataError(
            f"data.fields names {name!r}, but a row has the fields {', '.join(map(str, row))}; name one of them"
        )
    return row[name]


def to_tensor(value: Any, name: str) -> Tensor:
    """Convert a part of a row: a tensor, array, number, list of numbers, or image.

    An image becomes float [channels, height, width] in [0, 1], and a float number of Python float32.

    Raises:
        DataError: it is something else, such as text.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Image.Image):
        pixels = np.asarray(value if value.mode in ("L", "RGB") else value.convert("RGB"))
        return torch.from_numpy(pixels.reshape(*pixels.shape[:2], -1).copy()).permute(2, 0, 1).float() / 255
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as err:
        raise DataError(
            f"data: {f'the field {name!r}' if name else 'a row'} is {_describe(value)}, which cannot be a tensor; convert it "
            "in the data set, or leave it out with data.fields"
        ) from err


def _join(rows: list[Any], name: str, combine: Callable[[list[Tensor], str], Tensor]) -> Any:
    first = rows[0]
    if isinstance(first, Mapping):
        return {key: _join([row_field(row, key) for row in rows], _below(name, key), combine) for key in first}
    if isinstance(first, tuple) or (isinstance(first, list) and not _is_numeric(first)):
        names = ("inputs", "targets") if not name and len(first) == 2 else tuple(map(str, range(len(first))))
        if any(len(row) != len(first) for row in rows):
            raise DataError(
                f"data: rows have {sorted({len(row) for row in rows})} parts, but all rows of a data set need the same ones; "
                "set data.collate, or change the data set"
            )
        return tuple(_join([row[part] for row in rows], _below(name, key), combine) for part, key in enumerate(names))
    return combine([to_tensor(row, name) for row in rows], name)


def _below(name: str, key: str) -> str:
    return f"{name}.{key}" if name else key


def _is_numeric(values: list[Any]) -> bool:
    return (
        not values
        or isinstance(values[0], int | float | bool)
        or (isinstance(values[0], list) and _is_numeric(values[0]))
    )


def _stack(tensors: list[Tensor], name: str) -> Tensor:
    if len({tensor.shape for tensor in tensors}) > 1:
        raise DataError(_differing(name, tensors))
    return torch.stack(tensors)


def _differing(name: str, tensors: list[Tensor]) -> str:
    shapes = sorted({str(list(tensor.shape)) for tensor in tensors})
    return (
        f"data: the field {name or 'row'!r} has the shapes {', '.join(shapes[:4])} in one batch, but a batch is one tensor; "
        "resize them in the data set, or set data.collate._target_=modules.data.adapters.rows.Pad for sequences"
    )


def _describe(value: Any) -> str:
    return f"the text {value[:40]!r}" if isinstance(value, str) else f"of the type {type(value).__name__}"
