"""Words pasted on a photo: drawn by Pillow in its own font, turned, coloured and blurred as the rest of the photo."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

_GREY = np.array([0.299, 0.587, 0.114])
_LEAST_CONTRAST = 60.0
"""Between the grey of letters and that of what they stand on, of 255; less is hard to read for people too."""


@dataclass(frozen=True)
class Lettering:
    """What is written, how often and how large."""

    words: tuple[str, ...]
    max_words: int
    letter_sizes: tuple[int, int]

    def paste(self, photo: Image.Image, chance: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
        """Write on a photo.

        Returns:
            uint8 [height, width, 3], and bool [height, width]: where letters are.
        """
        covered = Image.new("L", photo.size)
        for _ in range(chance.randint(self.max_words + 1)):
            stencil = self._stencil(chance)
            left, top = (int(chance.uniform(-0.2, 0.9) * side) for side in photo.size)
            whole = Image.new("L", photo.size)
            whole.paste(stencil, (left, top))
            photo.paste(_colour(photo, whole, chance), mask=whole)
            covered.paste(255, mask=whole)
        blurred = photo.filter(ImageFilter.GaussianBlur(chance.uniform(0.0, 1.0)))
        noise = chance.standard_normal((photo.height, photo.width, 1)) * chance.uniform(0.0, 8.0)
        return (np.asarray(blurred) + noise).clip(0, 255).astype(np.uint8), np.asarray(covered) > 127

    def _stencil(self, chance: np.random.RandomState) -> Image.Image:
        """A word in white on black, turned a little."""
        word = self.words[chance.randint(len(self.words))]
        font = _font(int(chance.randint(self.letter_sizes[0], self.letter_sizes[1] + 1)))
        stroke = int(chance.randint(3))
        left, top, right, bottom = font.getbbox(word, stroke_width=stroke)
        stencil = Image.new("L", (int(right - left) + 1, int(bottom - top) + 1))
        ImageDraw.Draw(stencil).text((-left, -top), word, fill=255, font=font, stroke_width=stroke)
        return stencil.rotate(chance.uniform(-20, 20), Image.Resampling.BILINEAR, expand=True)


def _colour(photo: Image.Image, stencil: Image.Image, chance: np.random.RandomState) -> tuple[int, int, int]:
    """Any colour that stands out from what is under the letters."""
    colour = chance.randint(256, size=3).astype(float)
    under = np.asarray(photo)[np.asarray(stencil) > 127]
    grey = float((under.mean(axis=0) if len(under) else colour) @ _GREY)
    if abs(float(colour @ _GREY) - grey) < _LEAST_CONTRAST:
        colour = colour * 0.25 + (0 if grey > 127 else 191)
    red, green, blue = colour.astype(int).tolist()
    return red, green, blue


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own, so that nothing has to be installed."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ValueError("StreetText wants Pillow with FreeType, but this one is without; install Pillow's own wheel")
    return font
