"""What a model takes and gives, in words and back."""

from __future__ import annotations

import pytest
import torch

from experiments.components.model_signature import Interface, Kind, answers_of, named, of_tensors


def test_a_batch_of_images_leaves_the_batch_open_alone() -> None:
    found = of_tensors(torch.zeros(2, 3, 5, 7), torch.zeros(2, 11))
    assert found.words() == {
        "inputs": "float32 [batch, 3, 5, 7]",
        "outputs": "float32 [batch, 11]",
        "class_names": None,
    }


def test_a_text_that_is_answered_token_by_token_leaves_its_time_open_too() -> None:
    found = of_tensors(torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 5, 7))
    assert found.words()["inputs"] == "int64 [batch, time]"
    assert found.outputs == Kind("float32", (-1, -1, 7))


def test_a_text_that_is_answered_as_a_whole_keeps_its_length() -> None:
    assert str(of_tensors(torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 7)).inputs) == "int64 [batch, 5]"


@pytest.mark.parametrize(
    "found",
    [
        Interface(Kind("float32", (-1, 1, 8, 8)), Kind("float32", (-1, 10))),
        Interface(Kind("int64", (-1, -1)), Kind("bfloat16", (-1, -1, 65)), ("yes", "no")),
        Interface((Kind("float32", (-1, 2)), Kind("bool", (-1,))), (Kind("float32", (-1,)),)),
    ],
)
def test_words_say_all_of_it(found: Interface) -> None:
    assert Interface.of_words(found.words()) == found


def test_several_tensors_have_a_name_each() -> None:
    kinds = (Kind("float32", (-1, 2)), Kind("int64", (-1,)))
    assert list(named("input", kinds)) == ["input_0", "input_1"]
    assert list(named("output", kinds[0])) == ["outputs"]


def test_only_a_classifier_has_labels() -> None:
    assert answers_of(None) == ("outputs",)
    assert answers_of(3) == ("outputs", "probabilities", "labels")
