"""The contracts of a model: what an `nn.Module` adds to be cut into stages, split over ranks or asked for more than outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Layered(Protocol):
    """A model that offers itself as a list of layers; running them in turn is its forward pass."""

    def layers(self) -> list[nn.Module]:
        """The layers from inputs to outputs, each mapping the previous one's outputs.

        They are the model's own modules, and every parameter is in one of them; one that is in several is tied.
        """
        ...


@dataclass(frozen=True)
class Shard:
    """How one layer is split over the ranks of a model-parallel group.

    column: an `nn.Linear` whose outputs are split; its inputs are whole. What follows works on a slice of the features.
    row: an `nn.Linear` whose inputs come split from a column layer; its outputs are whole.
    vocabulary: an `nn.Embedding` whose words are split.
    classes: an `nn.Linear` that gives the model's logits, split by class.
    """

    kind: Literal["column", "row", "vocabulary", "classes"]
    units: int
    """Equal parts of the split dimension that stay whole: heads, hidden units, words."""
    argument: str
    """The constructor's argument that says how many units there are, for messages: ``num_heads``."""


@runtime_checkable
class Shardable(Protocol):
    """A model that says which of its layers split; it knows nothing of ranks, and never counts on a slice's size."""

    def shards(self) -> dict[str, Shard]:
        """The layers that split, by their names in `named_modules`; all others are held whole by every rank."""
        ...


@runtime_checkable
class HasEmbeddings(Protocol):
    """A model that has a vector for every word."""

    def word_vectors(self) -> Tensor:
        """float [vocab_size, features]."""
        ...


State = tuple[Tensor, ...]
"""What a model knows of texts that it is writing: tensors whose first dimension is the texts."""


@runtime_checkable
class Seq2SeqDecoder(Protocol):
    """A model that writes a text word by word, so that the best one can be searched for.

    Its forward pass scores all words of given texts at once, of inputs ``(source, words so far)``, and gives the same.
    """

    def encode(self, source: Tensor) -> State:
        """What is known before the first word.

        Args:
            source: what is written about, [texts, ...], such as a sentence's words.
        """
        ...

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        """Score the next word of every text.

        Args:
            state: of the texts so far; its rows may have been chosen, repeated and put in another order.
            words: int64 [texts], the last word of each, which the state does not know yet.

        Returns:
            Log-probabilities, float [texts, vocab_size], and the state with these words.
        """
        ...
