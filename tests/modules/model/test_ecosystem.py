"""Models of other libraries, by `_target_` alone; made here and tiny, nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from experiments.components.assemble import assemble
from experiments.config.compose import compose
from experiments.config.experiment import Experiment
from experiments.core.errors import InputError

GPT2 = {
    "_target_": "modules.model.logits_of.LogitsOf",
    "model": {
        "_target_": "transformers.models.gpt2.modeling_gpt2.GPT2LMHeadModel",
        "config": {
            "_target_": "transformers.models.gpt2.configuration_gpt2.GPT2Config", "vocab_size": "${data.vocab_size}",
            "n_positions": "${data.context_tokens}", "n_embd": 8, "n_layer": 1, "n_head": 2, "use_cache": False,
        },
    },
}  # fmt: skip
RESNET = {
    "_target_": "timm.create_model", "model_name": "test_resnet", "in_chans": 1, "num_classes": "${data.num_classes}",
}  # fmt: skip

Composed = Callable[..., Experiment]


@pytest.fixture
def composed(tmp_path: Path) -> Composed:
    def composed(model: dict[str, Any], *overrides: str, trust: list[str]) -> Experiment:
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / "foreign.yaml").write_text(yaml.safe_dump(model))
        return compose(["model=foreign", *overrides], config_dirs=[tmp_path], trust=trust)

    return composed


def loss_of(experiment: Experiment) -> float:
    """Of an untrained model on a batch of zeros."""
    parts = assemble(experiment.config, experiment.trust)
    inputs, targets = parts.data.example(2)
    loss, _ = parts.setup.objective(parts.setup.model(inputs), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


@pytest.mark.slow
def test_a_network_of_timm_fits_data_and_objective(composed: Composed) -> None:
    pytest.importorskip("timm", reason="timm is an extra: pip install 'lathe-dl[models]'")
    actual = loss_of(composed(RESNET, trust=["timm"]))
    assert actual == pytest.approx(torch.tensor(10.0).log().item(), abs=1.0)


@pytest.mark.slow
def test_a_network_of_torchvision_fits_data_and_objective(composed: Composed) -> None:
    pytest.importorskip("torchvision", reason="torchvision is an extra: pip install 'lathe-dl[models]'")
    photos = [
        "data=imagenet",
        "data.num_classes=10",
        "data.image_shape=[3,32,32]",
        "data.num_features=3072",
        "data.image_size=32",
    ]
    model = {"_target_": "torchvision.models.squeezenet.squeezenet1_1", "num_classes": "${data.num_classes}"}
    assert loss_of(composed(model, *photos, "data.resize_size=32", trust=["torchvision"])) > 0


@pytest.mark.slow
def test_a_model_of_transformers_fits_with_its_nested_configuration(composed: Composed) -> None:
    pytest.importorskip("transformers", reason="transformers is an extra: pip install 'lathe-dl[models]'")
    words = ["data=shakespeare_char", "data.context_tokens=7", "data.num_train=null"]
    actual = loss_of(composed(GPT2, *words, trust=["transformers"]))
    assert actual == pytest.approx(torch.tensor(65.0).log().item(), abs=0.3)


def test_code_of_others_runs_only_where_it_is_trusted(composed: Composed) -> None:
    with pytest.raises(InputError, match=r"timm\.create_model .*if you trust the code of 'timm', add `--trust timm`"):
        composed(RESNET, trust=[])
    with pytest.raises(InputError, match=r"model\.model\._target_=transformers\..* add `--trust transformers`"):
        composed(GPT2, "data=shakespeare_char", "data.num_train=null", trust=[])
