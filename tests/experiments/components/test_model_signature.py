"""The interface of a model, and its text form."""

from __future__ import annotations

import pytest
import torch

from experiments.components.model_signature import (
    ModelInterface,
    TensorKind,
    available_answers,
    infer_interface,
    name_tensors,
)


def test_images_have_only_a_free_batch_size() -> None:
    interface = infer_interface(torch.zeros(2, 3, 5, 7), torch.zeros(2, 11))
    assert interface.to_dict() == {
        "inputs": "float32 [batch, 3, 5, 7]",
        "outputs": "float32 [batch, 11]",
        "class_names": None,
        "takes": None,
        "needs_files": None,
    }


def test_a_text_with_one_output_per_token_has_a_free_length_too() -> None:
    interface = infer_interface(torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 5, 7))
    assert interface.to_dict()["inputs"] == "int64 [batch, time]"
    assert interface.outputs == TensorKind("float32", (-1, -1, 7))


def test_a_text_with_one_output_keeps_its_length() -> None:
    assert str(infer_interface(torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 7)).inputs) == "int64 [batch, 5]"


@pytest.mark.parametrize(
    "interface",
    [
        ModelInterface(TensorKind("float32", (-1, 1, 8, 8)), TensorKind("float32", (-1, 10))),
        ModelInterface(TensorKind("int64", (-1, -1)), TensorKind("bfloat16", (-1, -1, 65)), ("yes", "no"), "text"),
        ModelInterface((TensorKind("float32", (-1, 2)), TensorKind("bool", (-1,))), (TensorKind("float32", (-1,)),)),
    ],
)
def test_the_dict_form_is_complete(interface: ModelInterface) -> None:
    assert ModelInterface.from_dict(interface.to_dict()) == interface


def test_each_of_several_tensors_has_a_name() -> None:
    kinds = (TensorKind("float32", (-1, 2)), TensorKind("int64", (-1,)))
    assert list(name_tensors("input", kinds)) == ["input_0", "input_1"]
    assert list(name_tensors("output", kinds[0])) == ["outputs"]


def test_only_a_classifier_has_labels() -> None:
    assert available_answers(None) == available_answers(1) == ("outputs",)
    assert available_answers(3) == ("outputs", "probabilities", "labels")
