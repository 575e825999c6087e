"""Captions of photos, compared with several captions by people."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.data.base import END, PADDING, START, Data, HasReferences, InputReader, Pair, Tensors
from modules.evaluator.base import Prediction
from modules.evaluator.pictures.photo_rows import Shown, draw_photo_rows
from modules.evaluator.texts.beam_search import beam_search
from modules.evaluator.texts.cider import CiderD
from modules.evaluator.texts.generation import take_source, to_device_of
from modules.evaluator.translation import NUM_COUNTS, Translation, compute_bleu, count_ngrams
from modules.model.base import AttendsToPlaces, Seq2SeqDecoder

_NUM_CANDIDATES, _NUM_PHOTOS = 30, 200
_PHOTOS_IN_A_ROW, _NUM_ATTENTION, _LINE = 6, 6, 17


@runtime_checkable
class HasCaptions(HasReferences, Protocol):
    """A data set of photos with captions."""

    def references(self, split: str) -> Sequence[Sequence[str]]:
        """Return the captions of every photo of a split; reads the files at the first use.

        Raises:
            DataError: as `Data.load`.
        """
        ...


class Captions(Translation):
    """Writes captions by beam search. Metrics: ``bleu``, ``cider_d``, and both of a constant caption.

    BLEU is from 0 to 100, of the whole split, with all captions of a photo as references; CIDEr-D from 0 to 10, the mean over
    photos. The constant caption is the frequent training caption that has the highest BLEU on training photos. After training,
    pictures show photos with their captions and, if the model has attention, where it looked for each word.
    Source: Papineni et al. 2002, doi:10.3115/1073083.1073135; Vedantam et al. 2015, arXiv:1411.5726.
    """

    is_component = True
    headline = ("bleu", "max")
    num_counts, noun = 2 * (NUM_COUNTS + 2), "caption"

    def setup(self, data: Data) -> None:
        super().setup(data)
        if not isinstance(data, HasCaptions):
            raise ValueError(
                f"evaluator Captions wants a data set of photos with captions, but {type(data).__name__} has none; use "
                "data=ucm_captions, or evaluator=translation"
            )
        self._captions: HasCaptions = data
        self.constant: str | None = None
        self.ciders: dict[str, CiderD] = {}

    def count_batch(self, texts: Sequence[str], pairs: Sequence[Pair]) -> list[float]:
        """Count the n-grams and add up CIDEr-D, of the texts and of the constant caption."""
        if self.constant is None:
            self.constant = self._find_constant()
        return self._count(texts, pairs) + self._count([self.constant] * len(pairs), pairs)

    def compute_counts(self, counts: Tensor) -> dict[str, float]:
        """Compute ``bleu`` and ``cider_d``."""
        metrics = dict[str, float]()
        for part, end in zip(counts.chunk(2), ("", "_constant"), strict=True):
            num_photos, cider, *_ = part.tolist()
            metrics |= {f"bleu{end}": compute_bleu(self.bleu, part[2:]), f"cider_d{end}": cider / num_photos}
        return metrics

    def choose_shown(self, count: int, num_examples: int) -> Tensor:
        """Spread them over the split, whose photos may be sorted by class."""
        return torch.arange(count) * num_examples // count

    def draw(self, model: nn.Module, source: Tensors, texts: Sequence[str]) -> dict[str, bytes]:
        """Return ``captions.png``, and ``attention.png`` of the first photos if the model has attention."""
        assert isinstance(source, Tensor), "a photo is one tensor"
        shown = [Shown(photo, textwrap.fill(text, _LINE)) for photo, text in zip(source, texts, strict=True)]
        rows = [("", shown[first : first + _PHOTOS_IN_A_ROW]) for first in range(0, len(shown), _PHOTOS_IN_A_ROW)]
        return {
            "captions.png": draw_photo_rows(rows),
            **self._draw_attention(model, source[:_NUM_ATTENTION], self.data),
        }

    def predict(self, model: nn.Module, data: InputReader, inputs: Sequence[str]) -> list[Prediction]:
        """Write a caption for each photo; if the model has attention, a picture shows where it looked for each word."""
        predictions, referenced = [], self.check_data(data)
        for prediction, path in zip(super().predict(model, data, inputs), inputs, strict=True):
            photo = to_device_of(take_source(data.read([path])), model)
            assert isinstance(photo, Tensor), "a photo is one tensor"
            predictions.append(replace(prediction, files=self._draw_attention(model, photo, referenced)))
        return predictions

    def _draw_attention(self, model: nn.Module, photos: Tensor, data: HasReferences) -> dict[str, bytes]:
        if not isinstance(model, AttendsToPlaces) or not isinstance(model, Seq2SeqDecoder):
            return {}
        search, rows = self.search, list[tuple[str, list[Shown]]]()
        for photo in torch.split(photos, 1):
            (tokens,) = beam_search(model, photo, search.beam_size, search.length_alpha, search.max_tokens)
            state, before, shown = model.encode(photo), tokens.new_tensor([START]), [Shown(photo[0])]
            for token in torch.split(tokens[(tokens != END) & (tokens != PADDING)], 1):
                shown.append(Shown(_light_up(photo[0], model.attention(state)[0]), data.target_text(token)))
                _, state = model.step(state, before)
                before = token
            rows.append(("", shown))
        return {"attention.png": draw_photo_rows(rows)}

    def _count(self, texts: Sequence[str], pairs: Sequence[Pair]) -> list[float]:
        """The number of photos, the sum of CIDEr-D, and the counts for BLEU."""
        both = list(zip(texts, pairs, strict=True))
        scores = [self._cider(pair.split).score(text, pair.references) for text, pair in both]
        return [len(texts), sum(scores), *count_ngrams(self.bleu, texts, [pair.references for pair in pairs])]

    def _cider(self, split: str) -> CiderD:
        if split not in self.ciders:
            self.ciders[split] = CiderD(self._captions.references(split))
        return self.ciders[split]

    def _find_constant(self) -> str:
        references = self._captions.references("train")
        counts = Counter(text for texts in references for text in texts)
        sample = references[:: -(-len(references) // _NUM_PHOTOS)]
        return max(
            (text for text, _ in counts.most_common(_NUM_CANDIDATES)),
            key=lambda text: compute_bleu(
                self.bleu, torch.tensor(count_ngrams(self.bleu, [text] * len(sample), sample))
            ),
        )


def _light_up(photo: Tensor, attention: Tensor) -> Tensor:
    """Darken the places of a photo, float [channels, height, width], that have little of the attention [rows, columns]."""
    light = functional.interpolate(attention[None, None], photo.shape[1:], mode="bilinear")[0]
    bright = (photo - photo.min()) / (photo.max() - photo.min()).clamp_min(1e-6)
    return bright * (0.2 + 0.8 * light / light.max())
