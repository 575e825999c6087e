"""Low-rank adapters of PEFT: which layers get one, and that the merged model computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from modules.adapter.lora import Lora
from modules.model.pretrained.hugging_face import HuggingFace

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers, about itself


@pytest.fixture(autouse=True)
def library() -> Any:
    return pytest.importorskip("peft", reason="PEFT is an extra: pip install 'lathe-dl[models]'")


class Network(nn.Module):
    """With a tied layer, and one whose weight torch uses past the layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.first, self.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
        self.attention, self.new = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(7, 3)
        self.head.weight = self.words.weight

    def forward(self, tokens: Tensor) -> Tensor:
        states = self.first(self.words(tokens))
        outputs: Tensor = self.new(self.head(self.attention(states, states, states)[0]))
        return outputs


NEW = frozenset({"new.weight", "new.bias"})


@pytest.mark.parametrize(
    ("targets", "layers"), [("auto", ["first"]), (["fir*"], ["first"]), (["new", "first"], ["new", "first"])]
)
def test_only_layers_that_compute_by_themselves_get_an_adapter(targets: Any, layers: list[str]) -> None:
    with torch.device("meta"):
        model, lora = Network(), Lora(rank=2, targets=targets)
        lora.attach(model, NEW)
    assert lora.layers == layers
    added = {name for name, _ in model.named_parameters() if "lora_" in name}
    assert added == {f"{layer}.lora_{part}.default.weight" for layer in layers for part in "AB"}


@pytest.mark.parametrize(
    ("targets", "problem"),
    [
        (["frist"], "targets='frist' names no linear layer of Network; did you mean 'first'"),
        (
            ["out_proj"],
            "targets='out_proj' names no linear layer of Network; its layers end in first, head, new, words",
        ),
        (["head"], "targets='head' names head, whose weight is also that of words; leave it out"),
    ],
)
def test_a_name_of_no_such_layer_is_reported(targets: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Lora(targets=targets).attach(Network(), NEW)


def test_the_merged_model_computes_the_same_under_its_own_names() -> None:
    model, tokens = Network().eval(), torch.tensor([[1, 5, 2], [0, 3, 6]])
    names, before = [*model.state_dict()], model(tokens)
    lora = Lora(rank=2, dropout_prob=0.5)
    lora.attach(model, NEW)
    torch.testing.assert_close(model(tokens), before)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    adapted = model.eval()(tokens)
    assert not torch.allclose(adapted, before)
    lora.merge(model)
    assert [*model.state_dict()] == names
    torch.testing.assert_close(model(tokens), adapted)


def test_peft_reads_what_is_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: Any) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is an extra")
    sizes = {
        "vocab_size": 11, "hidden_size": 6, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 7,
        "max_position_embeddings": 9,
    }  # fmt: skip
    model = HuggingFace("AutoModelForSequenceClassification", {"model_type": "bert", **sizes}, num_classes=3).eval()
    transformers_model = transformers.AutoModelForSequenceClassification.from_config(model.model.config)
    transformers_model.load_state_dict(model.model.state_dict())
    lora = Lora(rank=2, targets=["query", "value"])
    lora.attach(model, frozenset({"model.classifier.weight", "model.classifier.bias"}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "classifier" in name:
                parameter.normal_()
    lora.save(model, tmp_path)
    read = library.PeftModel.from_pretrained(transformers_model, str(tmp_path)).eval()
    tokens = torch.tensor([[1, 5, 2], [10, 3, 6]])
    torch.testing.assert_close(read(tokens).logits, model(tokens))
