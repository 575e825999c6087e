"""Weights that other libraries wrote: folders, shards and their index."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.core.errors import InputError
from experiments.trial.initial_weights import FILE, check_copy, copy_weights
from experiments.trial.weight_files import find_in_folder, list_shards

WEIGHTS = {"a.weight": torch.rand(2, 3), "b.bias": torch.arange(5), "c": torch.rand(()).bfloat16()}
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As `save_pretrained` writes it, in two shards."""
    folder = tmp_path / "saved"
    folder.mkdir()
    names = {"model-1-of-2.safetensors": ["a.weight"], "model-2-of-2.safetensors": ["b.bias", "c"]}
    for file, own in names.items():
        save_file({name: WEIGHTS[name] for name in own}, folder / file, {"format": "pt"})
    weight_map = {name: file for file, own in names.items() for name in own}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


def no_run(name: str) -> Path:
    raise InputError([f"there is no run '{name}'"])


def test_shards_are_copied_to_one_file_that_the_run_checks(folder: Path, tmp_path: Path) -> None:
    initial = copy_weights({"": str(folder)}, no_run, tmp_path)
    copied = load_file(tmp_path / FILE)
    assert {*copied} == {*WEIGHTS}
    assert all(torch.equal(copied[name], tensor) for name, tensor in WEIGHTS.items())
    assert initial["file"] == str(folder / INDEX)
    check_copy(tmp_path, {"initial": initial})
    (tmp_path / FILE).write_bytes((tmp_path / FILE).read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="has changed since the run was frozen; restore it"):
        check_copy(tmp_path, {"initial": initial})


def test_an_incomplete_or_hostile_index_is_reported(folder: Path) -> None:
    index = folder / INDEX
    (folder / "model-2-of-2.safetensors").rename(folder / "other")
    with pytest.raises(InputError, match=r"lists 2 files, of which 1 are missing: model-2-of-2.safetensors; complete"):
        list_shards(index)
    index.write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    with pytest.raises(InputError, match=r"lists '../x.safetensors', which is not a .safetensors file beside it"):
        list_shards(index)
    index.write_text("{}")
    with pytest.raises(InputError, match="no map 'weight_map'"):
        list_shards(index)


@pytest.mark.parametrize("content", [b"", b"\xff" * 9, (5).to_bytes(8, "little") + b"[1,2]", None])
def test_a_damaged_shard_is_reported(folder: Path, tmp_path: Path, content: bytes | None) -> None:
    shard = folder / "model-1-of-2.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] if content is None else content)
    with pytest.raises(InputError, match=r"model-1-of-2.safetensors is damaged: it (has no valid|is not complete)"):
        copy_weights({"": str(folder)}, no_run, tmp_path)


def test_the_weights_of_a_folder_must_be_clear_and_safe(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(InputError, match=r"pytorch_model.bin can run code when it is read; save the model again as"):
        find_in_folder(tmp_path, "init_from.weights")
    (tmp_path / "adapter.safetensors").touch()
    assert find_in_folder(tmp_path, "init_from.weights").name == "adapter.safetensors"
    (tmp_path / "model.safetensors").touch()
    assert find_in_folder(tmp_path, "init_from.weights").name == "model.safetensors"
    (tmp_path / "model.fp16.safetensors").touch()
    with pytest.raises(InputError, match=r"several weight files \(adapter.safetensors, model.fp16.safetensors, model"):
        find_in_folder(tmp_path, "init_from.weights")
