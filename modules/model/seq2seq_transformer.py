"""The encoder-decoder transformer."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.data.base import PADDING
from modules.model.base import State
from modules.model.seq2seq import check_sizes

_LONGEST_WAVE = 10_000.0


class Seq2SeqTransformer(nn.Module):
    """An encoder-decoder transformer with sinusoidal positions.

    Unlike the paper, layer norms are before every layer, so deep models train without a long warm-up (Xiong et al. 2020,
    arXiv:2002.04745).
    Source: Vaswani et al. 2017, arXiv:1706.03762.
    """

    is_component = True

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int,
        hidden_size: int,
        num_layers: int,
        num_heads: int,
        ff_size: int,
        tie_embeddings: bool,
        dropout_prob: float,
    ) -> None:
        """
        Args:
            source_vocab_size: size of the source vocabulary.
            target_vocab_size: size of the target vocabulary.
            hidden_size: features of a token between the blocks; even.
            num_layers: blocks of the encoder, and of the decoder.
            num_heads: attention heads, a divisor of ``hidden_size``.
            ff_size: units of a feed-forward layer.
            tie_embeddings: use the target embedding as the weight of the output layer.
            dropout_prob: dropout after the embeddings and on the output of every layer.

        Raises:
            ValueError: a size is not positive or not divisible as needed, or a probability is not in [0, 1).
        """
        super().__init__()
        check_sizes(
            "Seq2SeqTransformer",
            dropout_prob,
            source_vocab_size=source_vocab_size,
            target_vocab_size=target_vocab_size,
            hidden_size=hidden_size,
            num_layers=num_layers,
            num_heads=num_heads,
            ff_size=ff_size,
        )
        if hidden_size % num_heads or hidden_size % 2:
            raise ValueError(
                f"Seq2SeqTransformer wants hidden_size as an even multiple of num_heads={num_heads}, but got {hidden_size}; "
                f"try {2 * num_heads * max(1, round(hidden_size / (2 * num_heads)))}"
            )
        self.words = BothWords(source_vocab_size, target_vocab_size, hidden_size, dropout_prob)
        self.readers = nn.ModuleList(
            EncoderBlock(hidden_size, num_heads, ff_size, dropout_prob) for _ in range(num_layers)
        )
        self.between = Between(hidden_size)
        self.writers = nn.ModuleList(
            DecoderBlock(hidden_size, num_heads, ff_size, dropout_prob) for _ in range(num_layers)
        )
        self.head = NormedHead(hidden_size, target_vocab_size)
        if tie_embeddings:
            self.head.linear.weight = self.words.target.weight

    def layers(self) -> list[nn.Module]:
        """Return embeddings, encoder blocks, a norm, decoder blocks and output layer."""
        return [self.words, *self.readers, self.between, *self.writers, self.head]

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Score every token of the translation.

        Args:
            inputs: the source, int64 [batch, time], padded at its end; and the target shifted by one, int64 [batch, time of
                the target].

        Returns:
            Logits, float [batch, time of the target, target_vocab_size].
        """
        states: Tensor | tuple[Tensor, ...] = inputs
        for layer in self.layers():
            states = layer(states)
        return cast(Tensor, states)

    def encode(self, source: Tensor) -> State:
        """As `Seq2SeqDecoder`: the mask of the source; and for every decoder block the keys and values of the target so far,
        which are empty, and of the source.
        """
        states = self.words.embed_source(source)
        for reader in self.readers:
            states = cast(EncoderBlock, reader).read(states, source)
        memory = self.between.norm(states)
        state: State = (source != PADDING,)
        for writer in self.writers:
            looks = cast(DecoderBlock, writer).look
            keys, values = looks.keys_and_values(memory)
            state = (*state, keys[:, :, :0], values[:, :, :0], keys, values)
        return state

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        """As `Seq2SeqDecoder`."""
        is_word, *caches = state
        states = self.words.embed_target(words[:, None], caches[0].shape[2])
        after: State = (is_word,)
        for number, writer in enumerate(self.writers):
            own_keys, own_values, keys, values = caches[4 * number : 4 * number + 4]
            states, own = cast(DecoderBlock, writer).step(states, (own_keys, own_values), (keys, values), is_word)
            after = (*after, *own, keys, values)
        return F.log_softmax(self.head((states,)).squeeze(1).float(), dim=-1), after


