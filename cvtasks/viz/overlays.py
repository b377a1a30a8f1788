"""Images with what is said of them drawn on, truth or prediction, and sheets of several.

A field of `Sample` or `Prediction` that can be seen has a function in `LAYERS`; a new one needs one more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cvtasks.types import ClassInfo
from cvtasks.viz.canvas import Canvas, Line, Picture, as_array, shortened
from cvtasks.viz.colors import GREY, INK, VOID_COLOR, class_colors

_MOST_ENTRIES = 24
"""More classes than this are too many for a legend."""


def draw(image: Picture, labels: Mapping[str, Any], classes: ClassInfo) -> Image.Image:
    """The image with all fields of `labels` that can be seen, in the image's pixels.

    With `scores` it is a prediction, and its lines are bold. Small images are enlarged, so that names can be read.
    """
    canvas = Canvas(image, num_labels=len(labels.get("boxes", ())))
    for field, layer in LAYERS.items():
        if field in labels:
            layer(canvas, labels, classes)
    return canvas.finished()


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
                title = shortened(titles[n * columns + i], font, width)
                draw.text((x, y + heading * 0.45), title, fill=INK, font=font, anchor="lm")
            sheet.paste(image, (x, y + heading))
        y += height + gap
    return sheet


def _label_map(canvas: Canvas, labels: Mapping[str, Any], classes: ClassInfo) -> None:
    """Tinted pixels, and a legend of the classes that occur, the largest first; 255 is void."""
    label_map = as_array(labels["segmentation"])
    colors, names = class_colors(classes), classes.names
    palette = np.full((256, 3), VOID_COLOR, np.uint8)
    palette[: len(colors)] = colors
    canvas.label_map(label_map, palette)
    pixels = np.bincount(label_map.reshape(-1), minlength=256)
    present = [k for k in np.argsort(-pixels, kind="stable").tolist() if pixels[k]]
    for k in present[:_MOST_ENTRIES]:
        canvas.legend(*((names[k], colors[k]) if k < len(names) else ("void", VOID_COLOR)))
    if len(present) > _MOST_ENTRIES:
        canvas.legend(f"and {len(present) - _MOST_ENTRIES} more", (255, 255, 255))


def _boxes(canvas: Canvas, labels: Mapping[str, Any], classes: ClassInfo) -> None:
    """Frames with names. What truth ignores (crowd, difficult) is grey and dashed; the best detections get the best
    places for their names."""
    boxes, classes_of = as_array(labels["boxes"]).reshape(-1, 4), as_array(labels["labels"])
    scores = as_array(labels["scores"]) if "scores" in labels else None
    ignored = as_array(labels["ignore"]) if "ignore" in labels else np.zeros(len(boxes), np.bool_)
    palette = class_colors(classes)
    colors = [GREY if ignored[i] else palette[int(classes_of[i])] for i in range(len(boxes))]
    for i in np.argsort(-_areas(boxes), kind="stable"):  # large ones first: they do not hide the small ones
        line: Line = "dashed" if ignored[i] else "thin" if scores is None else "bold"
        canvas.box(boxes[i], colors[i], line=line)
    for i in range(len(boxes)) if scores is None else np.argsort(-scores, kind="stable"):
        name = classes.names[int(classes_of[i])]
        canvas.label(name if scores is None else f"{name} {scores[i]:.2f}", boxes[i], colors[i])


LAYERS: dict[str, Callable[[Canvas, Mapping[str, Any], ClassInfo], None]] = {
    "segmentation": _label_map,
    "boxes": _boxes,
}
"""What can be seen of a field, from the ground up"""


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _fitted(image: Image.Image, cell: int) -> Image.Image:
    factor = cell / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
