"""How good translations are: BLEU of what a model writes by beam search."""

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
    """Lets the model translate, and counts n-grams as sacrebleu does; gives ``bleu``, from 0 to 100, over the whole split.

    Source: Papineni et al. 2002, doi:10.3115/1073083.1073135; Post 2018, arXiv:1804.08771 (sacrebleu).
    """

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
            beam_size: beginnings of a translation that are kept; 1 is greedy.
            length_alpha: how much long translations are helped; 0: not. Source: Wu et al. 2016, arXiv:1609.08144, section 7.
            max_tokens: the longest translation.
            tokenize: how words are cut before they are compared, as sacrebleu calls it: "none" where the data's texts have
                spaces around marks, "13a" where they are as people write.
            num_examples: pairs that are translated of the validation split, the first; null: all. Of the test split it is all.
            num_examples_logged: translations that are shown.

        Raises:
            ValueError: a number is too small, or sacrebleu is not installed or does not know the tokenizer.
        """
        told = [
            f"evaluator.{key}={number:g} is less than {least}; {way_out}"
            for key, number, least, way_out in (
                ("beam_size", beam_size, 1, "write 1, which is greedy, or more"),
                ("length_alpha", length_alpha, 0, "write 0, which helps no text, or more"),
                ("max_tokens", max_tokens, 1, "write the words of the longest translation"),
                ("num_examples", num_examples, 1, "write how many pairs, or null for all"),
                ("num_examples_logged", num_examples_logged, 0, "write 0, which shows none, or more"),
            )
            if number is not None and number < least
        ]
        if told:
            raise ValueError(". ".join(told))
        if find_spec("sacrebleu") is None:
            raise ValueError(
                "evaluator Translation counts by sacrebleu, which is an extra: pip install 'lathe[translate]'; or take "
                "evaluator=perplexity"
            )
        self.beam_size, self.length_alpha, self.max_tokens = beam_size, length_alpha, max_tokens
        self.tokenize, self.num_examples, self.num_examples_logged = tokenize, num_examples, num_examples_logged

    def setup(self, data: Data) -> None:
        self.data = _bilingual(data)
        self.bleu = _bleu(self.tokenize)

    def update_with_model(self, model: nn.Module, batch: Batch) -> Tensor:
        """Translate a batch.

        Returns:
            float64 [11]: pairs; n-grams that references have too, of one to four words; all n-grams, the same; words
            written, and those of the references that are next in length.

        Raises:
            ValueError: the model cannot write.
        """
        inputs, targets = batch
        assert not isinstance(inputs, Tensor), "a bilingual data set gives two inputs"
        assert not isinstance(targets, Tensor), "and two targets"
        pairs = [self.data.pair(number) for number in targets[1].tolist()]
        asked = torch.tensor([self._is_asked(pair) for pair in pairs], device=inputs[0].device)
        if not asked.any():
            return torch.zeros(3 + 2 * _MAX_ORDER, dtype=torch.float64, device=inputs[0].device)
        texts = self._translations(model, inputs[0][asked], self.data)
        pairs = [pair for pair in pairs if self._is_asked(pair)]
        counts = self._counts(texts, [pair.references for pair in pairs])
        return torch.tensor([len(pairs), *counts], dtype=torch.float64, device=inputs[0].device)

    def compute_with_model(self, model: nn.Module, sums: Tensor) -> dict[str, float]:
        """``bleu`` of all pairs together.

        Raises:
            ValueError: nothing was measured.
        """
        if sums[0] == 0:
            raise ValueError("Translation wants at least 1 pair, but got 0; evaluate on a split that is not empty")
        numbers = [int(number) for number in sums[1:].tolist()]
        return {"bleu": _score(self.bleu, numbers)}

    def artifacts(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        """The first sources with their references and translations."""
        if (count := min(self.num_examples_logged, len(split))) == 0:
            return {}
        inputs, targets = split.batch(torch.arange(count), torch.Generator())
        texts = self._translations(model, inputs[0], self.data)
        pairs = [self.data.pair(number) for number in targets[1].tolist()]
        return {"translations.txt": "\n".join(map(_shown, pairs, texts)).encode()}

    def predict(self, model: nn.Module, data: InputReader, given: Sequence[str]) -> list[Prediction]:
        """A translation of each text."""
        bilingual, found = _bilingual(data), []
        for text in given:
            source = data.read([text])[0].to(next(model.parameters()).device)
            (written,) = self._translations(model, source, bilingual)
            found.append(Prediction(written, {"translation": written}))
        return found

    def _translations(self, model: nn.Module, source: Tensor, data: ParallelCorpus) -> list[str]:
        """What the model writes of int64 [texts, time]."""
        if not isinstance(model, Seq2SeqDecoder):
            raise ValueError(
                f"evaluator Translation wants a model with encode() and step(), and {type(model).__name__} has none; "
                "take model=seq2seq_attention"
            )
        found = beam_search(model, source, self.beam_size, self.length_alpha, self.max_tokens)
        return [data.target_text(row) for row in found.cpu()]

    def _is_asked(self, pair: Pair) -> bool:
        return pair.split != "val" or self.num_examples is None or pair.index < self.num_examples

    def _counts(self, texts: Sequence[str], references: Sequence[Sequence[str]]) -> list[int]:
        most = max(map(len, references))
        columns = [[each[place] if place < len(each) else None for each in references] for place in range(most)]
        score = self.bleu.corpus_score(texts, columns)
        return [*score.counts, *score.totals, score.sys_len, score.ref_len]


def _bilingual(data: object) -> ParallelCorpus:
    """
    Raises:
        ValueError: it is no data set of translations.
    """
    if not isinstance(data, ParallelCorpus):
        raise ValueError(
            f"evaluator Translation wants a data set of translations, and {type(data).__name__} is none; "
            "take data=multi30k, or another evaluator"
        )
    return data


def _shown(pair: Pair, text: str) -> str:
    lines = [f"source       {pair.source}", *(f"reference    {each}" for each in pair.references)]
    return "\n".join([*lines, f"translation  {text}\n"])


def _bleu(tokenize: str) -> Any:
    """
    Raises:
        ValueError: sacrebleu does not know the tokenizer, or lacks what that needs.
    """
    from sacrebleu.metrics.bleu import BLEU  # the extra, only where it is asked for

    if tokenize not in BLEU.TOKENIZERS:
        raise ValueError(
            f"evaluator.tokenize={tokenize!r} is none that sacrebleu knows; take one of {', '.join(map(str, BLEU.TOKENIZERS))}"
        )
    try:
        return BLEU(tokenize=tokenize, force=True)
    except (RuntimeError, ImportError, OSError) as err:  # some want a package more, some a file from the network
        why = " ".join(str(err).split())
        raise ValueError(
            f"evaluator.tokenize={tokenize!r} cannot be had here ({why}); bring that, or take 13a"
        ) from err


def _score(bleu: Any, numbers: Sequence[int]) -> float:
    """BLEU from the sums of `Translation._counts`."""
    correct, total = list(numbers[:_MAX_ORDER]), list(numbers[_MAX_ORDER : 2 * _MAX_ORDER])
    return float(bleu.compute_bleu(correct, total, *numbers[2 * _MAX_ORDER :], smooth_method="exp").score)
