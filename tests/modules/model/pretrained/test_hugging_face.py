"""Models of transformers, made here and tiny: built from a folder's `config.json`, with its weights."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.components.load_weights import load_initial_weights
from experiments.config.compose import compose
from experiments.core.errors import ConfigError, PlanError
from experiments.plan.plan import make_plan
from experiments.trial.trial import trial_id
from modules.model.pretrained.config_file import find_auto_values
from modules.model.pretrained.hugging_face import HuggingFace

BERT = {
    "model_type": "bert", "vocab_size": 11, "hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2,
    "intermediate_size": 7, "max_position_embeddings": 9, "dtype": "bfloat16", "_name_or_path": "/home/me", "auto_map": {},
}  # fmt: skip
CLASSIFIER = "AutoModelForSequenceClassification"


def write_config(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(BERT | changes))
    return folder


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setitem(os.environ, "HF_HUB_OFFLINE", "1")
    return pytest.importorskip("transformers", reason="transformers is an extra: pip install 'lathe-dl[models]'")


def test_the_configuration_of_a_folder_is_frozen_without_what_is_no_architecture(tmp_path: Path) -> None:
    folders = [write_config(tmp_path / name) for name in ("a", "b")]
    one, same, random = (
        compose(["model=huggingface", *words]).config
        for words in (
            [f"model.folder={folders[0]}", "init_from.weights=x"],
            [f"model.folder={folders[1]}", "init_from.weights=x"],
            [f"model.folder={folders[1]}"],
        )
    )
    assert one["model"]["config"] == {key: BERT[key] for key in [*BERT][:7]}
    assert trial_id(one) == trial_id(same) != trial_id(random), "the id does not depend on the place of the folder"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "there is no .*config.json; name a folder that save_pretrained of transformers wrote"),
        ("{", "cannot be read"),
        ("[]", "has no model_type, so it is no model of transformers"),
        ('{"model_type": "bert", "x": ["${oc.env:HOME}"]}', r"has a text with '\$\{', which would be a reference"),
    ],
)
def test_a_folder_without_a_usable_configuration_is_reported(tmp_path: Path, content: str | None, problem: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=problem):
        find_auto_values({"folder": str(tmp_path)})


@pytest.mark.parametrize(("change", "key"), [([], "config"), (["+model.changes={vocab_size: 30}"], "changes")])
def test_more_tokens_than_embeddings_are_reported(tmp_path: Path, change: list[str], key: str) -> None:
    folder = write_config(tmp_path / "a")
    with pytest.raises(
        PlanError, match=rf"vocab_size=65 is more than model\.{key}\.vocab_size=.*; set data\.tokenizer to"
    ):
        make_plan(compose(["model=huggingface_lm", f"model.folder={folder}", "data=shakespeare_char", *change]).config)


def test_a_model_without_a_folder_gets_one_message() -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["model=huggingface"])
    assert caught.value.problems == [
        "model.config=auto needs a folder with config.json; set init_from.weights=FOLDER, or only model.folder=FOLDER for "
        "random weights"
    ]


def test_code_and_references_of_a_folder_do_not_run(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "a", head={"_target_": "os.system", "command": "true"})
    with pytest.raises(
        ConfigError, match=r"model.config.head._target_=os.system is not on the list of code that may run"
    ):
        compose(["model=huggingface", f"model.folder={folder}"])


@pytest.mark.parametrize("with_head", [True, False])
def test_saved_weights_load_with_and_without_a_head(library: Any, with_head: bool, tmp_path: Path) -> None:
    bert = {key: BERT[key] for key in [*BERT][1:7]}
    source = library.BertForSequenceClassification(library.BertConfig(**bert, num_labels=5)).eval()
    (source if with_head else source.bert).save_pretrained(tmp_path)
    model = HuggingFace(CLASSIFIER, find_auto_values({"folder": str(tmp_path)})["config"], num_classes=5).eval()
    config = {"init_from": {"weights": "x", "skip": [] if with_head else ["model.classifier"]}}
    assert load_initial_weights(model, config, {"": tmp_path / "model.safetensors"}).problems == []
    model.model.classifier.load_state_dict(source.classifier.state_dict())  # type: ignore[union-attr]
    tokens = torch.randint(11, (3, 4))
    mask = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]])
    expected: Tensor = source(input_ids=tokens, attention_mask=mask).logits
    assert torch.equal(model((tokens, mask)), expected)
    assert torch.equal(model({"input_ids": tokens, "attention_mask": mask}), expected)
    assert torch.equal(model(tokens), source(tokens).logits)
    assert not torch.equal(model(tokens), expected), "the mask counts"


def test_a_plan_needs_no_weights(library: Any) -> None:
    with torch.device("meta"):
        model = HuggingFace("AutoModel", BERT)
        assert model(torch.zeros(2, 3, dtype=torch.int64)).shape == (2, 3, 6)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_single_values_of_the_configuration_can_change(library: Any) -> None:
    model = HuggingFace(CLASSIFIER, BERT, changes={"intermediate_size": 5})
    assert model.model.config.intermediate_size == 5  # type: ignore[union-attr]
    with pytest.raises(
        ValueError, match=r"model.changes=\['intermediate'\], which a model of the type bert does not know"
    ):
        HuggingFace(CLASSIFIER, BERT, changes={"intermediate": 5})


def test_what_no_model_can_be_made_of_is_reported(library: Any) -> None:
    with pytest.raises(
        ValueError, match="wants a class such as AutoModelForSequenceClassification as auto_class, but got 'x'"
    ):
        HuggingFace("x", BERT)
    with pytest.raises(ValueError, match="wants model_type in config, such as bert"):
        HuggingFace(CLASSIFIER, {})
    with pytest.raises(ValueError, match=r"got 3 inputs; name them in model.inputs"):
        HuggingFace(CLASSIFIER, BERT)(tuple(torch.zeros(3, 2, 4, dtype=torch.int64)))
