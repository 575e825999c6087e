"""Videos that are to be described in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from modules.data.base import END, IGNORED, PADDING, START, UNKNOWN, Batch, Pair
from modules.data.files import DataFiles
from modules.data.generated.video.clips import DIRECTIONS, Clips, Movement
from modules.data.generated.video.descriptions import NUM_PHRASINGS, Fact, describe, grammar_words
from modules.data.idx import idx_names
from modules.data.sampling.example_random import ExampleRandom

_FIRST = UNKNOWN + 1
_MIN_RETURN = 2
"""Pixels that an image has to move back from an edge until a sentence says so."""


class DescribedImages(Clips):
    """Clips as of `Clips`, and sentences about them: ``the three goes right and then turns back while the seven stands
    still``.

    Each clip has five sentences with the same facts, the images in the order of their classes. In training one of them is
    drawn each time; those of other splits are its references. Source: Venugopalan et al. 2015, arXiv:1505.00487 (the task).
    """

    is_component = True

    def __init__(
        self,
        root: str,
        folder: str,
        files: Mapping[str, str | None],
        class_names: Sequence[str],
        target_vocab_size: int,
        num_images: int,
        image_size: int,
        frame_size: int,
        num_seen_frames: int,
        min_speed: float,
        max_speed: float,
        num_val: int,
        num_test: int,
    ) -> None:
        """
        Args:
            root: the folder of all data sets.
            folder: folder of the images.
            files: name to sha256 of the four files, with LeCun's names.
            class_names: a word for each class of the images, by its label.
            target_vocab_size: at least four special tokens, the words of the sentences, and the names.
            num_images: in a clip.
            image_size: pixels of each side to which the images are scaled.
            frame_size: pixels of each side of a frame, more than ``image_size``.
            num_seen_frames: frames of a clip.
            min_speed: pixels per frame of the slowest moving image.
            max_speed: of the fastest; at most the room between image and frame.
            num_val: clips of the validation split.
            num_test: clips of the test split.
        """
        idx_names("DescribedImages", files)
        self.class_names, grammar = [str(name) for name in class_names], grammar_words()
        wrong = [name for name in self.class_names if not name or name.split() != [name] or name in grammar]
        if wrong or not class_names or len(set(self.class_names)) < len(class_names):
            raise ValueError(
                f"DescribedImages wants data.class_names as different single words that the sentences do not have "
                f"({' '.join(grammar)}), but got {list(class_names)}; change {wrong or 'them'}"
            )
        self.words = [*grammar, *self.class_names]
        if target_vocab_size < _FIRST + len(self.words):
            raise ValueError(
                f"DescribedImages has {_FIRST + len(self.words)} tokens, but data.target_vocab_size={target_vocab_size}; set "
                f"data.target_vocab_size={_FIRST + len(self.words)}"
            )
        super().__init__(
            DataFiles(root, folder, files), num_images, image_size, frame_size, (min_speed, max_speed), num_seen_frames,
            num_val, num_test,
        )  # fmt: skip
        self.tokens = {word: number for number, word in enumerate(self.words, start=_FIRST)}
        longest = [Fact(self.class_names[0], "right", True)] * num_images
        self.max_tokens = 1 + max(len(describe(longest, number).split()) for number in range(NUM_PHRASINGS))
        self._facts: dict[str, list[list[Fact]]] = {}

    def make(self, random: ExampleRandom, count: int, split: str) -> Batch:
        """Make clips.

        Returns:
            The frames, float [count, num_seen_frames, 1, frame_size, frame_size] from 0 to 1, and the tokens of a sentence
            after `START`, int64 [count, time]; the next tokens, or `IGNORED`, and the pair ids, int64 [count].
        """
        images, chosen, movement = self._draw_clips(random, split)
        phrasings = random.integers(NUM_PHRASINGS).tolist()
        facts = self._list_facts(split, chosen, movement)
        written = torch.full((count, self.max_tokens + 1), PADDING)
        for row, each, phrasing in zip(written, facts, phrasings, strict=True):
            tokens = [START, *(self.tokens[word] for word in describe(each, phrasing).split()), END]
            row[: len(tokens)] = torch.tensor(tokens)
        following = written[:, 1:].masked_fill(written[:, 1:] == PADDING, IGNORED)
        first = self.sizes["val"] if split == "test" else 0
        frames = self.draw(images[chosen], movement.corners)
        return (frames, written[:, :-1].clone()), (following, first + torch.arange(count))

    def example(self, batch_size: int) -> Batch:
        shape = (batch_size, self.num_seen_frames, 1, self.frame_size, self.frame_size)
        tokens = torch.zeros(batch_size, self.max_tokens, dtype=torch.int64)
        return (torch.zeros(shape), tokens), (tokens.clone(), torch.zeros(batch_size, dtype=torch.int64))

    def pair(self, number: int) -> Pair:
        """Return the sentences of a clip of the validation or test split."""
        split, index = ("val", number) if number < self.sizes["val"] else ("test", number - self.sizes["val"])
        facts = self.facts(split)[index]
        return Pair(
            split, index, f"{split} clip {index}", tuple(describe(facts, each) for each in range(NUM_PHRASINGS))
        )

    def facts(self, split: str) -> list[list[Fact]]:
        """Return the facts of each clip of the validation or test split; reads the files at the first use."""
        if split not in self._facts:
            random = ExampleRandom(self.seeds(split))
            _, chosen, movement = self._draw_clips(random, split)
            self._facts[split] = self._list_facts(split, chosen, movement)
        return self._facts[split]

    def target_text(self, words: Tensor) -> str:
        tokens = words.tolist()
        tokens = tokens[: tokens.index(END)] if END in tokens else tokens
        known = range(_FIRST, _FIRST + len(self.words))
        return " ".join(self.words[token - _FIRST] for token in tokens if token in known)

    def read(self, inputs: Sequence[str]) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # as its inputs are
        return super().read(inputs), torch.full((len(inputs), 1), START)

    def check_labels(self, labels: np.ndarray) -> None:
        if int(labels.max(initial=0)) >= len(self.class_names):
            raise ValueError(
                f"it has the label {labels.max()}, but data.class_names has {len(self.class_names)} names; write one for "
                "each class"
            )

    def _draw_clips(self, random: ExampleRandom, split: str) -> tuple[Tensor, Tensor, Movement]:
        images, _ = self.images(split)
        chosen = random.integers(len(images), self.num_images)
        return images, chosen, self.move(random, self.num_seen_frames)

    def _list_facts(self, split: str, chosen: Tensor, movement: Movement) -> list[list[Fact]]:
        directions = list(DIRECTIONS)
        numbers = zip(
            self.images(split)[1][chosen].tolist(),
            movement.directions.tolist(),
            movement.returned.tolist(),
            strict=True,
        )
        return [
            [
                Fact(self.class_names[label], directions[direction], returned >= _MIN_RETURN)
                for label, direction, returned in sorted(zip(*clip, strict=True))
            ]
            for clip in numbers
        ]
