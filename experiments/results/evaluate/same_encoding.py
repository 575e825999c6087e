"""Whether other data number their tokens as the data of the training did: a model knows only the numbers."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from experiments.components.instantiate import instantiate
from modules.data.base import DataError, HasReferences, HasVocabulary, SavesReader, Tokenized


def find_other_tokens(before: dict[str, Any], now: dict[str, Any], trust: Collection[str]) -> str | None:
    """Why the tokens of other data may mean something else than in the training; None if they mean the same.

    Args:
        before: the node of the data that the model was trained with.
        now: that of the data to evaluate on.
        trust: packages that the nodes may name.
    """
    trained, other = (instantiate(node, "data", trust) for node in (before, now))
    rule = "numbers its tokens in its own way, and the model knows those of the training"
    try:
        tokens = _list_tokens(other)
        if tokens is None and not isinstance(other, HasReferences):
            return None
        if tokens is None:
            return f"{now['_target_']} {rule}; evaluate on a split of the run's own data"
        if tokens == _list_tokens(trained):
            return None
    except DataError as err:
        return f"the tokens of the training and of these data cannot be compared: {err}"
    return f"{now['_target_']} {rule}; choose data with the same vocabulary"


def _list_tokens(data: object) -> Any:
    """What the numbers of the tokens mean, such as the text of each; None if there are no tokens, or it is not known."""
    if isinstance(data, HasVocabulary):
        return list(data.words)
    if isinstance(data, Tokenized):
        tokenizer = data.tokenizer
        return [tokenizer.decode(torch.tensor([number])) for number in range(tokenizer.num_tokens)]
    if isinstance(data, HasReferences) and isinstance(data, SavesReader):
        return data.save_reader()
    return None
