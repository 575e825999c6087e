"""Continues sequences of tokens with the most probable one each time."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.data.base import Tensors


def continue_greedily(model: nn.Module, inputs: Tensors, end_token: int, max_tokens: int) -> Tensor:
    """Generate the next tokens of sequences.

    Args:
        model: maps ``inputs`` to logits, float [batch, time, classes], on the same device.
        inputs: the tokens so far, int64 [batch, time], alone or after other tensors.
        end_token: what follows it is replaced by it.
        max_tokens: length of the answer.

    Returns:
        int64 [batch, max_tokens].
    """
    others, tokens = ((), inputs) if isinstance(inputs, Tensor) else (inputs[:-1], inputs[-1])
    start, has_ended = tokens.shape[1], torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    for _ in range(max_tokens):
        logits = model((*others, tokens) if others else tokens)
        following = logits[:, -1].argmax(-1).masked_fill(has_ended, end_token)
        has_ended |= following == end_token
        tokens = torch.cat([tokens, following[:, None]], dim=1)
    return tokens[:, start:]
