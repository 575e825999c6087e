"""Beam search."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.data.base import END, PADDING, START, Tensors
from modules.model.base import Seq2SeqDecoder, State


def beam_search(model: Seq2SeqDecoder, source: Tensors, beam_size: int, length_alpha: float, max_tokens: int) -> Tensor:
    """Generate a text for every source, with the ``beam_size`` best hypotheses after every token.

    A finished hypothesis reduces the beam by one, so a beam of 1 is greedy search, and a beam of all texts finds the best one.
    Score: log-probability over ``((5 + length) / 6) ** length_alpha``, where the length includes the end token.
    Source: Wu et al. 2016, arXiv:1609.08144, equation 14; Sutskever et al. 2014, arXiv:1409.3215, section 3.2.

    Args:
        model: in evaluation mode.
        source: inputs of the encoder, [batch, ...] each.
        beam_size: number of hypotheses.
        length_alpha: exponent of the length normalisation; 0: none.
        max_tokens: maximum length, with the end token.

    Returns:
        int64 [batch, max_tokens]: the best text of each source, with `END` and padding.
    """
    first = source if isinstance(source, Tensor) else source[0]
    batch, device = len(first), first.device
    best = torch.full((batch, max_tokens), PADDING, device=device)
    best_scores = torch.full((batch,), -torch.inf, device=device)
    searched = torch.arange(batch, device=device)  # sources that are not finished
    texts = torch.full((batch, 1, 1), START, device=device)  # [searched, beam, time], beginning with START
    log_probs = torch.zeros(batch, 1, device=device)  # -inf: dropped
    room = torch.full((batch,), beam_size, device=device)  # maximum number of unfinished hypotheses
    state = model.encode(source)
    longest = _penalty(max_tokens, length_alpha)
    for length in range(1, max_tokens + 1):
        scores, state = model.step(state, texts[:, :, -1].flatten())
        scores[:, [PADDING, START]] = -torch.inf
        width, vocab_size = texts.shape[1], scores.shape[1]
        all_log_probs = (log_probs[:, :, None] + scores.float().view(len(searched), width, vocab_size)).flatten(1)
        log_probs, chosen = all_log_probs.topk(min(beam_size, all_log_probs.shape[1]))
        log_probs = log_probs.masked_fill(
            torch.arange(log_probs.shape[1], device=room.device) >= room[:, None], -torch.inf
        )
        origin, words = chosen // vocab_size, chosen % vocab_size
        texts = torch.cat([texts.gather(1, origin[:, :, None].expand(-1, -1, length)), words[:, :, None]], dim=2)
        has_ended = (words == END) | (length == max_tokens)
        normed = (log_probs / _penalty(length, length_alpha)).masked_fill(~has_ended, -torch.inf)
        top_scores, top_index = normed.max(dim=1)
        better = top_scores > best_scores[searched]
        rows = searched[better]
        best_scores[rows] = top_scores[better]
        best[rows, :length] = texts[better, top_index[better], 1:]
        best[rows, length:] = PADDING
        room = room - (has_ended & log_probs.isfinite()).sum(1)
        log_probs = log_probs.masked_fill(has_ended, -torch.inf)
        # Further log-probabilities are at most 0, so no hypothesis can exceed this bound.
        open_ = log_probs.amax(dim=1) / longest > best_scores[searched]
        if not open_.any():
            break
        first_rows = torch.arange(len(searched), device=room.device)[:, None] * width
        state = _rows(state, (first_rows + origin)[open_].flatten())
        searched, texts, log_probs, room = searched[open_], texts[open_], log_probs[open_], room[open_]
    return best


def _penalty(length: int, alpha: float) -> float:
    return float(((5 + length) / 6) ** alpha)


def _rows(state: State, rows: Tensor) -> State:
    return tuple(tensor.index_select(0, rows) for tensor in state)
