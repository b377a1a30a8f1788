"""Pictures with what is in them drawn on: predictions, truth, and sheets of several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cvtasks.types import ClassInfo
from cvtasks.viz.colors import GREY, Color, class_color, text_color

Picture: TypeAlias = Any
"""A uint8 [3, H, W] tensor or array, or a PIL image."""

Rectangle: TypeAlias = tuple[float, float, float, float]
"""x1, y1, x2, y2"""

Line: TypeAlias = Literal["bold", "thin", "dashed"]

_INK = (38, 38, 38)


def draw_detections(
    image: Picture, boxes: Any, labels: Any, scores: Any | None, classes: ClassInfo
) -> Image.Image:
    """The image with `boxes` [N, 4], each named, with its score if there are `scores` [N].

    Small images are enlarged, so that names can be read. The best detections get the best places for theirs.
    """
    canvas = Canvas(image, num_labels=len(boxes))
    boxes, labels = _array(boxes).reshape(-1, 4), _array(labels)
    scores = None if scores is None else _array(scores)
    for i in np.argsort(-_areas(boxes), kind="stable"):  # large ones first: they do not hide the small ones
        canvas.box(boxes[i], class_color(int(labels[i])), line="bold")
    for i in range(len(boxes)) if scores is None else np.argsort(-scores, kind="stable"):
        name = classes.names[int(labels[i])]
        canvas.label(
            name if scores is None else f"{name} {scores[i]:.2f}", boxes[i], class_color(int(labels[i]))
        )
    return canvas.image


def draw_truth(
    image: Picture, boxes: Any, labels: Any, classes: ClassInfo, *, ignore: Any | None = None
) -> Image.Image:
    """The image with its labels in thin lines; what is ignored (crowd, difficult) is grey and dashed."""
    canvas = Canvas(image, num_labels=len(boxes))
    boxes, labels = _array(boxes).reshape(-1, 4), _array(labels)
    ignored = np.zeros(len(boxes), np.bool_) if ignore is None else _array(ignore)
    colors = [GREY if ignored[i] else class_color(int(labels[i])) for i in range(len(boxes))]
    for i in np.argsort(-_areas(boxes), kind="stable"):
        canvas.box(boxes[i], colors[i], line="dashed" if ignored[i] else "thin")
    for i in range(len(boxes)):
        canvas.label(classes.names[int(labels[i])], boxes[i], colors[i])
    return canvas.image


def contact_sheet(
    images: Sequence[Image.Image], titles: Sequence[str] | None = None, columns: int = 4, *, cell: int = 480
) -> Image.Image:
    """The images in rows of `columns`, each at most `cell` pixels long, with its title above it."""
    gap = cell // 24
    font: Any = ImageFont.load_default(max(10.0, cell / 24))
    heading = 0 if titles is None else sum(font.getmetrics()) + gap // 3
    cells = [_fitted(image, cell) for image in images]
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    width = max((image.width for image in cells), default=1)
    heights = [max(image.height for image in row) + heading for row in rows]
    used = min(columns, max(len(cells), 1))
    size = (used * (width + gap) + gap, sum(heights) + gap * (len(rows) + 1))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    y = gap
    for n, (row, height) in enumerate(zip(rows, heights, strict=True)):
        for i, image in enumerate(row):
            x = gap + i * (width + gap)
            if titles is not None:
                title = _shortened(titles[n * columns + i], font, width)
                draw.text((x, y + heading * 0.45), title, fill=_INK, font=font, anchor="lm")
            sheet.paste(image, (x, y + heading))
        y += height + gap
    return sheet


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
        text = _shortened(text, self._font, self.image.width - 2 * pad)
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
    array = _array(image)
    assert array.dtype == np.uint8, array.dtype
    assert array.ndim == 3, array.shape
    assert array.shape[0] == 3, array.shape
    return Image.fromarray(np.ascontiguousarray(array.transpose(1, 2, 0)))


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _overlap(a: Rectangle, b: Rectangle) -> float:
    return max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))


def _fitted(image: Image.Image, cell: int) -> Image.Image:
    factor = cell / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _shortened(text: str, font: Any, width: float) -> str:
    """`text`, or as much of it as `width` pixels hold, and an ellipsis."""
    text = " ".join(text.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
