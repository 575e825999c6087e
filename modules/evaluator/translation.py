"""BLEU of translations by beam search."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from modules.data.base import Batch, Data, InputReader, Pair, ParallelCorpus, Split
from modules.evaluator.base import Prediction
from modules.evaluator.beam_search import beam_search
from modules.model.base import Seq2SeqDecoder

_MAX_ORDER = 4


class Translation:
    """Translates with the model and counts n-grams with sacrebleu. Metric: ``bleu``, from 0 to 100, of the whole split.

    Source: Papineni et al. 2002, doi:10.3115/1073083.1073135; Post 2018, arXiv:1804.08771 (sacrebleu).
    """

    is_component = True
    headline = ("bleu", "max")

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
        problems = [
            f"evaluator.{key}={number:g} is less than {least}; {hint}"
            for key, number, least, hint in (
                ("beam_size", beam_size, 1, "write 1, which is greedy, or more"),
                ("length_alpha", length_alpha, 0, "write 0, which means no normalisation, or more"),
                ("max_tokens", max_tokens, 1, "write the number of tokens of the longest translation"),
                ("num_examples", num_examples, 1, "write the number of pairs, or null for all"),
                ("num_examples_logged", num_examples_logged, 0, "write 0, which shows none, or more"),
            )
            if number is not None and number < least
        ]
        if problems:
            raise ValueError(". ".join(problems))
        if find_spec("sacrebleu") is None:
            raise ValueError(
                "evaluator Translation needs sacrebleu, which is an extra: pip install 'lathe-dl[translate]'; or use "
                "evaluator=perplexity"
            )
        self.beam_size, self.length_alpha, self.max_tokens = beam_size, length_alpha, max_tokens
        self.tokenize, self.num_examples, self.num_examples_logged = tokenize, num_examples, num_examples_logged

    def setup(self, data: Data) -> None:
        self.data = _check_corpus(data)
        self.bleu = _bleu(self.tokenize)

    def update_with_model(self, model: nn.Module, batch: Batch) -> Tensor:
        """Translate a batch.

        Returns:
            float64 [11]: number of pairs; matching n-grams and all n-grams, of one to four words each; words of the
            translations, and words of the references of the closest length.

        Raises:
            ValueError: the model cannot generate text.
        """
        inputs, targets = batch
        assert not isinstance(inputs, Tensor), "a parallel corpus has two inputs"
        assert not isinstance(targets, Tensor), "and two targets"
        pairs = [self.data.pair(number) for number in targets[1].tolist()]
        is_evaluated = torch.tensor([self._is_evaluated(pair) for pair in pairs], device=inputs[0].device)
        if not is_evaluated.any():
            return torch.zeros(3 + 2 * _MAX_ORDER, dtype=torch.float64, device=inputs[0].device)
        texts = self._translate(model, inputs[0][is_evaluated], self.data)
        pairs = [pair for pair in pairs if self._is_evaluated(pair)]
        counts = self._counts(texts, [pair.references for pair in pairs])
        return torch.tensor([len(pairs), *counts], dtype=torch.float64, device=inputs[0].device)

    def compute_with_model(self, model: nn.Module, sums: Tensor) -> dict[str, float]:
        """Compute ``bleu`` of all pairs together.

        Raises:
            ValueError: the sums contain no pair.
        """
        if sums[0] == 0:
            raise ValueError("Translation wants at least 1 pair, but got 0; evaluate on a split that is not empty")
        numbers = [int(number) for number in sums[1:].tolist()]
        return {"bleu": _score(self.bleu, numbers)}

    def artifacts(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        """Return the first sources with their references and translations."""
        if (count := min(self.num_examples_logged, len(split))) == 0:
            return {}
        indices = torch.arange(count)
        inputs, targets = split.batch(indices, indices)
        texts = self._translate(model, inputs[0], self.data)
        pairs = [self.data.pair(number) for number in targets[1].tolist()]
        return {"translations.txt": "\n".join(map(_shown, pairs, texts)).encode()}

    def predict(self, model: nn.Module, data: InputReader, inputs: Sequence[str]) -> list[Prediction]:
        """Translate each text."""
        corpus, predictions = _check_corpus(data), []
        for text in inputs:
            source = data.read([text])[0].to(next(model.parameters()).device)
            (translation,) = self._translate(model, source, corpus)
            predictions.append(Prediction(translation, {"translation": translation}))
        return predictions

    def _translate(self, model: nn.Module, source: Tensor, data: ParallelCorpus) -> list[str]:
        """Translate int64 [texts, time]."""
        if not isinstance(model, Seq2SeqDecoder):
            raise ValueError(
                f"evaluator Translation wants a model with encode() and step(), but {type(model).__name__} has none; "
                "use model=seq2seq_attention"
            )
        tokens = beam_search(model, source, self.beam_size, self.length_alpha, self.max_tokens)
        return [data.target_text(row) for row in tokens.cpu()]

    def _is_evaluated(self, pair: Pair) -> bool:
        return pair.split != "val" or self.num_examples is None or pair.index < self.num_examples

    def _counts(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[int]:
        most = max(map(len, references))
        columns = [[each[place] if place < len(each) else None for each in references] for place in range(most)]
        score = self.bleu.corpus_score(texts, columns)
        return [*score.counts, *score.totals, score.sys_len, score.ref_len]


def _check_corpus(data: object) -> ParallelCorpus:
    """
    Raises:
        ValueError: the data set has no translations.
    """
    if not isinstance(data, ParallelCorpus):
        raise ValueError(
            f"evaluator Translation wants a data set of translations, but {type(data).__name__} has none; "
            "use data=multi30k, or another evaluator"
        )
    return data


def _shown(pair: Pair, text: str) -> str:
    lines = [f"source       {pair.source}", *(f"reference    {each}" for each in pair.references)]
    return "\n".join([*lines, f"translation  {text}\n"])


def _bleu(tokenize: str) -> Any:
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


def _score(bleu: Any, numbers: Sequence[int]) -> float:
    """Compute BLEU from the sums of `Translation._counts`."""
    correct, total = list(numbers[:_MAX_ORDER]), list(numbers[_MAX_ORDER : 2 * _MAX_ORDER])
    return float(bleu.compute_bleu(correct, total, *numbers[2 * _MAX_ORDER :], smooth_method="exp").score)
