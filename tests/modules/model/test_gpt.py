import re
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from modules.model.base import Layered, Shardable
from modules.model.gpt import FeedForward, Gpt

PRESETS = sorted(Path(__file__).parents[3].glob("conf/model/gpt_*.yaml"))
SMALL: dict[str, Any] = {
    "vocab_size": 11, "context_tokens": 7, "num_layers": 3, "num_heads": 4, "num_kv_heads": 2, "hidden_size": 24, "ff_size": 20,
    "tie_embeddings": False, "dropout_prob": 0.0, "recompute": False,
}  # fmt: skip


def _gpt(**others: Any) -> Gpt:
    torch.manual_seed(0)
    return Gpt(**SMALL | others)


def _words(batch: int = 2, time: int = 5) -> Tensor:
    return torch.randint(SMALL["vocab_size"], (batch, time), generator=torch.Generator().manual_seed(1))


def _gradients(model: Gpt) -> dict[str, Tensor]:
    torch.manual_seed(2)
    logits = model(_words())
    F.cross_entropy(logits.flatten(0, 1), _words().flatten()).backward()  # type: ignore[no-untyped-call]
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("time", [1, 7])
def test_gpt_scores_every_word_at_every_time(time: int) -> None:
    logits = _gpt()(_words(time=time))
    assert logits.shape == (2, time, 11)
    assert logits.dtype == torch.float32


@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_gpt_is_its_layers_in_turn(tie_embeddings: bool) -> None:
    model = _gpt(tie_embeddings=tie_embeddings)
    inputs = outputs = _words()
    assert isinstance(model, Layered)
    assert len(model.layers()) == 1 + 3 + 2
    for layer in model.layers():
        outputs = layer(outputs)
    assert torch.equal(outputs, model(inputs))
    held = {id(parameter) for layer in model.layers() for parameter in layer.parameters()}
    assert held == {id(parameter) for parameter in model.parameters()}


def test_gpt_depends_on_all_previous_words_and_on_no_later_word() -> None:
    model, words = _gpt(), _words(time=7)
    before = model(words)
    for time in range(7):
        other = words.clone()
        other[:, time] = (other[:, time] + 1) % 11
        changed = (model(other) != before).any(dim=-1)
        assert not changed[:, :time].any()
        assert changed[:, time:].all()


def test_gpt_with_tied_embeddings_has_one_parameter_for_both() -> None:
    tied, apart = _gpt(tie_embeddings=True), _gpt()
    assert tied.head.weight is tied.words.embedding.weight
    assert apart.head.weight is not apart.words.embedding.weight
    numbers = [sum(p.numel() for p in model.parameters()) for model in (tied, apart)]
    assert numbers[1] - numbers[0] == 11 * 24


def test_gpt_starts_as_gpt2() -> None:
    model = _gpt(vocab_size=101, hidden_size=64, ff_size=96, num_layers=8)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == 1).all()
        else:
            std = 0.02 / 16**0.5 if name.endswith(("output.weight", "down.weight")) else 0.02
            assert parameter.std().item() == pytest.approx(std, rel=0.1), name
    assert F.cross_entropy(model(_words()).flatten(0, 1), _words().flatten()).item() == pytest.approx(4.6, abs=0.2)


@pytest.mark.parametrize("dropout_prob", [0.0, 0.3])
def test_recomputing_gives_the_same_gradients(dropout_prob: float) -> None:
    plain, again = _gpt(dropout_prob=dropout_prob), _gpt(dropout_prob=dropout_prob, recompute=True)
    wanted, actual = _gradients(plain), _gradients(again)
    assert wanted.keys() == actual.keys() == dict(plain.named_parameters()).keys()
    for name, gradient in wanted.items():
        assert torch.equal(gradient, actual[name]), name


def test_recomputing_keeps_only_the_states_between_blocks() -> None:
    kept: dict[bool, int] = {}
    for recompute in (False, True):
        model, sizes = _gpt(recompute=recompute, num_layers=5), dict[int, int]()

        def pack(tensor: Tensor, sizes: dict[int, int] = sizes) -> Tensor:
            sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = model.blocks[0](torch.randn(2, 5, 24, requires_grad=True))
        kept[recompute] = sum(sizes.values())
        assert outputs.requires_grad
    assert kept[True] <= 2 * 5 * 24 < kept[False] / 5


