"""The image itself as the only map, for systems whose network sees crops of it: R-CNN, and the sliding window."""

from __future__ import annotations

from torch import Tensor

from cvtasks.nn.backbones.base import Backbone, FeatureSpec


class Pixels(Backbone):
    """Takes a backbone's place in a `RegionDetector`, with the same normalisation; the backbone belongs to the head."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__({"image": FeatureSpec(3, 1)})
        self.mean, self.std = backbone.mean.clone(), backbone.std.clone()

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return {"image": images}
