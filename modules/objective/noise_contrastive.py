"""Noise-contrastive estimation and negative sampling."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from modules.data.base import Tensors


class NoiseContrastive:
    """Binary cross entropy, in nats, of true pairs against negative samples; a mean over pairs, then over examples.

    Noise-contrastive estimation subtracts the log-probability of the word under the noise, so scores become
    log-probabilities. Negative sampling does not, which is enough to learn word vectors.
    Source: Gutmann and Hyvärinen 2012, jmlr.org/papers/v13/gutmann12a.html; Mnih and Teh 2012; Mikolov et al. 2013,
    arXiv:1310.4546, section 2.2.
    """

    is_component = True

    def __init__(self, num_negatives_per_pair: int, correct_for_noise: bool) -> None:
        """
        Args:
            num_negatives_per_pair: negative samples per true pair; the shared samples of an example are weighted accordingly.
            correct_for_noise: true: noise-contrastive estimation; false: negative sampling.
        """
        if num_negatives_per_pair < 1:
            raise ValueError(
                f"NoiseContrastive wants num_negatives_per_pair of at least 1, but got {num_negatives_per_pair}"
            )
        self.num_negatives_per_pair, self.correct_for_noise = num_negatives_per_pair, correct_for_noise

    def __call__(self, outputs: Tensors, targets: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the mean over the examples of a batch.

        Args:
            outputs: logits of context words, float [batch, time, width], and of negative samples, [batch, time, num_negatives].
            targets: bool [batch, time, width], True for pairs; the log-probability of every word under the noise, float
                [batch, time]; and of the negative samples, float [batch, num_negatives].

        Returns:
            The loss, float [], and ``loss_nats``: the same, detached.

        Raises:
            ValueError: outputs or targets are other tuples.
        """
        if isinstance(outputs, Tensor) or isinstance(targets, Tensor) or (len(outputs), len(targets)) != (2, 3):
            raise ValueError(
                "NoiseContrastive wants two tensors of logits and three of targets; use model=skip_gram and its data"
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