def test_gpt_drops_features_only_in_training() -> None:
    model, words = _gpt(dropout_prob=0.5, recompute=True), _words()
    assert not torch.equal(model(words), model(words))
    model.eval()
    assert torch.equal(model(words), model(words))


def test_gpt_learns_to_repeat_the_word_three_positions_back() -> None:
    model = _gpt(num_layers=2, hidden_size=32, tie_embeddings=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(300):
        words = torch.randint(11, (16, 3), generator=torch.Generator().manual_seed(step)).repeat(1, 3)[:, :8]
        loss = F.cross_entropy(model(words[:, :-1])[:, 2:].flatten(0, 1), words[:, 3:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() < 0.6  # by chance 2.4


def test_feed_forward_is_swiglu_by_hand() -> None:
    layer, states = FeedForward(hidden_size=6, ff_size=10), torch.randn(2, 3, 6)
    gate, up = states @ layer.gate.weight.T, states @ layer.up.weight.T
    torch.testing.assert_close(layer(states), (gate * gate.sigmoid() * up) @ layer.down.weight.T)


@pytest.mark.parametrize("recompute", [False, True])
def test_gpt_takes_a_step_on_the_meta_device(recompute: bool) -> None:
    with torch.device("meta"):
        model = Gpt(**SMALL | {"recompute": recompute, "dropout_prob": 0.1})
        logits = model(torch.zeros(2, 5, dtype=torch.int64))
    logits.sum().backward()
    assert logits.shape == (2, 5, 11)
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_gpt_under_bf16_keeps_its_states_in_fp32_and_its_loss_close() -> None:
    model = _gpt()
    with torch.autocast("cpu", torch.bfloat16):
        low = model(_words())
        assert model.blocks[0](torch.randn(2, 5, 24)).dtype == torch.float32
    torch.testing.assert_close(low.float(), model(_words()), atol=0.02, rtol=0.02)


def test_gpt_has_nothing_to_save_but_its_weights() -> None:
    model = _gpt()
    assert model.state_dict().keys() == dict(model.named_parameters()).keys()
    assert list(model.buffers()) == []


@pytest.mark.parametrize("tie_embeddings", [False, True])
def test_gpts_shards_are_all_of_its_matrices_in_their_own_units(tie_embeddings: bool) -> None:
    model = _gpt(tie_embeddings=tie_embeddings)
    assert isinstance(model, Shardable)
    shards, modules = model.shards(), dict(model.named_modules())
    assert shards.keys() == {n for n, module in modules.items() if isinstance(module, nn.Linear | nn.Embedding)}
    for name, shard in shards.items():
        split = 1 if shard.kind == "row" else 0
        weight = modules[name].weight
        assert isinstance(weight, Tensor)
        assert weight.shape[split] % shard.units == 0, name
        assert isinstance(modules[name], nn.Embedding) == (shard.kind == "vocabulary")
        assert SMALL[shard.argument] == shard.units, name


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_a_preset_has_the_parameters_of_its_header(preset: Path) -> None:
    expected_message = re.search(r"([\d,]+) parameters at data.vocab_size=(\d+)", preset.read_text())
    assert expected_message is not None
    options = yaml.safe_load(preset.read_text()) | {"vocab_size": int(expected_message[2]), "context_tokens": 7}
    assert options.pop("_target_") == "modules.model.gpt.Gpt"
    with torch.device("meta"):
        model = Gpt(**options)
    assert f"{sum(parameter.numel() for parameter in model.parameters()):,}" == expected_message[1]


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (
            {"num_layers": 0},
            "hidden_size and ff_size of at least 1, but got 11, 7, 0, 4, 2, 24, 20; raise those below 1",
        ),
        (
            {"num_kv_heads": 0},
            "hidden_size and ff_size of at least 1, but got 11, 7, 3, 4, 0, 24, 20; raise those below 1",
        ),
        ({"dropout_prob": 1.0}, "Gpt wants dropout_prob in [0, 1), but got 1.0; 0 means no dropout"),
        ({"hidden_size": 26}, "hidden_size as a multiple of 2 x num_heads=8"),
        ({"num_heads": 3}, "num_kv_heads to divide num_heads=3, but got 2; try one of 1, 3"),
    ],
)
def test_gpt_refuses_wrong_arguments(others: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        _gpt(**others)


def test_gpt_refuses_a_text_that_is_too_long() -> None:
    with pytest.raises(
        ValueError, match=re.escape("context_tokens=7 tokens in a text, but got 8; shorten the text, or raise")
    ):
        _gpt()(_words(time=8))
