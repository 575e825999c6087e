"""Problems whose answer points at places of the input: sorting numbers, and the convex hull of points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from modules.data.base import IGNORED, Batch, UserInputError
from modules.data.generated.token_problem import TokenProblem
from modules.data.sampling.example_random import ExampleRandom
from modules.data.tensors import check_at_least

END_PLACE = 0
"""Ends an answer; the places of the input count from 1."""


class _Pointing(TokenProblem):
    """Random points in the unit cube, and places in a certain order.

    Inputs: the points, float [batch, points, num_features], and the places so far after a first `END_PLACE`, int64 [batch,
    time]. Targets: the next places, or `IGNORED`.
    """

    end_token = END_PLACE

    def __init__(self, num_points: int, num_features: int, num_val: int, num_test: int) -> None:
        self.num_points, self.num_features = num_points, num_features
        super().__init__(num_val, num_test)

    def make(self, random: ExampleRandom, count: int, split: str) -> Batch:
        points = random.uniform(self.num_points, self.num_features)
        answers = self.solve(points)
        following = pad(answers[:, :-1].clamp_min(END_PLACE), (1, 0), value=END_PLACE)
        return (points, following), answers

    def solve(self, points: Tensor) -> Tensor:
        """Return the places of the answers, int64 [batch, time], or `IGNORED` after the end."""
        raise NotImplementedError(f"{type(self).__name__} has no solve(points)")

    def read(self, inputs: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Read points, such as ``0.3,0.5 0.1,0.2``; all inputs have the same number of them."""
        points = [self._parse(text) for text in inputs]
        if len({len(each) for each in points}) > 1:
            raise UserInputError(
                f"INPUT has {[len(each) for each in points]} points, but those of a batch have the same "
                "number; give one each time"
            )
        return torch.tensor(points), torch.full((len(inputs), 1), END_PLACE)

    def answer_text(self, source: str, tokens: Tensor) -> str:
        written = source.split()
        return " ".join(written[place - 1] for place in tokens.tolist())

    def _parse(self, text: str) -> list[list[float]]:
        example = " ".join([",".join(["0.5"] * self.num_features)] * 2)
        try:
            points = [[float(number) for number in point.split(",")] for point in text.split()]
        except ValueError:
            raise UserInputError(f"INPUT {text!r} is not numbers; write them like {example!r}") from None
        if wrong := next((point for point in points if len(point) != self.num_features), None):
            raise UserInputError(
                f"INPUT {text!r} has {len(wrong)} numbers in one place, but the model reads {self.num_features}; write "
                f"{example!r}"
            )
        if not np.isfinite(points).all():
            raise UserInputError(f"INPUT {text!r} has a number that is not finite; write {example!r}")
        if len(points) < 2:
            raise UserInputError(
                f"INPUT {text!r} has {len(points)} places, but at least 2 are needed; write {example!r}"
            )
        return points


class SortedNumbers(_Pointing):
    """Numbers from 0 to 1; the answer is their places from the smallest number to the largest.

    A random order is right in one of ``num_points!`` cases.
    Source: Vinyals et al. 2016, arXiv:1511.06391, section 5.1.
    """

    is_component = True

    def __init__(self, num_points: int, num_features: int, num_val: int, num_test: int) -> None:
        """
        Args:
            num_points: numbers to sort, at least 2.
            num_features: 1.
            num_val: examples of the validation split.
            num_test: examples of the test split.
        """
        check_at_least("SortedNumbers", 2, num_points=num_points)
        if num_features != 1:
            raise ValueError(f"SortedNumbers sorts single numbers, but data.num_features={num_features}; set it to 1")
        super().__init__(num_points, num_features, num_val, num_test)

    def max_answer_tokens(self, source: str) -> int:
        return len(source.split())

    def solve(self, points: Tensor) -> Tensor:
        return points[..., 0].argsort(dim=1) + 1


class ConvexHulls(_Pointing):
    """Points in the unit square; the answer is the corners of their convex hull, counterclockwise from the leftmost, and an end.

    The teacher is Qhull in SciPy. Source: Vinyals et al. 2015, arXiv:1506.03134, section 3.1; the paper begins with the point
    that is first in the input.
    """

    is_component = True

    def __init__(self, num_points: int, num_features: int, num_val: int, num_test: int) -> None:
        """
        Args:
            num_points: at least 3.
            num_features: 2, the coordinates.
            num_val: examples of the validation split.
            num_test: examples of the test split.
        """
        check_at_least("ConvexHulls", 3, num_points=num_points)
        if num_features != 2:
            raise ValueError(
                f"ConvexHulls has points in the plane, but data.num_features={num_features}; set data.num_features=2"
            )
        super().__init__(num_points, num_features, num_val, num_test)

    def max_answer_tokens(self, source: str) -> int:
        return len(source.split()) + 1

    def solve(self, points: Tensor) -> Tensor:
        from scipy.spatial import ConvexHull  # takes 0.2 s

        answers = np.full((len(points), self.num_points + 1), IGNORED, np.int64)
        for answer, each in zip(answers, points.double().numpy(), strict=True):
            corners = ConvexHull(each).vertices  # counterclockwise
            corners = np.roll(corners, -int(each[corners, 0].argmin()))
            answer[: len(corners)] = corners + 1
            answer[len(corners)] = END_PLACE
        return torch.from_numpy(answers)
