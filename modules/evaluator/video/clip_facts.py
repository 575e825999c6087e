"""Whether sentences about clips are true."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from torch import Tensor

from modules.data.base import Data, HasReferences, Pair
from modules.data.generated.video.described_images import DescribedImages
from modules.data.generated.video.descriptions import find_facts
from modules.evaluator.texts.generated_texts import GeneratedTexts
from modules.evaluator.texts.generation import SearchOptions


class ClipFacts(GeneratedTexts):
    """Metrics, as shares of the clips: ``exact_facts``, whose sentence names all images and what each does, and nothing else;
    ``exact_names``, whose sentence names the right images; and ``exact_facts_constant`` and ``exact_names_constant``, of the
    sentence that is right most often in the validation and test splits.
    """

    is_component = True
    headline = ("exact_facts", "max")
    num_counts = 5
    noun = "description"

    def __init__(self, max_tokens: int, num_examples: int | None, num_examples_logged: int) -> None:
        """
        Args:
            max_tokens: maximum length of a sentence; it is found by greedy search.
            num_examples: the first clips of the validation split are described; null: all. Of the test split it is all.
            num_examples_logged: descriptions that are shown.
        """
        super().__init__(SearchOptions(1, 0.0, max_tokens), num_examples, num_examples_logged)

    def setup(self, data: Data) -> None:
        super().setup(data)
        assert isinstance(data, DescribedImages)
        facts = [tuple(sorted(each)) for split in ("val", "test") for each in data.facts(split)]
        self.constant = Counter(facts).most_common(1)[0][0]
        self.constant_names = Counter(tuple(fact.name for fact in each) for each in facts).most_common(1)[0][0]

    def count_batch(self, texts: Sequence[str], pairs: Sequence[Pair]) -> list[float]:
        """Count the clips; those with the right facts and the right names; and both for the constant sentence."""
        assert isinstance(self.data, DescribedImages)
        names = self.data.class_names
        counts = [0.0] * self.num_counts
        for text, pair in zip(texts, pairs, strict=True):
            said, true = find_facts(text, names), find_facts(pair.references[0], names)
            true_names = tuple(fact.name for fact in true)
            hits = (
                said == true, tuple(fact.name for fact in said) == true_names, self.constant == tuple(true),
                self.constant_names == true_names,
            )  # fmt: skip
            counts = [count + hit for count, hit in zip(counts, (True, *hits), strict=True)]
        return counts

    def compute_counts(self, counts: Tensor) -> dict[str, float]:
        count, *hits = counts.tolist()
        names = ("exact_facts", "exact_names", "exact_facts_constant", "exact_names_constant")
        return {name: hit / count for name, hit in zip(names, hits, strict=True)}

    def check_data(self, data: object) -> HasReferences:
        if not isinstance(data, DescribedImages):
            raise ValueError(
                f"evaluator ClipFacts wants clips with descriptions, but data is {type(data).__name__}; use data=described_digits"
            )
        return data
