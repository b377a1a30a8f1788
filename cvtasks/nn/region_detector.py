"""The region-based detector: backbone, neck, proposer, heads, and what they learn from; each system is a choice of these.

A further head (masks, keypoints) is one more entry of `heads`; nothing here knows which there are.
Letters: B images.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.regions import Maps, Proposals, Sampler
from cvtasks.ops.boxes import clip, rescale
from cvtasks.types import Batch, Prediction


class RegionDetector(nn.Module):
    """A `VisionModel` from interchangeable parts, whose promises stand in `nn.regions`.

    heads: the first makes the detections (a `DetectingHead`), each of the others adds to them (an `AddingHead`).
    sampler: chooses the regions that the heads learn from.
    """

    def __init__(
        self,
        backbone: Backbone,
        neck: nn.Module,
        proposer: nn.Module,
        heads: Mapping[str, nn.Module],
        *,
        sampler: Sampler,
    ) -> None:
        super().__init__()
        self.backbone, self.neck, self.proposer = backbone, neck, proposer
        self.heads = nn.ModuleDict(heads)
        self.sampler = sampler

    @property
    def class_layers(self) -> list[str]:
        """The layers whose outputs stand for classes; weights for other classes leave them as they are."""
        return [f"heads.{name}.{layer}." for name, head in self.heads.items() for layer in head.class_layers]  # type: ignore[union-attr]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The proposer's losses and those of every head."""
        maps = self.maps(batch)
        proposals, losses = self.proposer.learn(maps, batch)  # type: ignore[operator]
        return losses | self.head_losses(maps, proposals, batch)

    def head_losses(self, maps: Maps, proposals: Proposals, batch: Batch) -> dict[str, Tensor]:
        """Those of every head, on the regions that the sampler chooses."""
        samples = self.sampler(maps, proposals, batch, next(iter(self.heads.values())))
        losses: dict[str, Tensor] = {}
        for head in self.heads.values():
            losses |= head.losses(maps, samples, batch)  # type: ignore[operator]
        return losses

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """Boxes in the original images' pixels, best first."""
        maps = self.maps(batch)
        proposals = self.propose(maps, batch)
        first, *others = self.heads.values()
        predictions: list[Prediction] = first.detect(maps, proposals, batch)  # type: ignore[operator]
        for head in others:
            head.add(maps, predictions, batch)  # type: ignore[operator]
        for prediction, size, orig_size in zip(predictions, batch.sizes, batch.orig_sizes, strict=True):
            boxes = rescale(prediction["boxes"][None], size[None], orig_size[None])
            prediction["boxes"] = clip(boxes, orig_size[None])[0]
        return predictions

    def propose(self, maps: Maps, batch: Batch) -> Proposals:
        """The regions in which `predict` looks for objects."""
        found: Proposals = self.proposer.propose(maps, batch)  # type: ignore[operator]
        return found

    def maps(self, batch: Batch) -> Maps:
        """The feature maps that all parts read."""
        return self.neck(self.backbone(self.backbone.normalize(batch.images, batch.sizes)))
