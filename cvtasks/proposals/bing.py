"""BING: objects have closed outlines, which 8 x 8 gradients show at any size (Cheng et al., CVPR 2014).

The image is resized so that a window of each quantised size becomes 8 x 8 pixels. Its normed gradients, min(|gx| + |gy|,
255), times one 8 x 8 template are its score (stage I). Of each size the best windows stay, none within two pixels of a
better one; a scale and an offset for the size make scores comparable (stage II). Both stages are linear SVMs of `fit`.

    cvtasks proposals dataset=coco dataset.root=/data/mine method=bing
    cvtasks proposals dataset=coco dataset.root=/data/mine method=bing proposals.bits=4

Deviations: the image is resized with a filter as wide as the shrinking asks for (Pillow's bilinear); positive windows of
training lie on the positions that are searched, not on the true boxes; the whole image is the last proposal, if it is none
yet. Without `fit` there is a template by hand, and all sizes count alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

from cvtasks.config.schema import Positive, Range
from cvtasks.errors import DataError
from cvtasks.proposals.boxes import first_of, iou
from cvtasks.proposals.linear_svm import linear_svm

SIDE = 8
"""Pixels of the template's side"""
APART = 2
"""Of two windows of a size at most so many pixels of the resized image apart, the better one stays."""
BACKGROUND = 100
"""Windows drawn from each training image, to learn what is no object"""
OBJECT = 0.5
"""IoU from which on a window shows the object"""
RING = np.pad(np.full((SIDE - 2, SIDE - 2), -1 / 36), 1, constant_values=1 / 28)
"""The template without training: the mean gradient along the window's border less the mean inside"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Bing:
    """A proposal method; see the module.

    lengths: pixels; every pair of them is a size of windows, S in all. One more than twice the image's is not searched, and
        one between is cut to the image's.
    per_size: windows of each size that enter stage II
    bits: None for the dot product, else its approximation by so many leading bits of the gradients and `bases` vectors of
        +1 and -1, computed by bit operations (the paper's: 4 and 2). Training is exact.
    cost: of errors, in both SVMs
    min_positives: a size is searched if it shows at least so many training objects (the paper's 50, with 2,501 images).
    seed: of the draw of background windows
    template, calibration: learnt, [8, 8] and [S, 2], a scale and an offset for each size; NaN where it is not searched.
    """

    name: ClassVar[str] = "bing"
    version: ClassVar[int] = 1

    limit: Annotated[int, Positive] = 1000
    lengths: tuple[int, ...] = (10, 20, 40, 80, 160, 320)
    per_size: Annotated[int, Positive] = 130
    bits: Annotated[int, Range(min=1, max=8)] | None = None
    bases: Annotated[int, Positive] = 2
    cost: Annotated[float, Range(above=0)] = 1.0
    min_positives: Annotated[int, Range(min=0)] = 1
    seed: int = 0
    template: np.ndarray | None = None
    calibration: np.ndarray | None = None

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Boxes float32 [P, 4] of an image, uint8 [H, W, 3], best first."""
        template = RING if self.template is None else self.template
        found, ranks = [np.zeros((0, 4))], [np.zeros(0)]
        for level in levels(image, self.lengths):
            if self.calibration is None:
                boxes, scores = self._best(level, template, bits=self.bits)
                ranks.append(-np.arange(len(boxes), dtype=np.float64))
                found.append(boxes)
            elif not np.isnan(self.calibration[level.size, 0]):
                boxes, scores = self._best(level, template, bits=self.bits)
                scale, offset = self.calibration[level.size]
                found.append(boxes)
                ranks.append(scale * scores + offset)
        order = np.argsort(-np.concatenate(ranks), kind="stable")
        height, width = image.shape[:2]
        return first_of(np.concatenate(found)[order], height=height, width=width, limit=self.limit)

    def fit(self, images_and_boxes: Iterable[tuple[np.ndarray, np.ndarray]]) -> Bing:
        """The method with a template and a calibration learnt from images and the true boxes [N, 4] of each.

        All images are held in memory. Raises DataError where no object has a size that is searched.
        """
        images = list(images_and_boxes)
        template, shown = self._stage_1(images)
        return dataclasses.replace(
            self, template=template, calibration=self._stage_2(images, template, shown)
        )

    def _stage_1(self, images: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
        """The template that tells objects from background, and how many objects each size shows, [S]."""
        rng = np.random.default_rng(self.seed)
        objects, background = [], []
        shown = np.zeros(len(self.lengths) ** 2, dtype=np.int64)
        for image, truth in images:
            searched = list(levels(image, self.lengths))
            for level in searched:
                x, y = level.nearest(truth)
                hit = iou(level.boxes(x, y), truth).diagonal() >= OBJECT
                objects.append(level.windows[y[hit], x[hit]])
                shown[level.size] += hit.sum()
            for choice in rng.integers(len(searched), size=BACKGROUND if searched else 0):
                level = searched[choice]
                y, x = rng.integers(level.windows.shape[:2])[:, None]
                if (iou(level.boxes(x, y), truth) < OBJECT).all():
                    background.append(level.windows[y, x])
        if not shown.any():
            raise DataError(
                f"proposals bing: none of the true boxes of {len(images)} training images has a size of "
                f"proposals.lengths={list(self.lengths)}; set others, or give images with objects"
            )
        features = np.concatenate([*objects, *background]).reshape(-1, SIDE * SIDE) / 255
        weights, _ = linear_svm(features, np.arange(len(features)) < shown.sum(), cost=self.cost)
        return weights.reshape(SIDE, SIDE) / 255, shown

    def _stage_2(
        self, images: list[tuple[np.ndarray, np.ndarray]], template: np.ndarray, shown: np.ndarray
    ) -> np.ndarray:
        """[S, 2]: the scale and the offset that make the scores of all sizes comparable."""
        scores: list[list[np.ndarray]] = [[] for _ in shown]
        labels: list[list[np.ndarray]] = [[] for _ in shown]
        for image, truth in images:
            for level in levels(image, self.lengths):
                boxes, values = self._best(level, template, bits=None)
                scores[level.size].append(values)
                labels[level.size].append(iou(boxes, truth).max(1, initial=0) >= OBJECT)
        calibration = np.full((len(shown), 2), np.nan)
        for size in np.flatnonzero(shown >= max(self.min_positives, 1)):
            values, is_object = np.concatenate(scores[size]), np.concatenate(labels[size])
            unit = values.std() or 1.0
            weight, offset = linear_svm(values[:, None] / unit, is_object, cost=self.cost)
            calibration[size] = max(weight[0] / unit, 0), offset
        return calibration

    def _best(self, level: Level, template: np.ndarray, *, bits: int | None) -> tuple[np.ndarray, np.ndarray]:
        """Stage I: the best windows, their boxes [N, 4] and scores [N]."""
        if bits is None:
            scores = exact_scores(level.gradients, template)
        else:
            scores = binary_scores(level.gradients, *binary_bases(template, self.bases), bits=bits)
        y, x = peaks(scores, self.per_size)
        return level.boxes(x, y), scores[y, x]


class Level(NamedTuple):
    """An image of which the windows of one size have 8 x 8 pixels."""

    size: int
    """Its place in the list of sizes"""
    gradients: np.ndarray
    """uint8 [H, W]"""
    stride: np.ndarray
    """float [4]: the image's pixels for one of these, of x1, y1, x2 and y2"""

    @property
    def windows(self) -> np.ndarray:
        """uint8 [H - 7, W - 7, 8, 8], a view"""
        return sliding_window_view(self.gradients, (SIDE, SIDE))

    def boxes(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """[N, 4] in the image's pixels, of the windows that begin at x and y, [N]"""
        return np.stack([x, y, x + SIDE, y + SIDE], 1) * self.stride

    def nearest(self, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the windows begin whose centres are nearest to those of boxes [N, 4]."""
        boxes = boxes / self.stride
        last = np.array(self.gradients.shape[::-1]) - SIDE
        x, y = np.rint((boxes[:, :2] + boxes[:, 2:] - SIDE) / 2).astype(np.int64).clip(0, last).T
        return x, y


def levels(image: np.ndarray, lengths: Iterable[int]) -> Iterator[Level]:
    """The image at every size that is searched; sizes are counted row by row, heights outside, widths inside."""
    height, width = image.shape[:2]
    picture = Image.fromarray(image)
    for size, (h, w) in enumerate((h, w) for h in lengths for w in lengths):
        if h <= 2 * height and w <= 2 * width:
            rows, columns = round(SIDE * height / min(h, height)), round(SIDE * width / min(w, width))
            resized = picture.resize((columns, rows), Image.Resampling.BILINEAR)
            stride = np.array([width / columns, height / rows] * 2)
            yield Level(size, normed_gradients(np.asarray(resized)), stride)


def normed_gradients(image: np.ndarray) -> np.ndarray:
    """min(|gx| + |gy|, 255), uint8 [H, W], of uint8 [H, W, 3], where gx and gy are the largest of the three channels.

    A gradient is the next pixel less the one before; at the border twice the step to the only neighbour.
    """
    down, across = np.gradient(image.astype(np.float32), axis=(0, 1))
    return np.minimum(2 * (np.abs(down).max(2) + np.abs(across).max(2)), 255).astype(np.uint8)


def exact_scores(gradients: np.ndarray, template: np.ndarray) -> np.ndarray:
    """[H - 7, W - 7]: the template's dot product with each window of gradients [H, W]."""
    windows = sliding_window_view(gradients.astype(np.float32), (SIDE, SIDE))
    return np.tensordot(windows, template.astype(np.float32), 2)


def binary_bases(template: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """The template as a sum of vectors of +1 and -1: weights [J] and vectors, bool [J, 8, 8] (the paper's algorithm 1)."""
    rest, weights, vectors = template.astype(np.float64), [], []
    for _ in range(number):
        vectors.append(rest >= 0)
        signs = np.where(vectors[-1], 1, -1)
        weights.append((signs * rest).mean())
        rest = rest - weights[-1] * signs
    return np.array(weights), np.stack(vectors)


def binary_scores(
    gradients: np.ndarray, weights: np.ndarray, vectors: np.ndarray, *, bits: int
) -> np.ndarray:
    """[H - 7, W - 7]: the dot product of the template of `binary_bases` with the leading `bits` of uint8 gradients [H, W].

    A window of one bit is a number of 64 bits, and a product with a vector of +1 and -1 counts bits: 2 |a & b| - |b|.
    """
    masks = [as_words(vector)[0, 0] for vector in vectors]
    scores = np.zeros(np.array(gradients.shape) - SIDE + 1)
    for bit in range(7, 7 - bits, -1):
        words = as_words(gradients >> bit & 1)
        ones = np.bitwise_count(words).astype(np.int16)
        for weight, mask in zip(weights, masks, strict=True):
            scores += weight * 2**bit * (2 * np.bitwise_count(words & mask).astype(np.int16) - ones)
    return scores


def as_words(bits: np.ndarray) -> np.ndarray:
    """uint64 [H - 7, W - 7]: the 8 x 8 bits of each window of [H, W]; bit 8 y + x is the pixel at y, x of the window."""
    height, width = np.array(bits.shape) - SIDE + 1
    bits = bits.astype(np.uint64)
    across = np.zeros((height + SIDE - 1, width), dtype=np.uint64)
    for x in range(SIDE):
        across |= bits[:, x : x + width] << np.uint64(x)
    words = np.zeros((height, width), dtype=np.uint64)
    for y in range(SIDE):
        words |= across[y : y + height] << np.uint64(SIDE * y)
    return words


def peaks(scores: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of at most `number` scores [H, W], best first, of which no two are within `APART` of each other."""
    height, width = scores.shape
    # Each one that stays can rule out 24 more, so no others can matter.
    order = np.argsort(-scores, axis=None, kind="stable")[: number * (2 * APART + 1) ** 2].tolist()
    free = np.ones((height + 2 * APART, width + 2 * APART), dtype=bool)
    found = []
    for place in order:
        y, x = divmod(place, width)
        if free[y + APART, x + APART]:
            found.append(place)
            free[y : y + 2 * APART + 1, x : x + 2 * APART + 1] = False
            if len(found) == number:
                break
    return np.divmod(np.array(found), width)
