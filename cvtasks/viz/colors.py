"""One colour for each class, the same in every picture and every run.

The first seven are those of Okabe and Ito (Color Universal Design, 2008), told apart with any kind of colour
vision. Seventeen follow, each as far as can be (in CIELAB) from all before it: in label maps classes touch. Then
come hues at the golden angle, in three lightnesses.
"""

from __future__ import annotations

import colorsys
from typing import TypeAlias

from cvtasks.types import ClassInfo

Color: TypeAlias = tuple[int, int, int]

_OKABE_ITO: tuple[Color, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66),
    (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip
_FAR_APART: tuple[Color, ...] = (
    (75, 15, 165), (90, 255, 120), (255, 0, 90), (90, 75, 0), (120, 15, 30), (240, 30, 180),
    (90, 150, 0), (165, 135, 255), (120, 0, 105), (255, 165, 135), (90, 240, 240), (180, 240, 150),
    (0, 255, 195), (0, 75, 15), (180, 165, 75), (45, 60, 150), (195, 15, 105),
)  # fmt: skip
_LISTED = _OKABE_ITO + _FAR_APART
_GOLDEN = 0.618034
_LIGHTNESS = (0.42, 0.60, 0.76)

SIDE_COLORS: dict[str, Color] = {"left": (86, 180, 233), "right": (213, 94, 0), "middle": (240, 228, 66)}
"""Of a person's joints and limbs: three of Okabe and Ito's, blue, red and yellow to most"""
INK: Color = (38, 38, 38)
"""Writing on white"""
GREY: Color = (170, 170, 170)
"""For what is ignored, or belongs to no class."""
VOID_COLOR: Color = (224, 224, 192)
"""For pixels that are ignored, or of no class, in label maps: VOC's"""
BACKGROUND = "background"
"""The class of a label map that is no object; black, as in VOC"""


def class_colors(classes: ClassInfo) -> tuple[Color, ...]:
    """The colour of each class: the data set's own, if it has any."""
    if classes.colors:
        return classes.colors
    # Behind the background each class keeps the colour that its boxes have in pictures without one.
    ground = classes.names[:1] == (BACKGROUND,)
    return ((0, 0, 0),) * ground + tuple(class_color(k) for k in range(len(classes) - ground))


def class_color(index: int) -> Color:
    """The sRGB colour of class `index`; no two classes below 100 share one."""
    if index < len(_LISTED):
        return _LISTED[index]
    red, green, blue = colorsys.hls_to_rgb(index * _GOLDEN % 1, _LIGHTNESS[index % 3], 0.7)
    return round(255 * red), round(255 * green), round(255 * blue)


def text_color(background: Color) -> Color:
    """Black or white, whichever stands out more (contrast of WCAG 2)."""
    return (0, 0, 0) if luminance(background) > 0.179 else (255, 255, 255)


def luminance(color: Color) -> float:
    """Relative luminance of WCAG 2, 0 (black) to 1 (white)."""
    red, green, blue = (c / 3294.6 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
