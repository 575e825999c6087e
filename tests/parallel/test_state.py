"""Training state on disk: what does not fit is told, a full disk shows as one, and nothing is pickled."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD, Adagrad, Adam

from modules.parallel import state


def test_weights_that_do_not_fit_are_told_together(tmp_path: Path) -> None:
    state.save_model(nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2)), tmp_path)
    with pytest.raises(state.StateError) as caught:
        state.load_model(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2)), tmp_path)
    message = str(caught.value)
    assert "model.safetensors cannot be restored, 7 problems" in message
    assert "0.weight: saved as float32 [3, 5], the model has float32 [3, 4]" in message
    assert "1.bias: the file has it, the model does not" in message
    assert "2.running_mean: the model has it, the file does not" in message
    assert message.endswith("resume with the configuration that wrote it, or start a new run")


def test_a_refused_load_leaves_the_model_untouched(tmp_path: Path) -> None:
    state.save_model(nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2)), tmp_path)
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 4))
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(state.StateError):
        state.load_model(model, tmp_path)
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_another_optimizer_is_refused(tmp_path: Path) -> None:
    state.save_optimizer(SGD(nn.Linear(5, 3).parameters(), lr=0.1), tmp_path)
    with pytest.raises(state.StateError, match="saved from SGD, this run has Adam"):
        state.load_optimizer(Adam(nn.Linear(5, 3).parameters(), lr=0.1), tmp_path)


def test_an_optimizer_of_other_parameters_is_refused(tmp_path: Path) -> None:
    state.save_optimizer(Adagrad(nn.Linear(5, 3).parameters(), lr=0.1), tmp_path)
    with pytest.raises(state.StateError, match=r"parameters per group: saved \[2\], this run has \[1\]"):
        state.load_optimizer(Adagrad(nn.Linear(5, 3, bias=False).parameters(), lr=0.1), tmp_path)
    with pytest.raises(state.StateError, match=r"0.sum: saved as \[3, 5\], its parameter is \[3, 4\]"):
        state.load_optimizer(Adagrad(nn.Linear(4, 3).parameters(), lr=0.1), tmp_path)


def test_parameter_groups_come_back_as_they_were(tmp_path: Path) -> None:
    def adam(lr: float) -> Adam:
        layer = nn.Linear(5, 3)
        groups: list[dict[str, Any]] = [
            {"params": [layer.weight], "lr": lr},
            {"params": [layer.bias], "betas": (0.7, 0.8)},
        ]
        return Adam(groups, lr=0.1 + 0.2)

    saved, loaded = adam(1 / 3), adam(0.5)
    state.save_optimizer(saved, tmp_path)
    state.load_optimizer(loaded, tmp_path)
    assert loaded.state_dict() == saved.state_dict()


def test_an_optimizer_with_a_tensor_among_its_settings_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"optimizer\.json holds only numbers"):
        state.save_optimizer(SGD(nn.Linear(5, 3).parameters(), lr=torch.tensor(0.1)), tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "optimizer.json", "random.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_file_is_told_with_a_way_out(tmp_path: Path, name: str, damage: str) -> None:
    model = nn.Linear(5, 3)
    optimizer = Adam(model.parameters(), lr=0.1)
    state.save_model(model, tmp_path)
    state.save_optimizer(optimizer, tmp_path)
    state.save_random(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if damage == "truncated":
        (tmp_path / name).write_bytes(content[: len(content) // 2])

    def load() -> None:
        state.load_model(model, tmp_path)
        state.load_optimizer(optimizer, tmp_path)
        state.load_random(tmp_path)

    with pytest.raises(state.StateError, match="resume from an older checkpoint") as caught:
        load()
    assert caught.value.path == tmp_path / name


def test_a_failed_write_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        state.save_model(nn.Linear(5, 3), tmp_path / "nowhere")
    assert caught.value.errno == errno.ENOENT


def test_tied_weights_are_written_once_and_strided_ones_whole(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Conv2d(2, 3, 5))
    model[1].weight = model[0].weight
    model[2].weight = nn.Parameter(torch.randn(3, 2, 5, 5).contiguous(memory_format=torch.channels_last))
    state.save_model(model, tmp_path)
    header_bytes = int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
    header = json.loads((tmp_path / "model.safetensors").read_bytes()[8 : 8 + header_bytes])
    assert header.keys() - {"__metadata__"} == {"0.weight", "0.bias", "1.bias", "2.weight", "2.bias"}
    wanted = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    state.load_model(model, tmp_path)
    torch.testing.assert_close(dict(model.state_dict()), wanted, rtol=0, atol=0)
