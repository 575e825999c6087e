"""How well masks agree: mean IoU, Dice, the area under the ROC curve, beside a second person's and a constant mask's."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modules.data.base import IGNORED, InputReader, Split, Tensors
from modules.data.image.user_images import open_photo
from modules.evaluator.base import Prediction
from modules.evaluator.mask_picture import mask_file, overlay, side_by_side
from modules.evaluator.outputs import outputs_of
from modules.objective.pixel_cross_entropy import pixels_of

_NUM_BINS, _FARTHEST = 1024, 16.0


class Segmentation:
    """Counts the pixels of a whole split, so that no small photo counts more, and says what follows from the counts.

    ``miou`` is the mean over all classes, ``iou`` and ``dice`` (F1) that over the classes but the background; a class that
    is in neither mask is left out. ``accuracy_pixel`` is the share of pixels. ``auc`` (of two classes) is that of the
    difference of the logits. ``miou_constant`` and ``dice_constant`` are the best that one class everywhere would get;
    ``miou_second_observer`` and ``dice_second_observer`` what a second person's mask gets, where the data has one.
    """

    def __init__(self, num_classes: int, background: int | None, num_pictures: int) -> None:
        """
        Args:
            num_classes: of the model's logits.
            background: the class that is not looked for; None: all are.
            num_pictures: test photos that are shown after training, with their truth and what the model says.
        """
        if num_classes < 2 or num_pictures < 0:
            raise ValueError(
                f"Segmentation wants num_classes of at least 2 and num_pictures of at least 0, but got {num_classes} and "
                f"{num_pictures}"
            )
        if background is not None and not 0 <= background < num_classes:
            raise ValueError(
                f"Segmentation wants background as one of {num_classes} classes, but got {background}; name one from 0 to "
                f"{num_classes - 1}, or null where all are looked for"
            )
        self.num_classes, self.background, self.num_pictures = num_classes, background, num_pictures

    def update(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Count the pixels of one batch.

        Args:
            outputs: logits, float [batch, height, width, classes].
            targets: int64 [batch, height, width], classes or `IGNORED`; or several, by several people, of which two count.

        Returns:
            float64 [sums]: pixels by true and found class; of two classes also by true class and the logits' difference;
            where there is a second person, by true class and the second person's.

        Raises:
            ValueError: the shapes do not fit, or the number of classes.
        """
        logits, truth = pixels_of(outputs, targets, "Segmentation")
        if logits.shape[-1] != self.num_classes:
            raise ValueError(
                f"evaluator.num_classes={self.num_classes} is not what the model scores; set it to {logits.shape[-1]}"
            )
        tables = [_pairs(truth, logits.argmax(dim=-1), self.num_classes, self.num_classes)]
        if self.num_classes == 2:
            difference = (logits[..., 1] - logits[..., 0]).float()
            share = (difference / (2 * _FARTHEST) + 0.5).clamp(0, 1 - 0.5 / _NUM_BINS)
            tables.append(_pairs(truth, (share * _NUM_BINS).long(), 2, _NUM_BINS))
        if isinstance(targets, tuple) and len(targets) > 1:
            tables.append(_pairs(truth, targets[1], self.num_classes, self.num_classes))
        return torch.cat(tables).double()

    def compute(self, sums: Tensor) -> dict[str, float]:
        """What follows from the counts of a split.

        Args:
            sums: float64 [sums], as `update` gives them.

        Raises:
            ValueError: nothing was measured.
        """
        size = self.num_classes**2
        found, others = sums[:size].view(self.num_classes, -1), sums[size:]
        if found.sum() == 0:
            raise ValueError("Segmentation wants at least 1 pixel that counts, but got 0; see data.ignored_values")
        told = {"accuracy_pixel": float(found.trace() / found.sum()), **self._overlaps(found)}
        if self.num_classes == 2:
            told["auc"] = _area(others[: 2 * _NUM_BINS].view(2, -1))
            others = others[2 * _NUM_BINS :]
        constants = [self._overlaps(_constant(found, number)) for number in range(self.num_classes)]
        told |= {f"{name}_constant": max(each[name] for each in constants) for name in ("miou", "dice")}
        if len(others):
            second = self._overlaps(others.view(self.num_classes, -1))
            told |= {f"{name}_second_observer": second[name] for name in ("miou", "dice")}
        return told

    def artifacts(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        """A PNG a photo: the photo, its mask, the model's, and where there is one the second person's.

        Args:
            model: maps photos, float [batch, 1 or 3, height, width] in any scale, to logits as `update` takes them.
            split: gives such photos, and targets as `update` takes them.
        """
        if (count := min(self.num_pictures, len(split))) == 0:
            return {}
        inputs, targets = split.batch(torch.arange(count), torch.Generator())
        logits, _ = pixels_of(model(inputs), targets, "Segmentation")
        photos = inputs if isinstance(inputs, Tensor) else inputs[0]
        truths = (targets,) if isinstance(targets, Tensor) else targets
        masks = [truths[0], logits.argmax(dim=-1), *truths[1:2]]
        return {
            f"{number:03d}.png": side_by_side(photo, [mask[number] for mask in masks])
            for number, photo in enumerate(photos)
        }

    def predict(self, model: nn.Module, data: InputReader, given: Sequence[str]) -> list[Prediction]:
        """The share of every class; and as files the mask, whose pixels are classes, and the photo with the classes coloured."""
        if data.takes != "image":
            raise ValueError(f"evaluator Segmentation wants photos, and {type(data).__name__} takes {data.takes}")
        return [self._answer(model, data, path) for path in given]  # one by one: padding differs with the others' sizes

    def _answer(self, model: nn.Module, data: InputReader, path: str) -> Prediction:
        outputs, photo = outputs_of(model, data.read([path])), open_photo(path, "RGB")
        logits = outputs if isinstance(outputs, Tensor) else outputs[0]
        if logits.dim() != 4 or logits.shape[1] < photo.height or logits.shape[2] < photo.width:
            raise ValueError(
                f"evaluator Segmentation wants logits of every pixel of {path}, [1, {photo.height}, {photo.width}, classes] or "
                f"more, but got {list(logits.shape)}; take another evaluator"
            )
        mask = logits[0, : photo.height, : photo.width].argmax(dim=-1)
        shares = (mask.flatten().bincount(minlength=logits.shape[-1]) / mask.numel()).tolist()
        names = getattr(data, "class_names", None) or range(len(shares))
        both = [(str(name), share) for name, share in zip(names, shares, strict=True)]
        return Prediction(
            "  ".join(f"{name} {share:.1%}" for name, share in both),
            {"classes": [{"name": name, "share": share} for name, share in both]},
            {"mask.png": mask_file(mask), "overlay.png": overlay(photo, mask, self.background)},
        )

    def _overlaps(self, pairs: Tensor) -> dict[str, float]:
        """Means over classes from pixels by two classes, [classes, classes]."""
        both, either = pairs.diagonal(), pairs.sum(dim=0) + pairs.sum(dim=1)
        wanted = torch.arange(self.num_classes) != (-1 if self.background is None else self.background)
        ious, dices = both / (either - both), 2 * both / either  # no number where a class is in neither
        return {"miou": _mean(ious), "iou": _mean(ious[wanted]), "dice": _mean(dices[wanted])}


def _pairs(truth: Tensor, other: Tensor, num_classes: int, num_others: int) -> Tensor:
    """Pixels by true class and by another number, int64 [num_classes * num_others]; ignored ones are in none."""
    counts = (truth != IGNORED) & (other != IGNORED)
    pairs = torch.where(counts, truth * num_others + other, num_classes * num_others)
    return torch.bincount(pairs.flatten(), minlength=num_classes * num_others + 1)[: num_classes * num_others]


def _constant(pairs: Tensor, number: int) -> Tensor:
    """The same truth, met by one class everywhere."""
    met = torch.zeros_like(pairs)
    met[:, number] = pairs.sum(dim=1)
    return met


def _area(histograms: Tensor) -> float:
    """Under the ROC curve: how often a pixel of the second class has the higher score; 0.5 where there is only one class.

    Args:
        histograms: float64 [2, bins], pixels of each class by their score, the lowest first.
    """
    negatives, positives = histograms
    below = negatives.cumsum(dim=0) - negatives / 2  # half of those in the same bin
    pairs = negatives.sum() * positives.sum()
    return float((positives * below).sum() / pairs) if pairs > 0 else 0.5


def _mean(values: Tensor) -> float:
    """Of what is a number; 1 where nothing is, as nothing was there and nothing was found."""
    return float(values.nanmean()) if not bool(values.isnan().all()) else 1.0
