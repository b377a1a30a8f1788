"""One colour for each class, the same in every picture and every run.

The first seven are those of Okabe and Ito (Color Universal Design, 2008), told apart with any kind of colour
vision; after them hues at the golden angle, in three lightnesses.
"""

from __future__ import annotations

import colorsys
from typing import TypeAlias

Color: TypeAlias = tuple[int, int, int]

_OKABE_ITO: tuple[Color, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66),
    (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
_GOLDEN = 0.618034
_LIGHTNESS = (0.42, 0.60, 0.76)

GREY: Color = (170, 170, 170)
"""For what is ignored, or belongs to no class."""


def class_color(index: int) -> Color:
    """The sRGB colour of class `index`; no two classes below 100 share one."""
    if index < len(_OKABE_ITO):
        return _OKABE_ITO[index]
    red, green, blue = colorsys.hls_to_rgb(index * _GOLDEN % 1, _LIGHTNESS[index % 3], 0.7)
    return round(255 * red), round(255 * green), round(255 * blue)


def text_color(background: Color) -> Color:
    """Black or white, whichever stands out more (contrast of WCAG 2)."""
    return (0, 0, 0) if luminance(background) > 0.179 else (255, 255, 255)


def luminance(color: Color) -> float:
    """Relative luminance of WCAG 2, 0 (black) to 1 (white)."""
    red, green, blue = (c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
