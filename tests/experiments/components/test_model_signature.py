"""What a model takes and gives, in words and back."""

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


def test_a_batch_of_images_leaves_the_batch_open_alone() -> None:
    found = infer_interface(torch.zeros(2, 3, 5, 7), torch.zeros(2, 11))
    assert found.to_dict() == {
        "inputs": "float32 [batch, 3, 5, 7]",
        "outputs": "float32 [batch, 11]",
        "class_names": None,
    }


def test_a_text_that_is_answered_token_by_token_leaves_its_time_open_too() -> None:
    found = infer_interface(torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 5, 7))
    assert found.to_dict()["inputs"] == "int64 [batch, time]"
    assert found.outputs == TensorKind("float32", (-1, -1, 7))


def test_a_text_that_is_answered_as_a_whole_keeps_its_length() -> None:
    assert str(infer_interface(torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 7)).inputs) == "int64 [batch, 5]"


@pytest.mark.parametrize(
    "found",
    [
        ModelInterface(TensorKind("float32", (-1, 1, 8, 8)), TensorKind("float32", (-1, 10))),
        ModelInterface(TensorKind("int64", (-1, -1)), TensorKind("bfloat16", (-1, -1, 65)), ("yes", "no")),
        ModelInterface((TensorKind("float32", (-1, 2)), TensorKind("bool", (-1,))), (TensorKind("float32", (-1,)),)),
    ],
)
def test_words_say_all_of_it(found: ModelInterface) -> None:
    assert ModelInterface.from_dict(found.to_dict()) == found


def test_several_tensors_have_a_name_each() -> None:
    kinds = (TensorKind("float32", (-1, 2)), TensorKind("int64", (-1,)))
    assert list(name_tensors("input", kinds)) == ["input_0", "input_1"]
    assert list(name_tensors("output", kinds[0])) == ["outputs"]


def test_only_a_classifier_has_labels() -> None:
    assert available_answers(None) == ("outputs",)
    assert available_answers(3) == ("outputs", "probabilities", "labels")
