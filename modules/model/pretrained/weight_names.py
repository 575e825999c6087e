"""The names of weights in files that transformers wrote, which may differ from those of the model in memory."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from torch import nn

PREFIX = "model"
"""The attribute with the model in Lathe's wrappers."""


def name_saved_weights(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """The name in a wrapper of each weight that `save_pretrained` wrote for the model in it.

    The library itself renames weights when it loads them: layers that have other names in older files, and models with and
    without a head. What it computes from several weights, such as joined experts, stays without a partner.

    Args:
        model: the model inside of the wrapper, of transformers or another library.
        names: in the files.
    """
    if not any(base.__name__ == "PreTrainedModel" for base in type(model).__mro__):
        return {name: f"{PREFIX}.{name}" for name in names}
    # By name, so that an exported model of another library does not require this one.
    mapping, loading = (import_module(f"transformers.{name}") for name in ("conversion_mapping", "core_model_loading"))
    rules = [rule for rule in mapping.get_model_conversion_mapping(model) if isinstance(rule, loading.WeightRenaming)]
    own, base = model.state_dict(), str(model.base_model_prefix)
    return {name: f"{PREFIX}.{loading.rename_source_key(name, rules, [], base, own)[0]}" for name in names}
