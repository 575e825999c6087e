"""Telling the words around a word from noise."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from modules.data.base import Tensors


class NoiseContrastive:
    """Trains by the surprise, in nats, whether a pair is true or noise; a mean over pairs, then over examples.

    Noise-contrastive estimation compares a score with how likely noise is to give the word, so that scores become
    log-probabilities; negative sampling leaves that out, which is enough for vectors.
    Source: Gutmann and Hyvärinen 2012, jmlr.org/papers/v13/gutmann12a.html; Mnih and Teh 2012; Mikolov et al. 2013,
    arXiv:1310.4546, section 2.2.
    """

    def __init__(self, num_negatives_per_pair: int, correct_for_noise: bool) -> None:
        """
        Args:
            num_negatives_per_pair: words of noise that count for one true one; those that an example shares are weighed for it.
            correct_for_noise: true: noise-contrastive estimation; false: negative sampling.
        """
        if num_negatives_per_pair < 1:
            raise ValueError(
                f"NoiseContrastive wants num_negatives_per_pair of at least 1, but got {num_negatives_per_pair}"
            )
        self.num_negatives_per_pair, self.correct_for_noise = num_negatives_per_pair, correct_for_noise

    def __call__(self, outputs: Tensors, targets: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """Mean over the examples of a batch.

        Args:
            outputs: logits with the words around, float [batch, time, width], and with noise, [batch, time, num_negatives].
            targets: which are pairs, bool [batch, time, width]; the log-probability of every word as noise, float [batch,
                time]; and that of the noise, float [batch, num_negatives].

        Returns:
            The loss, float [], and ``loss_nats``: the same, without a graph.

        Raises:
            ValueError: these are no such tuples.
        """
        if isinstance(outputs, Tensor) or isinstance(targets, Tensor) or (len(outputs), len(targets)) != (2, 3):
            raise ValueError(
                "NoiseContrastive wants two tensors of logits and three of targets; take model=skip_gram and its data"
            )
        (near, far), (pairs, log_noise_near, log_noise_far) = outputs, targets
        if self.correct_for_noise:
            expected = math.log(self.num_negatives_per_pair)
            window = pairs.shape[2] // 2
            near = near - expected - F.pad(log_noise_near, (window, window)).unfold(1, pairs.shape[2], 1)
            far = far - expected - log_noise_far[:, None]
        true = (F.softplus(-near) * pairs).sum(dim=(1, 2))
        pairs_of_word = pairs.sum(dim=2)
        false = (F.softplus(far).sum(dim=2) * pairs_of_word).sum(dim=1) * (self.num_negatives_per_pair / far.shape[2])
        loss = ((true + false) / pairs_of_word.sum(dim=1).clamp_min(1)).mean()
        return loss, {"loss_nats": loss.detach()}
