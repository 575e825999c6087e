"""Both captioners: the contract of `Seq2SeqDecoder`, and attention to places of the photo."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from modules.data.base import PADDING, START
from modules.model.base import AttendsToPlaces
from modules.model.captions.attention_captioner import AttentionCaptioner
from modules.model.captions.captioner import Captioner
from modules.model.resnet import ResNet

SHAPE = (3, 6, 8)
WORDS = torch.tensor([[START, 4, 5, 8], [START, 6, 7, PADDING], [START, 8, PADDING, PADDING]])


def make(kind: str, dropout_prob: float = 0.0, last_layer: str = "layer2") -> Captioner | AttentionCaptioner:
    torch.manual_seed(0)
    network = ResNet(SHAPE, 1, num_blocks=[1, 1], base_channels=4, stem_size=3, stem_stride=1, stem_pool=False)
    if kind == "plain":
        return Captioner(network, last_layer, SHAPE, 9, 5, 7, dropout_prob)
    return AttentionCaptioner(network, last_layer, SHAPE, 9, 5, 6, 7, 8, dropout_prob)


@pytest.mark.parametrize("kind", ["plain", "attention"])
def test_word_by_word_a_caption_is_scored_as_at_once(kind: str) -> None:
    model, photos = make(kind, 0.5).eval(), torch.randn(3, *SHAPE)
    expected = model((photos, WORDS)).log_softmax(-1)
    assert expected.shape == (3, 4, 9)
    assert not torch.allclose(expected[0], model((photos.flip(0), WORDS)).log_softmax(-1)[0])
    state, rows = model.encode(photos), torch.arange(3)
    for time, order in enumerate(([2, 0, 1], [0, 0, 1, 2], [3, 1], [0, 1])):
        scores, state = model.step(state, WORDS[rows, time])
        torch.testing.assert_close(scores, expected[rows, time], rtol=0, atol=1e-5)
        chosen = torch.tensor(order)
        state, rows = tuple(tensor.index_select(0, chosen) for tensor in state), rows[chosen]


@pytest.mark.parametrize("kind", ["plain", "attention"])
def test_a_captioner_is_its_layers_in_turn(kind: str) -> None:
    model = make(kind)
    states: Tensor | tuple[Tensor, ...] = (torch.randn(3, *SHAPE), WORDS)
    expected = model.eval()(states)
    for layer in model.layers():
        states = layer(states)
    assert isinstance(states, Tensor)
    assert torch.equal(states, expected)
    unused = {name for name, _ in model.named_parameters() if "fc" in name}
    assert not unused, "the head of the classifier would have no gradient"


def test_attention_is_a_map_of_the_photo() -> None:
    model = make("attention").eval()
    assert isinstance(model, AttendsToPlaces)
    attention = model.attention(model.encode(torch.randn(2, *SHAPE)))
    assert attention.shape == (2, 3, 4)
    torch.testing.assert_close(attention.sum((1, 2)), torch.ones(2))
    assert not isinstance(make("plain"), AttendsToPlaces)


def test_a_layer_that_does_not_exist_or_has_no_map_is_reported() -> None:
    with pytest.raises(ValueError, match=r"model.last_layer='layer9' is not a part of ResNet; choose among conv1, "):
        make("plain", last_layer="layer9")
    with pytest.raises(ValueError, match=r"model.last_layer='fc' returns \[1, 1\], but must return maps"):
        make("attention", last_layer="fc")
    assert isinstance(make("plain", last_layer="layer1"), nn.Module)
