"""The tests use small metrics in the form of torchmetrics, and its own where it is installed."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.components.assemble import adapt_evaluator
from modules.evaluator.torch_metrics import TorchMetrics


def dim_zero_sum(parts: Tensor) -> Tensor:
    return parts.sum(0)


def dim_zero_cat(parts: Tensor) -> Tensor:
    return parts


class PerClass:
    """Recall of each class, with the attributes of `torchmetrics.Metric` that the adapter reads."""

    def __init__(self) -> None:
        self._defaults = {"hits": torch.zeros(3, dtype=torch.int64), "counts": torch.zeros(3, dtype=torch.int64)}
        self._reductions: dict[str, Any] = dict.fromkeys(self._defaults, dim_zero_sum)
        self._update_count = 0
        self.hits = self.counts = torch.empty(0)

    def to(self, device: object) -> None: ...

    def reset(self) -> None:
        self.hits, self.counts, self._update_count = (
            self._defaults["hits"].clone(),
            self._defaults["counts"].clone(),
            0,
        )

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.hits += torch.bincount(targets[outputs.argmax(1) == targets], minlength=3)
        self.counts += torch.bincount(targets, minlength=3)

    def compute(self) -> Tensor:
        assert self._update_count
        assert self.hits.dtype == torch.int64
        return self.hits / self.counts


def data() -> tuple[Tensor, Tensor]:
    return torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 3


def check_sums(evaluator: TorchMetrics) -> dict[str, float]:
    """Two parts of a batch add up to the whole."""
    outputs, targets = data()
    whole = evaluator.update(outputs, targets)
    parts = [evaluator.update(outputs[rows], targets[rows]) for rows in (slice(0, 7), slice(7, 40))]
    assert whole.dtype == torch.float64
    torch.testing.assert_close(parts[0] + parts[1], whole)
    return evaluator.compute(whole)


def test_states_add_up_and_each_value_has_a_name() -> None:
    values = check_sums(TorchMetrics({"recall": PerClass(), "again": PerClass()}))
    outputs, targets = data()
    hits = outputs.argmax(1) == targets
    expected = [hits[targets == number].float().mean().item() for number in range(3)]
    assert [values[f"recall_{number}"] for number in range(3)] == pytest.approx(expected)
    assert [values[f"again_{number}"] for number in range(3)] == pytest.approx(expected)


def test_what_is_not_a_sum_is_refused_by_name() -> None:
    keeps_all = PerClass()
    keeps_all._reductions["hits"] = dim_zero_cat
    for metric, message in (
        (
            keeps_all,
            r"metrics\.it: the state 'hits' of PerClass is reduced by 'cat', but .*; set its argument thresholds",
        ),
        (SimpleNamespace(), r"metrics\.it is a SimpleNamespace, which has no sums of its own; name a metric"),
    ):
        with pytest.raises(ValueError, match=message):
            TorchMetrics({"it": metric})
    with pytest.raises(ValueError, match="at least one metric, but metrics is empty"):
        TorchMetrics({})
    with pytest.raises(ValueError, match="wants one tensor of outputs and one of targets"):
        TorchMetrics({"it": PerClass()}).update((torch.zeros(1), torch.zeros(1)), torch.zeros(1))


def test_a_metric_alone_is_an_evaluator_with_the_name_of_its_class() -> None:
    assert set(check_sums(adapt_evaluator(PerClass()))) == {"per_class_0", "per_class_1", "per_class_2"}
    other = object()
    assert adapt_evaluator(other) is other


def test_metrics_of_torchmetrics_give_their_own_values() -> None:
    reason = "torchmetrics is an extra: pip install 'lathe-dl[metrics]'"
    library = pytest.importorskip("torchmetrics.classification", reason=reason)
    make: dict[str, Callable[[], Any]] = {
        "accuracy_top1": lambda: library.MulticlassAccuracy(num_classes=3, average="micro"),
        "f1": lambda: library.MulticlassF1Score(num_classes=3, average="none"),
        "auroc": lambda: library.MulticlassAUROC(num_classes=3, thresholds=20),
    }
    values = check_sums(TorchMetrics({name: metric() for name, metric in make.items()}))
    for name, metric in make.items():
        own = metric()
        own.update(*data())
        actual = [value for key, value in values.items() if key.startswith(name)]
        assert actual == pytest.approx(own.compute().reshape(-1).tolist())
    with pytest.raises(ValueError, match="the state 'preds' of MulticlassAUROC is reduced by 'cat'"):
        TorchMetrics({"auroc": library.MulticlassAUROC(num_classes=3)})
