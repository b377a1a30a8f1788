"""The region-based detector: backbone, neck, proposer and heads; every system of the lineage is a choice of these.

A further head (masks, keypoints) is one more entry of `heads`; nothing here knows which there are.
Letters: B images, N objects, R regions.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.regions import Maps, Proposals, Samples, split_objects
from cvtasks.ops.boxes import clip, rescale
from cvtasks.ops.matching import match, take
from cvtasks.ops.sampling import sample
from cvtasks.types import Batch, Prediction


class RegionDetector(nn.Module):
    """A `VisionModel` from interchangeable parts, whose promises stand in `nn.regions`.

    heads: the first makes the detections (a `DetectingHead`), each of the others adds to them (an `AddingHead`).
    samples, positive_fraction: regions that the heads learn from, for each image. A region is positive from an IoU of
    `positive_iou` with an object on, and background below `negative_iou`.
    """

    def __init__(
        self,
        backbone: Backbone,
        neck: nn.Module,
        proposer: nn.Module,
        heads: Mapping[str, nn.Module],
        *,
        samples: int = 512,
        positive_fraction: float = 0.25,
        positive_iou: float = 0.5,
        negative_iou: float = 0.5,
    ) -> None:
        super().__init__()
        self.backbone, self.neck, self.proposer = backbone, neck, proposer
        self.heads = nn.ModuleDict(heads)
        self.samples, self.positive_fraction = samples, positive_fraction
        self.positive_iou, self.negative_iou = positive_iou, negative_iou

    @property
    def class_layers(self) -> list[str]:
        """The layers whose outputs stand for classes; weights for other classes leave them as they are."""
        return [f"heads.{name}.{layer}." for name, head in self.heads.items() for layer in head.class_layers]  # type: ignore[union-attr]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The proposer's losses and those of every head."""
        maps = self.maps(batch)
        proposals, losses = self.proposer.learn(maps, batch)  # type: ignore[operator]
        samples = self.sample(proposals, batch)
        for head in self.heads.values():
            losses |= head.losses(maps, samples, batch)  # type: ignore[operator]
        return losses

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """Boxes in the original images' pixels, best first."""
        maps = self.maps(batch)
        proposals = self.proposer.propose(maps, batch)  # type: ignore[operator]
        first, *others = self.heads.values()
        predictions: list[Prediction] = first.detect(maps, proposals, batch)  # type: ignore[operator]
        for head in others:
            head.add(maps, predictions, batch)  # type: ignore[operator]
        for prediction, size, orig_size in zip(predictions, batch.sizes, batch.orig_sizes, strict=True):
            boxes = rescale(prediction["boxes"][None], size[None], orig_size[None])
            prediction["boxes"] = clip(boxes, orig_size[None])[0]
        return predictions

    def maps(self, batch: Batch) -> Maps:
        """The feature maps that all parts read."""
        return self.neck(self.backbone(self.backbone.normalize(batch.images, batch.sizes)))

    @torch.no_grad()
    def sample(self, proposals: Proposals, batch: Batch) -> Samples:
        """Regions to learn from, of the proposals and the true boxes: early in training there is nothing better."""
        assert batch.boxes is not None
        objects, ignored = split_objects(batch)
        boxes = torch.cat([proposals.boxes, batch.boxes], dim=1)
        valid = torch.cat([proposals.valid, objects], dim=1)
        matched = match(
            boxes,
            batch.boxes,
            objects=objects,
            ignored=ignored,
            positive_iou=self.positive_iou,
            negative_iou=self.negative_iou,
            keep_best=False,
        )
        index, drawn = sample(
            matched.positive & valid,
            matched.negative & valid,
            count=self.samples,
            positive_fraction=self.positive_fraction,
        )
        positive = take(matched.positive, index) & drawn
        return Samples(take(boxes, index), drawn, positive, take(matched.index, index))
