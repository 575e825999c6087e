"""Finds the text of frames that were scored by a model with connectionist temporal classification (CTC)."""

from __future__ import annotations

from collections import defaultdict
from math import exp, inf, log1p

import numpy as np
import torch
from torch import Tensor

from modules.data.base import END, PADDING, START

Text = tuple[int, ...]


def ctc_search(log_probs: Tensor, lengths: Tensor, beam_size: int) -> Tensor:
    """Find a text for every sequence of frames. The blank is `PADDING`.

    With a beam of 1 it is the text of the likeliest alignment: the best token of each frame, without repeats and blanks.
    Otherwise it is a prefix search: the ``beam_size`` likeliest beginnings are kept after every frame, each with the sum of
    all its alignments, and extended by the ``beam_size`` likeliest tokens of the next frame.
    Source: Graves et al. 2006, doi:10.1145/1143844.1143891, section 3.2; Hannun et al. 2014, arXiv:1408.2873.

    Args:
        log_probs: float [batch, frames, vocab_size].
        lengths: valid frames of each, int64 [batch].
        beam_size: number of beginnings, at least 1.

    Returns:
        int64 [batch, time]: the texts, each with `END` and padding, as `beam_search` returns them.
    """
    scores = log_probs.detach().float().cpu().clone()
    scores[:, :, [START, END]] = -inf
    rows = [frames[:length] for frames, length in zip(scores, lengths.tolist(), strict=True)]
    texts = [_find_best_path(row) if beam_size == 1 else _search_prefixes(row.numpy(), beam_size) for row in rows]
    found = torch.full((len(texts), max(map(len, texts), default=0) + 1), PADDING)
    for row, text in zip(found, texts, strict=True):
        row[: len(text) + 1] = torch.tensor([*text, END])
    return found.to(log_probs.device)


def _find_best_path(frames: Tensor) -> Text:
    """The text of the best token of each frame, float [frames, vocab_size]."""
    path = torch.unique_consecutive(frames.argmax(dim=1))
    return tuple(path[path != PADDING].tolist())


def _search_prefixes(frames: np.ndarray, beam_size: int) -> Text:
    """The best text of log-probabilities, float [frames, vocab_size]."""
    beam: dict[Text, tuple[float, float]] = {(): (0.0, -inf)}
    """Log-probabilities of each beginning: of its alignments that end in a blank, and of those that end in its last token."""
    num_tokens = min(beam_size + 1, frames.shape[1])  # one of them may be the blank
    for frame in frames:
        best = np.argpartition(-frame, num_tokens - 1)[:num_tokens]
        tokens = [(int(token), float(frame[token])) for token in best if token != PADDING and frame[token] > -inf]
        blank = float(frame[PADDING])
        grown: dict[Text, list[float]] = defaultdict(lambda: [-inf, -inf])
        for text, (after_blank, after_token) in beam.items():
            both = _add(after_blank, after_token)
            own = grown[text]
            own[0] = _add(own[0], both + blank)
            if text:
                own[1] = _add(own[1], after_token + float(frame[text[-1]]))
            for token, score in tokens:
                longer = grown[(*text, token)]
                before = after_blank if text and token == text[-1] else both
                longer[1] = _add(longer[1], before + score)
        kept = sorted(grown, key=lambda text: (-_add(*grown[text]), text))[:beam_size]
        beam = {text: (grown[text][0], grown[text][1]) for text in kept}
    return next(iter(beam))


def _add(one: float, other: float) -> float:
    """The logarithm of the sum of two probabilities, from their logarithms."""
    larger, smaller = max(one, other), min(one, other)
    return larger if smaller == -inf else larger + log1p(exp(smaller - larger))
