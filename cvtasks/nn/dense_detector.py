"""The dense single-stage detector: anchors at every position of some maps, and for each, in one look, scores and a box.

RetinaNet and SSD are choices of its parts: a neck that makes the maps, a head that reads them, anchors, a matching, a
criterion, and a choice of candidates. What is the same for both is here. A step has fixed shapes, no loop over images, and
nothing that the host waits for.

Anchors lie in the order of `flatten_maps`: level by level, row by row, position by position, the kinds of one position
side by side. Letters: B images, N anchors of all levels, K classes, R candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

import torch
from torch import Tensor, nn

from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.regions import Maps, split_objects
from cvtasks.nn.suppression import Suppression
from cvtasks.ops import coders
from cvtasks.ops.anchors import cell_anchors, grid_anchors
from cvtasks.ops.boxes import clip, generalized_iou, rescale
from cvtasks.ops.losses import DETECTION_BETA, regression
from cvtasks.ops.matching import Match, match, take
from cvtasks.types import Batch, Prediction

BoxLoss: TypeAlias = Literal["l1", "smooth_l1", "giou"]
Size: TypeAlias = tuple[int, int]
"""Height and width"""


@dataclass(frozen=True)
class Assignment:
    """What every anchor should become. One that is neither positive nor negative teaches nothing."""

    anchors: Tensor
    """float32 [N, 4], in the pixels of the batch's images"""
    positive: Tensor
    """bool [B, N]"""
    negative: Tensor
    """bool [B, N]"""
    labels: Tensor
    """int64 [B, N]: the class of a positive anchor's object; of the others it means nothing"""
    boxes: Tensor
    """float32 [B, N, 4]: the box of a positive anchor's object"""


@dataclass(frozen=True)
class Candidates:
    """The best answers of each image, a fixed number of them, in any order."""

    scores: Tensor
    """float32 [B, R]: probabilities"""
    labels: Tensor
    """int64 [B, R]"""
    index: Tensor
    """int64 [B, R]: the anchor whose box it is"""


class Anchors(Protocol):
    """Usually a module whose buffers know the device."""

    def __call__(self, image: Size, grids: Sequence[Size]) -> list[Tensor]:
        """The anchors [N, 4] of each level, from the size of the batch's images and those of the maps."""
        ...


class Matching(Protocol):
    """Which anchor answers for which object."""

    def __call__(self, anchors: Tensor, boxes: Tensor, *, objects: Tensor, ignored: Tensor | None) -> Match:
        """Anchors [N, 4] and boxes [B, M, 4]; `objects` and `ignored`, bool [B, M], as `ops.matching.match` takes them."""
        ...


class Criterion(Protocol):
    """Named losses from what the head said and what it should have said."""

    def __call__(self, scores: Tensor, offsets: Tensor, assigned: Assignment) -> dict[str, Tensor]:
        """Logits [B, N, K] (with the background, where the head has one) and offsets [B, N, 4]."""
        ...


class Choice(Protocol):
    """What goes on to non-maximum suppression."""

    def __call__(self, scores: Tensor, counts: Sequence[int]) -> Candidates:
        """From logits [B, N, K]; `counts` are the numbers of anchors of each level."""
        ...


@dataclass(frozen=True)
class IouMatching:
    """A `Matching` by two thresholds; between them an anchor is neither. See `ops.matching.match` for `keep_best`."""

    positive_iou: float = 0.5
    negative_iou: float = 0.4
    keep_best: bool = True

    def __call__(self, anchors: Tensor, boxes: Tensor, *, objects: Tensor, ignored: Tensor | None) -> Match:
        return match(
            anchors,
            boxes,
            objects=objects,
            ignored=ignored,
            positive_iou=self.positive_iou,
            negative_iou=self.negative_iou,
            keep_best=self.keep_best,
        )


class AnchorGrid(nn.Module):
    """`Anchors` of the same sizes and ratios at every position of a level. sizes: in pixels, a list for each level."""

    def __init__(self, sizes: Sequence[Sequence[float]], ratios: Sequence[float]) -> None:
        super().__init__()
        for i, of_level in enumerate(sizes):
            self.register_buffer(f"cell{i}", cell_anchors(of_level, ratios), persistent=False)

    def forward(self, image: Size, grids: Sequence[Size]) -> list[Tensor]:
        return [grid_anchors(self.get_buffer(f"cell{i}"), image, grid) for i, grid in enumerate(grids)]


