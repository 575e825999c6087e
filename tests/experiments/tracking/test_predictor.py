"""Arrays in, arrays out: with small models and facts as `model.yaml` has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from experiments.core.errors import InputError
from experiments.tracking.model.predictor import Predictor, load
from experiments.trial.trial import to_yaml


class Doubles(nn.Module):
    """Notes how many examples it is given at once."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.sizes.append(len(inputs))
        return inputs * 2


class Joins(nn.Module):
    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return inputs[0] + inputs[1], inputs[0] - inputs[1]


def facts(**changes: Any) -> dict[str, Any]:
    words = {"inputs": "float32 [batch, 3]", "outputs": "float32 [batch, 3]", "class_names": None}
    return {**words, "num_classes": 3, "vocab_size": None, "batch_size": 4, **changes}


def predictor(model: nn.Module, **changes: Any) -> Predictor:
    return Predictor(model.eval(), facts(**changes), torch.device("cpu"))


def answer(found: Predictor, inputs: object, name: str = "outputs") -> np.ndarray:
    told = found.predict(inputs, {"answer": name})
    assert isinstance(told, np.ndarray)
    return told


def test_a_classifier_answers_in_three_ways() -> None:
    found = predictor(Doubles())
    inputs = np.array([[0.0, 1.0, 0.5], [2.0, 0.0, 1.0]], np.float32)
    assert np.array_equal(answer(found, inputs), inputs * 2)
    assert np.allclose(answer(found, inputs, "probabilities").sum(1), 1)
    assert np.array_equal(answer(found, inputs, "labels"), [1, 0])


def test_labels_have_the_names_of_the_data() -> None:
    found = predictor(Doubles(), class_names=["cat", "dog", "owl"])
    assert list(answer(found, np.eye(3, dtype=np.float32)[[2, 0]], "labels")) == ["owl", "cat"]


def test_a_large_batch_is_computed_in_the_parts_of_the_evaluation() -> None:
    model = Doubles()
    inputs = np.arange(27, dtype=np.float32).reshape(9, 3)
    assert np.array_equal(answer(predictor(model), inputs), inputs * 2)
    assert model.sizes == [4, 4, 1]


def test_several_inputs_and_outputs_go_by_name() -> None:
    kinds = ["float32 [batch]", "float32 [batch]"]
    found = predictor(Joins(), inputs=kinds, outputs=kinds, num_classes=None)
    told = found.predict({"input_0": np.array([5, 7], np.float32), "input_1": np.array([2, 3], np.float32)})
    assert isinstance(told, dict)
    assert {name: list(array) for name, array in told.items()} == {"output_0": [7, 10], "output_1": [3, 4]}


