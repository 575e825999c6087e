"""The best text that a model can write, as far as a beam sees."""

from __future__ import annotations

import torch
from torch import Tensor

from modules.data.base import END, PADDING, START
from modules.model.base import Seq2SeqDecoder, State


def beam_search(model: Seq2SeqDecoder, source: Tensor, beam_size: int, length_alpha: float, max_tokens: int) -> Tensor:
    """Write a text for every source, keeping the ``beam_size`` best beginnings of each after every word.

    A beginning that ends leaves the beam smaller by one, so that a beam of 1 is greedy, and one as large as all texts finds
    the best of all. Texts are compared by their log-probability over ``((5 + length) / 6) ** length_alpha``, a length counting
    the end. Source: Wu et al. 2016, arXiv:1609.08144, equation 14; Sutskever et al. 2014, arXiv:1409.3215, section 3.2.

    Args:
        model: in evaluation mode.
        source: what it encodes, [batch, ...].
        beam_size: beginnings of a text that are kept.
        length_alpha: how much long texts are helped; 0: not.
        max_tokens: the longest text, with its end; longer ones are cut there.

    Returns:
        int64 [batch, max_tokens]: the best text of each, its `END` and padding after it.
    """
    batch = len(source)
    best = torch.full((batch, max_tokens), PADDING, device=source.device)
    best_scores = torch.full((batch,), -torch.inf, device=source.device)
    searched = torch.arange(batch, device=source.device)  # the sources whose search goes on
    texts = torch.full(
        (batch, 1, 1), START, device=source.device
    )  # [searched, beam, time], of which the first is START
    log_probs = torch.zeros(batch, 1, device=source.device)  # of these; -inf: given up
    room = torch.full((batch,), beam_size, device=source.device)  # beginnings that have not ended yet, at most
    state = model.encode(source)
    longest = _penalty(max_tokens, length_alpha)
    for length in range(1, max_tokens + 1):
        scores, state = model.step(state, texts[:, :, -1].flatten())
        scores[:, [PADDING, START]] = -torch.inf
        width, vocab_size = texts.shape[1], scores.shape[1]
        every = (log_probs[:, :, None] + scores.float().view(len(searched), width, vocab_size)).flatten(1)
        log_probs, chosen = every.topk(min(beam_size, every.shape[1]))
        log_probs = log_probs.masked_fill(
            torch.arange(log_probs.shape[1], device=room.device) >= room[:, None], -torch.inf
        )
        origin, words = chosen // vocab_size, chosen % vocab_size
        texts = torch.cat([texts.gather(1, origin[:, :, None].expand(-1, -1, length)), words[:, :, None]], dim=2)
        has_ended = (words == END) | (length == max_tokens)
        normed = (log_probs / _penalty(length, length_alpha)).masked_fill(~has_ended, -torch.inf)
        found, place = normed.max(dim=1)
        better = found > best_scores[searched]
        rows = searched[better]
        best_scores[rows] = found[better]
        best[rows, :length] = texts[better, place[better], 1:]
        best[rows, length:] = PADDING
        room = room - (has_ended & log_probs.isfinite()).sum(1)
        log_probs = log_probs.masked_fill(has_ended, -torch.inf)
        # What is added is never above 0: no beginning can get farther than this.
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
