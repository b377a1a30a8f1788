"""YOLO (Redmon et al., CVPR 2016), the first one: one look at the image, and a grid of cells that say what is there.

The cell of an S x S grid in which an object's centre lies answers for it, with B boxes and the scores of C classes. The
network's output is [S, S, 5B + C], rows first, and in a cell (x, y, sqrt w, sqrt h, confidence) of the first box, of the
second and so on, then the classes. x and y are the box's centre, in cells from the upper left corner of its own; w and h
are parts of the image, padding included. All is as the last layer says it, nothing is squashed. (darknet's vector holds the
same numbers in three blocks, each of them cell by cell: classes, confidences, boxes.)

What is learnt is a sum of squares in five parts. Of a cell with an object one box is responsible: the one with the largest
IoU with it or, where none overlaps it, the one nearest to it in (x, y, w, h) as parts of the image, as in darknet. Its
confidence is to become that IoU, which is a constant to the gradient, and the confidence of every other box 0.

Of several objects in a cell the largest is learnt, and no other (the paper has one a cell; darknet takes any). Of ignored
objects (crowd, difficult) nothing is learnt: boxes of a cell that holds the centre of one, and boxes that lie in one by
half, need not say that they are empty. In prediction a score below zero is zero.

Deviations: darknet follows half the gradient of these squares. In the beginning every box is in the middle of its cell,
with a quarter of the image's width and height.

    cvtasks train task=yolo
    cvtasks train task=yolo dataset=voc dataset.root=/data/VOC2007
    cvtasks train task=yolo dataset=voc dataset.root=DIR backbone=resnet50 task.head_convs=4 task.head_stride=2

Letters: B images, n boxes of a cell, G = S * S cells, K classes, N objects.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias, Unpack

import torch
from torch import Tensor, nn

from cvtasks.config.schema import Range
from cvtasks.errors import ConfigError
from cvtasks.models.detection.parts import Count, DetectionOptions, Share, check_levels, make_suppression
from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.heads import flat
from cvtasks.nn.norm import NormKind, make_norm
from cvtasks.nn.regions import split_objects
from cvtasks.nn.vector import exact
from cvtasks.ops.boxes import area, clip, intersection, iou, rescale
from cvtasks.ops.grid_cells import Grid, assign, decode, encode, occupied
from cvtasks.ops.losses import masked_sum
from cvtasks.ops.matching import IGNORED_OVERLAP, take
from cvtasks.types import Batch, ClassInfo, Prediction

HeadKind: TypeAlias = Literal["fc", "conv"]

LEAK = 0.1
"""Slope of the rectified units below zero"""
FIRST_BOX = (0.5, 0.5, 0.5, 0.5, 0.1)
"""What every box says before anything is learnt"""


class GridHead(nn.Module):
    """Convolutions, then the grid by two fully connected layers or by one 1x1 convolution.

    convs: of 3x3; `stride` is that of the second, or of the only one.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        *,
        kind: HeadKind,
        grid: int,
        convs: int,
        conv_channels: int,
        stride: int,
        norm: NormKind | None,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.grid, self.kind = grid, kind
        layers: list[nn.Module] = []
        for i in range(convs):
            step = stride if i == min(1, convs - 1) else 1
            conv = nn.Conv2d(channels, conv_channels, 3, stride=step, padding=1, bias=norm is None)
            norms = [] if norm is None else [make_norm(norm, conv_channels)]
            layers += [_initialized(conv), *norms, nn.LeakyReLU(LEAK, inplace=True)]
            channels = conv_channels
        self.convs = nn.Sequential(*layers)
        if kind == "fc":
            hidden_layer = _initialized(nn.Linear(grid * grid * channels, hidden))
            self.hidden = nn.Sequential(hidden_layer, nn.LeakyReLU(LEAK, inplace=True), nn.Dropout(dropout))
            self.last = nn.Linear(hidden, grid * grid * outputs)
        else:
            self.last = nn.Linear(channels, outputs)
        nn.init.normal_(self.last.weight, std=0.01)

    def forward(self, x: Tensor, images: Tensor) -> Tensor:
        """A map [B, C, H, W] of `images` [B, 3, H', W'] -> [B, G, outputs], float32.

        Raises ConfigError where the convolutions do not make it S x S.
        """
        x, grid = self.convs(x), self.grid
        if x.shape[2:] != (grid, grid):
            (height, width), (rows, columns) = images.shape[2:], x.shape[2:]
            raise ConfigError(
                f"task.grid={grid}: images of {width} x {height} pixels become {columns} x {rows} cells; type "
                f"pipeline.size={grid * round(width / columns)}, or another task.grid, task.level or task.head_stride"
            )
        if self.kind == "fc":
            return exact(self.last, self.hidden(flat(x))).view(len(x), grid * grid, -1)
        return exact(self.last, x.permute(0, 2, 3, 1).flatten(1, 2))


