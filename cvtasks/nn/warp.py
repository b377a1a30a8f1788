"""R-CNN's region features: each region is cut out with context, warped to one size, and sent through the CNN alone.

Girshick et al., CVPR 2014, appendix A, "warp": the region is stretched to the network's input whatever its shape, and the
frame is as much larger that `context` pixels of the result show what lies around; outside the image it is the mean.

Deviation: the frame ends where the formula says, not at the next whole pixel.
Letters: B images, R regions, C channels, S pixels a side.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.regions import Maps
from cvtasks.ops.roi import with_image


def context_frames(boxes: Tensor, *, size: int, context: int) -> Tensor:
    """What the crops [..., 4] of boxes [..., 4] show: the box fills all but `context` of `size` pixels on each side."""
    low, high = boxes[..., :2], boxes[..., 2:]
    half = (high - low) / 2 * (size / (size - 2 * context))
    middle = (low + high) / 2
    return torch.cat([middle - half, middle + half], -1)


def warp(images: Tensor, boxes: Tensor, *, size: int, context: int) -> Tensor:
    """Crops [N, 3, S, S] of boxes [N, 5] (the image's number first) of normalised images [B, 3, H, W].

    Bilinear without smoothing, as in the paper's code; zero, the mean, outside of the images.
    """
    frames = torch.cat([boxes[:, :1], context_frames(boxes[:, 1:], size=size, context=context)], 1)
    with torch.autocast(images.device.type, enabled=False):
        crops = roi_align(images.float(), frames, size, sampling_ratio=1, aligned=True)
    return crops.contiguous(memory_format=torch.channels_last)


class WarpedCrops(nn.Module):
    """Reads the map "image" of `nn.pixels.Pixels`, and has the CNN.

    chunk: crops that go through the CNN at once; more take more memory where gradients are not kept.
    """

    def __init__(
        self, backbone: Backbone, level: str, *, size: int = 224, context: int = 16, chunk: int = 256
    ) -> None:
        super().__init__()
        assert 2 * context < size, "the region itself has to have some pixels"
        self.backbone, self.level = backbone.truncate(level), level
        self.size, self.context, self.chunk = size, context, chunk
        self.channels = backbone.specs[level].channels
        with torch.no_grad():
            self.bins = backbone.eval()(torch.zeros(1, 3, size, size))[level].shape[-1]
        backbone.train()

    def forward(self, maps: Maps, boxes: Tensor) -> Tensor:
        """Boxes [B, R, 4] -> the CNN's last map of each, [B * R, C, bins, bins]."""
        return torch.cat([self._see(maps["image"], part) for part in with_image(boxes).split(self.chunk)])

    def _see(self, images: Tensor, boxes: Tensor) -> Tensor:
        crops = warp(images, boxes, size=self.size, context=self.context)
        seen: Tensor = self.backbone(crops)[self.level]
        return seen
