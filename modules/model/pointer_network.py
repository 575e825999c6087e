"""A network whose outputs are places of its input."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn


class PointerNetwork(nn.Module):
    """An LSTM reads points, another points at them one by one: its attention over the points is the output.

    Source: Vinyals et al. 2015, arXiv:1506.03134, section 2.3.
    """

    is_component = True

    def __init__(self, num_features: int, hidden_size: int) -> None:
        """
        Args:
            num_features: numbers of a point.
            hidden_size: units of both LSTMs and of the attention.
        """
        super().__init__()
        if min(num_features, hidden_size) < 1:
            raise ValueError(
                f"PointerNetwork wants num_features and hidden_size of at least 1, but got {num_features} and {hidden_size}"
            )
        self.reader = PointReader(num_features, hidden_size)
        self.pointer = Pointer(hidden_size)

    def layers(self) -> list[nn.Module]:
        return [self.reader, self.pointer]

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Score the next place of every answer.

        Args:
            inputs: points, float [batch, points, num_features]; and the places so far, int64 [batch, time], in ``[0,
                points]``, the first 0.

        Returns:
            Logits, float [batch, time, 1 + points]: of the end of the answer, and of every point.
        """
        return cast(Tensor, self.pointer(self.reader(inputs)))


class PointReader(nn.Module):
    """Embeds the points, and reads them in their order."""

    def __init__(self, num_features: int, hidden_size: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(num_features, hidden_size)
        self.lstm = nn.LSTM(hidden_size, hidden_size, batch_first=True)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Map points and places to places, embedded points, outputs, float [batch, points, hidden_size], and the last state."""
        points, places = inputs
        vectors = self.embedding(points)
        outputs, (m, c) = self.lstm(vectors)
        return places, vectors, outputs, m[0], c[0]


class Pointer(nn.Module):
    """Reads the point of the last place, and attends to the points."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.zeros(hidden_size))
        self.end = nn.Parameter(torch.randn(hidden_size) * 0.1)
        self.lstm = nn.LSTM(hidden_size, hidden_size, batch_first=True)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.weigh = nn.Linear(hidden_size, 1, bias=False)

    def forward(self, states: tuple[Tensor, ...]) -> Tensor:
        """Map the outputs of `PointReader` to the logits of `PointerNetwork`."""
        places, vectors, memory, m, c = states
        batch = len(places)
        table = torch.cat([self.start.expand(batch, 1, -1), vectors], dim=1)
        chosen = table.gather(1, places[:, :, None].expand(-1, -1, table.shape[2]))
        outputs, _ = self.lstm(chosen, (m[None].contiguous(), c[None].contiguous()))
        keys = self.key(torch.cat([self.end.expand(batch, 1, -1), memory], dim=1))
        scores = self.weigh(torch.tanh(keys[:, None] + self.query(outputs)[:, :, None]))
        return cast(Tensor, scores.squeeze(3))
