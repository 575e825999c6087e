from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from experiments.config.options import groups
from modules.model.vit import VisionTransformer, VitBlock


@pytest.mark.parametrize(("option", "num_parameters"), [("vit_tiny", 5_717_416), ("vit_base", 86_567_656)])
def test_vit_has_the_parameters_of_the_paper(option: str, num_parameters: int) -> None:
    config = yaml.safe_load(groups()["model"][option].read_text())
    del config["_target_"]
    with torch.device("meta"):
        model = VisionTransformer(**config | {"image_shape": [3, 224, 224], "num_classes": 1000})
        assert model(torch.zeros(2, 3, 224, 224)).shape == (2, 1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    of_timm = [
        "cls_token",
        "pos_embed",
        "patch_embed.proj.bias",
        "blocks.11.attn.qkv.bias",
        "blocks.0.norm1.weight",
        "norm.bias",
    ]
    assert {*model.name_saved_weights(of_timm).values()} <= {*model.state_dict()}


def test_a_block_is_the_attention_of_torch_and_a_feed_forward_layer() -> None:
    block, states = VitBlock(6, 3, 5, 0.0), torch.rand(2, 4, 6)
    attention = nn.MultiheadAttention(6, 3, batch_first=True)
    qkv = block.attn["qkv"].state_dict()
    attention.load_state_dict({**attention.state_dict(), "in_proj_weight": qkv["weight"], "in_proj_bias": qkv["bias"]})
    attention.out_proj.load_state_dict(block.attn["proj"].state_dict())
    normed = block.norm1(states)
    inner = states + attention(normed, normed, normed)[0]
    expected = inner + block.mlp["fc2"](F.gelu(block.mlp["fc1"](block.norm2(inner))))
    assert torch.allclose(block(states), expected, atol=1e-6)


def test_vit_knows_where_a_patch_is() -> None:
    model = VisionTransformer([1, 4, 6], 3, patch_size=2, num_layers=1, hidden_size=4, num_heads=2, ff_size=5).eval()
    images = torch.rand(2, 1, 4, 6)
    assert model(images).shape == (2, 3)
    assert not torch.allclose(model(images), model(images.flip(3)))


def test_vit_refuses_sizes_that_make_no_network() -> None:
    sizes = {"num_layers": 1, "hidden_size": 4, "num_heads": 2, "ff_size": 5}
    with pytest.raises(
        ValueError, match=r"multiples of patch_size=3, but got 4x6; choose another patch_size or image size"
    ):
        VisionTransformer([1, 4, 6], 3, patch_size=3, **sizes)
    with pytest.raises(ValueError, match=r"num_heads that divide hidden_size, but got patch_size=2"):
        VisionTransformer([1, 4, 6], 3, patch_size=2, **{**sizes, "num_heads": 3})
