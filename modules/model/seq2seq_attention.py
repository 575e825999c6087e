"""Sequence to sequence with attention: a writer that looks at all of the source before every word."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modules.data.base import PADDING
from modules.model.base import State
from modules.model.layers.lstm_cell import LstmCell
from modules.model.seq2seq import check_sizes


class Seq2SeqAttention(nn.Module):
    """Translates a text by a mean of what its reader has given at every word, weighed anew for every word written.

    The reader goes over the text in both directions. As in the paper, what is looked at follows from the state before a
    word; the cells are LSTM where the paper has gated units, and the last layer is a tanh where it has maxout.
    Words' vectors start with variance 1: on Multi30k, val/loss_nats was 4.3 after 67 steps of 32, and 5.4 after 103 where all
    started in ``[-0.08, 0.08]`` (2026-11-28).
    Source: Bahdanau et al. 2015, arXiv:1409.0473, section 3 and appendix A.
    """

    def __init__(
        self,
        source_vocab_size: int,
        target_vocab_size: int,
        embedding_size: int,
        hidden_size: int,
        attention_size: int,
        readout_size: int,
        dropout_prob: float,
    ) -> None:
        """
        Args:
            source_vocab_size: words of the source that there are.
            target_vocab_size: words to write.
            embedding_size: features of a word.
            hidden_size: units of the writer, and of both directions of the reader together; even.
            attention_size: units that compare the writer's state with a word of the source.
            readout_size: features that the words to write are scored by; most of the arithmetic grows with it.
            dropout_prob: share of the words' features and of the readout that a training step leaves out.

        Raises:
            ValueError: a size is not positive or odd, or a share is none.
        """
        super().__init__()
        check_sizes(
            "Seq2SeqAttention",
            dropout_prob,
            source_vocab_size=source_vocab_size,
            target_vocab_size=target_vocab_size,
            embedding_size=embedding_size,
            hidden_size=hidden_size,
            attention_size=attention_size,
            readout_size=readout_size,
        )
        if hidden_size % 2:
            raise ValueError(
                f"Seq2SeqAttention wants an even hidden_size, half of it for each direction, but got {hidden_size}; "
                f"try {hidden_size + 1}"
            )
        self.reader = TwoWayReader(source_vocab_size, embedding_size, hidden_size, dropout_prob)
        self.writer = AttentiveWriter(
            target_vocab_size, embedding_size, hidden_size, attention_size, readout_size, dropout_prob
        )
        self.head = nn.Linear(readout_size, target_vocab_size)

    def layers(self) -> list[nn.Module]:
        """The reader, the writer, the scores."""
        return [self.reader, self.writer, self.head]

    def forward(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Score every word of the translation by those before it.

        Args:
            inputs: the source, int64 [batch, time], padded at its end; and the target's words before each, int64 [batch,
                time of the target].

        Returns:
            Logits, float [batch, time of the target, target_vocab_size].
        """
        return cast(Tensor, self.head(self.writer(self.reader(inputs))))

    def encode(self, source: Tensor) -> State:
        """As `Writes`: what the reader gives, its keys, where the source has words, and the writer's m and c."""
        _, _, memory = self.reader((source, source))
        return self.writer.start(source, memory)

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        """As `Writes`."""
        readout, state = self.writer.step(state, words)
        return F.log_softmax(self.head(readout).float(), dim=-1), state