@dataclass(frozen=True)
class BestOfEachLevel:
    """A `Choice`: of every level the `limit` best pairs of an anchor and a class, which are probable each by itself."""

    limit: int = 1000

    def __call__(self, scores: Tensor, counts: Sequence[int]) -> Candidates:
        classes, start, values, indices = scores.shape[2], 0, [], []
        for count, of_level in zip(counts, scores.split(list(counts), dim=1), strict=True):
            best, pair = of_level.flatten(1).topk(min(self.limit, count * classes), dim=1)
            values.append(best)
            indices.append(pair + start * classes)
            start += count
        pairs = torch.cat(indices, 1)
        return Candidates(torch.cat(values, 1).sigmoid(), pairs % classes, pairs // classes)


class DenseDetector(nn.Module):
    """A `VisionModel` from interchangeable parts.

    neck: the backbone's maps -> the maps that the head reads, finest first.
    head: those maps -> logits [B, N, K] and offsets [B, N, 4], float32, in the order of `flatten_maps`; its `class_layers`
        names the layers whose outputs stand for classes.
    coder_weights: factors of the regressed x, y, log w, log h.
    """

    coder_weights: Tensor

    def __init__(
        self,
        backbone: Backbone,
        neck: nn.Module,
        head: nn.Module,
        anchors: Anchors,
        *,
        matching: Matching,
        criterion: Criterion,
        choice: Choice,
        suppression: Suppression,
        coder_weights: Sequence[float] = (1.0, 1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        self.backbone, self.neck, self.head, self.anchors = backbone, neck, head, anchors
        self.matching, self.criterion = matching, criterion
        self.choice, self.suppression = choice, suppression
        self.register_buffer("coder_weights", torch.tensor(coder_weights), persistent=False)
        self._laid: tuple[object, list[Tensor]] = (None, [])

    @property
    def class_layers(self) -> list[str]:
        """The layers whose outputs stand for classes; weights for other classes leave them as they are."""
        return [f"head.{layer}." for layer in self.head.class_layers]  # type: ignore[union-attr]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The criterion's, over the anchors that are positive or negative."""
        maps = self.maps(batch)
        assigned = self.assign(torch.cat(self.lay_anchors(maps, batch)), batch)
        scores, offsets = self.head(maps)
        return self.criterion(scores, offsets, assigned)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """Boxes in the original images' pixels, best first."""
        maps = self.maps(batch)
        anchors = self.lay_anchors(maps, batch)
        scores, offsets = self.head(maps)
        found = self.choice(scores, [len(each) for each in anchors])
        boxes = coders.decode(take(offsets, found.index), torch.cat(anchors)[found.index], self.coder_weights)
        predictions = self.suppression.labelled(clip(boxes, batch.sizes), found.scores, found.labels)
        for prediction, size, orig_size in zip(predictions, batch.sizes, batch.orig_sizes, strict=True):
            boxes = rescale(prediction["boxes"][None], size[None], orig_size[None])
            prediction["boxes"] = clip(boxes, orig_size[None])[0]
        return predictions

    def maps(self, batch: Batch) -> Maps:
        """The feature maps that the head reads."""
        return self.neck(self.backbone(self.backbone.normalize(batch.images, batch.sizes)))

    def lay_anchors(self, maps: Maps, batch: Batch) -> list[Tensor]:
        """The anchors [N, 4] of each level; the last are kept, as most batches of a run have one shape."""
        image, device = (batch.images.shape[2], batch.images.shape[3]), batch.images.device
        grids = [(x.shape[2], x.shape[3]) for x in maps.values()]
        key = (image, *grids, device)
        if self._laid[0] != key:
            self._laid = (key, self.anchors(image, grids))
        return self._laid[1]

    @torch.no_grad()
    def assign(self, anchors: Tensor, batch: Batch) -> Assignment:
        """What each of the anchors [N, 4] should become."""
        assert batch.boxes is not None
        assert batch.labels is not None
        objects, ignored = split_objects(batch)
        matched = self.matching(anchors, batch.boxes, objects=objects, ignored=ignored)
        labels, boxes = take(batch.labels, matched.index), take(batch.boxes, matched.index)
        return Assignment(anchors, matched.positive, matched.negative, labels, boxes)


def flatten_maps(maps: Sequence[Tensor], columns: int) -> Tensor:
    """What convolutions say of each level [B, A * columns, H, W] -> [B, N, columns], float32. A kinds at a position."""
    return torch.cat([x.permute(0, 2, 3, 1).reshape(len(x), -1, columns) for x in maps], dim=1).float()


def box_losses(
    offsets: Tensor,
    assigned: Assignment,
    *,
    kind: BoxLoss = "smooth_l1",
    beta: float = DETECTION_BETA,
    coder_weights: Tensor | None = None,
) -> Tensor:
    """The loss of each box, [B, N]; of anchors that are not positive it means nothing (`ops.losses.masked_sum`).

    l1, smooth_l1: of offsets [B, N, 4], summed over the four; beta: where smooth L1 turns from squared to absolute.
    giou: 1 - generalized IoU of the decoded box and the object's (Rezatofighi et al., CVPR 2019).
    """
    if kind == "giou":
        decoded = coders.decode(offsets, assigned.anchors, coder_weights)
        return 1 - generalized_iou(decoded, assigned.boxes)
    targets = coders.encode(assigned.boxes, assigned.anchors, coder_weights)
    return regression(kind, offsets, targets, beta=beta)
