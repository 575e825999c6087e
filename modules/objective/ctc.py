"""Connectionist temporal classification: learns texts from longer sequences of frames, without an alignment."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from modules.data.base import END, IGNORED, PADDING, START, Tensors


class Ctc:
    """The negative log-probability of a text, summed over all its alignments with the frames.

    The blank is `PADDING`. The loss of a text is divided by its number of tokens; the loss of a batch is the mean over its
    texts. A text that needs more frames than there are has no alignment, and a loss of 0; ``share_too_long`` says how many
    texts these are. On a GPU, torch has no gradient of it that is the same to the bit in every run, so
    `determinism=bitwise` refuses it there.
    Source: Graves et al. 2006, doi:10.1145/1143844.1143891.
    """

    is_component = True

    def __call__(self, outputs: Tensors, targets: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the mean over the texts of a batch.

        Args:
            outputs: logits, float [batch, frames, vocab_size], and the number of valid frames of each, int64 [batch].
            targets: token ids, int64 [batch, time]; of a tuple, the first. `START`, `END`, `PADDING` and `IGNORED` are left out.

        Returns:
            The loss, float []; and detached ``loss_nats``, which is the same, and ``share_too_long``.

        Raises:
            ValueError: the outputs are something else, or the shapes do not fit.
        """
        tokens = targets if isinstance(targets, Tensor) else targets[0]
        logits, lengths = _check(outputs, tokens)
        texts, counts = _remove_special(tokens)
        log_probs = logits.float().log_softmax(dim=-1).transpose(0, 1)
        if isinstance(log_probs, FakeTensor):  # in a plan; torch's operation needs the values of the lengths
            nats = -log_probs.mean(dim=(0, 2))
        else:
            nats = F.ctc_loss(log_probs, texts, lengths, counts, blank=PADDING, reduction="none", zero_infinity=True)
        loss = (nats / counts.clamp_min(1)).mean()
        is_too_long = counts + _count_repeats(texts) > lengths
        return loss, {"loss_nats": loss.detach(), "share_too_long": is_too_long.float().mean()}


def _check(outputs: Tensors, tokens: Tensor) -> tuple[Tensor, Tensor]:
    if (
        isinstance(outputs, Tensor)
        or len(outputs) != 2
        or outputs[0].dim() != 3
        or outputs[1].shape != outputs[0].shape[:1]
        or tokens.dim() != 2
        or len(tokens) != len(outputs[0])
    ):
        shape = list(outputs.shape) if isinstance(outputs, Tensor) else [list(each.shape) for each in outputs]
        raise ValueError(
            f"Ctc wants logits as [batch, frames, vocab_size] with lengths as [batch], tokens as [batch, time], but got "
            f"{shape} and {list(tokens.shape)}; choose a model that scores frames, such as model=frame_lstm"
        )
    return outputs[0], outputs[1]


def _remove_special(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Move the tokens of each text to its beginning; returns int64 [batch, time], padded, and their numbers, int64 [batch]."""
    is_special = sum(tokens == special for special in (START, END, PADDING, IGNORED)).bool()  # type: ignore[union-attr]  # a sum of tensors is no int
    order = is_special.long().argsort(dim=1, stable=True)
    texts = tokens.masked_fill(is_special, PADDING).gather(1, order)
    return texts, (~is_special).sum(dim=1)


def _count_repeats(texts: Tensor) -> Tensor:
    """Count the tokens that equal the one before, int64 [batch]: an alignment needs a blank between them."""
    return ((texts[:, 1:] == texts[:, :-1]) & (texts[:, 1:] != PADDING)).sum(dim=1)