class TwoWayReader(nn.Module):
    """Two LSTMs over the source, one from each end."""

    def __init__(self, vocab_size: int, embedding_size: int, hidden_size: int, dropout_prob: float) -> None:
        super().__init__()
        self.words = nn.Sequential(nn.Embedding(vocab_size, embedding_size), nn.Dropout(dropout_prob))
        self.onward = nn.LSTM(embedding_size, hidden_size // 2, batch_first=True)
        self.back = nn.LSTM(embedding_size, hidden_size // 2, batch_first=True)

    def forward(self, inputs: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """To the target's words, the source's, and what is known at each of these, float [batch, time, hidden_size].

        Padding stands behind the words in both directions, so that no word knows of it.
        """
        source, target = inputs
        turned = _turned(source)
        onward, _ = self.onward(self.words(source))
        back, _ = self.back(self.words(source.gather(1, turned)))
        return target, source, torch.cat([onward, back.gather(1, turned[:, :, None].expand_as(back))], dim=2)


class AttentiveWriter(nn.Module):
    """An LSTM that is given, with every word, a mean of what the reader has given."""

    def __init__(
        self,
        vocab_size: int,
        embedding_size: int,
        hidden_size: int,
        attention_size: int,
        readout_size: int,
        dropout_prob: float,
    ) -> None:
        super().__init__()
        self.embedding_size = embedding_size
        self.words = nn.Sequential(nn.Embedding(vocab_size, embedding_size), nn.Dropout(dropout_prob))
        self.first = nn.Linear(hidden_size // 2, hidden_size)
        self.key = nn.Linear(hidden_size, attention_size)
        self.query = nn.Linear(hidden_size, attention_size, bias=False)
        self.weigh = nn.Linear(attention_size, 1, bias=False)
        self.cell = LstmCell(embedding_size + hidden_size, hidden_size, forget_bias=1.0)
        self.readout = nn.Linear(hidden_size + hidden_size + embedding_size, readout_size)
        self.dropout = nn.Dropout(dropout_prob)

    def forward(self, states: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """What `TwoWayReader` gives; to what words are scored by, float [batch, time of the target, readout_size]."""
        target, source, memory = states
        memory, keys, is_word, m, c = self.start(source, memory)
        words = self.words(target)
        recurrent = self._recurrent()
        shown, looked_at = [], []
        for projected in self._projected(words).unbind(dim=1):
            context = self._looked_at(memory, keys, is_word, m)
            m, c = self.cell.update(projected + torch.cat([context, m], dim=1) @ recurrent, c)
            shown.append(m)
            looked_at.append(context)
        return self._read_out(torch.stack(shown, dim=1), torch.stack(looked_at, dim=1), words)

    def start(self, source: Tensor, memory: Tensor) -> State:
        """The state before the first word: the first m follows from what the reader knows when it is back at the beginning."""
        m = torch.tanh(self.first(memory[:, 0, memory.shape[2] // 2 :]))
        return memory, self.key(memory), source != PADDING, m, torch.zeros_like(m)

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        """One word of every text; what the next is scored by, float [texts, readout_size]."""
        memory, keys, is_word, m, c = state
        vectors = self.words(words)
        context = self._looked_at(memory, keys, is_word, m)
        m, c = self.cell.update(self._projected(vectors) + torch.cat([context, m], dim=1) @ self._recurrent(), c)
        return self._read_out(m, context, vectors), (memory, keys, is_word, m, c)

    def _projected(self, words: Tensor) -> Tensor:
        """The words' part of the gates: of all times at once one large product."""
        return F.linear(words, self.cell.gates.weight[:, : self.embedding_size], self.cell.gates.bias)

    def _recurrent(self) -> Tensor:
        """The gates' weights of what a step alone knows, float [2 * hidden_size, 4 * hidden_size]."""
        return self.cell.gates.weight[:, self.embedding_size :].t()

    def _looked_at(self, memory: Tensor, keys: Tensor, is_word: Tensor, m: Tensor) -> Tensor:
        """The mean of the memory, float [batch, hidden_size], by how well each word's key suits the state."""
        scores = self.weigh(torch.tanh(keys + self.query(m)[:, None])).squeeze(2)
        weights = scores.masked_fill(~is_word, -torch.inf).softmax(dim=1)
        return torch.bmm(weights[:, None], memory).squeeze(1)

    def _read_out(self, m: Tensor, context: Tensor, words: Tensor) -> Tensor:
        return cast(Tensor, self.dropout(torch.tanh(self.readout(torch.cat([m, context, words], dim=-1)))))


def _turned(source: Tensor) -> Tensor:
    """Where every word goes when each text is turned around and its padding stays, int64 [batch, time]; its own inverse."""
    length = (source != PADDING).sum(1, keepdim=True)
    place = torch.arange(source.shape[1], device=source.device).expand_as(source)
    return torch.where(place < length, length - 1 - place, place)
