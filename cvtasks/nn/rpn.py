"""The region proposal network (Ren et al., NIPS 2015, section 3.1), on one map or on every level of a pyramid.

Deviations: anchors that cross the image's border are used in training, as torchvision and detectron2 do. Proposals are a
fixed number with a mask of the valid ones, so that no shape depends on the data.
Letters: B images, A anchors, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvtasks.errors import ConfigError
from cvtasks.nn.backbones.base import FeatureSpec
from cvtasks.nn.regions import Maps, Proposals, split_objects
from cvtasks.ops import coders
from cvtasks.ops.anchors import cell_anchors, grid_anchors
from cvtasks.ops.boxes import clip
from cvtasks.ops.host import on_host
from cvtasks.ops.losses import DETECTION_BETA, count, masked_sum, smooth_l1
from cvtasks.ops.matching import match, take
from cvtasks.ops.nms import suppress
from cvtasks.ops.rows import weighted_rows, window_rows
from cvtasks.ops.sampling import sample
from cvtasks.types import Batch

SMALLEST_SIDE = 1e-3
"""A proposal thinner than this many pixels is none."""
HOST_STEP = 8
"""On a CPU the number of proposals is a multiple of this, or all that there may be: in bf16 each length is compiled for."""


@dataclass(frozen=True)
class Grid:
    """What the shape of the images decides. P positions of all levels, windows of side k."""

    anchors: list[Tensor]
    """float32 [A, 4] for each level"""
    windows: Tensor
    """int32 [P, k, k]: the positions that the convolutions look at from each"""
    inside: Tensor
    """bool [P, k, k]: which of them are not padding"""


class RegionProposalNetwork(nn.Module):
    """A small network slides over the maps and says of each anchor whether it is an object, and where it ends.

    anchor_sizes: one list for each level. Numbers of proposals: `before_nms` for each level, `after_nms` in all, each
    as (training, prediction). A proposal whose score (a probability) is below `score_threshold` is none.
    """

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        *,
        anchor_sizes: Sequence[Sequence[float]],
        anchor_ratios: Sequence[float],
        convs: int = 1,
        positive_iou: float = 0.7,
        negative_iou: float = 0.3,
        samples: int = 256,
        positive_fraction: float = 0.5,
        before_nms: tuple[int, int] = (2000, 1000),
        after_nms: tuple[int, int] = (2000, 1000),
        nms_threshold: float = 0.7,
        score_threshold: float = 0.0,
        beta: float = DETECTION_BETA,
    ) -> None:
        super().__init__()
        if len(anchor_sizes) != len(specs) or len({len(sizes) for sizes in anchor_sizes}) != 1:
            raise ConfigError(
                f"task.anchor_sizes={[list(sizes) for sizes in anchor_sizes]}: expected {len(specs)} lists of one "
                f"length, for {', '.join(specs)}"
            )
        self.positive_iou, self.negative_iou = positive_iou, negative_iou
        self.samples, self.positive_fraction = samples, positive_fraction
        self.before_nms, self.after_nms = before_nms, after_nms
        self.nms_threshold, self.score_threshold, self.beta = nms_threshold, score_threshold, beta
        for i, sizes in enumerate(anchor_sizes):
            self.register_buffer(f"cell{i}", cell_anchors(sizes, anchor_ratios), persistent=False)
        self.levels = tuple(specs)
        channels = next(iter(specs.values())).channels
        anchors = len(anchor_sizes[0]) * len(anchor_ratios)
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(convs))
        self.objectness = nn.Conv2d(channels, anchors, 1)
        self.offsets = nn.Conv2d(channels, 4 * anchors, 1)
        self.begin_anew()
        self._grid: tuple[object, Grid | None] = (None, None)

    def begin_anew(self) -> None:
        """Forget what was learnt."""
        for layer in (*self.convs, self.objectness, self.offsets):
            nn.init.normal_(layer.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def learn(self, maps: Maps, batch: Batch) -> tuple[Proposals, dict[str, Tensor]]:
        """Proposals for training (no gradient), and `rpn_objectness` and `rpn_box`."""
        losses = self._losses(maps, batch)
        with torch.no_grad():
            scores, offsets, anchors = self(maps, batch)
        return self._select(scores, offsets, anchors, batch, phase=0), losses

    def propose(self, maps: Maps, batch: Batch) -> Proposals:
        """The best regions, best first."""
        scores, offsets, anchors = self(maps, batch)
        return self._select(scores, offsets, anchors, batch, phase=1)

    def forward(self, maps: Maps, batch: Batch) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """For each level: scores [B, A] (logits), offsets [B, A, 4] and anchors [A, 4], float32."""
        scores, offsets = [], []
        for x in self._read(maps):
            for conv in self.convs:
                x = F.relu(conv(x), inplace=True)
            # Anchors of one position lie side by side, positions row by row.
            scores.append(self.objectness(x).permute(0, 2, 3, 1).flatten(1).float())
            offsets.append(self.offsets(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4).float())
        return scores, offsets, self._grid_of(maps, batch).anchors

    def sampled(self, maps: Maps, batch: Batch, index: Tensor) -> tuple[Tensor, Tensor]:
        """Scores [B, S] and offsets [B, S, 4] of the anchors `index` [B, S] of all levels, from their windows alone.

        A few hundred anchors of many thousands teach, and theirs is all of the gradient: through whole maps it would be
        a sixth of a ResNet-50's step at 640 pixels.
        """
        kinds, grid = self.objectness.out_channels, self._grid_of(maps, batch)
        position, kind = index // kinds, (index % kinds).flatten()[:, None]
        # One table for each image, of all levels: [B, P, C].
        table = torch.cat([x.permute(0, 2, 3, 1).flatten(1, 2) for x in self._read(maps)], dim=1)
        start = table.shape[1] * torch.arange(len(table), dtype=torch.int32, device=index.device)
        rows = grid.windows[position] + start[:, None, None, None]
        inside = grid.inside[position].flatten(0, 1)[:, None]
        x = weighted_rows(table.flatten(0, 1), rows.view(-1, 1), inside.view(-1, 1))
        x = x.view(-1, *rows.shape[2:], table.shape[2]).permute(0, 3, 1, 2)
        for conv in self.convs:
            # The padding of each convolution is part of the window, zero outside the map.
            inside = inside[..., 1:-1, 1:-1]
            x = F.relu(F.conv2d(x, conv.weight, conv.bias)) * inside  # type: ignore[arg-type]
        scores = self.objectness(x).float().flatten(1).gather(1, kind)
        offsets = self.offsets(x).float().view(len(x), kinds, 4)
        offsets = offsets.gather(1, kind[..., None].expand(-1, -1, 4))
        return scores.view(index.shape), offsets.view(*index.shape, 4)

    def _read(self, maps: Maps) -> list[Tensor]:
        return [maps[level] for level in self.levels]

    def _grid_of(self, maps: Maps, batch: Batch) -> Grid:
        """The last grid is kept, as most batches of a run have one shape."""
        image, device = (batch.images.shape[2], batch.images.shape[3]), batch.images.device
        grids = [(x.shape[2], x.shape[3]) for x in self._read(maps)]
        key, kept = (image, *grids, device), self._grid
        if kept[0] == key and kept[1] is not None:
            return kept[1]
        cells = [self.get_buffer(f"cell{i}") for i in range(len(grids))]
        anchors = [grid_anchors(cell, image, grid) for cell, grid in zip(cells, grids, strict=True)]
        grid = Grid(anchors, *window_rows(grids, side=2 * len(self.convs) + 1, device=device))
        self._grid = (key, grid)
        return grid

    def _losses(self, maps: Maps, batch: Batch) -> dict[str, Tensor]:
        """Binary cross-entropy over the sampled anchors, smooth L1 over the positive ones, both for each sample."""
        assert batch.boxes is not None
        with torch.no_grad():
            anchors = torch.cat(self._grid_of(maps, batch).anchors)
            objects, ignored = split_objects(batch)
            matched = match(
                anchors,
                batch.boxes,
                objects=objects,
                ignored=ignored,
                positive_iou=self.positive_iou,
                negative_iou=self.negative_iou,
                keep_best=True,
            )
            index, drawn = sample(
                matched.positive,
                matched.negative,
                count=self.samples,
                positive_fraction=self.positive_fraction,
            )
            positive = take(matched.positive, index) & drawn
            targets = coders.encode(take(batch.boxes, take(matched.index, index)), anchors[index])
        scores, offsets = self.sampled(maps, batch, index)
        objectness = F.binary_cross_entropy_with_logits(scores, positive.float(), reduction="none")
        box = smooth_l1(offsets, targets, beta=self.beta)
        number = count(drawn)
        return {
            "rpn_objectness": masked_sum(objectness, drawn) / number,
            "rpn_box": masked_sum(box, positive) / number,
        }

    @torch.no_grad()
    def _select(
        self, scores: list[Tensor], offsets: list[Tensor], anchors: list[Tensor], batch: Batch, *, phase: int
    ) -> Proposals:
        best_scores, best_boxes = [], []
        for level_scores, level_offsets, level_anchors in zip(scores, offsets, anchors, strict=True):
            values, index = level_scores.topk(min(self.before_nms[phase], level_scores.shape[1]), dim=1)
            best_scores.append(values)
            best_boxes.append(coders.decode(take(level_offsets, index), level_anchors[index]))
        boxes = clip(torch.cat(best_boxes, 1), batch.sizes)
        ranked = torch.cat(best_scores, 1)
        keep = suppress(boxes, ranked, [s.shape[1] for s in best_scores], iou=self.nms_threshold)
        keep = keep & (boxes[..., 2:] - boxes[..., :2] >= SMALLEST_SIDE).all(-1)
        if self.score_threshold > 0:
            keep &= ranked.sigmoid() >= self.score_threshold
        ranked = ranked.masked_fill(~keep, -torch.inf)
        values, index = ranked.topk(min(self.after_nms[phase], ranked.shape[1]), dim=1)
        valid = values > -torch.inf
        if on_host(valid):
            # A head's work on padding would be most of a step where few proposals reach the score threshold.
            length = HOST_STEP * (int(valid.sum(1).max()) // HOST_STEP + 1)
            index, valid = index[:, :length], valid[:, :length]
        return Proposals(take(boxes, index), valid)
