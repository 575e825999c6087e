"""A cascade of two trained models: one reads the text in a picture, the other translates it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from modules.data.base import Batch, HasReferences, InputReader, Tensors
from modules.data.image.pictured_texts import PicturedTexts
from modules.evaluator.texts.ctc_search import ctc_search
from modules.evaluator.texts.edit_distance import edit_distance
from modules.evaluator.texts.generation import generate, take_source, to_device_of
from modules.evaluator.translation import NUM_COUNTS, Translation, compute_bleu, count_ngrams
from modules.model.base import ScoresFrames


class ReadAndTranslate(Translation):
    """Translates what a ``reader`` reads, with a ``translator``: the parts of a `modules.model.model_group.ModelGroup`.

    Metrics: ``bleu`` of the translations; ``bleu_of_true_text``, of translations of the text that the picture shows, so the
    difference is what reading costs; and ``cer``, the reader's wrong characters per character.
    """

    is_component = True
    num_counts = 2 * NUM_COUNTS + 2

    def update_with_model(self, model: nn.Module, batch: Batch) -> Tensor:
        """Translate a batch of pictures.

        Returns:
            float64 [23]: number of pairs; the counts of `Translation` for the cascade, and for the true texts; character errors,
            and characters.

        Raises:
            ValueError: the model does not have the two parts.
        """
        source, pairs = self.select_pairs(batch)
        counts: list[float] = [0.0] * self.num_counts
        if pairs:
            truth, references = [pair.source for pair in pairs], [pair.references for pair in pairs]
            read = self.read_pictures(model, source, self.data)
            counts = [
                *count_ngrams(self.bleu, self.translate_texts(model, read, self.data), references),
                *count_ngrams(self.bleu, self.translate_texts(model, truth, self.data), references),
                sum(map(edit_distance, read, truth)),
                sum(map(len, truth)),
            ]
        return torch.tensor([len(pairs), *counts], dtype=torch.float64, device=batch[1][1].device)

    def compute_counts(self, counts: Tensor) -> dict[str, float]:
        cascade, truth, (errors, characters) = torch.split(counts, [NUM_COUNTS, NUM_COUNTS, 2])
        return {
            "bleu": compute_bleu(self.bleu, cascade),
            "bleu_of_true_text": compute_bleu(self.bleu, truth),
            "cer": float(errors / characters),
        }

    def generate(self, model: nn.Module, source: Tensors, data: HasReferences) -> list[str]:
        return self.translate_texts(model, self.read_pictures(model, source, data), data)

    def read_pictures(self, model: nn.Module, source: Tensors, data: HasReferences) -> list[str]:
        """Return the text in each picture."""
        reader = getattr(model, "reader", None)
        if not isinstance(reader, ScoresFrames):
            raise _wrong_model(model, "reader", "score_frames()")
        tokens = ctc_search(*reader.score_frames(source), beam_size=1)
        return [_check_pictures(data).character_text(row) for row in tokens.cpu()]

    def translate_texts(self, model: nn.Module, texts: list[str], data: HasReferences) -> list[str]:
        """Return the translation of each text; an empty one stays empty."""
        translator, pairs = getattr(model, "translator", None), _check_pictures(data).texts
        if not isinstance(translator, nn.Module):
            raise _wrong_model(model, "translator", "encode() and step()")
        assert isinstance(pairs, InputReader), "checked by `_check_pictures`"
        assert isinstance(pairs, HasReferences), "checked by the data set"
        if not (wanted := [text for text in texts if text.strip()]):
            return texts
        source = to_device_of(take_source(pairs.read(wanted)), model)
        translations = iter(generate(translator, source, pairs, self.search, type(self).__name__))
        return [next(translations) if text.strip() else "" for text in texts]

    def check_data(self, data: object) -> HasReferences:
        """As `GeneratedTexts.check_data`; the data also have pictures."""
        return _check_pictures(super().check_data(data))


def _check_pictures(data: object) -> PicturedTexts:
    """
    Raises:
        ValueError: the data have no pictures of texts, or cannot read texts.
    """
    if not isinstance(data, PicturedTexts) or not isinstance(data.texts, InputReader) or data.write != "target":
        raise ValueError(
            f"evaluator ReadAndTranslate wants pictures of texts with translations, but got {type(data).__name__}; choose "
            "data=pictured_texts data.write=target"
        )
    return data


def _wrong_model(model: nn.Module, part: str, methods: str) -> ValueError:
    return ValueError(
        f"evaluator ReadAndTranslate wants a model with a part {part!r} that has {methods}, but {type(model).__name__} has none; "
        "use experiment=read_translate"
    )
