"""A picture that is drawn on: frames, names on tags, skeletons, tinted label maps, and a legend below."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cvtasks.viz.colors import INK, Color, text_color

Picture: TypeAlias = Any
"""A uint8 [3, H, W] tensor or array, or a PIL image."""

Rectangle: TypeAlias = tuple[float, float, float, float]
"""x1, y1, x2, y2"""

Line: TypeAlias = Literal["bold", "thin", "dashed"]

Point: TypeAlias = tuple[float, float]

_EDGE = (0, 0, 0, 150)
"""Around what is drawn, so that it stands out from a background of its own colour"""
_FINE = 2400
"""Slanted lines are drawn on a picture of about this length, and shrunk: then they have no steps."""
_TINT = 140
"""Of 255: how much of the class's colour, and how little of the image, its pixels show"""


@dataclass(frozen=True)
class Limb:
    start: Point
    end: Point
    color: Color


@dataclass(frozen=True)
class Joint:
    place: Point
    color: Color
    hollow: bool = False


class Canvas:
    """A picture that is drawn on, in the coordinates of the original image, whatever it was enlarged by."""

    def __init__(self, image: Picture, *, num_labels: int = 0, min_side: int = 480) -> None:
        """min_side: the longer side is enlarged to at least this. Many labels are written smaller."""
        picture = _pil(image)
        self.scale = max(1.0, min_side / max(picture.size))
        size = (round(picture.width * self.scale), round(picture.height * self.scale))
        self.image = picture.resize(size, Image.Resampling.BICUBIC) if self.scale > 1 else picture
        longer = max(size)
        crowding = 1.0 if num_labels <= 12 else 0.85 if num_labels <= 30 else 0.7
        self._line = max(3, round(longer / 240))
        self._font: Any = ImageFont.load_default(max(11.0, crowding * longer / 36))
        self._draw = ImageDraw.Draw(self.image, "RGBA")
        self._tags: list[Rectangle] = []
        self._legend: dict[str, Color] = {}

    def box(self, box: Any, color: Color, *, line: Line) -> None:
        """A frame around `box`, on a dark edge that separates it from a background of its own colour."""
        width = self._line if line == "bold" else max(2, self._line // 2)
        x1, y1, x2, y2 = self._inside(box)
        for grow, ink in ((1, (0, 0, 0, 130)), (0, color)):
            low, high = width // 2 + grow, width - 1 - width // 2 + grow
            frame = (x1 - low, y1 - low, x2 + high, y2 + high)
            if line == "dashed" and not grow:
                self._dashes(frame, width, color)
            else:
                self._draw.rectangle(frame, outline=ink, width=width + 2 * grow)

    def label(self, text: str, box: Any, color: Color) -> None:
        """`text` on a tag beside `box`, inside the picture and where it covers the others least.

        Where it would hide in a pile of tags, it is left out; the frame's colour still tells the class.
        """
        pad = max(2, round(self._font.size / 5))
        text = shortened(text, self._font, self.image.width - 2 * pad)
        ascent, descent = self._font.getmetrics()
        width, height = math.ceil(self._font.getlength(text)) + 2 * pad, ascent + descent + pad
        tags = self._places(self._inside(box), width, height)
        covered = [sum(_overlap(tag, other) for other in self._tags) for tag in tags]
        best = covered.index(min(covered))  # the first of equals
        if covered[best] > 0.25 * width * height:
            return
        x1, y1, x2, y2 = tags[best]
        self._tags.append(tags[best])
        self._draw.rectangle((x1, y1, x2 - 1, y2 - 1), fill=(*color, 235))
        self._draw.text((x1 + pad, (y1 + y2) / 2), text, fill=text_color(color), font=self._font, anchor="lm")

    def skeleton(self, limbs: Sequence[Limb], joints: Sequence[Joint]) -> None:
        """Limbs as lines with joints as dots or rings on them, both thinner for a person who is small in the picture."""
        places = [joint.place for joint in joints] + [p for limb in limbs for p in (limb.start, limb.end)]
        if not places:
            return
        low, high = np.min(places, axis=0), np.max(places, axis=0)
        person = float(np.hypot(*(high - low))) * self.scale
        width = max(2.0, min(max(self.image.size) / 110, person / 35))
        fine = max(1, round(_FINE / max(self.image.size)))
        layer = Image.new("RGBA", (self.image.width * fine, self.image.height * fine))
        draw = ImageDraw.Draw(layer)
        factor, edge = self.scale * fine, fine * max(1.0, width / 5)
        for grow in (edge, 0.0):
            for limb in limbs:
                ends = [(x * factor, y * factor) for x, y in (limb.start, limb.end)]
                color = _EDGE if grow else limb.color
                draw.line(ends, fill=color, width=round(width * fine + 2 * grow))
        for joint in joints:
            center = (joint.place[0] * factor, joint.place[1] * factor)
            radius = width * fine * (1.1 if joint.hollow else 0.95)
            draw.circle(center, radius + edge, fill=_EDGE)
            draw.circle(center, radius, fill=joint.color)
            if joint.hollow:
                draw.circle(center, 0.6 * radius, fill=(0, 0, 0, 0))  # the picture shows through
        small = layer.resize(self.image.size, Image.Resampling.BOX) if fine > 1 else layer
        self.image.paste(small, (0, 0), small)

    def label_map(self, labels: np.ndarray, palette: np.ndarray) -> None:
        """Tint each pixel by its label (uint8 [H, W] of the original image), with a solid line where a class ends.

        palette: uint8 [256, 3].
        """
        scaled = np.asarray(Image.fromarray(labels).resize(self.image.size, Image.Resampling.NEAREST))
        opacity = np.full(scaled.shape, _TINT, np.uint8)
        for width in range(1, max(1, self._line // 2) + 1):
            opacity[width:][scaled[width:] != scaled[:-width]] = 255
            opacity[:, width:][scaled[:, width:] != scaled[:, :-width]] = 255
        self.image.paste(Image.fromarray(palette[scaled]), (0, 0), Image.fromarray(opacity))

    def legend(self, name: str, color: Color) -> None:
        """An entry of the legend, which stands below the picture."""
        self._legend[name] = color

    def finished(self) -> Image.Image:
        """The picture, with its legend if it has one."""
        if not self._legend:
            return self.image
        longer = max(self.image.size)
        width = max(self.image.width, longer // 2)  # a narrow picture leaves no room for names
        gap = max(2, round(self._font.size / 3))
        ascent, descent = self._font.getmetrics()
        swatch, line = ascent, ascent + descent + gap
        places, x, y = [], gap, gap
        for name in self._legend:
            text = shortened(name, self._font, width - swatch - 4 * gap)
            needed = swatch + gap + math.ceil(self._font.getlength(text)) + 2 * gap
            if x > gap and x + needed > width:
                x, y = gap, y + line
            places.append((x, y, text))
            x += needed
        sheet = Image.new("RGB", (width, self.image.height + y + line), "white")
        sheet.paste(self.image, (0, 0))
        draw = ImageDraw.Draw(sheet)
        for (x, y, text), color in zip(places, self._legend.values(), strict=True):
            top = self.image.height + y
            draw.rectangle((x, top, x + swatch - 1, top + swatch - 1), fill=color, outline=INK)
            draw.text((x + swatch + gap, top + swatch / 2), text, fill=INK, font=self._font, anchor="lm")
        return sheet

    def _places(self, box: Rectangle, width: int, height: int) -> list[Rectangle]:
        """Where a tag may stand, best first: above, below, inside, beside; moved into the picture."""
        x1, y1, x2, y2 = box
        edge = self._line // 2 + 1
        left, right, top, bottom = x1 - edge, x2 + edge, y1 - edge, y2 + edge
        corners = [
            (left, top - height), (left, bottom), (right - width, top - height), (right - width, bottom),
            (left, top), (right - width, top), (left, bottom - height), (right - width, bottom - height),
            (right, top), (left - width, top),
        ]  # fmt: skip
        places = [
            (max(0, min(x, self.image.width - width)), max(0, min(y, self.image.height - height)))
            for x, y in corners
            if -2 * edge <= y <= self.image.height - height + 2 * edge
        ]
        return [(x, y, x + width, y + height) for x, y in places or [(0, 0)]]

    def _inside(self, box: Any) -> tuple[int, int, int, int]:
        """The box in the picture's pixels, cut at the picture's border."""
        corners = np.nan_to_num(np.asarray(box, np.float64) * self.scale)
        limits = [self.image.width - 1, self.image.height - 1] * 2
        x1, y1, x2, y2 = np.clip(np.round(corners), 0, limits).astype(int).tolist()
        return x1, y1, max(x1, x2), max(y1, y2)

    def _dashes(self, frame: Rectangle, width: int, color: Color) -> None:
        x1, y1, x2, y2 = frame
        dash = 4 * width + 2
        for x in np.arange(x1, x2, 2 * dash):
            for y in (y1, y2 - width + 1):
                self._draw.rectangle((x, y, min(x + dash, x2), y + width - 1), fill=color)
        for y in np.arange(y1, y2, 2 * dash):
            for x in (x1, x2 - width + 1):
                self._draw.rectangle((x, y, x + width - 1, min(y + dash, y2)), fill=color)


def _pil(image: Picture) -> Image.Image:
    """A copy in RGB that may be drawn on."""
    if isinstance(image, Image.Image):
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    array = as_array(image)
    assert array.dtype == np.uint8, array.dtype
    assert array.ndim == 3, array.shape
    assert array.shape[0] == 3, array.shape
    return Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0)))


def as_array(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _overlap(a: Rectangle, b: Rectangle) -> float:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def shortened(text: str, font: Any, width: float) -> str:
    """`text`, or as much of it as `width` pixels hold, and an ellipsis."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
