from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.data.tensors import TensorSplit
from modules.evaluator.probe import Probe


class Codes(nn.Module):
    """Codes of an example: some of its values, and then nothing but zeros."""

    def __init__(self, *columns: int) -> None:
        super().__init__()
        self.columns = list(columns)

    def codes(self, inputs: Tensor) -> Tensor:
        return inputs.flatten(1)[:, self.columns]


class Points:
    """Two classes that differ in the first value; the second varies most and says nothing."""

    def load(self, split: str) -> TensorSplit:
        generator = torch.Generator().manual_seed({"train": 0, "test": 1}[split])
        classes = torch.randint(2, (200,), generator=generator)
        values = torch.randn(200, 1, 2, 2, generator=generator)
        values[:, 0, 0, 1] *= 10
        values[:, 0, 0, 0] = 4.0 * classes
        return TensorSplit(values, classes)

    def example(self, batch_size: int) -> Any: ...


def measure(model: nn.Module, probe: Probe) -> dict[str, float]:
    split = Points().load("test")
    sums = sum(
        (probe.update_with_model(model, split.batch(half, half)) for half in torch.arange(200).chunk(2)),
        torch.zeros(()),
    )
    return probe.compute_with_model(model, sums)


def test_good_codes_have_a_higher_accuracy_than_principal_components() -> None:
    probe = Probe(num_train=100)
    probe.setup(Points())
    good = measure(Codes(0), probe)
    assert good["probe_accuracy"] == good["probe_accuracy_inputs"] == 1.0
    assert 0.3 < good["probe_accuracy_pca"] < 0.7
    bad = measure(Codes(2), probe)  # other weights: the classifier is fitted anew
    assert 0.3 < bad["probe_accuracy"] < 0.7
    assert bad["probe_accuracy_pca"] == good["probe_accuracy_pca"]


def test_another_data_set_is_learned_anew_and_lower_precision_changes_nothing() -> None:
    probe, model, batch = Probe(num_train=100), Codes(0), Points().load("test").batch(torch.arange(9), torch.arange(9))
    probe.setup(Points())
    expected = probe.update_with_model(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(probe.update_with_model(model, batch), expected)
    other = Points()
    other.load = lambda split: TensorSplit(  # type: ignore[method-assign]
        Points().load(split).inputs, 1 - Points().load(split).targets
    )
    probe.setup(other)
    assert probe.update_with_model(model, batch).tolist()[:2] == [9, 0]


def test_codes_that_are_no_numbers_have_no_accuracy() -> None:
    probe, batch = Probe(), Points().load("test").batch(torch.arange(9), torch.arange(9))
    probe.setup(Points())
    diverged = Codes(0)
    diverged.codes = lambda inputs: torch.full((len(inputs), 1), torch.nan)  # type: ignore[method-assign]
    metrics = probe.compute_with_model(diverged, probe.update_with_model(diverged, batch))
    assert metrics["probe_accuracy"] != metrics["probe_accuracy"]
    assert probe.artifacts(diverged, Points().load("test")) == {}


def test_pictures_of_codes() -> None:
    files = Probe().artifacts(Codes(0, 1), Points().load("test"))
    assert list(files) == ["map.png", "exciting.png"]
    assert all(content.startswith(b"\x89PNG") for content in files.values())
    assert Probe().artifacts(Codes(0), Points().load("test"))["map.png"] != files["map.png"]


def test_what_does_not_fit_is_refused() -> None:
    probe = Probe()
    probe.setup(Points())
    batch = Points().load("test").batch(torch.arange(2), torch.arange(2))
    with pytest.raises(ValueError, match=r"wants a model with a method codes\(inputs\)"):
        probe.update_with_model(nn.Linear(2, 2), batch)
    with pytest.raises(ValueError, match="num_train of at least 2"):
        Probe(num_train=1)
    with pytest.raises(ValueError, match="inverse_regularization above 0"):
        Probe(inverse_regularization=0)
