"""Counts of layers, compared with manual calculations."""

from __future__ import annotations

import gc
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from modules.model.gpt import Gpt
from modules.objective.cross_entropy import CrossEntropy
from modules.parallel.base import TrainingSetup
from modules.parallel.cost_model.layer_counts import LayerCount, ModelCount, interpolate
from modules.parallel.cost_model.model_profile import count_model
from modules.schedule.constant import Constant

BATCH, TIME, VOCAB, HIDDEN, FF = 3, 5, 14, 8, 12


class TwoLinear(nn.Module):
    """Two linear layers of 7, 11 and 5 units, with a ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Sequential(nn.Linear(7, 11), nn.ReLU(), nn.Linear(11, 5))

    def layers(self) -> list[nn.Module]:
        return list(self.stack)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.stack(inputs)
        return outputs


class NotLayered(TwoLinear):
    """The same model, not as a list of layers."""

    layers = None  # type: ignore[assignment]


class NamedLikeContracts(nn.Module):
    """The same model, whose attributes have the names of methods of optional contracts."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = self.stack = TwoLinear().stack
        self.shards, self.word_vectors = [3], self.stack[0].weight

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs)
        return outputs


def count_linear(model: type[nn.Module] = TwoLinear, batch_size: int = 13, *, is_frozen: bool = False) -> ModelCount:
    with torch.device("meta"):
        instance = model()
        instance.stack[0].requires_grad_(not is_frozen)  # type: ignore[index]
        setup = TrainingSetup(instance, CrossEntropy(), partial(torch.optim.SGD, lr=0.1), Constant())
        return count_model(setup, (torch.zeros(batch_size, 7), torch.zeros(batch_size, dtype=torch.int64)), "fp32")


def count_gpt(
    num_slices: int = 1, *, recompute: bool = False, tied: bool = False, precision: str = "fp32"
) -> ModelCount:
    with torch.device("meta"):
        model = Gpt(VOCAB, TIME, 2, 2, 2, HIDDEN, FF, tied, 0.0, recompute)
        setup = TrainingSetup(model, CrossEntropy(), torch.optim.AdamW, Constant())
        token_ids = torch.zeros(BATCH, TIME, dtype=torch.int64)
        return count_model(setup, (token_ids, token_ids), precision, num_slices)


def sum_flops(count: ModelCount) -> int:
    return sum(layer.flops for layer in (*count.layers, count.loss))


@pytest.mark.parametrize("is_frozen", [False, True])
@pytest.mark.parametrize("model", [TwoLinear, NotLayered, NamedLikeContracts])
def test_flops_of_linear_layers_are_those_of_their_matrix_products(model: type[nn.Module], is_frozen: bool) -> None:
    count = count_linear(model, is_frozen=is_frozen)
    first, second = 2 * 13 * 7 * 11, 2 * 13 * 11 * 5
    # Forward, gradient of the weights, gradient of the inputs. Data and frozen weights need no gradient.
    assert sum_flops(count) == (first + second * 2 if is_frozen else first * 2 + second * 3)
    trained = 4 * (11 * 5 + 5 + (0 if is_frozen else 7 * 11 + 11))
    assert sum(layer.gradients_bytes for layer in count.layers) == trained


def test_saved_tensors_are_counted_once_between_layers() -> None:
    first, relu, second = count_linear().layers
    assert [layer.outputs_bytes for layer in (first, relu, second)] == [4 * 13 * 11, 4 * 13 * 11, 4 * 13 * 5]
    assert (first.saves_inputs, first.saves_outputs, first.saved_bytes) == (True, False, 0)
    assert (relu.saves_inputs, relu.saves_outputs) == (False, True)
    assert (second.saves_inputs, second.saves_outputs) == (True, False)
    assert first.forward_bytes == 4 * 13 * 11
    assert first.backward_bytes == 4 * (7 * 11 + 11)  # the data needs no gradient
    assert second.backward_bytes == 4 * (11 * 5 + 5 + 13 * 11)


def test_a_slice_has_half_of_a_block_and_exchanges_states() -> None:
    whole, half = count_gpt(), count_gpt(2)
    block, part = whole.layers[1], half.layers[1]
    norms = 2 * HIDDEN
    assert sum(w.size for w in part.weights) - norms == (sum(w.size for w in block.weights) - norms) // 2
    assert part.flops == block.flops // 2
    states = 4 * BATCH * TIME * HIDDEN
    # Forward: after attention and feed-forward. Backward: before each of the five layers that read whole states.
    assert (part.num_exchanges, part.exchanged_bytes) == (7, 7 * states)
    assert (block.num_exchanges, block.exchanged_bytes) == (0, 0)


def test_recomputation_saves_only_the_inputs_of_a_block_and_takes_a_third_more_flops() -> None:
    plain, recomputed = count_gpt().layers[1], count_gpt(recompute=True).layers[1]
    assert (recomputed.saved_bytes, recomputed.saves_inputs) == (0, True)
    assert plain.saved_bytes > 10 * 4 * BATCH * TIME * HIDDEN
    assert recomputed.flops == pytest.approx(plain.flops * 4 / 3, rel=0.05)
    assert recomputed.backward_bytes > plain.saved_bytes


def test_a_tied_weight_is_counted_once_and_is_in_both_layers() -> None:
    apart, tied = count_gpt(), count_gpt(tied=True)
    assert apart.num_parameters - tied.num_parameters == VOCAB * HIDDEN
    assert tied.layers[0].weights == tied.layers[-1].weights


def test_the_state_of_adam_is_two_numbers_per_element_and_a_step() -> None:
    [weight] = count_gpt().layers[0].weights
    assert (weight.size, weight.bytes, weight.state_bytes) == (
        VOCAB * HIDDEN,
        4 * VOCAB * HIDDEN,
        8 * VOCAB * HIDDEN + 4,
    )


def test_half_precision_halves_the_bytes() -> None:
    assert 2 * count_gpt(precision="bf16").layers[-1].outputs_bytes == count_gpt().layers[-1].outputs_bytes


def test_counts_are_linear_in_the_batch_size() -> None:
    interpolated = interpolate(count_linear(batch_size=2), 2, count_linear(batch_size=4), 4, 13)
    expected = count_linear(batch_size=13)

    def list_counts(layer: LayerCount) -> tuple[int, ...]:
        return layer.flops, layer.saved_bytes, layer.outputs_bytes, layer.forward_bytes, layer.backward_bytes

    assert [list_counts(layer) for layer in interpolated.layers] == [list_counts(layer) for layer in expected.layers]
    assert interpolated.layers[0].weights == expected.layers[0].weights


def test_counts_do_not_depend_on_garbage_collection() -> None:
    expected = count_gpt(recompute=True)
    thresholds = gc.get_threshold()
    gc.set_threshold(50)
    try:
        assert count_gpt(recompute=True) == expected
        assert gc.isenabled()
    finally:
        gc.set_threshold(*thresholds)
