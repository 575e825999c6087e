"""Counts of layers against sums by hand."""

from __future__ import annotations

import gc
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from modules.model.gpt import Gpt
from modules.objective.cross_entropy import CrossEntropy
from modules.parallel.base import TrainingTask
from modules.parallel.cost_model.layer_counts import LayerCount, ModelCount, interpolate
from modules.parallel.cost_model.model_profile import count_model
from modules.schedule.constant import Constant

BATCH, TIME, WORDS, HIDDEN, FF = 3, 5, 14, 8, 12


class Two(nn.Module):
    """Two linear layers of 7, 11 and 5 units, with a rectifier between."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = nn.Sequential(nn.Linear(7, 11), nn.ReLU(), nn.Linear(11, 5))

    def layers(self) -> list[nn.Module]:
        return list(self.stack)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.stack(inputs)
        return outputs


class Whole(Two):
    """The same, as no list of layers."""

    layers = None  # type: ignore[assignment]


def counted(model: type[nn.Module] = Two, batch_size: int = 13, *, is_frozen: bool = False) -> ModelCount:
    with torch.device("meta"):
        made = model()
        made.stack[0].requires_grad_(not is_frozen)  # type: ignore[index]
        task = TrainingTask(made, CrossEntropy(), partial(torch.optim.SGD, lr=0.1), Constant())
        return count_model(task, (torch.zeros(batch_size, 7), torch.zeros(batch_size, dtype=torch.int64)), "fp32")


def counted_gpt(
    num_slices: int = 1, *, recompute: bool = False, tied: bool = False, precision: str = "fp32"
) -> ModelCount:
    with torch.device("meta"):
        model = Gpt(WORDS, TIME, 2, 2, 2, HIDDEN, FF, tied, 0.0, recompute)
        task = TrainingTask(model, CrossEntropy(), torch.optim.AdamW, Constant())
        words = torch.zeros(BATCH, TIME, dtype=torch.int64)
        return count_model(task, (words, words), precision, num_slices)


def work(count: ModelCount) -> int:
    return sum(layer.flops for layer in (*count.layers, count.loss))


@pytest.mark.parametrize("is_frozen", [False, True])
@pytest.mark.parametrize("model", [Two, Whole])
def test_the_work_of_linear_layers_is_that_of_their_matrix_products(model: type[nn.Module], is_frozen: bool) -> None:
    told = counted(model, is_frozen=is_frozen)
    first, second = 2 * 13 * 7 * 11, 2 * 13 * 11 * 5
    # Forward, weights' gradient, inputs' gradient; nobody needs that of the data, and what is frozen has none.
    assert work(told) == (first + second * 2 if is_frozen else first * 2 + second * 3)
    trained = 4 * (11 * 5 + 5 + (0 if is_frozen else 7 * 11 + 11))
    assert sum(layer.gradients_bytes for layer in told.layers) == trained


def test_what_layers_keep_is_told_of_each_and_at_the_border_once() -> None:
    first, rectifier, second = counted().layers
    assert [layer.outputs_bytes for layer in (first, rectifier, second)] == [4 * 13 * 11, 4 * 13 * 11, 4 * 13 * 5]
    assert (first.saves_inputs, first.saves_outputs, first.saved_bytes) == (True, False, 0)
    assert (rectifier.saves_inputs, rectifier.saves_outputs) == (False, True)
    assert (second.saves_inputs, second.saves_outputs) == (True, False)
    assert first.forward_bytes == 4 * 13 * 11
    assert first.backward_bytes == 4 * (7 * 11 + 11)  # the data need no gradient
    assert second.backward_bytes == 4 * (11 * 5 + 5 + 13 * 11)


def test_a_slice_holds_its_part_and_exchanges_the_rest() -> None:
    whole, half = counted_gpt(), counted_gpt(2)
    block, part = whole.layers[1], half.layers[1]
    norms = 2 * HIDDEN
    assert sum(w.size for w in part.weights) - norms == (sum(w.size for w in block.weights) - norms) // 2
    assert part.flops == block.flops // 2
    states = 4 * BATCH * TIME * HIDDEN
    # Forwards after attention and feed-forward, backwards before each of the five layers that read whole states.
    assert (part.num_exchanges, part.exchanged_bytes) == (7, 7 * states)
    assert (block.num_exchanges, block.exchanged_bytes) == (0, 0)


def test_recomputing_keeps_the_inputs_of_a_block_alone_and_works_a_third_more() -> None:
    kept, again = counted_gpt().layers[1], counted_gpt(recompute=True).layers[1]
    assert (again.saved_bytes, again.saves_inputs) == (0, True)
    assert kept.saved_bytes > 10 * 4 * BATCH * TIME * HIDDEN
    assert again.flops == pytest.approx(kept.flops * 4 / 3, rel=0.05)
    assert again.backward_bytes > kept.saved_bytes


def test_a_tied_weight_is_counted_once_and_stands_in_both_layers() -> None:
    apart, tied = counted_gpt(), counted_gpt(tied=True)
    assert apart.num_parameters - tied.num_parameters == WORDS * HIDDEN
    assert tied.layers[0].weights == tied.layers[-1].weights


def test_the_state_of_adam_is_two_numbers_a_weight_and_a_step() -> None:
    [weight] = counted_gpt().layers[0].weights
    assert (weight.size, weight.bytes, weight.state_bytes) == (
        WORDS * HIDDEN,
        4 * WORDS * HIDDEN,
        8 * WORDS * HIDDEN + 4,
    )


def test_half_precision_gives_half_the_bytes() -> None:
    assert 2 * counted_gpt(precision="bf16").layers[-1].outputs_bytes == counted_gpt().layers[-1].outputs_bytes


def test_other_batches_lie_on_the_line_through_two() -> None:
    line = interpolate(counted(batch_size=2), 2, counted(batch_size=4), 4, 13)
    told = counted(batch_size=13)

    def numbers(layer: LayerCount) -> tuple[int, ...]:
        return layer.flops, layer.saved_bytes, layer.outputs_bytes, layer.forward_bytes, layer.backward_bytes

    assert [numbers(layer) for layer in line.layers] == [numbers(layer) for layer in told.layers]
    assert line.layers[0].weights == told.layers[0].weights


def test_counts_do_not_depend_on_garbage_collection() -> None:
    expected = counted_gpt(recompute=True)
    thresholds = gc.get_threshold()
    gc.set_threshold(50)
    try:
        assert counted_gpt(recompute=True) == expected
        assert gc.isenabled()
    finally:
        gc.set_threshold(*thresholds)
