"""The predictor: arrays in, arrays out, with small models and metadata as in `model.yaml`."""

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
    """Records the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        self.sizes.append(len(inputs))
        return inputs * 2


class Joins(nn.Module):
    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return inputs[0] + inputs[1], inputs[0] - inputs[1]


def metadata(**changes: Any) -> dict[str, Any]:
    texts = {"inputs": "float32 [batch, 3]", "outputs": "float32 [batch, 3]", "class_names": None}
    return {**texts, "num_classes": 3, "vocab_size": None, "batch_size": 4, **changes}


def predictor(model: nn.Module, **changes: Any) -> Predictor:
    return Predictor(model.eval(), metadata(**changes), torch.device("cpu"))


def answer(model: Predictor, inputs: object, name: str = "outputs") -> np.ndarray:
    outputs = model.predict(inputs, {"answer": name})
    assert isinstance(outputs, np.ndarray)
    return outputs


def test_classifier_has_three_answers() -> None:
    loaded = predictor(Doubles())
    inputs = np.array([[0.0, 1.0, 0.5], [2.0, 0.0, 1.0]], np.float32)
    assert np.array_equal(answer(loaded, inputs), inputs * 2)
    assert np.allclose(answer(loaded, inputs, "probabilities").sum(1), 1)
    assert np.array_equal(answer(loaded, inputs, "labels"), [1, 0])


def test_labels_are_class_names() -> None:
    loaded = predictor(Doubles(), class_names=["cat", "dog", "owl"])
    assert list(answer(loaded, np.eye(3, dtype=np.float32)[[2, 0]], "labels")) == ["owl", "cat"]


def test_large_batch_is_split_into_evaluation_batches() -> None:
    model = Doubles()
    inputs = np.arange(27, dtype=np.float32).reshape(9, 3)
    assert np.array_equal(answer(predictor(model), inputs), inputs * 2)
    assert model.sizes == [4, 4, 1]


def test_several_inputs_and_outputs_are_named() -> None:
    kinds = ["float32 [batch]", "float32 [batch]"]
    loaded = predictor(Joins(), inputs=kinds, outputs=kinds, num_classes=None)
    outputs = loaded.predict({"input_0": np.array([5, 7], np.float32), "input_1": np.array([2, 3], np.float32)})
    assert isinstance(outputs, dict)
    assert {name: list(array) for name, array in outputs.items()} == {"output_0": [7, 10], "output_1": [3, 4]}


@pytest.mark.parametrize(
    ("inputs", "params", "message"),
    [
        (np.zeros((2, 4), np.float32), {}, r"inputs is float32 \[2, 4\], but this model takes float32 \[batch, 3\]"),
        (np.zeros(3, np.float32), {}, r"inputs is float32 \[3\], but"),
        ([["a", "b", "c"]], {}, r"inputs is <U1 \[1, 3\], but this model takes"),
        (np.zeros((0, 3), np.float32), {}, r"inputs have \[0\] examples; give at least one"),
        ({"pixels": np.zeros((1, 3))}, {}, r"inputs=\['pixels'\] do not match this model; give inputs"),
        (np.zeros((1, 3), np.float32), {"answer": "lables"}, r"answer=lables is not .*; did you mean 'labels'\?"),
    ],
)
def test_wrong_inputs_are_refused(inputs: Any, params: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        predictor(Doubles()).predict(inputs, params)


def test_one_array_for_several_inputs_is_refused() -> None:
    loaded = predictor(Joins(), inputs=["float32 [batch]", "float32 [batch]"])
    with pytest.raises(ValueError, match="this model takes input_0, input_1; give a map"):
        loaded.predict(np.zeros(2))
    with pytest.raises(ValueError, match=r"inputs have \[2, 3\] examples"):
        loaded.predict({"input_0": np.zeros(2, np.float32), "input_1": np.zeros(3, np.float32)})


def test_token_id_outside_the_vocabulary_is_refused_before_it_reaches_a_device() -> None:
    loaded = predictor(Doubles(), inputs="int64 [batch, time]", outputs="float32 [batch, time, 7]", vocab_size=7)
    with pytest.raises(ValueError, match="inputs has token ids from 0 to 7; they must be from 0 to 6"):
        loaded.predict(np.array([[0, 7]]))
    assert np.array_equal(answer(loaded, np.array([[0, 6]])), [[0, 12]])


def test_regression_has_no_labels() -> None:
    with pytest.raises(ValueError, match="answer=labels is not an answer of this model; known: outputs"):
        predictor(Doubles(), num_classes=None).predict(np.zeros((1, 3), np.float32), {"answer": "labels"})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An exported softmax regression from 3 features to 2 classes."""
    node = {"_target_": "modules.model.softmax.Softmax", "num_features": 3, "num_classes": 2}
    (tmp_path / "model.yaml").write_text(
        to_yaml(metadata(outputs="float32 [batch, 2]", num_classes=2, trust=[], model=node))
    )
    weights = {"stack.1.weight": torch.tensor([[1.0, 0, 0], [0, 2.0, 0]]), "stack.1.bias": torch.tensor([0.5, 0])}
    save_file(weights, tmp_path / "model.safetensors")
    return tmp_path


def test_loading_does_not_change_random_state(folder: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    loaded = load(folder, "cpu")
    assert torch.equal(torch.rand(1), expected)
    assert np.array_equal(answer(loaded, np.array([[3, 5, 7]], np.float32)), [[3.5, 10.0]])


def test_weights_of_other_code_are_refused(folder: Path) -> None:
    save_file({"stack.1.weight": torch.zeros(2, 4), "head.bias": torch.zeros(2)}, folder / "model.safetensors")
    with pytest.raises(InputError) as caught:
        load(folder)
    assert caught.value.problems == [
        "head.bias: in the file, not in the model",
        "stack.1.bias: in the model, not in the file",
        "stack.1.weight: [2, 4] in the file, [2, 3] in the model",
    ]


def test_truncated_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:20])
    with pytest.raises(
        InputError, match=r"model\.safetensors cannot be read: .*; use an earlier checkpoint, or export"
    ):
        load(folder)


def test_folder_cannot_name_untrusted_code(folder: Path) -> None:
    node = {"_target_": "os.system", "command": "true"}
    (folder / "model.yaml").write_text(to_yaml(metadata(trust=[], model=node)))
    with pytest.raises(InputError, match=r"model\._target_=os\.system is not on the list of code that may run"):
        load(folder)


def test_tied_weights_are_stored_once(tmp_path: Path) -> None:
    from modules.model.gpt import Gpt
    from modules.parallel.checkpoint_format import name_tensors as own_names

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
    texts = {"inputs": "int64 [batch, time]", "outputs": "float32 [batch, time, 7]", "vocab_size": 7, "num_classes": 7}
    content = metadata(**texts, trust=[], model={"_target_": "modules.model.gpt.Gpt", **node})
    (tmp_path / "model.yaml").write_text(to_yaml(content))
    loaded = load(tmp_path, "cpu")
    tokens = torch.tensor([[0, 3, 6], [1, 2, 5]])
    with torch.inference_mode():
        assert np.array_equal(answer(loaded, tokens.numpy()), model(tokens).numpy())
