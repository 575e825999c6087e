"""A decoder-only transformer language model."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from modules.model.base import Shard
from modules.model.layers.causal_attention import CausalAttention

NORM_EPS = 1e-5
INIT_STD = 0.02


class Gpt(nn.Module):
    """A decoder-only transformer with the layers of Llama and the initial weights of GPT-2.

    RMS norms before every layer, rotary positions, gated feed-forward layers, no biases.
    Source: Touvron et al. 2023, arXiv:2307.09288, section 2.2; initial weights: Radford et al. 2019, section 2.3.
    """

    is_component = True

    def __init__(
        self,
        vocab_size: int,
        context_tokens: int,
        num_layers: int,
        num_heads: int,
        num_kv_heads: int,
        hidden_size: int,
        ff_size: int,
        tie_embeddings: bool,
        dropout_prob: float,
        recompute: bool,
    ) -> None:
        """
        Args:
            vocab_size: size of the vocabulary.
            context_tokens: maximum length of a text; no weight depends on it, as positions are rotary.
            num_layers: number of blocks of attention and feed-forward layer.
            num_heads: query heads, a divisor of half the ``hidden_size``.
            num_kv_heads: key and value heads, a divisor of ``num_heads``.
            hidden_size: features of a token between the blocks.
            ff_size: units of a feed-forward layer; 8/3 of ``hidden_size`` gives as many weights as factor 4 without a gate.
            tie_embeddings: use the embedding as the weight of the output layer.
            dropout_prob: dropout after the embedding and on the output of every layer.
            recompute: activation checkpointing: store only the states between blocks, and recompute the rest.

        Raises:
            ValueError: a size is not positive, or not divisible as needed.
        """
        super().__init__()
        sizes = (vocab_size, context_tokens, num_layers, num_heads, num_kv_heads, hidden_size, ff_size)
        if min(sizes) < 1:
            raise ValueError(
                "Gpt wants vocab_size, context_tokens, num_layers, num_heads, num_kv_heads, hidden_size and ff_size of at "
                f"least 1, but got {', '.join(map(str, sizes))}; raise those below 1"
            )
        if not 0 <= dropout_prob < 1:
            raise ValueError(f"Gpt wants dropout_prob in [0, 1), but got {dropout_prob}; 0 means no dropout")
        self.words = TokenEmbedding(vocab_size, context_tokens, hidden_size, dropout_prob)
        self.blocks = nn.ModuleList(
            Block(CausalAttention(hidden_size, num_heads, num_kv_heads), hidden_size, ff_size, dropout_prob, recompute)
            for _ in range(num_layers)
        )
        self.norm = nn.RMSNorm(hidden_size, eps=NORM_EPS)
        self.head = nn.Linear(hidden_size, vocab_size, bias=False)
        if tie_embeddings:
            self.head.weight = self.words.embedding.weight
        self.vocab_size, self.ff_size = vocab_size, ff_size
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self._init_weights()

    def layers(self) -> list[nn.Module]:
        return [self.words, *self.blocks, self.norm, self.head]

    def shards(self) -> dict[str, Shard]:
        """Split attention by heads, feed-forward layers by units, words by vocabulary. Source: Shoeybi et al. 2019,
        arXiv:1909.08053.
        """
        own = {
            "attention.query": Shard("column", self.num_heads, "num_heads"),
            "attention.key": Shard("column", self.num_kv_heads, "num_kv_heads"),
            "attention.value": Shard("column", self.num_kv_heads, "num_kv_heads"),
            "attention.output": Shard("row", self.num_heads, "num_heads"),
            "feed_forward.gate": Shard("column", self.ff_size, "ff_size"),
            "feed_forward.up": Shard("column", self.ff_size, "ff_size"),
            "feed_forward.down": Shard("row", self.ff_size, "ff_size"),
        }
        return {
            "words.embedding": Shard("vocabulary", self.vocab_size, "vocab_size"),
            **{f"blocks.{number}.{name}": shard for number in range(len(self.blocks)) for name, shard in own.items()},
            "head": Shard("classes", self.vocab_size, "vocab_size"),
        }

    def forward(self, words: Tensor) -> Tensor:
        """Score the next token.

        Args:
            words: int64 [batch, time], each in ``[0, vocab_size)``; ``time`` is at most ``context_tokens``.

        Returns:
            Logits, float [batch, time, vocab_size]; at each time they depend on the tokens up to it.

        Raises:
            ValueError: the text is too long.
        """
        states = words
        for layer in self.layers():
            states = layer(states)
        return states

    def _init_weights(self) -> None:
        """Draw normal weights as in GPT-2; the layers that add to the residual stream are scaled down with the depth."""
        for name, layer in self.named_modules():
            if isinstance(layer, nn.Linear | nn.Embedding):
                adds = name.endswith(("attention.output", "feed_forward.down"))
                nn.init.normal_(layer.weight, std=INIT_STD * (2 * len(self.blocks)) ** -0.5 if adds else INIT_STD)


class TokenEmbedding(nn.Module):
    """Embeds tokens, with dropout."""

    def __init__(self, vocab_size: int, context_tokens: int, hidden_size: int, dropout_prob: float) -> None:
        super().__init__()
        self.context_tokens = context_tokens
        self.embedding = nn.Embedding(vocab_size, hidden_size)
        self.dropout = nn.Dropout(dropout_prob)

    def forward(self, words: Tensor) -> Tensor:
        """From int64 [batch, time] to float [batch, time, hidden_size]."""
        if words.shape[1] > self.context_tokens:
            raise ValueError(
                f"Gpt wants at most context_tokens={self.context_tokens} tokens in a text, but got {words.shape[1]}; "
                "shorten the text, or raise model.context_tokens"
            )
        return cast(Tensor, self.dropout(self.embedding(words)))


class Block(nn.Module):
    """Attention and a feed-forward layer, each with a residual connection."""

    def __init__(
        self, attention: nn.Module, hidden_size: int, ff_size: int, dropout_prob: float, recompute: bool
    ) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(hidden_size, eps=NORM_EPS)
        self.attention = attention
        self.feed_forward_norm = nn.RMSNorm(hidden_size, eps=NORM_EPS)
        self.feed_forward = FeedForward(hidden_size, ff_size)
        self.dropout = nn.Dropout(dropout_prob)
        self.recompute = recompute

    def forward(self, states: Tensor) -> Tensor:
        """From float [batch, time, hidden_size] to the same."""
        if self.recompute and self.training and torch.is_grad_enabled():
            return cast(Tensor, checkpoint(self._forward, states, use_reentrant=False))
        return self._forward(states)

    def _forward(self, states: Tensor) -> Tensor:
        states = states + self.dropout(self.attention(self.attention_norm(states)))
        fed: Tensor = self.dropout(self.feed_forward(self.feed_forward_norm(states)))
        return states + fed


class FeedForward(nn.Module):
    """A gated feed-forward layer (SwiGLU). Source: Shazeer 2020, arXiv:2002.05202."""

    def __init__(self, hidden_size: int, ff_size: int) -> None:
        super().__init__()
        self.gate = nn.Linear(hidden_size, ff_size, bias=False)
        self.up = nn.Linear(hidden_size, ff_size, bias=False)
        self.down = nn.Linear(ff_size, hidden_size, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """From float [batch, time, hidden_size] to the same."""
        return cast(Tensor, self.down(F.silu(self.gate(states)) * self.up(states)))