@pytest.mark.parametrize(
    ("inputs", "params", "told"),
    [
        (np.zeros((2, 4), np.float32), {}, r"inputs is float32 \[2, 4\], but this model takes float32 \[batch, 3\]"),
        (np.zeros(3, np.float32), {}, r"inputs is float32 \[3\], but"),
        ([["a", "b", "c"]], {}, r"inputs is <U1 \[1, 3\], but this model takes"),
        (np.zeros((0, 3), np.float32), {}, r"inputs have \[0\] examples; give at least one"),
        ({"pixels": np.zeros((1, 3))}, {}, r"inputs=\['pixels'\] are not what this model takes; give inputs"),
        (np.zeros((1, 3), np.float32), {"answer": "lables"}, r"answer=lables is not .*; did you mean 'labels'\?"),
    ],
)
def test_wrong_inputs_are_told(inputs: Any, params: dict[str, str], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        predictor(Doubles()).predict(inputs, params)


def test_one_array_for_several_inputs_is_told() -> None:
    found = predictor(Joins(), inputs=["float32 [batch]", "float32 [batch]"])
    with pytest.raises(ValueError, match="this model takes input_0, input_1; give a map"):
        found.predict(np.zeros(2))
    with pytest.raises(ValueError, match=r"inputs have \[2, 3\] examples"):
        found.predict({"input_0": np.zeros(2, np.float32), "input_1": np.zeros(3, np.float32)})


def test_a_word_beyond_the_vocabulary_is_told_before_a_device_sees_it() -> None:
    found = predictor(Doubles(), inputs="int64 [batch, time]", outputs="float32 [batch, time, 7]", vocab_size=7)
    with pytest.raises(ValueError, match="inputs has numbers from 0 to 7; keep them from 0 to 6"):
        found.predict(np.array([[0, 7]]))
    assert np.array_equal(answer(found, np.array([[0, 6]])), [[0, 12]])


def test_a_regression_has_no_labels() -> None:
    with pytest.raises(ValueError, match="answer=labels is not what this model gives; known: outputs"):
        predictor(Doubles(), num_classes=None).predict(np.zeros((1, 3), np.float32), {"answer": "labels"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An exported softmax regression from 3 features to 2 classes."""
    node = {"_target_": "modules.model.softmax.Softmax", "num_features": 3, "num_classes": 2}
    (tmp_path / "model.yaml").write_text(
        to_yaml(facts(outputs="float32 [batch, 2]", num_classes=2, trust=[], model=node))
    )
    weights = {"stack.1.weight": torch.tensor([[1.0, 0, 0], [0, 2.0, 0]]), "stack.1.bias": torch.tensor([0.5, 0])}
    save_file(weights, tmp_path / "model.safetensors")
    return tmp_path


def test_a_folder_is_loaded_without_touching_anyones_chance(folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    found = load(folder, "cpu")
    assert torch.equal(torch.rand(1), expected)
    assert np.array_equal(answer(found, np.array([[3, 5, 7]], np.float32)), [[3.5, 10.0]])


def test_weights_of_other_code_are_told(folder: Path) -> None:
    save_file({"stack.1.weight": torch.zeros(2, 4), "head.bias": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(InputError) as told:
        load(folder)
    assert told.value.problems == [
        "head.bias: the file has it, the model does not",
        "stack.1.bias: the model has it, the file does not",
        "stack.1.weight: [2, 4] in the file, [2, 3] in the model",
    ]


def test_cut_weights_are_told(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:20])
    with pytest.raises(
        InputError, match=r"model\.safetensors cannot be read: .*; take an earlier checkpoint, or export"
    ):
        load(folder)


def test_a_folder_cannot_name_code_that_it_does_not_say_it_trusts(folder: Path) -> None:
    node = {"_target_": "os.system", "command": "true"}
    (folder / "model.yaml").write_text(to_yaml(facts(trust=[], model=node)))
    with pytest.raises(InputError, match=r"model\._target_=os\.system is not on the list of code that may run"):
        load(folder)


def test_tied_weights_stand_once_in_the_file(tmp_path: Path) -> None:
    from modules.model.gpt import Gpt
    from modules.parallel.checkpoint_format import named as own_names

    sizes: dict[str, Any] = {
        "vocab_size": 7,
        "context_tokens": 5,
        "num_layers": 1,
        "num_heads": 2,
        "num_kv_heads": 1,
        "hidden_size": 8,
    }
    node = {**sizes, "ff_size": 12, "tie_embeddings": True, "dropout_prob": 0.5, "recompute": False}
    model = Gpt(**node).eval()
    save_file(
        {name: tensor.detach().clone() for name, tensor in own_names(model).items()}, tmp_path / "model.safetensors"
    )
    words = {"inputs": "int64 [batch, time]", "outputs": "float32 [batch, time, 7]", "vocab_size": 7, "num_classes": 7}
    told = facts(**words, trust=[], model={"_target_": "modules.model.gpt.Gpt", **node})
    (tmp_path / "model.yaml").write_text(to_yaml(told))
    found = load(tmp_path, "cpu")
    texts = torch.tensor([[0, 3, 6], [1, 2, 5]])
    with torch.inference_mode():
        assert np.array_equal(answer(found, texts.numpy()), model(texts).numpy())
