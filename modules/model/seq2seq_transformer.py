"""Sequence to sequence by attention alone: the encoder-decoder transformer."""

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
    """Translates a text by blocks of attention over it and over what is written so far.

    Norms stand before every part, where the paper has them behind: deep ones then train without a long warm-up (Xiong et al.
    2020, arXiv:2002.04745). Positions are waves, so that no weight depends on the longest text.
    Source: Vaswani et al. 2017, arXiv:1706.03762.
    """

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
            source_vocab_size: words of the source that there are.
            target_vocab_size: words to write.
            hidden_size: features of a word between the blocks; even.
            num_layers: blocks that read, and as many that write.
            num_heads: of every attention; a divisor of ``hidden_size``.
            ff_size: units of a feed-forward layer.
            tie_embeddings: score the words to write by the very vectors that they are read as.
            dropout_prob: share of the features that training leaves out, of the words and of what every part adds.

        Raises:
            ValueError: a size is not positive, or does not divide what it has to; or a share is none.
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
            ReaderBlock(hidden_size, num_heads, ff_size, dropout_prob) for _ in range(num_layers)
        )
        self.between = Between(hidden_size)
        self.writers = nn.ModuleList(
            WriterBlock(hidden_size, num_heads, ff_size, dropout_prob) for _ in range(num_layers)
        )
        self.head = NormedHead(hidden_size, target_vocab_size)
        if tie_embeddings:
            self.head.linear.weight = self.words.target.weight

    def layers(self) -> list[nn.Module]:
        """Words, blocks that read, a norm, blocks that write, the scores."""
        return [self.words, *self.readers, self.between, *self.writers, self.head]

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Score every word of the translation by those before it.

        Args:
            inputs: the source, int64 [batch, time], padded at its end; and the target's words before each, int64 [batch,
                time of the target].

        Returns:
            Logits, float [batch, time of the target, target_vocab_size].
        """
        states: Tensor | tuple[Tensor, ...] = inputs
        for layer in self.layers():
            states = layer(states)
        return cast(Tensor, states)

    def encode(self, source: Tensor) -> State:
        """As `Writes`: where the source has words; and of every block that writes, the keys and values of the words written
        so far, of which there are none, and of the source."""
        states = self.words.read(source)
        for reader in self.readers:
            states = cast(ReaderBlock, reader).read(states, source)
        memory = self.between.norm(states)
        kept: State = (source != PADDING,)
        for writer in self.writers:
            looks = cast(WriterBlock, writer).look
            keys, values = looks.remembered(memory)
            kept = (*kept, keys[:, :, :0], values[:, :, :0], keys, values)
        return kept

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        """As `Writes`."""
        is_word, *kept = state
        states = self.words.written(words[:, None], kept[0].shape[2])
        after: State = (is_word,)
        for number, writer in enumerate(self.writers):
            own_keys, own_values, keys, values = kept[4 * number : 4 * number + 4]
            states, own = cast(WriterBlock, writer).step(states, (own_keys, own_values), (keys, values), is_word)
            after = (*after, *own, keys, values)
        return F.log_softmax(self.head((states,)).squeeze(1).float(), dim=-1), after


class BothWords(nn.Module):
    """Reads the words of both texts as vectors that also say where they stand."""

    def __init__(self, source_vocab_size: int, target_vocab_size: int, hidden_size: int, dropout_prob: float) -> None:
        super().__init__()
        self.source = nn.Embedding(source_vocab_size, hidden_size)
        self.target = nn.Embedding(target_vocab_size, hidden_size)
        self.dropout = nn.Dropout(dropout_prob)
        for table in (self.source, self.target):
            nn.init.normal_(table.weight, std=hidden_size**-0.5)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """To the source's words, their states and the target's, float [batch, time, hidden_size]."""
        source, target = inputs
        return source, self.read(source), self.written(target, 0)

    def read(self, source: Tensor) -> Tensor:
        return self._placed(self.source(source), 0)

    def written(self, target: Tensor, first: int) -> Tensor:
        """Of words of which the first is number ``first`` of its text."""
        return self._placed(self.target(target), first)

    def _placed(self, vectors: Tensor, first: int) -> Tensor:
        time, size = vectors.shape[1:]
        return cast(Tensor, self.dropout(vectors * math.sqrt(size) + _waves(first, time, size, vectors)))


class Attention(nn.Module):
    """Looks things up in a memory, with several heads."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)  # one would cancel out of the softmax
        self.value = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)

    def remembered(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a memory, float [batch, heads, time, head_size] each."""
        return self._heads(self.key(memory)), self._heads(self.value(memory))

    def forward(
        self,
        states: Tensor,
        memory: tuple[Tensor, Tensor],
        is_word: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """What each state finds.

        Args:
            states: float [batch, time, hidden_size].
            memory: keys and values, as `remembered` gives them.
            is_word: bool [batch, time of the memory], False where nobody is to look; None: nowhere.
            is_causal: a state sees the memory up to its own time.
        """
        mask = None if is_word is None else is_word[:, None, None]
        found = F.scaled_dot_product_attention(
            self._heads(self.query(states)), *memory, attn_mask=mask, is_causal=is_causal
        )
        return cast(Tensor, self.output(found.transpose(1, 2).flatten(2)))

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.view(*projected.shape[:2], self.num_heads, -1).transpose(1, 2)


class ReaderBlock(nn.Module):
    """Attention of the source over itself, and a feed-forward layer."""

    def __init__(self, hidden_size: int, num_heads: int, ff_size: int, dropout_prob: float) -> None:
        super().__init__()
        self.look_norm, self.look = nn.LayerNorm(hidden_size), Attention(hidden_size, num_heads)
        self.feed = _feed_forward(hidden_size, ff_size)
        self.dropout = nn.Dropout(dropout_prob)

    def forward(self, states: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        source, read, written = states
        return source, self.read(read, source), written

    def read(self, states: Tensor, source: Tensor) -> Tensor:
        """From float [batch, time, hidden_size] to the same."""
        normed = self.look_norm(states)
        states = states + self.dropout(self.look(normed, self.look.remembered(normed), source != PADDING))
        return cast(Tensor, states + self.dropout(self.feed(states)))


class Between(nn.Module):
    """The norm after the last block that reads."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)

    def forward(self, states: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """The target's states come first from here on."""
        source, read, written = states
        return written, source, self.norm(read)


class WriterBlock(nn.Module):
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
        written = written + self.dropout(self.own(normed, self.own.remembered(normed), is_causal=True))
        return self._after(written, self.look.remembered(read), source != PADDING), source, read

    def step(
        self, states: Tensor, own: tuple[Tensor, Tensor], memory: tuple[Tensor, Tensor], is_word: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One word of every text, float [texts, 1, hidden_size], and the keys and values with it."""
        normed = self.own_norm(states)
        keys, values = (torch.cat(both, dim=2) for both in zip(own, self.own.remembered(normed), strict=True))
        states = states + self.dropout(self.own(normed, (keys, values)))
        return self._after(states, memory, is_word), (keys, values)

    def _after(self, states: Tensor, memory: tuple[Tensor, Tensor], is_word: Tensor) -> Tensor:
        """What follows the attention over the words written."""
        states = states + self.dropout(self.look(self.look_norm(states), memory, is_word))
        return cast(Tensor, states + self.dropout(self.feed(states)))


class NormedHead(nn.Module):
    """Scores every word of the vocabulary."""

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
    """Sines and cosines of the places from ``first`` on, [time, size]; computed in float32 whatever the precision."""
    place = torch.arange(first, first + time, device=like.device, dtype=torch.float32)
    step = torch.arange(0, size, 2, device=like.device, dtype=torch.float32)
    angles = place[:, None] * _LONGEST_WAVE ** (-step / size)
    return torch.cat([angles.sin(), angles.cos()], dim=1).to(like.dtype)
