"""Metrics of masks: mean IoU, Dice, area under the ROC curve; and those of a second annotator and a constant mask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from modules.data.base import IGNORED, InputReader, Split, Tensors
from modules.data.image.user_images import open_photo
from modules.evaluator.base import Prediction
from modules.evaluator.outputs import compute_outputs
from modules.evaluator.pictures.masks import mask_file, overlay, side_by_side
from modules.objective.pixel_cross_entropy import select_logits_and_mask

_NUM_BINS, _FARTHEST = 1024, 16.0


class Segmentation:
    """Computes metrics from the pixel counts of a whole split, so that every pixel has the same weight.

    ``miou`` is the mean over all classes; ``iou`` and ``dice`` (F1) are means without the background. A class that is in
    neither mask is left out. ``accuracy_pixel`` is the fraction of correct pixels. ``auc``, for two classes, uses the
    difference of the logits. ``miou_constant`` and ``dice_constant`` are the best values of a mask with one class;
    ``miou_second_observer`` and ``dice_second_observer`` are those of a second annotator, if the data has one.
    """

    is_component = True
    headline = ("dice", "max")

    def __init__(self, num_classes: int, background: int | None, num_pictures: int) -> None:
        """
        Args:
            num_classes: of the model's logits.
            background: class that ``iou`` and ``dice`` leave out; None: none.
            num_pictures: test photos that are written after training, with the true mask and the predicted mask.
        """
        if num_classes < 2 or num_pictures < 0:
            raise ValueError(
                f"Segmentation wants num_classes of at least 2 and num_pictures of at least 0, but got {num_classes} and "
                f"{num_pictures}"
            )
        if background is not None and not 0 <= background < num_classes:
            raise ValueError(
                f"Segmentation wants background as one of {num_classes} classes, but got {background}; name one from 0 to "
                f"{num_classes - 1}, or null for none"
            )
        self.num_classes, self.background, self.num_pictures = num_classes, background, num_pictures

    def update(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Count the pixels of one batch.

        Args:
            outputs: logits, float [batch, height, width, classes].
            targets: int64 [batch, height, width], classes or `IGNORED`; or a tuple with the masks of several annotators, of
                which the first two are used.

        Returns:
            float64 [sums]: pixels by true and predicted class; for two classes also by true class and logit difference;
            with a second annotator, also by true class and the class of the second annotator.

        Raises:
            ValueError: the shapes or the number of classes do not fit.
        """
        logits, truth = select_logits_and_mask(outputs, targets, "Segmentation")
        if logits.shape[-1] != self.num_classes:
            raise ValueError(
                f"evaluator.num_classes={self.num_classes} is not the model's number of classes; set it to {logits.shape[-1]}"
            )
        tables = [_pairs(truth, logits.argmax(dim=-1), self.num_classes, self.num_classes)]
        if self.num_classes == 2:
            difference = (logits[..., 1] - logits[..., 0]).float()
            position = (difference / (2 * _FARTHEST) + 0.5).clamp(0, 1 - 0.5 / _NUM_BINS)
            tables.append(_pairs(truth, (position * _NUM_BINS).long(), 2, _NUM_BINS))
        if isinstance(targets, tuple) and len(targets) > 1:
            tables.append(_pairs(truth, targets[1], self.num_classes, self.num_classes))
        return torch.cat(tables).double()

    def compute(self, sums: Tensor) -> dict[str, float]:
        """Compute the metrics of a split.

        Args:
            sums: float64 [sums], as `update` gives them.

        Raises:
            ValueError: all pixels are ignored.
        """
        size = self.num_classes**2
        confusion, others = sums[:size].view(self.num_classes, -1), sums[size:]
        if confusion.sum() == 0:
            raise ValueError(
                "Segmentation wants at least 1 pixel that is not ignored, but got 0; see data.ignored_values"
            )
        metrics = {"accuracy_pixel": float(confusion.trace() / confusion.sum()), **self._overlaps(confusion)}
        if self.num_classes == 2:
            metrics["auc"] = _area(others[: 2 * _NUM_BINS].view(2, -1))
            others = others[2 * _NUM_BINS :]
        constants = [self._overlaps(_constant(confusion, number)) for number in range(self.num_classes)]
        metrics |= {f"{name}_constant": max(each[name] for each in constants) for name in ("miou", "dice")}
        if len(others):
            second = self._overlaps(others.view(self.num_classes, -1))
            metrics |= {f"{name}_second_observer": second[name] for name in ("miou", "dice")}
        return metrics

    def artifacts(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        """Return one PNG per photo: the photo, the true mask, the predicted mask, and the mask of a second annotator.

        Args:
            model: maps photos, float [batch, 1 or 3, height, width] in any scale, to logits as in `update`.
            split: with such photos, and targets as in `update`.
        """
        if (count := min(self.num_pictures, len(split))) == 0:
            return {}
        indices = torch.arange(count)
        inputs, targets = split.batch(indices, indices)
        logits, _ = select_logits_and_mask(model(inputs), targets, "Segmentation")
        photos = inputs if isinstance(inputs, Tensor) else inputs[0]
        truths = (targets,) if isinstance(targets, Tensor) else targets
        masks = [truths[0], logits.argmax(dim=-1), *truths[1:2]]
        return {
            f"{number:03d}.png": side_by_side(photo, [mask[number] for mask in masks])
            for number, photo in enumerate(photos)
        }

    def predict(self, model: nn.Module, data: InputReader, inputs: Sequence[str]) -> list[Prediction]:
        """Return the fraction of every class; files: the mask, whose pixels are classes, and the photo with coloured classes."""
        if data.takes != "image":
            raise ValueError(
                f"evaluator Segmentation wants images, but {type(data).__name__} takes {data.takes}; use another evaluator"
            )
        return [
            self._predict_one(model, data, path) for path in inputs
        ]  # one by one, because padding depends on the batch

    def _predict_one(self, model: nn.Module, data: InputReader, path: str) -> Prediction:
        outputs, photo = compute_outputs(model, data.read([path])), open_photo(path, "RGB")
        logits = outputs if isinstance(outputs, Tensor) else outputs[0]
        if logits.dim() != 4 or logits.shape[1] < photo.height or logits.shape[2] < photo.width:
            raise ValueError(
                f"evaluator Segmentation wants logits of every pixel of {path}, [1, {photo.height}, {photo.width}, classes] or "
                f"more, but got {list(logits.shape)}; use another evaluator"
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
        """Compute means over classes from a confusion matrix, [classes, classes]."""
        both, either = pairs.diagonal(), pairs.sum(dim=0) + pairs.sum(dim=1)
        is_counted = torch.arange(self.num_classes) != (-1 if self.background is None else self.background)
        ious, dices = both / (either - both), 2 * both / either  # NaN for a class that is in neither mask
        return {"miou": _mean(ious), "iou": _mean(ious[is_counted]), "dice": _mean(dices[is_counted])}


def _pairs(truth: Tensor, other: Tensor, num_classes: int, num_others: int) -> Tensor:
    """Count pixels by true class and another number, int64 [num_classes * num_others], without ignored pixels."""
    counts = (truth != IGNORED) & (other != IGNORED)
    pairs = torch.where(counts, truth * num_others + other, num_classes * num_others)
    return torch.bincount(pairs.flatten(), minlength=num_classes * num_others + 1)[: num_classes * num_others]


def _constant(pairs: Tensor, number: int) -> Tensor:
    """Return the confusion matrix of a mask with one class everywhere."""
    constant = torch.zeros_like(pairs)
    constant[:, number] = pairs.sum(dim=1)
    return constant


def _area(histograms: Tensor) -> float:
    """Compute the area under the ROC curve; 0.5 if only one class occurs.

    Args:
        histograms: float64 [2, bins], pixels of each class by rising score.
    """
    negatives, positives = histograms
    below = negatives.cumsum(dim=0) - negatives / 2  # half of those in the same bin
    pairs = negatives.sum() * positives.sum()
    return float((positives * below).sum() / pairs) if pairs > 0 else 0.5


def _mean(values: Tensor) -> float:
    """Compute the mean without NaN; 1 if all are NaN, because no class is in either mask."""
    return float(values.nanmean()) if not bool(values.isnan().all()) else 1.0
