"""Error rates of words and characters of recognised texts."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from modules.data.base import Data, Pair
from modules.evaluator.texts.edit_distance import edit_distance
from modules.evaluator.texts.generated_texts import GeneratedTexts
from modules.evaluator.texts.generation import SearchOptions


class WordErrors(GeneratedTexts):
    """Recognises texts with the model, and counts the edits that make them right.

    Metrics: ``wer``, the edits of words over the words of the references, which is 1 for empty texts; ``cer``, the same of
    characters; ``exact``, the share of texts without an error; and ``wer_constant``, the word error rate of one text, the first
    of the training data, as the answer to every input. With several references, the nearest counts.
    """

    is_component = True
    headline = ("wer", "min")
    num_counts = 7
    noun = "transcript"
    example_data = "fsdd_texts"

    def __init__(
        self,
        beam_size: int = 4,
        length_alpha: float = 0.0,
        max_tokens: int = 60,
        num_examples: int | None = None,
        num_examples_logged: int = 20,
    ) -> None:
        """
        Args:
            beam_size: hypotheses of the beam; 1 is greedy search.
            length_alpha: exponent of the length normalisation of a decoder; 0: none.
            max_tokens: maximum length of a text of a decoder.
            num_examples: inputs of the validation split that are recognised, the first; null: all. Of the test split it is all.
            num_examples_logged: texts that are shown.

        Raises:
            ValueError: a value is too small.
        """
        super().__init__(SearchOptions(beam_size, length_alpha, max_tokens), num_examples, num_examples_logged)

    def setup(self, data: Data) -> None:
        super().setup(data)
        self.constant = self.data.pair(0).references[0].split()

    def count_batch(self, texts: Sequence[str], pairs: Sequence[Pair]) -> Sequence[float]:
        """Count the errors and all items, of words and of characters; exact texts; and errors of the constant text."""
        counts = [0] * (self.num_counts - 1)
        for text, pair in zip(texts, pairs, strict=True):
            reference = min(pair.references, key=lambda each: edit_distance(text.split(), each.split()))
            words = reference.split()
            own = (
                edit_distance(text.split(), words), len(words), edit_distance(text, reference), len(reference),
                int(text == reference), min(edit_distance(self.constant, each.split()) for each in pair.references),
            )  # fmt: skip
            counts = [total + new for total, new in zip(counts, own, strict=True)]
        return [*counts, len(pairs)]

    def compute_counts(self, counts: Tensor) -> dict[str, float]:
        errors, words, wrong_characters, characters, exact, constant, texts = counts.tolist()
        return {
            "wer": errors / max(words, 1),
            "cer": wrong_characters / max(characters, 1),
            "exact": exact / texts,
            "wer_constant": constant / max(words, 1),
        }
