"""From logits to the label map of a whole image, in strips, so that memory depends on neither its height nor the classes.

Letters: K classes, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

STRIP = 2**24
"""Values of a strip: 64 MB in float32."""


def label_map(
    logits: Tensor, *, input_size: tuple[int, int], valid: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Logits [K, h, w] of an input -> uint8 [size]: the best class of each pixel.

    `valid` rows and columns of the input are the image, the rest is padding. Each pixel of the image's own `size` is
    looked up where it lies in the logits, between the four nearest, with pixel centres at +0.5: where the logits are as
    large as the input, or the image is, that is what `F.interpolate` gives.
    """
    height, width = size
    if not height * width:
        return torch.empty(size, dtype=torch.uint8, device=logits.device)
    strip = max(1, STRIP // (len(logits) * max(width, logits.shape[2])))
    rows_last = logits.permute(1, 2, 0)  # as channels-last maps lie in memory: a pixel's values side by side
    labels = torch.empty(size, dtype=torch.uint8, device=logits.device)
    for top in range(0, height, strip):
        rows = slice(top, min(top + strip, height))
        values = rows_last
        for axis, part in ((0, rows), (1, slice(0, width))):
            lengths = values.shape[axis], input_size[axis], valid[axis], size[axis]
            values = _resampled(values, axis, part, *lengths)
        labels[rows] = values.max(-1).indices
    return labels


def _resampled(
    values: Tensor, axis: int, part: slice, length: int, input_length: int, valid: int, size: int
) -> Tensor:
    """The `part` of an axis of logits, `length` for `input_length` pixels, when `valid` of those become `size`."""
    if length == input_length and valid == size:
        return values.narrow(axis, part.start, part.stop - part.start)
    at = torch.arange(part.start, part.stop, device=values.device) + 0.5
    at = (at * (valid / size) - 0.5).clamp(0, valid - 1)
    at = ((at + 0.5) * (length / input_length) - 0.5).clamp(0, length - 1)
    before = at.long()
    after = (before + 1).clamp(max=length - 1)
    step = (at - before).view([-1 if a == axis else 1 for a in range(3)])
    return torch.lerp(
        values.index_select(axis, before).float(), values.index_select(axis, after).float(), step
    )
