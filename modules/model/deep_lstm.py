"""The language model of TensorFlow's PTB tutorial: stacked LSTM layers."""

from __future__ import annotations

from typing import Literal, cast

from torch import Tensor, nn

from modules.model.base import Shard
from modules.model.layers.lstm_cell import LstmCells

Cell = Literal["torch", "written_out"]


class DeepLstm(nn.Module):
    """A language model of several LSTM layers.

    Dropout is between layers, not between time steps. Every text starts with a zero state; the tutorial keeps the state from
    window to window, which makes batches depend on each other. torch's cell has two biases per gate, as in cuDNN; the cells
    of the tutorial and of "written_out" have one.
    Source: Zaremba et al. 2014, arXiv:1409.2329; https://www.tensorflow.org/versions/r0.10/tutorials/recurrent.
    """

    is_component = True

    def __init__(
        self,
        vocab_size: int,
        hidden_size: int,
        num_layers: int,
        dropout_prob: float,
        init_scale: float,
        forget_bias: float = 0.0,
        cell: Cell = "torch",
        embedding_std: float | None = None,
    ) -> None:
        """
        Args:
            vocab_size: size of the vocabulary.
            hidden_size: features of a word, and units of every layer.
            num_layers: number of LSTM layers.
            dropout_prob: dropout between layers.
            init_scale: initial parameters are uniform in ``[-init_scale, init_scale]``.
            forget_bias: added to the initial bias of the forget gate; 0 in the tutorial.
            cell: "torch": one fused operation for all time steps; "written_out": the cell of modules/model/layers/lstm_cell.py.
            embedding_std: standard deviation of the initial embeddings; None: uniform like all parameters.

        Raises:
            ValueError: a size is not positive, or a probability is not in [0, 1).
        """
        super().__init__()
        if min(vocab_size, hidden_size, num_layers) < 1:
            raise ValueError(
                f"DeepLstm wants vocab_size, hidden_size and num_layers of at least 1, but got {vocab_size}, {hidden_size}, "
                f"{num_layers}; raise those below 1"
            )
        if not 0 <= dropout_prob < 1:
            raise ValueError(f"DeepLstm wants dropout_prob in [0, 1), but got {dropout_prob}; 0 means no dropout")
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
        if embedding_std is not None:
            nn.init.normal_(cast(nn.Embedding, self.words[0]).weight, std=embedding_std)
        for layer in self.recurrent:
            cast(LstmLayer, layer).add_forget_bias()

    def layers(self) -> list[nn.Module]:
        """Return the embedding, every LSTM layer and the output layer."""
        return [self.words, *self.recurrent, self.head]

    def shards(self) -> dict[str, Shard]:
        """Split the vocabulary at both ends. Split LSTM layers would exchange states at every time step."""
        return {
            "words.0": Shard("vocabulary", self.vocab_size, "vocab_size"),
            "head": Shard("classes", self.vocab_size, "vocab_size"),
        }

    def forward(self, words: Tensor) -> Tensor:
        """Score the next word.

        Args:
            words: int64 [batch, time], each in ``[0, vocab_size)``.

        Returns:
            Logits, float [batch, time, vocab_size]; at each time they depend on the words up to it.
        """
        states = words
        for layer in self.layers():
            states = layer(states)
        return states


class LstmLayer(nn.Module):
    """One LSTM layer with a zero initial state, and dropout on its outputs."""

    def __init__(self, hidden_size: int, dropout_prob: float, forget_bias: float, cell: Cell) -> None:
        super().__init__()
        self.forget_bias = forget_bias
        self.lstm: nn.Module = (
            nn.LSTM(hidden_size, hidden_size, batch_first=True)
            if cell == "torch"
            else LstmCells(hidden_size, hidden_size, forget_bias)
        )
        self.dropout = nn.Dropout(dropout_prob)

    def add_forget_bias(self) -> None:
        """Add the forget bias to the biases of torch's cell; the other cell adds it at every step."""
        if isinstance(self.lstm, nn.LSTM):
            cast(Tensor, self.lstm.bias_ih_l0).data.chunk(4)[1].add_(self.forget_bias)

    def forward(self, states: Tensor) -> Tensor:
        """From float [batch, time, hidden_size] to the same."""
        outputs, _ = self.lstm(states)
        return cast(Tensor, self.dropout(outputs))