class BothWords(nn.Module):
    """Embeds the tokens of both texts, with positions."""

    def __init__(self, source_vocab_size: int, target_vocab_size: int, hidden_size: int, dropout_prob: float) -> None:
        super().__init__()
        self.source = nn.Embedding(source_vocab_size, hidden_size)
        self.target = nn.Embedding(target_vocab_size, hidden_size)
        self.dropout = nn.Dropout(dropout_prob)
        for table in (self.source, self.target):
            nn.init.normal_(table.weight, std=hidden_size**-0.5)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Map both texts to the source, and the states of source and target, float [batch, time, hidden_size]."""
        source, target = inputs
        return source, self.embed_source(source), self.embed_target(target, 0)

    def embed_source(self, source: Tensor) -> Tensor:
        return self._add_positions(self.source(source), 0)

    def embed_target(self, target: Tensor, first: int) -> Tensor:
        """Embed tokens that begin at position ``first``."""
        return self._add_positions(self.target(target), first)

    def _add_positions(self, vectors: Tensor, first: int) -> Tensor:
        time, size = vectors.shape[1:]
        return cast(Tensor, self.dropout(vectors * math.sqrt(size) + _waves(first, time, size, vectors)))


class Attention(nn.Module):
    """Multi-head attention."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)  # a bias would cancel out in the softmax
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def keys_and_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values, float [batch, heads, time, head_size] each."""
        return self._heads(self.key(memory)), self._heads(self.value(memory))

    def forward(
        self,
        states: Tensor,
        memory: tuple[Tensor, Tensor],
        is_word: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Attend to a memory.

        Args:
            states: float [batch, time, hidden_size].
            memory: from `keys_and_values`.
            is_word: bool [batch, time of the memory], False for positions to ignore; None: no mask.
            is_causal: a state attends to the memory up to its own time.
        """
        mask = None if is_word is None else is_word[:, None, None]
        mixed = F.scaled_dot_product_attention(
            self._heads(self.query(states)), *memory, attn_mask=mask, is_causal=is_causal
        )
        return cast(Tensor, self.output(mixed.transpose(1, 2).flatten(2)))

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.view(*projected.shape[:2], self.num_heads, -1).transpose(1, 2)


class EncoderBlock(nn.Module):
    """An encoder block: self-attention and a feed-forward layer."""

    def __init__(self, hidden_size: int, num_heads: int, ff_size: int, dropout_prob: float) -> None:
        super().__init__()
        self.look_norm, self.look = nn.LayerNorm(hidden_size), Attention(hidden_size, num_heads)
        self.feed = _feed_forward(hidden_size, ff_size)
        self.dropout = nn.Dropout(dropout_prob)

    def forward(self, states: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        source, read, written = states
        return source, self.read(read, source), written

    def read(self, states: Tensor, source: Tensor) -> Tensor:
        """Map float [batch, time, hidden_size] to the same shape."""
        normed = self.look_norm(states)
        states = states + self.dropout(self.look(normed, self.look.keys_and_values(normed), source != PADDING))
        return cast(Tensor, states + self.dropout(self.feed(states)))


class Between(nn.Module):
    """The norm after the last encoder block."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, states: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The target's states come first from here on."""
        source, read, written = states
        return written, source, self.norm(read)


class DecoderBlock(nn.Module):
    """Attention of the target over what is written so far and over the source, and a feed-forward layer."""

    def __init__(self, hidden_size: int, num_heads: int, ff_size: int, dropout_prob: float) -> None:
        super().__init__()
        self.own_norm, self.own = nn.LayerNorm(hidden_size), Attention(hidden_size, num_heads)
        self.look_norm, self.look = nn.LayerNorm(hidden_size), Attention(hidden_size, num_heads)
        self.feed = _feed_forward(hidden_size, ff_size)
        self.dropout = nn.Dropout(dropout_prob)

    def forward(self, states: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        written, source, read = states
        normed = self.own_norm(written)
        written = written + self.dropout(self.own(normed, self.own.keys_and_values(normed), is_causal=True))
        return self._after(written, self.look.keys_and_values(read), source != PADDING), source, read

    def step(
        self, states: Tensor, own: tuple[Tensor, Tensor], memory: tuple[Tensor, Tensor], is_word: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Decode one token of every text, float [texts, 1, hidden_size]; also returns keys and values with this token."""
        normed = self.own_norm(states)
        keys, values = (torch.cat(both, dim=2) for both in zip(own, self.own.keys_and_values(normed), strict=True))
        states = states + self.dropout(self.own(normed, (keys, values)))
        return self._after(states, memory, is_word), (keys, values)

    def _after(self, states: Tensor, memory: tuple[Tensor, Tensor], is_word: Tensor) -> Tensor:
        """Apply the attention over the source and the feed-forward layer."""
        states = states + self.dropout(self.look(self.look_norm(states), memory, is_word))
        return cast(Tensor, states + self.dropout(self.feed(states)))


class NormedHead(nn.Module):
    """Scores every token of the vocabulary, after a norm."""

    def __init__(self, hidden_size: int, vocab_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)
        self.linear = nn.Linear(hidden_size, vocab_size, bias=False)

    def forward(self, states: tuple[Tensor, ...]) -> Tensor:
        return cast(Tensor, self.linear(self.norm(states[0])))


def _feed_forward(hidden_size: int, ff_size: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(hidden_size), nn.Linear(hidden_size, ff_size), nn.ReLU(), nn.Linear(ff_size, hidden_size)
    )


def _waves(first: int, time: int, size: int, like: Tensor) -> Tensor:
    """Return sines and cosines of the positions from ``first`` on, [time, size]; computed in float32 in any precision."""
    place = torch.arange(first, first + time, device=like.device, dtype=torch.float32)
    step = torch.arange(0, size, 2, device=like.device, dtype=torch.float32)
    angles = place[:, None] * _LONGEST_WAVE ** (-step / size)
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(like.dtype)
