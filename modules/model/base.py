"""Optional contracts of a model: for pipeline stages, model parallelism, word vectors and text generation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn


@runtime_checkable
class Layered(Protocol):
    """A model that is a sequence of layers, for pipeline parallelism; its forward pass runs them in order."""

    def layers(self) -> list[nn.Module]:
        """Return the layers from inputs to outputs; each maps the outputs of the previous one.

        Every parameter of the model is in a layer; a parameter in several layers is tied.
        """
        ...


@dataclass(frozen=True)
class Shard:
    """How a layer is split over the ranks of a model-parallel group.

    column: an `nn.Linear` whose outputs are split; its inputs are complete. The next layers work on a slice of the features.
    row: an `nn.Linear` whose inputs are split, after a column layer; its outputs are complete.
    vocabulary: an `nn.Embedding` whose words are split.
    classes: an `nn.Linear` that returns the model's logits, split by class.
    """

    kind: Literal["column", "row", "vocabulary", "classes"]
    units: int
    """Number of indivisible parts of the split dimension: heads, hidden units, words."""
    argument: str
    """Constructor argument with the number of units, for messages: ``num_heads``."""


@runtime_checkable
class Shardable(Protocol):
    """A model that supports model parallelism. It does not know the ranks, and must not depend on the size of a slice."""

    def shards(self) -> dict[str, Shard]:
        """Return the layers to split, by their names in `named_modules`; every rank holds all other layers completely."""
        ...


@runtime_checkable
class NamesSavedWeights(Protocol):
    """A model around one of another library, which saves its weights under other names; `init_from` uses them."""

    def name_saved_weights(self, names: Iterable[str]) -> dict[str, str]:
        """Return the name in this model by the name in the library's files."""
        ...


@runtime_checkable
class HasEmbeddings(Protocol):
    """A model with a vector for every word."""

    def word_vectors(self) -> Tensor:
        """float [vocab_size, features]."""
        ...


@runtime_checkable
class HasCodes(Protocol):
    """A model that reduces an example to a code."""

    def codes(self, inputs: Tensor) -> Tensor:
        """Return the codes, float [batch, code_size].

        Args:
            inputs: as for the forward pass.
        """
        ...


@runtime_checkable
class HasGates(Protocol):
    """A recurrent model that can show what it does at every time step."""

    def gates(self, inputs: Tensor) -> dict[str, Tensor]:
        """Return gates and states by name, float [batch, time, units] each.

        Args:
            inputs: as for the forward pass.
        """
        ...


State = tuple[Tensor, ...]
"""The state of a decoder: tensors whose first dimension is the texts."""


@runtime_checkable
class Seq2SeqDecoder(Protocol):
    """A model that generates a text token by token, for beam search.

    Its forward pass, on inputs ``(*source, target shifted by one)``, returns the same scores for all tokens at once.
    """

    def encode(self, source: Any) -> State:
        """Return the state before the first token.

        Args:
            source: the inputs without the target: a tensor [texts, ...], such as the tokens of a sentence; or a tuple of
                several, such as the features of a recording and its length.
        """
        ...

    def step(self, state: State, words: Tensor) -> tuple[Tensor, State]:
        """Score the next token of every text.

        Args:
            state: of the texts so far; beam search selects, repeats and reorders its rows.
            words: int64 [texts], the last token of each text, which is not in the state yet.

        Returns:
            Log-probabilities, float [texts, vocab_size], and the state with these tokens.
        """
        ...


@runtime_checkable
class AttendsToPlaces(Protocol):
    """A `Seq2SeqDecoder` that attends to a part of a photo for each token."""

    def attention(self, state: State) -> Tensor:
        """Return the attention of the next token, float [texts, height, width]; it sums to 1.

        Args:
            state: as for `Seq2SeqDecoder.step`.
        """
        ...


@runtime_checkable
class ScoresFrames(Protocol):
    """A model that scores the tokens of a text at every frame of its input, trained with connectionist temporal classification.

    Its forward pass takes the same inputs as that of a `Seq2SeqDecoder`, and does not use the target.
    """

    def score_frames(self, source: Any) -> tuple[Tensor, Tensor]:
        """Return log-probabilities, float [batch, frames, vocab_size], and the number of frames, int64 [batch].

        Args:
            source: as for `Seq2SeqDecoder.encode`. Token id `PADDING` is the blank.
        """
        ...
