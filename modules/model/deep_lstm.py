"""The language model of TensorFlow's PTB tutorial: LSTM layers, one on the other."""

from __future__ import annotations

from typing import Literal, cast

from torch import Tensor, nn

from modules.model.base import Shard
from modules.model.layers.lstm_cell import LstmCells

Cell = Literal["torch", "written_out"]


class DeepLstm(nn.Module):
    """Scores the next word after every word of a text by several layers of LSTM.

    Dropout is on what goes from layer to layer, never on what goes from time to time. Every text starts from states of zero:
    the tutorial carries them from window to window, which would make a batch depend on the one before. torch's cell has
    two biases a gate, as cuDNN's, where the tutorial's and the one written out have one.
    Source: Zaremba et al. 2014, arXiv:1409.2329; https://www.tensorflow.org/versions/r0.10/tutorials/recurrent.
    """

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        dropout_prob: float,
        init_scale: float,
        forget_bias: float = 0.0,
        cell: Cell = "torch",
    ) -> None:
        """
        Args:
            vocab_size: words that there are.
            hidden_size: features of a word, and units of every layer.
            num_layers: layers of LSTM.
            dropout_prob: share of the features between layers that a training step leaves out.
            init_scale: all parameters start evenly spread over ``[-init_scale, init_scale]``.
            forget_bias: what the gate that keeps the memory has beside its bias at the start; the tutorial has 0.
            cell: "torch": one fused operation for all times; "written_out": the step as modules/model/layers/lstm_cell.py reads.

        Raises:
            ValueError: a size is not positive, or a share is none.
        """
        super().__init__()
        if min(vocab_size, hidden_size, num_layers) < 1:
            raise ValueError(
                f"DeepLstm wants vocab_size, hidden_size and num_layers of at least 1, but got {vocab_size}, {hidden_size}, "
                f"{num_layers}; raise what is below"
            )
        if not 0 <= dropout_prob < 1:
            raise ValueError(f"DeepLstm wants dropout_prob in [0, 1), but got {dropout_prob}; 0 leaves nothing out")
        if init_scale <= 0:
            raise ValueError(
                f"DeepLstm wants init_scale above 0, but got {init_scale}; the tutorial has 0.1, 0.05, 0.04"
            )
        self.words = nn.Sequential(nn.Embedding(vocab_size, hidden_size), nn.Dropout(dropout_prob))
        self.recurrent = nn.ModuleList(
            LstmLayer(hidden_size, dropout_prob, forget_bias, cell) for _ in range(num_layers)
        )
        self.head = nn.Linear(hidden_size, vocab_size)
        self.vocab_size = vocab_size
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -init_scale, init_scale)
        for layer in self.recurrent:
            cast(LstmLayer, layer).remember()

    def layers(self) -> list[nn.Module]:
        """The embedding, every layer of LSTM, the logits: as pipeline stages, a layer a device."""
        return [self.words, *self.recurrent, self.head]

    def shards(self) -> dict[str, Shard]:
        """The vocabulary at both ends. The layers of LSTM stay whole: split, they would exchange their states every word."""
        return {
            "words.0": Shard("vocabulary", self.vocab_size, "vocab_size"),
            "head": Shard("classes", self.vocab_size, "vocab_size"),
        }

    def forward(self, words: Tensor) -> Tensor:
        """Score what comes next.

        Args:
            words: int64 [batch, time], each in ``[0, vocab_size)``.

        Returns:
            Logits, float [batch, time, vocab_size]; those at a time know the words up to it.
        """
        states = words
        for layer in self.layers():
            states = layer(states)
        return states


class LstmLayer(nn.Module):
    """One layer of LSTM over a whole text from states of zero, with dropout on what it gives."""

    def __init__(self, hidden_size: int, dropout_prob: float, forget_bias: float, cell: Cell) -> None:
        super().__init__()
        self.forget_bias = forget_bias
        self.lstm: nn.Module = (
            nn.LSTM(hidden_size, hidden_size, batch_first=True)
            if cell == "torch"
            else LstmCells(hidden_size, hidden_size, forget_bias)
        )
        self.dropout = nn.Dropout(dropout_prob)

    def remember(self) -> None:
        """Add the forget bias to torch's own biases; the cell that is written out adds it at every step."""
        if isinstance(self.lstm, nn.LSTM):
            cast(Tensor, self.lstm.bias_ih_l0).data.chunk(4)[1].add_(self.forget_bias)

    def forward(self, states: Tensor) -> Tensor:
        """From float [batch, time, hidden_size] to the same."""
        outputs, _ = self.lstm(states)
        return cast(Tensor, self.dropout(outputs))
