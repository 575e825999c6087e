"""Low-rank adapters of linear layers, made by PEFT."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from torch import nn

from modules.model.base import NamesSavedWeights
from modules.parallel.checkpoint_format import copy_to_cpu, write_tensors

CLOSED = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)
"""Modules of torch that compute with the weights of their layers, past the layers and so past an adapter."""
NAME = "default"
"""PEFT's name of an adapter; it is a part of the names of its parameters."""
WRAPPED = "model."
"""Beginning of the names of a model of another library in Lathe's wrappers."""


class Lora:
    """Trains ``weight + alpha / rank * B @ A`` with small matrices A and B in place of the weight of a layer.

    Source: Hu et al. 2021, arXiv:2106.09685; https://huggingface.co/docs/peft.
    """

    is_component = True

    def __init__(
        self,
        rank: int = 8,
        alpha: float = 16.0,
        dropout_prob: float = 0.0,
        targets: Sequence[str] | Literal["auto"] = "auto",
    ) -> None:
        """
        Args:
            rank: columns of B and rows of A.
            alpha: factor of the product, which is divided by ``rank``.
            dropout_prob: dropout of the inputs of A.
            targets: names or last parts of names of linear layers, convolutions and embeddings, with `*` for any text; "auto":
                all linear layers but new ones, which are trained themselves.
        """
        if rank < 1 or not 0 <= dropout_prob < 1:
            raise ValueError(
                f"Lora wants rank of at least 1 and dropout_prob in [0, 1), but got {rank} and {dropout_prob}"
            )
        self.rank, self.alpha, self.dropout_prob, self.targets = rank, alpha, dropout_prob, targets
        self.layers: list[str] = []
        """Names of the layers with an adapter."""
        self.new: list[str] = []
        self.tuner: Any = None

    def attach(self, model: nn.Module, new: Collection[str]) -> None:
        try:
            from peft import LoraConfig
            from peft.tuners.lora import LoraModel
        except ImportError as err:
            raise ValueError("Lora wants PEFT, which is an extra; `pip install 'lathe-dl[models]'`") from err
        self.layers, self.new = self._find_layers(model, new), sorted(new)
        config = LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout_prob,
            target_modules="|".join(map(re.escape, self.layers)),
        )
        self.tuner = LoraModel(model, config, NAME)

    def merge(self, model: nn.Module) -> None:
        self.tuner.merge_and_unload()

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write `adapter_config.json` and `adapter_model.safetensors`, which PEFT loads into the model of the library."""
        from peft import LoraConfig

        start = WRAPPED if isinstance(model, NamesSavedWeights) else ""
        tensors = {
            f"base_model.model.{name.replace(f'.{NAME}.', '.').removeprefix(start)}": copy_to_cpu(tensor)
            for name, tensor in model.state_dict().items()
            if ".lora_" in name or name in self.new
        }
        LoraConfig(
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout_prob,
            target_modules=[name.removeprefix(start) for name in self.layers],
            modules_to_save=sorted({name.rpartition(".")[0].removeprefix(start) for name in self.new}) or None,
        ).save_pretrained(str(folder))
        write_tensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})

    def _find_layers(self, model: nn.Module, new: Collection[str]) -> list[str]:
        """The names of the layers that get an adapter.

        Raises:
            ValueError: a pattern names none, or one whose weight belongs to another layer too.
        """
        parts = dict(model.named_modules())
        owners: dict[int, list[str]] = {}
        for name, tensor in model.named_parameters(remove_duplicate=False):
            owners.setdefault(id(tensor), []).append(name)
        inside = [f"{name}." for name, part in parts.items() if isinstance(part, CLOSED)]
        known = {
            name: part
            for name, part in parts.items()
            if name and _is_adaptable(part) and not name.startswith(tuple(inside))
        }
        tied = {
            name: others[0].rpartition(".")[0]
            for name, part in known.items()
            if (others := [other for other in owners[id(part.weight)] if other != f"{name}.weight"])
        }
        if self.targets == "auto":
            chosen = [
                name
                for name, part in known.items()
                if _is_linear(part) and name not in tied and f"{name}.weight" not in new
            ]
            if not chosen:
                raise ValueError(f"Lora finds no linear layer in {type(model).__name__} with weights from the files")
            return chosen
        chosen = []
        for pattern in self.targets:
            found = [name for name in known if fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}")]
            if not found:
                last = sorted({name.rpartition(".")[2] for name in known})
                close = difflib.get_close_matches(pattern, [*last, *known], n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"its layers end in {', '.join(last)}"
                raise ValueError(f"targets={pattern!r} names no linear layer of {type(model).__name__}; {hint}")
            if shared := [name for name in found if name in tied]:
                raise ValueError(
                    f"targets={pattern!r} names {shared[0]}, whose weight is also that of {tied[shared[0]]}; leave it out"
                )
            chosen += found
        return list(dict.fromkeys(chosen))


def _is_linear(part: nn.Module) -> bool:
    """Whether a module is a linear layer; GPT-2 of transformers has a class of its own."""
    return isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D"


def _is_adaptable(part: nn.Module) -> bool:
    return _is_linear(part) or isinstance(part, nn.Embedding | nn.Conv1d | nn.Conv2d | nn.Conv3d)
