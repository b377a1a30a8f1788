"""Images with what is said of them drawn on, truth or prediction, and sheets of several.

A field of `Sample` or `Prediction` that can be seen has a function in `LAYERS`; a new one needs one more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cvtasks.types import ClassInfo
from cvtasks.viz.canvas import Canvas, Joint, Limb, Line, Picture, as_array, shortened
from cvtasks.viz.colors import GREY, INK, SIDE_COLORS, VOID_COLOR, class_colors

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
    """Frames with names. What truth ignores (crowd, difficult) is grey and dashed, and so is the box of a person who is
    only looked at for the joints; the best detections get the best places for their names."""
    boxes = as_array(labels["boxes"]).reshape(-1, 4)
    classes_of = _classes_of(labels)
    scores = as_array(labels["scores"]) if "scores" in labels else None
    ignored = as_array(labels["ignore"]) if "ignore" in labels else np.zeros(len(boxes), np.bool_)
    if classes_of is None:
        for box in boxes:
            canvas.box(box, GREY, line="dashed")
        return
    palette = class_colors(classes)
    colors = [GREY if ignored[i] else palette[int(classes_of[i])] for i in range(len(boxes))]
    for i in np.argsort(-_areas(boxes), kind="stable"):  # large ones first: they do not hide the small ones
        line: Line = "dashed" if ignored[i] else "thin" if scores is None else "bold"
        canvas.box(boxes[i], colors[i], line=line)
    for i in range(len(boxes)) if scores is None else np.argsort(-scores, kind="stable"):
        name = classes.names[int(classes_of[i])]
        canvas.label(name if scores is None else f"{name} {scores[i]:.2f}", boxes[i], colors[i])


def _classes_of(labels: Mapping[str, Any]) -> np.ndarray | None:
    """Of each box; None where nobody says."""
    if "labels" in labels:
        return as_array(labels["labels"])
    return as_array(labels["label"]).reshape(1) if "label" in labels else None


def _class(canvas: Canvas, labels: Mapping[str, Any], classes: ClassInfo) -> None:
    """Of an image whose class has no box: the name and the score of the first guess below it, where they hide nothing."""
    classes_of = _classes_of(labels)
    if "boxes" in labels or classes_of is None or not len(classes_of):
        return
    label = int(classes_of[0])
    if label >= len(classes):  # an empty scene's
        return
    score = f" {as_array(labels['scores'])[0]:.2f}" if "scores" in labels else ""
    canvas.legend(f"{classes.names[label]}{score}", class_colors(classes)[label])


def _skeletons(canvas: Canvas, labels: Mapping[str, Any], classes: ClassInfo) -> None:
    """Limbs and joints in the colours of their sides, the person's own; hidden joints are rings. Joints that are not
    labelled, or not finite, are left out with their limbs."""
    people = as_array(labels["keypoints"]).astype(np.float64)
    visible = as_array(labels["visible"]) if "visible" in labels else np.full(people.shape[:2], 2)
    visible = np.where(np.isfinite(people).all(axis=2), visible, 0)
    height, width = canvas.image.height / canvas.scale, canvas.image.width / canvas.scale
    people = np.clip(np.nan_to_num(people), (-width, -height), (2 * width, 2 * height))
    sides = [_side(name) for name in classes.joints]
    seen = set()
    for points, seen_as in zip(people.tolist(), visible.tolist(), strict=True):
        limbs = [
            Limb(points[a], points[b], SIDE_COLORS[_common_side(sides[a], sides[b])])
            for a, b in classes.skeleton
            if seen_as[a] and seen_as[b]
        ]
        shown = [j for j in range(len(points)) if seen_as[j]]
        joints = [Joint(points[j], SIDE_COLORS[sides[j]], hollow=seen_as[j] == 1) for j in shown]
        canvas.skeleton(limbs, joints)
        seen |= {sides[j] for j in shown}
    for side in ("left", "right"):
        if side in seen:
            canvas.legend(side, SIDE_COLORS[side])


def _side(joint: str) -> str:
    return next((side for side in ("left", "right") if joint.startswith(side + " ")), "middle")


def _common_side(one: str, other: str) -> str:
    """Of a limb: that of its ends, the middle counting for neither."""
    sides = {one, other} - {"middle"}
    return sides.pop() if len(sides) == 1 else "middle"


LAYERS: dict[str, Callable[[Canvas, Mapping[str, Any], ClassInfo], None]] = {
    "segmentation": _label_map,
    "boxes": _boxes,
    "label": _class,
    "labels": _class,
    "keypoints": _skeletons,
}
"""What can be seen of a field, from the ground up"""


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _fitted(image: Image.Image, cell: int) -> Image.Image:
    factor = cell / max(image.size)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
