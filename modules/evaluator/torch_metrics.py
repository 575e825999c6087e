"""Metrics of the torchmetrics library, whose states are sums."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from modules.data.base import Tensors


class TorchMetrics:
    """Evaluates with metrics of torchmetrics. Their states must add up over batches and replicas, as most do.

    Refused are metrics that keep all outputs, such as ``BinaryAUROC`` without ``thresholds``, and those around other metrics.
    """

    is_component = True

    def __init__(self, metrics: Mapping[str, Any]) -> None:
        """
        Args:
            metrics: the metrics by the names that they get in the run, such as ``accuracy_top1``. A metric with several values
                gets one name for each: ``f1_0``, ``f1_1``.
        """
        if not metrics:
            raise ValueError(
                "TorchMetrics wants at least one metric, but metrics is empty; name one, such as accuracy_top1"
            )
        for name, metric in metrics.items():
            _check(name, metric)
        self.metrics = dict(metrics)

    def update(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Compute the states of one batch, float64 [sums].

        Args:
            outputs: as the metrics want them, such as logits, float [batch, classes].
            targets: such as classes, int64 [batch].
        """
        if not isinstance(outputs, Tensor) or not isinstance(targets, Tensor):
            raise ValueError(
                "TorchMetrics wants one tensor of outputs and one of targets, but got several; use a model with one output, or "
                "write an evaluator"
            )
        parts = []
        for metric in self.metrics.values():
            metric.to(outputs.device)
            metric.reset()
            metric.update(outputs, targets)
            parts += [getattr(metric, state).double().reshape(-1) for state in metric._defaults]
        return torch.cat(parts)

    def compute(self, sums: Tensor) -> dict[str, float]:
        values: dict[str, float] = {}
        rest = sums.cpu()
        for name, metric in self.metrics.items():
            metric.to("cpu")
            metric.reset()
            for state, default in metric._defaults.items():
                part, rest = rest[: default.numel()], rest[default.numel() :]
                setattr(metric, state, part.reshape(default.shape).to(default.dtype))
            metric._update_count = 1  # else compute warns that nothing was added
            values.update(_named(name, metric.compute()))
        return values


def _check(name: str, metric: Any) -> None:
    """
    Raises:
        ValueError: it is not a metric of torchmetrics, or its states are not sums.
    """
    kind = type(metric).__name__
    reductions: Mapping[str, Any] = getattr(metric, "_reductions", {})
    if not reductions:
        raise ValueError(
            f"TorchMetrics: metrics.{name} is a {kind}, which has no sums of its own; name a metric of torchmetrics, and each "
            "metric of a collection or wrapper by itself"
        )
    for state, reduction in reductions.items():
        if getattr(reduction, "__name__", None) != "dim_zero_sum" or not isinstance(metric._defaults[state], Tensor):
            how = getattr(reduction, "__name__", str(reduction)).removeprefix("dim_zero_")
            raise ValueError(
                f"TorchMetrics: metrics.{name}: the state {state!r} of {kind} is reduced by {how!r}, but an evaluator adds sums "
                "over batches and replicas; set its argument thresholds if it has one, or use a metric whose states are sums"
            )


def _named(name: str, value: Any) -> dict[str, float]:
    if isinstance(value, Mapping):
        return {key: number for part, each in value.items() for key, number in _named(f"{name}_{part}", each).items()}
    numbers = torch.as_tensor(value).reshape(-1).tolist()
    if len(numbers) == 1:
        return {name: float(numbers[0])}
    return {f"{name}_{part}": float(number) for part, number in enumerate(numbers)}
