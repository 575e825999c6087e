"""Pictures of what the cell of a recurrent model does at every time step."""

from __future__ import annotations

import math
from io import BytesIO

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from modules.data.base import Split
from modules.evaluator.no_metrics import NoMetrics
from modules.model.base import HasGates

_ROW_PIXELS, _MAX_WIDTH, _MARGIN, _LABEL = 2, 1200, 12, 16


class Gates(NoMetrics):
    """Shows the inputs, the gates and the state of the first test sequences over time; it has no metrics.

    Use it beside an evaluator with metrics, in `Several`.
    """

    is_component = True

    def __init__(self, num_sequences: int = 2) -> None:
        """
        Args:
            num_sequences: how many pictures.
        """
        if num_sequences < 1:
            raise ValueError(f"Gates wants num_sequences of at least 1, but got {num_sequences}")
        self.num_sequences = num_sequences

    def artifacts(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        """Return a PNG ``gates_1.png`` etc. for each sequence: time runs to the right, a row is a unit.

        Raises:
            ValueError: the model has no method ``gates``.
        """
        if not isinstance(model, HasGates):
            raise ValueError(
                f"evaluator Gates wants a model with a method gates(inputs), such as model=recurrent, but {type(model).__name__} "
                "has none; choose another evaluator"
            )
        count = min(self.num_sequences, len(split))
        inputs, _ = split.batch(torch.arange(count), torch.zeros(count, dtype=torch.int64))
        assert isinstance(inputs, Tensor)
        gates = {"input": inputs, **model.gates(inputs)}
        return {
            f"gates_{number + 1}.png": draw({name: value[number] for name, value in gates.items()})
            for number in range(count)
        }


def draw(rows: dict[str, Tensor]) -> bytes:
    """Draw maps of numbers below each other as a PNG: black is the lowest number of a map, white its highest.

    Args:
        rows: by title, float [time, units]; all have the same time.
    """
    time = max(len(values) for values in rows.values())
    pixels = max(1, min(16, _MAX_WIDTH // time))
    maps, titles = [], []
    for name, values in rows.items():
        numbers = values.detach().float().cpu().numpy().T
        numbers = numbers[np.argsort(numbers.mean(1), kind="stable")] if len(numbers) > 16 else numbers
        titles.append(f"{name}: {numbers.min():.2f} to {numbers.max():.2f}")
        span = max(float(numbers.max() - numbers.min()), 1e-6)
        grey = ((numbers - numbers.min()) * (255 / span)).round().astype(np.uint8)
        maps.append(grey.repeat(max(_ROW_PIXELS, math.ceil(32 / len(grey))), axis=0).repeat(pixels, axis=1))
    height = sum(len(each) + _LABEL + _MARGIN for each in maps) + _MARGIN
    picture = Image.new("L", (time * pixels + 2 * _MARGIN, height), 255)
    pen, font, top = ImageDraw.Draw(picture), ImageFont.load_default(12), _MARGIN
    for title, each in zip(titles, maps, strict=True):
        pen.text((_MARGIN, top), title, fill=0, font=font)
        picture.paste(Image.fromarray(each), (_MARGIN, top + _LABEL))
        top += _LABEL + len(each) + _MARGIN
    encoded = BytesIO()
    picture.save(encoded, "PNG")
    return encoded.getvalue()
