import re
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor, nn

from modules.model.base import Layered, Shardable
from modules.model.deep_lstm import Cell, DeepLstm

PRESET = Path(__file__).parents[3] / "conf/model/deep_lstm.yaml"


def _lstm(num_layers: int = 3, dropout_prob: float = 0.0, hidden_size: int = 6, init_scale: float = 0.1) -> DeepLstm:
    torch.manual_seed(0)
    return DeepLstm(11, hidden_size, num_layers, dropout_prob, init_scale)


def _words(batch: int = 2, time: int = 5) -> Tensor:
    return torch.randint(11, (batch, time), generator=torch.Generator().manual_seed(1))


def test_deep_lstm_is_its_layers_in_turn_one_for_every_device() -> None:
    model = _lstm()
    inputs = outputs = _words()
    assert isinstance(model, Layered)
    assert len(model.layers()) == 1 + 3 + 1
    for layer in model.layers():
        outputs = layer(outputs)
        assert isinstance(outputs, Tensor)
        assert any(True for _ in layer.parameters())
    assert outputs.shape == (2, 5, 11)
    assert torch.equal(outputs, model(inputs))
    held = {id(parameter) for layer in model.layers() for parameter in layer.parameters()}
    assert held == {id(parameter) for parameter in model.parameters()}


def test_deep_lstm_is_torchs_lstm_of_as_many_layers() -> None:
    model, torchs = _lstm(), nn.LSTM(6, 6, num_layers=3, batch_first=True)
    for number in range(3):
        for name, parameter in model.recurrent[number].named_parameters():
            getattr(torchs, name.removeprefix("lstm.").replace("l0", f"l{number}")).data = parameter.detach()
    states, _ = torchs(model.words(_words()))
    torch.testing.assert_close(model(_words()), model.head(states))


def test_a_written_out_cell_gives_the_same_under_the_mapping_of_weights() -> None:
    torchs, written = _lstm(), DeepLstm(11, 6, 3, 0.0, 0.1, forget_bias=0.5, cell="written_out")
    written.words.load_state_dict(torchs.words.state_dict())
    written.head.load_state_dict(torchs.head.state_dict())
    for layer, other in zip(written.recurrent, torchs.recurrent, strict=True):
        cell = nn.LSTMCell(6, 6)
        cell.load_state_dict({name.removesuffix("_l0"): value for name, value in other.lstm.state_dict().items()})  # type: ignore[union-attr]
        layer.lstm.cell.copy_weights(cell)  # type: ignore[operator,union-attr]
    assert (written(_words()) - torchs(_words())).abs().max() < 1e-6


def test_a_forget_bias_is_there_from_the_start_in_both_cells() -> None:
    torch.manual_seed(0)
    layers = [DeepLstm(11, 6, 1, 0.0, 0.1, 3.0, cell).recurrent[0] for cell in get_args(Cell)]
    memory = torch.full((2, 6), 2.0)
    kept = layers[0].lstm(torch.zeros(2, 1, 6), (torch.zeros(1, 2, 6), memory[None]))[1][1][0]  # type: ignore[operator]
    _, written = layers[1].lstm.cell(torch.zeros(2, 6), (torch.zeros(2, 6), memory))  # type: ignore[operator,union-attr]
    assert ((kept > 1.7) & (kept < 2.1)).all()
    assert ((written > 1.7) & (written < 2.1)).all()


def test_deep_lstm_depends_on_no_later_word_and_no_previous_text() -> None:
    model, words = _lstm(init_scale=0.9), _words()
    before = model(words)
    assert torch.equal(model(words), before)
    other = words.clone()
    other[:, 3] = (other[:, 3] + 1) % 11
    changed = (model(other) != before).any(dim=-1)
    assert not changed[:, :3].any()
    assert changed[:, 3:].all()


def test_deep_lstm_starts_evenly_spread() -> None:
    for name, parameter in _lstm(hidden_size=30, init_scale=0.2).named_parameters():
        assert 0.1 < parameter.abs().max() <= 0.2, name  # biases as well
        assert parameter.std().item() == pytest.approx(0.2 / 3**0.5, rel=0.3), name


def test_deep_lstm_drops_features_between_layers_only_in_training() -> None:
    model = _lstm(dropout_prob=0.5)
    assert not torch.equal(model(_words()), model(_words()))
    dropped = model.recurrent[0](torch.randn(2, 5, 6))
    assert 0 < (dropped == 0).sum() < dropped.numel()
    model.eval()
    assert torch.equal(model(_words()), model(_words()))


def test_deep_lstm_learns_to_repeat_a_previous_word() -> None:
    model = _lstm(num_layers=2, hidden_size=24)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-2)
    for step in range(200):
        words = torch.randint(11, (16, 7), generator=torch.Generator().manual_seed(step))
        loss = F.cross_entropy(model(words)[:, 1:].flatten(0, 1), words[:, :-1].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() < 0.3  # by chance 2.4


@pytest.mark.parametrize("cell", ["torch", "written_out"])
def test_deep_lstm_takes_a_step_on_the_meta_device_and_in_bf16(cell: Cell) -> None:
    with torch.device("meta"):
        model = DeepLstm(11, 6, 3, 0.1, 0.1, cell=cell)
        model(torch.zeros(2, 5, dtype=torch.int64)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        low = _lstm()(_words())
    torch.testing.assert_close(low.float(), _lstm()(_words()), atol=0.02, rtol=0.02)


def test_deep_lstms_shards_are_both_ends() -> None:
    model = _lstm()
    assert isinstance(model, Shardable)
    shards = model.shards()
    assert {name: shard.kind for name, shard in shards.items()} == {"words.0": "vocabulary", "head": "classes"}
    assert isinstance(model.get_submodule("words.0"), nn.Embedding)
    assert isinstance(model.get_submodule("head"), nn.Linear)
    assert {(shard.units, shard.argument) for shard in shards.values()} == {(11, "vocab_size")}


def test_the_preset_has_the_parameters_of_its_header() -> None:
    expected_message = re.search(r"([\d,]+) parameters at data.vocab_size=(\d+)", PRESET.read_text())
    assert expected_message is not None
    options = yaml.safe_load(PRESET.read_text()) | {"vocab_size": int(expected_message[2])}
    assert options.pop("_target_") == "modules.model.deep_lstm.DeepLstm"
    assert f"{sum(parameter.numel() for parameter in DeepLstm(**options).parameters()):,}" == expected_message[1]


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (
            {"num_layers": 0},
            "DeepLstm wants vocab_size, hidden_size and num_layers of at least 1, but got 11, 6, 0; raise",
        ),
        ({"dropout_prob": 1.0}, "DeepLstm wants dropout_prob in [0, 1), but got 1.0; 0 means no dropout"),
        ({"init_scale": 0.0}, "DeepLstm wants init_scale above 0, but got 0.0; the tutorial has 0.1, 0.05, 0.04"),
    ],
)
def test_deep_lstm_refuses_wrong_arguments(others: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        _lstm(**others)


def test_embeddings_may_have_a_deviation_of_their_own() -> None:
    torch.manual_seed(0)
    model = DeepLstm(200, 30, 1, 0.0, 0.1, embedding_std=2.0)
    assert model.words.get_parameter("0.weight").std().item() == pytest.approx(2.0, rel=0.05)
    assert model.head.weight.abs().max() <= 0.1
