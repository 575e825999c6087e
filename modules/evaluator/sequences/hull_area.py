"""How much of a convex hull the polygon of a pointer network covers."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor, nn

from modules.data.base import Batch, Data, Split
from modules.data.generated.pointing import END_PLACE, ConvexHulls
from modules.evaluator.sequences.greedy import continue_greedily

_PIXELS, _MARGIN, _COLUMNS = 240, 20, 4


class HullArea:
    """Metrics, as means over examples: ``covered_area``, the area of the generated polygon over that of the hull, 0 if the
    polygon crosses itself or has fewer than three corners; ``valid_polygons``, the share of the others; and
    ``covered_area_triangle``, of the triangle of the first three points.

    Source: Vinyals et al. 2015, arXiv:1506.03134, section 4.2, which leaves crossing polygons out of the mean.
    """

    is_component = True
    headline = ("covered_area", "max")

    def __init__(self, num_pictures: int = 8) -> None:
        """
        Args:
            num_pictures: examples of the test split that are drawn.
        """
        if num_pictures < 0:
            raise ValueError(f"HullArea wants num_pictures of at least 0, but got {num_pictures}; 0 draws none")
        self.num_pictures = num_pictures

    def setup(self, data: Data) -> None:
        if not isinstance(data, ConvexHulls):
            raise ValueError(
                f"evaluator HullArea wants points and their hulls, but data is {type(data).__name__}; use data=convex_hulls"
            )

    def update_with_model(self, model: nn.Module, batch: Batch) -> Tensor:
        """Generate the polygons of a batch.

        Returns:
            float64 [4]: examples, sum of the covered shares, valid polygons, sum of the shares of the triangles.
        """
        points, polygons, hulls = self._generate(model, batch)
        sums = np.zeros(4)
        for each, polygon, hull in zip(points, polygons, hulls, strict=True):
            corners, whole = each[polygon], compute_area(each[hull])
            is_valid = is_simple(corners)
            sums += [1, is_valid and compute_area(corners) / whole, is_valid, compute_area(each[:3]) / whole]
        inputs, _ = batch
        return torch.from_numpy(sums).to(inputs[0].device)

    def compute_with_model(self, model: nn.Module, sums: Tensor) -> dict[str, float]:
        """
        Raises:
            ValueError: the sums contain no example.
        """
        count, *totals = sums.tolist()
        if count == 0:
            raise ValueError("HullArea wants at least 1 example, but got 0; evaluate on a split that is not empty")
        names = ("covered_area", "valid_polygons", "covered_area_triangle")
        return {name: total / count for name, total in zip(names, totals, strict=True)}

    def artifacts(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        """Return ``hulls.png``: true hulls are grey areas, generated polygons are lines."""
        if (count := min(self.num_pictures, len(split))) == 0:
            return {}
        batch = split.batch(torch.arange(count), torch.zeros(count, dtype=torch.int64))
        return {"hulls.png": _draw(*self._generate(model, batch))}

    def _generate(
        self, model: nn.Module, batch: Batch
    ) -> tuple[np.ndarray, Sequence[Sequence[int]], Sequence[Sequence[int]]]:
        """Return the points, and the indices of the corners of the generated polygons and of the hulls."""
        (points, places), answers = batch
        assert isinstance(answers, Tensor)
        tokens = continue_greedily(model, (points, places[:, :1]), END_PLACE, points.shape[1] + 1)
        made, true = (
            [[place - 1 for place in row if place > 0] for row in each.tolist()] for each in (tokens, answers)
        )
        return points.double().cpu().numpy(), made, true


def compute_area(corners: np.ndarray) -> float:
    """Return the area of a polygon, float [corners, 2], that does not cross itself."""
    x, y = corners.T
    return float(abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2)


def is_simple(corners: np.ndarray) -> bool:
    """Whether a polygon, float [corners, 2], has at least three corners, all different, and does not cross itself."""
    count = len(corners)
    if count < 3 or len(np.unique(corners, axis=0)) < count:
        return False
    ends = np.roll(corners, -1, axis=0)
    return not any(
        _cross(corners[one], ends[one], corners[other], ends[other])
        for one in range(count)
        for other in range(one + 2, count)
        if (other + 1) % count != one
    )


def _cross(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> bool:
    """Whether the segments ab and cd, which share no end, cross."""
    return _turn(a, b, c) != _turn(a, b, d) and _turn(c, d, a) != _turn(c, d, b)


def _turn(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> bool:
    return bool((b[0] - a[0]) * (c[1] - a[1]) > (b[1] - a[1]) * (c[0] - a[0]))


def _draw(points: np.ndarray, polygons: Sequence[Sequence[int]], hulls: Sequence[Sequence[int]]) -> bytes:
    rows, cell = -(-len(points) // _COLUMNS), _PIXELS + 2 * _MARGIN
    picture = Image.new("RGB", (min(len(points), _COLUMNS) * cell, rows * cell), "white")
    pen = ImageDraw.Draw(picture)
    for number, (each, polygon, hull) in enumerate(zip(points, polygons, hulls, strict=True)):
        row, column = divmod(number, _COLUMNS)
        corner = np.array([column * cell + _MARGIN, row * cell + _MARGIN])
        places = [tuple(corner + _PIXELS * np.array([x, 1 - y])) for x, y in each]
        pen.polygon([places[index] for index in hull], fill=(215, 215, 215))
        if len(polygon) > 1:
            pen.line([places[index] for index in [*polygon, polygon[0]]], fill=(0, 114, 178), width=3)
        for x, y in places:
            pen.ellipse([x - 4, y - 4, x + 4, y + 4], fill="black")
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    return encoded.getvalue()
