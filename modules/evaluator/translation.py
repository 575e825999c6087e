"""BLEU of translations by beam search."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from modules.data.base import Data, Pair
from modules.evaluator.texts.generated_texts import GeneratedTexts
from modules.evaluator.texts.generation import SearchOptions

_MAX_ORDER = 4
NUM_COUNTS = 2 * _MAX_ORDER + 2


class Translation(GeneratedTexts):
    """Translates with the model and counts n-grams with sacrebleu. Metric: ``bleu``, from 0 to 100, of the whole split.

    Source: Papineni et al. 2002, doi:10.3115/1073083.1073135; Post 2018, arXiv:1804.08771 (sacrebleu).
    """

    is_component = True
    headline = ("bleu", "max")
    num_counts, noun = NUM_COUNTS, "translation"

    def __init__(
        self,
        beam_size: int,
        length_alpha: float,
        max_tokens: int,
        tokenize: str,
        num_examples: int | None,
        num_examples_logged: int,
    ) -> None:
        """
        Args:
            beam_size: hypotheses of the beam; 1 is greedy search.
            length_alpha: exponent of the length normalisation; 0: none. Source: Wu et al. 2016, arXiv:1609.08144, section 7.
            max_tokens: maximum length of a translation.
            tokenize: how words are cut before they are compared, as sacrebleu calls it: "none" where the data's texts have
                spaces around marks, "13a" where they are as people write.
            num_examples: pairs that are translated of the validation split, the first; null: all. Of the test split it is all.
            num_examples_logged: translations that are shown.

        Raises:
            ValueError: a value is too small, or sacrebleu is not installed.
        """
        super().__init__(SearchOptions(beam_size, length_alpha, max_tokens), num_examples, num_examples_logged)
        if find_spec("sacrebleu") is None:
            raise ValueError(
                f"evaluator {type(self).__name__} needs sacrebleu, which is an extra: pip install 'lathe-dl[translate]'; or use "
                "evaluator=perplexity"
            )
        self.tokenize = tokenize

    def setup(self, data: Data) -> None:
        super().setup(data)
        self.bleu = load_bleu(self.tokenize)

    def count_batch(self, texts: Sequence[str], pairs: Sequence[Pair]) -> list[float]:
        """Count matching n-grams and all n-grams, of one to four words each; words of the translations, and words of the
        references of the closest length.
        """
        return count_ngrams(self.bleu, texts, [pair.references for pair in pairs])

    def compute_counts(self, counts: Tensor) -> dict[str, float]:
        """Compute ``bleu`` of all pairs together."""
        return {"bleu": compute_bleu(self.bleu, counts)}


def load_bleu(tokenize: str) -> Any:
    """
    Raises:
        ValueError: sacrebleu does not have the tokenizer, or a package or file that it needs.
    """
    from sacrebleu.metrics.bleu import BLEU  # an extra, imported only when needed

    if tokenize not in BLEU.TOKENIZERS:
        raise ValueError(
            f"evaluator.tokenize={tokenize!r} is not a tokenizer of sacrebleu; use one of {', '.join(map(str, BLEU.TOKENIZERS))}"
        )
    try:
        return BLEU(tokenize=tokenize, force=True)
    except (
        RuntimeError,
        ImportError,
        OSError,
    ) as err:  # some tokenizers need another package, or a file from the network
        reason = " ".join(str(err).split())
        raise ValueError(
            f"evaluator.tokenize={tokenize!r} is not available here ({reason}); install what is missing, or use 13a"
        ) from err


def count_ngrams(bleu: Any, texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """Count for `compute_bleu`: `NUM_COUNTS` numbers that add up over batches."""
    most = max(map(len, references))
    columns = [[each[place] if place < len(each) else None for each in references] for place in range(most)]
    score = bleu.corpus_score(texts, columns)
    return [*score.counts, *score.totals, score.sys_len, score.ref_len]


def compute_bleu(bleu: Any, counts: Tensor) -> float:
    """Compute BLEU from the sums of `count_ngrams`."""
    numbers = [int(number) for number in counts.tolist()]
    correct, total, lengths = numbers[:_MAX_ORDER], numbers[_MAX_ORDER : 2 * _MAX_ORDER], numbers[2 * _MAX_ORDER :]
    return float(bleu.compute_bleu(correct, total, *lengths, smooth_method="exp").score)
