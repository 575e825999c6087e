"""Texts that a model generates for the inputs of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from torch import Tensor, nn

from modules.data.base import HasReferences, Tensors
from modules.evaluator.texts.beam_search import beam_search
from modules.evaluator.texts.ctc_search import ctc_search
from modules.model.base import ScoresFrames, Seq2SeqDecoder


@dataclass(frozen=True)
class SearchOptions:
    """How the best text of an input is found; see `beam_search`, and `ctc_search`, which uses only the size of the beam."""

    beam_size: int
    """Hypotheses of the beam; 1 is greedy search."""
    length_alpha: float
    """Exponent of the length normalisation; 0: none. Source: Wu et al. 2016, arXiv:1609.08144, section 7."""
    max_tokens: int
    """Maximum length of a text."""

    def list_problems(self) -> list[str]:
        """What is wrong with the options of an evaluator."""
        return list_too_small(
            ("beam_size", self.beam_size, 1, "write 1, which is greedy, or more"),
            ("length_alpha", self.length_alpha, 0, "write 0, which means no normalisation, or more"),
            ("max_tokens", self.max_tokens, 1, "write the number of tokens of the longest text"),
        )


def list_too_small(*options: tuple[str, float | None, float, str]) -> list[str]:
    """A problem for each option (name, value, least value, hint) of an evaluator that is too small; None has no bound."""
    return [
        f"evaluator.{key}={number:g} is less than {least:g}; {hint}"
        for key, number, least, hint in options
        if number is not None and number < least
    ]


def generate(
    model: nn.Module, source: Tensors, data: HasReferences, search: SearchOptions, evaluator: str
) -> list[str]:
    """Return a text for each input.

    Args:
        model: in evaluation mode.
        source: inputs without the tokens of the target, see `take_source`.
        data: converts tokens to text.
        search: how the best text is found.
        evaluator: name of the class that asks, for messages.

    Raises:
        ValueError: the model cannot generate text.
    """
    if isinstance(model, ScoresFrames):
        tokens = ctc_search(*model.score_frames(source), search.beam_size)
    elif isinstance(model, Seq2SeqDecoder):
        tokens = beam_search(model, source, search.beam_size, search.length_alpha, search.max_tokens)
    else:
        raise ValueError(
            f"evaluator {evaluator} wants a model with encode() and step(), or with score_frames(), but {type(model).__name__} "
            "has none; use model=seq2seq_attention"
        )
    return [data.target_text(row) for row in tokens.cpu()]


def take_source(inputs: Tensors) -> Tensors:
    """Return the inputs of `HasReferences` without the target tokens: a tensor if there is one, otherwise a tuple."""
    assert not isinstance(inputs, Tensor), "data with references have at least two inputs"
    return inputs[0] if len(inputs) == 2 else inputs[:-1]


def select_rows(source: Tensors, rows: Tensor) -> Tensors:
    """Return the rows of every tensor."""
    return source[rows] if isinstance(source, Tensor) else tuple(tensor[rows] for tensor in source)


def to_device_of(source: Tensors, model: nn.Module) -> Tensors:
    """Copy inputs to the device of a model."""
    device = next(model.parameters()).device
    if isinstance(source, Tensor):
        return source.to(device)
    return cast(Tensors, tuple(tensor.to(device) for tensor in source))
