"""The region proposal network (Ren et al., NIPS 2015, section 3.1), on one map or on every level of a pyramid.

Deviations: anchors that cross the image's border are used in training, as torchvision and detectron2 do. Proposals are a
fixed number with a mask of the valid ones, so that no shape depends on the data.
Letters: B images, A anchors, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvtasks.errors import ConfigError
from cvtasks.nn.backbones.base import FeatureSpec
from cvtasks.nn.regions import Maps, Proposals, split_objects
from cvtasks.ops import coders
from cvtasks.ops.anchors import cell_anchors, grid_anchors
from cvtasks.ops.boxes import clip
from cvtasks.ops.losses import DETECTION_BETA, masked_sum, smooth_l1
from cvtasks.ops.matching import match, take
from cvtasks.ops.nms import suppress
from cvtasks.ops.sampling import sample
from cvtasks.types import Batch

SMALLEST_SIDE = 1e-3
"""A proposal thinner than this many pixels is none."""


class RegionProposalNetwork(nn.Module):
    """A small network slides over the maps and says of each anchor whether it is an object, and where it ends.

    anchor_sizes: one list for each level. Numbers of proposals: `before_nms` for each level, `after_nms` in all, each
    as (training, prediction).
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
        self.nms_threshold, self.beta = nms_threshold, beta
        for i, sizes in enumerate(anchor_sizes):
            self.register_buffer(f"cell{i}", cell_anchors(sizes, anchor_ratios), persistent=False)
        channels = next(iter(specs.values())).channels
        anchors = len(anchor_sizes[0]) * len(anchor_ratios)
        self.convs = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(convs))
        self.objectness = nn.Conv2d(channels, anchors, 1)
        self.offsets = nn.Conv2d(channels, 4 * anchors, 1)
        for layer in (*self.convs, self.objectness, self.offsets):
            nn.init.normal_(layer.weight, std=0.01)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        self._anchors: tuple[object, list[Tensor]] = (None, [])

    def learn(self, maps: Maps, batch: Batch) -> tuple[Proposals, dict[str, Tensor]]:
        """Proposals for training (no gradient), and `rpn_objectness` and `rpn_box`."""
        scores, offsets, anchors = self(maps, batch)
        losses = self._losses(torch.cat(scores, 1), torch.cat(offsets, 1), torch.cat(anchors), batch)
        return self._select(scores, offsets, anchors, batch, phase=0), losses

    def propose(self, maps: Maps, batch: Batch) -> Proposals:
        """The best regions, best first."""
        scores, offsets, anchors = self(maps, batch)
        return self._select(scores, offsets, anchors, batch, phase=1)

    def forward(self, maps: Maps, batch: Batch) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """For each level: scores [B, A] (logits), offsets [B, A, 4] and anchors [A, 4], float32."""
        scores, offsets = [], []
        for x in maps.values():
            for conv in self.convs:
                x = F.relu(conv(x), inplace=True)
            # Anchors of one position lie side by side, positions row by row.
            scores.append(self.objectness(x).permute(0, 2, 3, 1).flatten(1).float())
            offsets.append(self.offsets(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4).float())
        return scores, offsets, self._anchors_of(maps, batch.images)

    def _anchors_of(self, maps: Maps, images: Tensor) -> list[Tensor]:
        """Anchors of every level; the last ones are kept, as most batches of a run have one shape."""
        image = (images.shape[2], images.shape[3])
        grids = [(x.shape[2], x.shape[3]) for x in maps.values()]
        key = (image, *grids, images.device)
        if self._anchors[0] != key:
            cells = [self.get_buffer(f"cell{i}") for i in range(len(grids))]
            anchors = [grid_anchors(cell, image, grid) for cell, grid in zip(cells, grids, strict=True)]
            self._anchors = (key, anchors)
        return self._anchors[1]

    def _losses(self, scores: Tensor, offsets: Tensor, anchors: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Binary cross-entropy over the sampled anchors, smooth L1 over the positive ones, both for each sample."""
        assert batch.boxes is not None
        with torch.no_grad():
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
        objectness = F.binary_cross_entropy_with_logits(
            take(scores, index), positive.float(), reduction="none"
        )
        box = smooth_l1(take(offsets, index), targets, beta=self.beta)
        count = drawn.sum().clamp(min=1)
        return {
            "rpn_objectness": masked_sum(objectness, drawn) / count,
            "rpn_box": masked_sum(box, positive) / count,
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
        ranked = ranked.masked_fill(~keep, -torch.inf)
        values, index = ranked.topk(min(self.after_nms[phase], ranked.shape[1]), dim=1)
        return Proposals(take(boxes, index), values > -torch.inf)
