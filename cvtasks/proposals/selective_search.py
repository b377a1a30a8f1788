"""Selective search (Uijlings, van de Sande, Gevers and Smeulders, IJCV 2013): boxes of the regions that grouping finds.

In each of several colour spaces, and at each of several scales, the image is segmented into small regions, which are
grouped by each of several sums of similarities. The regions of all these hierarchies are the proposals. A hierarchy's
n-th last region has the rank n times a random number from 0 to 1: what is whole comes early, but no size and no hierarchy
comes first alone.

    cvtasks proposals dataset=coco dataset.root=DIR method=selective_search
    cvtasks proposals dataset=coco dataset.root=DIR method=selective_search proposals.mode=quality proposals.limit=10000

The two modes are the paper's: 8 hierarchies, and 80. Deviations: segmentation and colour spaces are scikit-image's; texture
is taken from Gaussian derivatives with rises and falls apart, of a fixed range; regions touch along the sides of pixels,
not at corners. A large image is shrunk first, as the scales are made for images of 500 pixels or so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

import numpy as np

from cvtasks.config.schema import Positive, Range
from cvtasks.errors import ConfigError
from cvtasks.proposals.grouping import Regions, color_bins, group, texture_bins, touching
from cvtasks.proposals.segmentation import in_color_space, segment, shrunk

_ALL, _WITHOUT_COLOR = ("color", "texture", "size", "fill"), ("texture", "size", "fill")
MODES: dict[str, dict[str, Any]] = {
    "fast": {
        "color_spaces": ("hsv", "lab"),
        "scales": (50, 100),
        "similarities": (_ALL, _WITHOUT_COLOR),
    },
    "quality": {
        "color_spaces": ("hsv", "lab", "rgi", "hue", "intensity"),
        "scales": (50, 100, 150, 300),
        "similarities": (_ALL, _WITHOUT_COLOR, ("fill",), ("size",)),
    },
}


@dataclass(frozen=True, kw_only=True)
class SelectiveSearch:
    """A proposal method; see the module.

    color_spaces, scales, similarities: what is combined with what; None: the mode's. A scale is the segmentation's k, for
        colours from 0 to 255. Similarities are lists of those that add up.
    sigma: pixels of the Gaussian before segmentation
    min_size: pixels of the smallest region to start from; None: as many as the scale (the authors' choice)
    min_side: pixels of the shrunk image; narrower boxes are left out, but never that of an image as narrow.
    longest_side: a larger image is shrunk to so many pixels; None: never.
    seed: of the ranks

    Raises ConfigError where a list is empty.
    """

    name: ClassVar[str] = "selective_search"
    version: ClassVar[int] = 1

    limit: Annotated[int, Positive] = 2000
    mode: Literal["fast", "quality"] = "fast"
    color_spaces: Sequence[Literal["rgb", "hsv", "lab", "rgi", "hue", "intensity"]] | None = None
    scales: Sequence[Annotated[float, Range(above=0)]] | None = None
    similarities: Sequence[Sequence[Literal["color", "texture", "size", "fill"]]] | None = None
    sigma: Annotated[float, Range(min=0)] = 0.8
    min_size: Annotated[int, Positive] | None = None
    min_side: Annotated[float, Range(min=0)] = 12.0
    longest_side: Annotated[int, Positive] | None = 640
    seed: int = 0

    def __post_init__(self) -> None:
        for key in MODES[self.mode]:
            given = getattr(self, key)
            if given is not None and (not given or (key == "similarities" and not all(given))):
                raise ConfigError(
                    f"proposals.{key} has an empty list; name one at least, or set null for the mode's"
                )

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Boxes float32 [P, 4] of an image, uint8 [H, W, 3], best first."""
        small = shrunk(image, self.longest_side)
        boxes = ranked(list(self.hierarchies(small)), self.seed)
        (height, width), (rows, columns) = image.shape[:2], small.shape[:2]
        wide = boxes[:, 2] - boxes[:, 0] >= min(self.min_side, columns)
        high = boxes[:, 3] - boxes[:, 1] >= min(self.min_side, rows)
        found = boxes[wide & high][: self.limit]
        return (found * np.tile([width / columns, height / rows], 2)).astype(np.float32)

    def hierarchies(self, image: np.ndarray) -> Iterator[np.ndarray]:
        """The regions' boxes of each hierarchy, int64 [2R - 1, 4], the smallest first and the whole image's last."""
        for space in self._chosen("color_spaces"):
            channels = in_color_space(image, space)
            colors, textures = color_bins(channels), texture_bins(channels)
            for scale in self._chosen("scales"):
                min_size = round(scale) if self.min_size is None else self.min_size
                labels = segment(channels, scale=scale, sigma=self.sigma, min_size=min_size)
                regions, neighbors = Regions.of(labels, colors, textures), touching(labels)
                for similarities in self._chosen("similarities"):
                    yield group(regions, neighbors, similarities=similarities)

    def _chosen(self, key: str) -> Sequence[Any]:
        given = getattr(self, key)
        return MODES[self.mode][key] if given is None else given


def ranked(hierarchies: Sequence[np.ndarray], seed: int) -> np.ndarray:
    """The boxes of all hierarchies [N, 4] by the paper's pseudo-random rank, none twice: the better rank counts."""
    rng = np.random.default_rng(seed)
    ranks = np.concatenate([rng.random(len(boxes)) * np.arange(len(boxes), 0, -1) for boxes in hierarchies])
    boxes = np.concatenate(hierarchies)[np.argsort(ranks, kind="stable")]
    _, first = np.unique(boxes, axis=0, return_index=True)
    return boxes[np.sort(first)]
