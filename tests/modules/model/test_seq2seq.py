"""What holds for all three: the contract of `Seq2SeqDecoder`, padding, and what each has of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from modules.data.base import END, PADDING, START
from modules.model.base import Layered, Seq2SeqDecoder
from modules.model.seq2seq import Seq2Seq
from modules.model.seq2seq_attention import Seq2SeqAttention
from modules.model.seq2seq_transformer import Seq2SeqTransformer

MODELS: dict[str, Callable[[], nn.Module]] = {
    "seq2seq": lambda: Seq2Seq(11, 13, 5, 6, 3, True, 0.0),
    "seq2seq_onward": lambda: Seq2Seq(11, 13, 5, 6, 2, False, 0.0),
    "seq2seq_attention": lambda: Seq2SeqAttention(11, 13, 5, 6, 7, 4, 0.0),
    "seq2seq_transformer": lambda: Seq2SeqTransformer(11, 13, 8, 2, 2, 12, False, 0.0),
    "seq2seq_transformer_tied": lambda: Seq2SeqTransformer(11, 13, 8, 1, 4, 12, True, 0.0),
}
SOURCE = torch.tensor([[5, 6, 7, 8, END], [9, 4, END, PADDING, PADDING], [END, PADDING, PADDING, PADDING, PADDING]])
TARGET = torch.tensor([[START, 4, 5, 12], [START, 6, 7, PADDING], [START, 9, PADDING, PADDING]])


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


def _scores(model: nn.Module, source: Tensor, target: Tensor) -> Tensor:
    actual: Tensor = model((source, target))
    return actual


def test_it_scores_every_word_of_the_target(model: nn.Module) -> None:
    assert _scores(model, SOURCE, TARGET).shape == (3, 4, 13)


def test_longer_padding_changes_nothing(model: nn.Module) -> None:
    expected = _scores(model, SOURCE, TARGET)
    pad = nn.functional.pad
    actual = _scores(model, pad(SOURCE, (0, 4), value=PADDING), pad(TARGET, (0, 3), value=PADDING))
    torch.testing.assert_close(actual[:, :4], expected, rtol=0, atol=1e-6)


def test_a_text_is_scored_as_it_would_be_alone(model: nn.Module) -> None:
    expected = _scores(model, SOURCE, TARGET)
    for row in range(3):
        source = SOURCE[row : row + 1, : int((SOURCE[row] != PADDING).sum())]
        target = TARGET[row : row + 1, : int((TARGET[row] != PADDING).sum())]
        actual = _scores(model, source, target)
        torch.testing.assert_close(actual, expected[row : row + 1, : target.shape[1]], rtol=0, atol=1e-6)


def test_a_word_is_scored_by_all_of_the_source_and_by_the_words_before_it(model: nn.Module) -> None:
    expected = _scores(model, SOURCE, TARGET)
    for place in range(5):
        other = SOURCE.clone()
        other[0, place] = 10
        assert (_scores(model, other, TARGET)[0] - expected[0]).abs().amax(1).min() > 1e-6
    later = TARGET.clone()
    later[0, 2] = 11
    actual = _scores(model, SOURCE, later)
    torch.testing.assert_close(actual[0, :2], expected[0, :2], rtol=0, atol=1e-6)
    assert (actual[0, 2:] - expected[0, 2:]).abs().max() > 1e-3


def test_word_by_word_it_scores_as_at_once_whatever_becomes_of_the_rows(model: nn.Module) -> None:
    assert isinstance(model, Seq2SeqDecoder)
    expected = _scores(model, SOURCE, TARGET).log_softmax(-1)
    rows = torch.arange(3)
    state = model.encode(SOURCE)
    for time, order in enumerate(([2, 0, 1], [0, 0, 1, 2], [3, 1], [0, 1])):
        scores, state = model.step(state, TARGET[rows, time])
        torch.testing.assert_close(scores, expected[rows, time], rtol=0, atol=1e-5)
        chosen = torch.tensor(order)
        state, rows = tuple(tensor.index_select(0, chosen) for tensor in state), rows[chosen]


def test_it_is_its_layers_in_turn_and_they_have_every_parameter(model: nn.Module) -> None:
    assert isinstance(model, Layered)
    states: Tensor | tuple[Tensor, ...] = (SOURCE, TARGET)
    for layer in model.layers():
        states = layer(states)
    assert isinstance(states, Tensor)
    assert torch.equal(states, _scores(model, SOURCE, TARGET))
    own = {id(parameter) for layer in model.layers() for parameter in layer.parameters()}
    assert own == {id(parameter) for parameter in model.parameters()}


def test_dropout_is_active_only_in_training() -> None:
    for make in (
        lambda: Seq2Seq(11, 13, 5, 6, 2, True, 0.5),
        lambda: Seq2SeqAttention(11, 13, 5, 6, 7, 4, 0.5),
        lambda: Seq2SeqTransformer(11, 13, 8, 2, 2, 12, False, 0.5),
    ):
        model = make()
        assert not torch.equal(_scores(model, SOURCE, TARGET), _scores(model, SOURCE, TARGET))
        model.eval()
        assert torch.equal(_scores(model, SOURCE, TARGET), _scores(model, SOURCE, TARGET))


def test_a_reversed_source_is_the_source_from_its_end() -> None:
    torch.manual_seed(0)
    backwards, onward = Seq2Seq(11, 13, 5, 6, 2, True, 0.0), Seq2Seq(11, 13, 5, 6, 2, False, 0.0)
    onward.load_state_dict(backwards.state_dict())
    source = torch.tensor([[5, 6, 7, END]])
    torch.testing.assert_close(_scores(backwards, source, TARGET[:1]), _scores(onward, source.flip(1), TARGET[:1]))


def test_tied_embeddings_are_one_parameter() -> None:
    model = Seq2SeqTransformer(11, 13, 8, 1, 4, 12, True, 0.0)
    assert model.head.linear.weight is model.words.target.weight


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Seq2Seq(11, 13, 5, 6, 0, True, 0.0), "Seq2Seq wants num_layers of at least 1, but got 0; raise it"),
        (lambda: Seq2Seq(11, 13, 5, 6, 1, True, 1.0), r"dropout_prob in \[0, 1\), but got 1.0; 0 means no dropout"),
        (lambda: Seq2SeqAttention(11, 13, 5, 7, 7, 4, 0.0), "wants an even hidden_size, .* but got 7; try 8"),
        (lambda: Seq2SeqTransformer(11, 13, 9, 2, 2, 12, False, 0.0), "multiple of num_heads=2, but got 9; try 8"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit_are_reported(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
