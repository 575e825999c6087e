"""Training state on disk: mismatches are reported, and a full disk raises OSError."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, Optimizer

from modules.parallel import checkpoint_format as state


def write(folder: Path, model: nn.Module, optimizer: Optimizer | None = None) -> None:
    optimizer = optimizer or SGD(model.parameters(), lr=0.1)
    state.collect(state.name_tensors(model), optimizer).write(folder)


def load(folder: Path, model: nn.Module, optimizer: Optimizer | None = None) -> None:
    optimizer = optimizer or SGD(model.parameters(), lr=0.1)
    with state.SavedState(folder) as saved:
        saved.check(state.describe_tensors(state.name_tensors(model)), type(optimizer).__name__)
        state.restore(saved, state.name_tensors(model), [optimizer])


def make_step(model: nn.Module, optimizer: Optimizer) -> Optimizer:
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    return optimizer


def test_all_weights_that_do_not_fit_are_reported_together(tmp_path: Path) -> None:
    write(tmp_path, nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2)))
    with pytest.raises(state.StateError) as caught:
        load(tmp_path, nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2)))
    message = str(caught.value)
    assert "model.safetensors cannot be restored, 7 problems" in message
    assert "0.weight: saved as float32 [3, 5], the model has float32 [3, 4]" in message
    assert "1.bias: it is in the file, but not in the model" in message
    assert "2.running_mean: it is in the model, but not in the file" in message
    assert message.endswith("resume with the configuration that wrote it, or start a new run")


def test_a_refused_load_leaves_the_model_untouched(tmp_path: Path) -> None:
    write(tmp_path, nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2)))
    model = nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 4))
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(state.StateError):
        load(tmp_path, model)
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_another_optimizer_is_refused(tmp_path: Path) -> None:
    model = nn.Linear(5, 3)
    write(tmp_path, model)
    with pytest.raises(state.StateError, match="saved from SGD, this run has Adam"):
        load(tmp_path, model, Adam(model.parameters(), lr=0.1))


@pytest.mark.parametrize("kind", [Adam, Adagrad])
def test_a_written_state_is_restored(tmp_path: Path, kind: type[Optimizer]) -> None:
    model, other = nn.Linear(5, 3), nn.Linear(5, 3)
    optimizer = make_step(model, kind(model.parameters(), lr=0.1))  # type: ignore[call-arg]
    write(tmp_path, model, optimizer)
    restored = kind(other.parameters(), lr=0.5)  # type: ignore[call-arg]
    load(tmp_path, other, restored)
    assert torch.equal(model.weight, other.weight)
    ours, theirs = restored.state_dict(), optimizer.state_dict()
    for index, entries in theirs["state"].items():
        assert ours["state"][index].keys() == entries.keys()
        assert all(torch.equal(ours["state"][index][key], value) for key, value in entries.items())
    assert ours["param_groups"][0]["lr"] == 0.5, "the learning rate comes from the configuration"


def test_a_value_that_is_neither_tensor_nor_number_is_refused(tmp_path: Path) -> None:
    unsupported = state.TrainingState({}, "Custom", {"weight": {"history": object()}})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match=r"optimizer\.json can hold only numbers"):
        unsupported.write(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "optimizer.json"])
@pytest.mark.parametrize("damage", ["missing", "truncated"])
def test_a_damaged_file_is_reported_with_a_hint(tmp_path: Path, name: str, damage: str) -> None:
    model = nn.Linear(5, 3)
    optimizer = make_step(model, Adam(model.parameters(), lr=0.1))
    write(tmp_path, model, optimizer)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if damage == "truncated":
        (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(state.StateError, match="resume from an older checkpoint") as caught:
        load(tmp_path, model, optimizer)
    assert caught.value.path == tmp_path / name


@pytest.mark.parametrize(
    "lengths", [{"al[]": 10**12}, {"al[]": 1e400}, {"al[]": -1}, {"al[]": "9"}, {f"al{k}[]": 65536 for k in range(2)}]
)
def test_a_small_file_does_not_fill_the_memory_with_lists(lengths: dict[str, object], tmp_path: Path) -> None:
    model = nn.Linear(5, 3)
    write(tmp_path, model)
    rest = json.loads((tmp_path / "optimizer.json").read_text())
    (tmp_path / "optimizer.json").write_text(json.dumps({**rest, "numbers": {"weight": lengths}}))
    with pytest.raises(ValueError, match="at most 65536 are read"):
        load(tmp_path, model)


def test_a_failed_write_raises_an_oserror_with_errno(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        write(tmp_path / "nowhere", nn.Linear(5, 3))
    assert caught.value.errno == errno.ENOENT


def test_tied_weights_are_written_once_and_strided_weights_completely(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Conv2d(2, 3, 5))
    model[1].weight = model[0].weight
    model[2].weight = nn.Parameter(torch.randn(3, 2, 5, 5).contiguous(memory_format=torch.channels_last))
    write(tmp_path, model)
    header_bytes = int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
    header = json.loads((tmp_path / "model.safetensors").read_bytes()[8 : 8 + header_bytes])
    assert header.keys() - {"__metadata__"} == {"0.weight", "0.bias", "1.bias", "2.weight", "2.bias"}
    expected: dict[str, Tensor] = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    load(tmp_path, model)
    torch.testing.assert_close(dict(model.state_dict()), expected, rtol=0, atol=0)


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_have_the_mode_that_the_umask_allows(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write(tmp_path, nn.Linear(2, 3))
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys((state.MODEL, state.OPTIMIZER, state.REST), 0o666 & ~umask)
