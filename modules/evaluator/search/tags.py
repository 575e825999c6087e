"""Search for photos by tags that a model gives them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, nn
from torch.nn import functional

from modules.data.base import InputReader, Split, Tensors
from modules.evaluator.base import Prediction
from modules.evaluator.outputs import compute_outputs
from modules.evaluator.pictures.photo_rows import Shown, draw_photo_rows
from modules.evaluator.search.table import fill_table, read_table

_BATCH = 100


class Tags:
    """Ranks the photos of a split by each tag. Metrics: ``map``, ``map_chance``, ``precision_at5``.

    ``map`` is the mean, over the tags that occur in the split, of the average precision: the mean of the precision at each
    photo that has the tag. ``map_chance`` is the mean share of photos with a tag, which a random order has, also at 5.
    After training, a picture shows the first photos of some tags. A prediction names the likeliest tags; with ``query``,
    `lathe predict` ranks the photos by it. Source: Everingham et al. 2010, doi:10.1007/s11263-009-0275-4, section 4.2, without
    its interpolation.
    """

    is_component = True
    headline = ("map", "max")

    def __init__(
        self, query: str | None = None, top_k_shown: int = 8, cut: int = 5, num_queries: int = 12, num_photos: int = 8
    ) -> None:
        """
        Args:
            query: one or more tags, with spaces; null: photos get tags and are not ranked.
            top_k_shown: tags that a prediction names, the likeliest.
            cut: how many of the first photos ``precision_at5`` etc. count.
            num_queries: tags in the picture, from the most frequent to the rarest; 0: no picture.
            num_photos: photos of each.
        """
        if query is not None and not query.strip():
            raise ValueError(f"evaluator.query={query!r} names no tag; write a tag, or null to rank nothing")
        if min(top_k_shown, cut, num_photos) < 1 or num_queries < 0:
            raise ValueError(
                f"Tags wants top_k_shown, cut and num_photos of at least 1 and num_queries of at least 0, but got {top_k_shown}, "
                f"{cut}, {num_photos} and {num_queries}"
            )
        self.query, self.top_k_shown, self.cut = query, top_k_shown, cut
        self.num_queries, self.num_photos = num_queries, num_photos

    def update(self, outputs: Tensors, targets: Tensors) -> Tensor:
        """Fill the rows of one batch in a table of the split, see `fill_table`.

        Args:
            outputs: logits, float [batch, tags].
            targets: which tags a photo has, [batch, tags]; and its place in the split, int64 [batch, 2].

        Returns:
            float64 [2 + examples * (1 + 2 * tags)].

        Raises:
            ValueError: the shapes do not fit.
        """
        if isinstance(targets, Tensor) or len(targets) != 2 or targets[1].shape[1:] != (2,):
            raise ValueError(
                "Tags wants the tags of the photos and their places in the split as targets, but got other targets; choose "
                "data=ucm_tags, or another evaluator"
            )
        if not isinstance(outputs, Tensor) or outputs.dim() != 2 or outputs.shape != targets[0].shape:
            shape = list(outputs.shape) if isinstance(outputs, Tensor) else "a tuple"
            raise ValueError(
                f"Tags wants one logit per tag, {list(targets[0].shape)}, but got {shape}; choose a model with "
                "num_classes=${data.num_classes}"
            )
        return fill_table(targets[1], torch.cat([outputs.double(), targets[0].double()], dim=1))

    def compute(self, sums: Tensor) -> dict[str, float]:
        """Compute the means over tags; NaN if no photo has a tag.

        Raises:
            ValueError: there is no photo.
        """
        scores, has_tag = read_table("Tags", sums).T.chunk(2)  # [tags, photos] each
        occurs = has_tag.sum(1) > 0
        scores, has_tag = scores[occurs], has_tag[occurs]
        best = scores.argsort(dim=1, descending=True, stable=True)[:, : self.cut]
        return {
            "map": float(average_precision(scores, has_tag).mean()),
            "map_chance": float(has_tag.mean()),
            f"precision_at{self.cut}": float(has_tag.gather(1, best).mean()),
        }

    def artifacts(self, model: nn.Module, split: Split) -> dict[str, bytes]:
        """Return ``queries.png``: the photos with the highest scores of some tags; a green frame marks those that have it."""
        names = [name for name in getattr(split, "class_names", None) or () if name]
        if not names or not self.num_queries:
            return {}
        parts = []
        for rows in torch.split(torch.arange(len(split)), _BATCH):
            photos, targets = split.batch(rows, torch.zeros_like(rows))
            assert isinstance(photos, Tensor)
            parts.append((photos, compute_outputs(model, photos), targets[0]))
        photos, scores, has_tag = (torch.cat(each) for each in zip(*parts, strict=True))
        queries = torch.linspace(0, len(names) - 1, min(self.num_queries, len(names))).round().long().tolist()
        shown = []
        for query in queries:
            best = scores[:, query].topk(min(self.num_photos, len(scores))).indices.tolist()
            shown.append((names[query], [Shown(photos[row], "", bool(has_tag[row, query])) for row in best]))
        return {"queries.png": draw_photo_rows(shown)}

    def predict(self, model: nn.Module, data: InputReader, inputs: Sequence[str]) -> list[Prediction]:
        """Return the likeliest tags of each photo; with ``query`` its probability, by which the photos are ranked."""
        names = [name for name in getattr(data, "class_names", None) or () if name]
        if not names:
            raise ValueError(
                "evaluator Tags predicts with the names of the tags, but this run has none; choose a run of data=ucm_tags"
            )
        logits = compute_outputs(model, data.read(inputs))
        assert isinstance(logits, Tensor)
        logits = logits[:, : len(names)].float()
        if self.query is None:
            probs, tags = logits.sigmoid().topk(min(self.top_k_shown, len(names)))
            return [
                _name_tags([names[tag] for tag in own], each)
                for own, each in zip(tags.tolist(), probs.tolist(), strict=True)
            ]
        query = find_tags(self.query, names)
        log_probs = functional.logsigmoid(logits[:, [names.index(tag) for tag in query]]).sum(1)
        label = " + ".join(query)
        return [
            Prediction(f"{label} {prob:.3f}", {"query": query, "probability": prob}, score=score)
            for prob, score in zip(log_probs.exp().tolist(), log_probs.tolist(), strict=True)
        ]


def average_precision(scores: Tensor, has_tag: Tensor) -> Tensor:
    """Return the average precision of each tag; photos with equal scores count as one step, as in scikit-learn.

    Args:
        scores: float [tags, photos].
        has_tag: float [tags, photos], 1 or 0; at least one photo has each tag.

    Returns:
        float [tags].
    """
    falling, order = (-scores).sort(dim=1)
    hits = has_tag.gather(1, order)
    last = torch.searchsorted(falling, falling, right=True) - 1  # of the photos with the same score
    precision = hits.cumsum(1).gather(1, last) / (last + 1)
    return (precision * hits).sum(1) / hits.sum(1)


def find_tags(query: str, names: Sequence[str]) -> list[str]:
    """Return the tags that a query names; a tag may be several words of it, written as one.

    Raises:
        ValueError: a word names no tag.
    """
    by_key = {_key(name): name for name in reversed(names)}
    words, found, first = query.split(), list[str](), 0
    while first < len(words):
        ends = range(len(words), first, -1)
        end = next((end for end in ends if _key("".join(words[first:end])) in by_key), None)
        if end is None:
            near = get_close_matches(_key(words[first]), by_key, n=3) or list(by_key)[-8:]
            raise ValueError(
                f"evaluator.query={query!r} has the word {words[first]!r}, which is none of the {len(names)} tags; choose "
                f"tags such as {', '.join(by_key[key] for key in near)}"
            )
        found.append(by_key[_key("".join(words[first:end]))])
        first = end
    return list(dict.fromkeys(found))


def _key(name: str) -> str:
    return re.sub(r"[\W_]", "", name.lower())


def _name_tags(names: Sequence[str], probs: Sequence[float]) -> Prediction:
    both = list(zip(names, probs, strict=True))
    text = "  ".join(f"{name} {prob:.3f}" for name, prob in both)
    return Prediction(text, {"tags": [{"name": name, "probability": prob} for name, prob in both]})
