"""The lower layers of a classifier of photos, as an encoder."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import nn


class PhotoEncoder(nn.Sequential):
    """The layers of a network up to one of them, by name; it maps photos to float [batch, channels, height, width]."""

    def __init__(self, network: nn.Module, last_layer: str, image_shape: Sequence[int]) -> None:
        """
        Args:
            network: whose parts run in the order of their definition, such as `BnInception` or `ResNet`.
            last_layer: name of the last part that is used, before the classes.
            image_shape: [channels, height, width].

        Raises:
            ValueError: the network has no such part, or its outputs are no maps.
        """
        parts = OrderedDict(network.named_children())
        if last_layer not in parts:
            raise ValueError(
                f"model.last_layer={last_layer!r} is not a part of {type(network).__name__}; choose among {', '.join(parts)}"
            )
        names = list(parts)
        super().__init__(OrderedDict((name, parts[name]) for name in names[: names.index(last_layer) + 1]))
        self.eval()
        with torch.no_grad():
            maps = self(torch.zeros(1, *image_shape))
        self.train()
        if maps.dim() != 4:
            raise ValueError(
                f"model.last_layer={last_layer!r} returns {list(maps.shape)}, but must return maps as [batch, channels, height, "
                f"width]; choose an earlier part among {', '.join(parts)}"
            )
        self.num_channels, self.map_size = maps.shape[1], (maps.shape[2], maps.shape[3])
