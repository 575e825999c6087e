"""Vision transformer for images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.model.layers.inception_blocks import check_images

EMBEDDING = ("cls_token", "pos_embed", "patch_embed.proj.weight", "patch_embed.proj.bias")


class VisionTransformer(nn.Module):
    """A transformer over patches of an image. Weights that timm saved load into it by `init_from`.

    Source: Dosovitskiy et al. 2020, arXiv:2010.11929; the class is read from an additional token.
    """

    is_component = True

    def __init__(
        self,
        image_shape: Sequence[int],
        num_classes: int,
        patch_size: int,
        num_layers: int,
        hidden_size: int,
        num_heads: int,
        ff_size: int,
        dropout_prob: float = 0.0,
    ) -> None:
        """
        Args:
            image_shape: [channels, height, width], divisible by ``patch_size``.
            num_classes: logits per image.
            patch_size: side of a patch in pixels.
            num_layers: blocks of attention and feed-forward layer.
            hidden_size: features of a patch.
            num_heads: of the attention; divides ``hidden_size``.
            ff_size: units of the feed-forward layers.
            dropout_prob: after the position embedding and in each block.
        """
        super().__init__()
        check_images("VisionTransformer", image_shape, num_classes, 1.0, dropout_prob)
        if min(patch_size, num_layers, hidden_size, num_heads, ff_size) < 1 or hidden_size % num_heads:
            raise ValueError(
                f"VisionTransformer wants sizes of at least 1 and num_heads that divide hidden_size, but got "
                f"patch_size={patch_size}, num_layers={num_layers}, hidden_size={hidden_size}, num_heads={num_heads}, "
                f"ff_size={ff_size}"
            )
        channels, height, width = image_shape
        if height % patch_size or width % patch_size:
            raise ValueError(
                f"VisionTransformer wants images whose sides are multiples of patch_size={patch_size}, but got {height}x{width}; "
                "choose another patch_size or image size"
            )
        self.embed = PatchEmbedding(
            channels, (height // patch_size) * (width // patch_size), patch_size, hidden_size, dropout_prob
        )
        self.blocks = nn.ModuleList(VitBlock(hidden_size, num_heads, ff_size, dropout_prob) for _ in range(num_layers))
        self.norm = nn.LayerNorm(hidden_size, eps=1e-6)
        self.first = FirstToken()
        self.head = nn.Linear(hidden_size, num_classes)
        for part in self.modules():
            if isinstance(part, (nn.Linear, nn.Conv2d)):
                nn.init.trunc_normal_(part.weight, std=0.02)
                assert part.bias is not None
                nn.init.zeros_(part.bias)

    def layers(self) -> list[nn.Module]:
        return [self.embed, *self.blocks, self.norm, self.first, self.head]

    def name_saved_weights(self, names: Iterable[str]) -> dict[str, str]:
        """The names of timm's weights here; those of the embedding differ."""
        return {name: f"embed.{name.removeprefix('patch_embed.')}" if name in EMBEDDING else name for name in names}

    def forward(self, images: Tensor) -> Tensor:
        """Map images, float [batch, channels, height, width], to logits, float [batch, num_classes]."""
        for layer in self.layers():
            images = layer(images)
        return images


class PatchEmbedding(nn.Module):
    """Maps an image to one vector per patch, with a learnt position, after a token for the class."""

    def __init__(self, channels: int, num_patches: int, patch_size: int, hidden_size: int, dropout_prob: float) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, hidden_size, patch_size, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, hidden_size))
        self.pos_embed = nn.Parameter(torch.zeros(1, num_patches + 1, hidden_size))
        self.dropout = nn.Dropout(dropout_prob)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, images: Tensor) -> Tensor:
        """Map float [batch, channels, height, width] to float [batch, 1 + patches, features]."""
        patches = self.proj(images).flatten(2).transpose(1, 2)
        states = torch.cat([self.cls_token.expand(len(patches), -1, -1), patches], dim=1)
        states = states + self.pos_embed
        embedded: Tensor = self.dropout(states)
        return embedded


class FirstToken(nn.Module):
    """Keeps the vector of the token for the class."""

    def forward(self, states: Tensor) -> Tensor:
        """Map float [batch, tokens, features] to float [batch, features]."""
        return states[:, 0]


class VitBlock(nn.Module):
    """Self-attention and a feed-forward layer, each after a layer normalisation and around a residual connection."""

    def __init__(self, hidden_size: int, num_heads: int, ff_size: int, dropout_prob: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm1 = nn.LayerNorm(hidden_size, eps=1e-6)
        self.attn = nn.ModuleDict(
            {"qkv": nn.Linear(hidden_size, 3 * hidden_size), "proj": nn.Linear(hidden_size, hidden_size)}
        )
        self.norm2 = nn.LayerNorm(hidden_size, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(hidden_size, ff_size), "fc2": nn.Linear(ff_size, hidden_size)})
        self.dropout = nn.Dropout(dropout_prob)

    def forward(self, states: Tensor) -> Tensor:
        """Map float [batch, patches, features] to the same shape."""
        heads = self.attn["qkv"](self.norm1(states)).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(*heads.unbind(0)).transpose(1, 2).flatten(2)
        states = states + self.dropout(self.attn["proj"](attended))
        hidden = self.dropout(F.gelu(self.mlp["fc1"](self.norm2(states))))
        outputs: Tensor = states + self.dropout(self.mlp["fc2"](hidden))
        return outputs