class Yolo(nn.Module):
    """A `VisionModel`. Raises ConfigError where the parts do not fit.

    level: the backbone's map that the head reads; null: the last. Stages above it go.
    grid, boxes: the paper's S and B.
    head: "fc": two fully connected layers, `hidden` units between them with dropout; "conv": a 1x1 convolution.
    head_convs, head_channels, head_stride, head_norm: convolutions in front of either.
    """

    one_image_size = True
    """The sides of its boxes are parts of the image's: what it has learnt holds for images of that size alone"""

    def __init__(
        self,
        backbone: Backbone,
        *,
        classes: ClassInfo,
        level: str | None = None,
        grid: Count = 7,
        boxes: Count = 2,
        head: HeadKind = "fc",
        head_convs: Annotated[int, Range(min=0)] = 0,
        head_channels: Count = 1024,
        head_stride: Annotated[int, Range(min=1, max=2)] = 1,
        head_norm: NormKind | None = None,
        hidden: Count = 4096,
        dropout: Share = 0.5,
        **options: Unpack[DetectionOptions],
    ) -> None:
        super().__init__()
        level = level or list(backbone.specs)[-1]
        check_levels(backbone, level=level)
        if head_stride > 1 and not head_convs:
            raise ConfigError(
                f"task.head_stride={head_stride}: no convolution has it; type task.head_convs=4"
            )
        self.backbone, self.level = backbone.truncate(level), level
        self.side, self.boxes, self.num_classes = grid, boxes, len(classes)
        self.head = GridHead(
            backbone.specs[level].channels,
            5 * boxes + len(classes),
            kind=head,
            grid=grid,
            convs=head_convs,
            conv_channels=head_channels,
            stride=head_stride,
            norm=head_norm,
            hidden=hidden,
            dropout=dropout,
        )
        first = torch.tensor([*FIRST_BOX * boxes, *[1 / len(classes)] * len(classes)])
        with torch.no_grad():
            self.head.last.bias.view(-1, len(first)).copy_(first)
        self.suppression = make_suppression(options)
        self.class_layers = ["head.last."]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The five parts of the loss."""
        return self.squares(self(batch), batch)

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """Boxes in the original images' pixels, best first."""
        return self.detections(self(batch), batch)

    def forward(self, batch: Batch) -> Tensor:
        """The network's output [B, G, 5n + K], float32, in the order that stands above."""
        maps = self.backbone(self.backbone.normalize(batch.images, batch.sizes))
        output: Tensor = self.head(maps[self.level], batch.images)
        return output

    def squares(self, output: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The losses of an output [B, G, 5n + K]: sums over cells, boxes and classes, means over images."""
        assert batch.boxes is not None
        assert batch.labels is not None
        numbers, confidence, scores = self._split(output)
        objects, ignored = split_objects(batch)
        with torch.no_grad():
            grid, cells = self._grid(batch)
            index, has_object = assign(batch.boxes, batch.labels, objects, grid)
            boxes, truth = decode(numbers, cells, grid), take(batch.boxes, index)[:, :, None]
            overlap, target = iou(boxes, truth).squeeze(3), encode(truth, cells, grid)
            responsible = self._nearest(numbers, target, overlap) & has_object[..., None]
            empty = ~responsible
            if ignored is not None:
                empty &= ~occupied(batch.boxes, ignored, grid)[..., None]
                empty &= ~_inside(boxes, batch.boxes, ignored)
            classes = torch.arange(self.num_classes, device=output.device)
            is_class = (classes == take(batch.labels, index)[..., None]).float()
        errors = (numbers - target).square()
        sums = {
            "box_center": masked_sum(errors[..., :2].sum(-1), responsible),
            "box_size": masked_sum(errors[..., 2:].sum(-1), responsible),
            "object_confidence": masked_sum((confidence - overlap).square(), responsible),
            "empty_confidence": masked_sum(confidence.square(), empty),
            "classification": masked_sum((scores - is_class).square().sum(-1), has_object),
        }
        return {name: value / len(batch) for name, value in sums.items()}

    def detections(self, output: Tensor, batch: Batch) -> list[Prediction]:
        """An output [B, G, 5n + K] as detections: confidence times class score, suppressed within each class."""
        numbers, confidence, scores = self._split(output)
        grid, cells = self._grid(batch)
        boxes = clip(decode(numbers, cells, grid).flatten(1, 2), batch.sizes)
        boxes = rescale(boxes, batch.sizes, batch.orig_sizes)
        products = confidence.clamp(min=0)[..., None] * scores.clamp(min=0)[:, :, None]
        valid = torch.ones_like(boxes[..., 0], dtype=torch.bool)
        found: list[Prediction] = self.suppression(boxes[:, :, None], products.flatten(1, 2), valid)
        return found

    def _split(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes [B, G, n, 4] (x, y, sqrt w, sqrt h), their confidence [B, G, n], and class scores [B, G, K]."""
        boxes, scores = output.split([5 * self.boxes, self.num_classes], dim=2)
        numbers, confidence = boxes.unflatten(2, (self.boxes, 5)).split([4, 1], dim=3)
        return numbers, confidence.squeeze(3), scores

    def _grid(self, batch: Batch) -> tuple[Grid, Tensor]:
        """The grid over the batch's images, and the numbers of its cells [G, 1]."""
        height, width = batch.images.shape[2:]
        cells = torch.arange(self.side**2, device=batch.images.device)
        return Grid(self.side, height, width), cells[:, None]

    def _nearest(self, numbers: Tensor, target: Tensor, overlap: Tensor) -> Tensor:
        """Which one of a cell's boxes [B, G, n, 4] is nearest to its target [B, G, 1, 4], bool [B, G, n]."""
        x_y, w_h = (
            (numbers - target)[..., :2] / self.side,
            numbers[..., 2:].square() - target[..., 2:].square(),
        )
        distance = x_y.square().sum(-1) + w_h.square().sum(-1)
        best = torch.where(overlap.amax(2) > 0, overlap.argmax(2), distance.argmin(2))
        return torch.arange(self.boxes, device=best.device) == best[..., None]


def _inside(boxes: Tensor, others: Tensor, ignored: Tensor) -> Tensor:
    """Which of boxes [B, G, n, 4] lie in one of the `ignored` [B, N] of others [B, N, 4] by half: bool [B, G, n]."""
    flat_boxes = boxes.flatten(1, 2)
    covered = intersection(others, flat_boxes).masked_fill_(~ignored[..., None], 0).amax(1)
    return (covered >= IGNORED_OVERLAP * area(flat_boxes).clamp(min=1e-9)).view(boxes.shape[:3])


def _initialized(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    nn.init.kaiming_normal_(layer.weight, a=LEAK)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
