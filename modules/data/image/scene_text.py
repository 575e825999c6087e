"""Renders words onto a photo with the font of Pillow: rotated, coloured, and blurred like the rest of the photo."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

_GREY = np.array([0.299, 0.587, 0.114])
_LEAST_CONTRAST = 60.0
"""Minimum difference between the grey values of letters and background, of 255; less is hard to read."""


@dataclass(frozen=True)
class Lettering:
    """The words, their maximum number and their sizes."""

    words: tuple[str, ...]
    max_words: int
    letter_sizes: tuple[int, int]

    def paste(self, photo: Image.Image, rng: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
        """Render random words onto a photo.

        Returns:
            uint8 [height, width, 3], and bool [height, width], True for letters.
        """
        covered = Image.new("L", photo.size)
        for _ in range(rng.randint(self.max_words + 1)):
            stencil = self._stencil(rng)
            left, top = (int(rng.uniform(-0.2, 0.9) * side) for side in photo.size)
            whole = Image.new("L", photo.size)
            whole.paste(stencil, (left, top))
            photo.paste(_colour(photo, whole, rng), mask=whole)
            covered.paste(255, mask=whole)
        blurred = photo.filter(ImageFilter.GaussianBlur(rng.uniform(0.0, 1.0)))
        noise = rng.standard_normal((photo.height, photo.width, 1)) * rng.uniform(0.0, 8.0)
        return (np.asarray(blurred) + noise).clip(0, 255).astype(np.uint8), np.asarray(covered) > 127

    def _stencil(self, rng: np.random.RandomState) -> Image.Image:
        """Draw a random word in white on black, slightly rotated."""
        word = self.words[rng.randint(len(self.words))]
        font = _font(int(rng.randint(self.letter_sizes[0], self.letter_sizes[1] + 1)))
        stroke = int(rng.randint(3))
        left, top, right, bottom = font.getbbox(word, stroke_width=stroke)
        stencil = Image.new("L", (int(right - left) + 1, int(bottom - top) + 1))
        ImageDraw.Draw(stencil).text((-left, -top), word, fill=255, font=font, stroke_width=stroke)
        return stencil.rotate(rng.uniform(-20, 20), Image.Resampling.BILINEAR, expand=True)


def _colour(photo: Image.Image, stencil: Image.Image, rng: np.random.RandomState) -> tuple[int, int, int]:
    """Draw a colour with enough contrast to the background of the letters."""
    colour = rng.randint(256, size=3).astype(float)
    background = np.asarray(photo)[np.asarray(stencil) > 127]
    grey = float((background.mean(axis=0) if len(background) else colour) @ _GREY)
    if abs(float(colour @ _GREY) - grey) < _LEAST_CONTRAST:
        colour = colour * 0.25 + (0 if grey > 127 else 191)
    red, green, blue = colour.astype(int).tolist()
    return red, green, blue


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Load the font that Pillow includes, so that no font has to be installed."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ValueError("StreetText wants Pillow with FreeType, but this Pillow has none; install the wheel of Pillow")
    return font
