"""The sliding window: a network labels the pixel in the middle of a patch, and the patch is slid over the image.

Farabet et al. (TPAMI 2013), with their pyramid as an option (`scales=3`): the same weights see the patch around a pixel
in the image at half and quarter size, too. Pinheiro and Collobert (ICML 2014) as another (`recurrence=2`): the
label map that the network has made is fed back with the image, and the same weights make a better one.

    cvtasks train task=sliding_window_seg
    cvtasks eval run=RUN task.evaluate=sliding

The same weights run densely (`evaluate=dense`: pools of stride 1, dilated convolutions, see `nn.backbones.patch_cnn`) give
the same labels without computing what neighbouring patches share again and again.

Deviations: the pyramid is of means, not Laplacian and locally normalised, and no superpixels or trees clean the
labels (Farabet). The label map that is fed back has a step of one pixel and zeros around the image, and joins in at the
first convolution, where the paper's is as coarse as the network's pools (Pinheiro). The losses of all passes are averaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvtasks.config.schema import Range
from cvtasks.errors import ConfigError
from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.backbones.patch_cnn import PatchCNN, patches_at_once
from cvtasks.nn.segmenter import Segmenter, SegmenterOptions
from cvtasks.ops.pixel_losses import VOID
from cvtasks.types import ClassInfo

PositiveCount = Annotated[int, Range(min=1)]


class PatchHead(nn.Module):
    """From what all scales say of a pixel to its class, and from the last pass's labels to the next one's input."""

    class_layers = ("score", "feedback")

    def __init__(
        self, backbone: PatchCNN, num_classes: int, *, scales: int, hidden: int, feedback: bool
    ) -> None:
        super().__init__()
        channels = backbone.specs["c0"].channels * scales
        self.hidden = nn.Conv2d(channels, hidden, 1)
        self.score = nn.Conv2d(hidden, num_classes, 1)
        first = backbone.convolutions[0]
        assert isinstance(first, nn.Conv2d)
        if feedback:
            self.feedback = nn.Conv2d(num_classes, first.out_channels, first.kernel_size, bias=False)  # type: ignore[arg-type]

    def forward(self, features: list[Tensor]) -> Tensor:
        """A map [B, C, h, w] of each scale -> logits [B, K, h, w]."""
        return self.score(F.relu(self.hidden(torch.cat(features, dim=1))))


class SlidingWindow(Segmenter):
    """A `Segmenter` that learns from patches; see `sliding_window_seg` for its arguments."""

    backbone: PatchCNN
    decoder: PatchHead

    def __init__(
        self,
        backbone: PatchCNN,
        decoder: PatchHead,
        *,
        classes: ClassInfo,
        samples: int,
        balanced: bool,
        scales: int,
        recurrence: int,
        evaluate: Literal["dense", "sliding"],
        slide: int,
        **options: Unpack[SegmenterOptions],
    ) -> None:
        super().__init__(backbone, decoder, classes=classes, **options)
        self.samples, self.balanced = samples, balanced
        self.pyramid, self.recurrence = scales, recurrence
        self.evaluate, self.slide = evaluate, slide

    def logits(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, K, H, W]."""
        logits = self._map(images, None)
        for _ in range(self.recurrence - 1):
            logits = self._map(images, logits.softmax(1))
        return logits

    def examples(self, images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Logits [N, K, 1, 1] of patches around sampled pixels, and their labels [N, 1, 1]; of each pass.

        A pass that is fed back is made for the whole image: the patches of the next one see all of it.
        """
        index = draw_pixels(labels, self.samples, balanced=self.balanced)
        width = images.shape[3]
        image = torch.arange(len(images), device=images.device)[:, None].expand_as(index).flatten()
        row, column = (index // width).flatten(), (index % width).flatten()
        chosen = labels[image, row, column][:, None, None]
        examples, previous = [], None
        for _ in range(self.recurrence - 1):
            logits = self.densely(images, previous)
            examples.append((logits[image, :, row, column][..., None, None], chosen))
            previous = logits.softmax(1)
        last = self.on_patches(self._scaled(images, previous), image, row, column)
        return [*examples, (last, chosen)]

    def densely(self, images: Tensor, previous: Tensor | None) -> Tensor:
        """One pass over whole images, of which `previous` [B, K, H, W] are the labels so far: logits [B, K, H, W]."""
        features = []
        for scale, (padded, fed) in enumerate(self._scaled(images, previous)):
            x = self.backbone.densely(padded, None if fed is None else self.decoder.feedback(fed))
            x = x.repeat_interleave(2**scale, 2).repeat_interleave(2**scale, 3) if scale else x
            features.append(x[..., : images.shape[2], : images.shape[3]])
        logits: Tensor = self.decoder(features)
        return logits

    def on_patches(
        self, scaled: Sequence[tuple[Tensor, Tensor | None]], image: Tensor, row: Tensor, column: Tensor
    ) -> Tensor:
        """The same for single pixels, each from its own patch. `image`, `row`, `column`: [N]. Logits [N, K, 1, 1]."""
        features = []
        for scale, (padded, fed) in enumerate(scaled):
            here = (image, row >> scale, column >> scale, self.backbone.patch)
            added = None if fed is None else self.decoder.feedback(cut(fed, *here))
            features.append(self.backbone.on_patches(cut(padded, *here), added))
        logits: Tensor = self.decoder(features)
        return logits

    def _scaled(self, images: Tensor, previous: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
        """Images and labels so far of each scale of the pyramid, with zeros around them."""

        def padded(maps: Tensor, scale: int) -> Tensor:
            return self.backbone.padded(F.avg_pool2d(maps, 2**scale, ceil_mode=True) if scale else maps)

        return [
            (padded(images, scale), None if previous is None else padded(previous, scale))
            for scale in range(self.pyramid)
        ]

    def _map(self, images: Tensor, previous: Tensor | None) -> Tensor:
        if self.evaluate == "dense":
            return self.densely(images, previous)
        batch, _, height, width = images.shape
        rows, columns = (
            torch.arange(self.slide // 2, side + self.slide // 2, self.slide, device=images.device).clamp(
                max=side - 1
            )
            for side in (height, width)
        )
        grid = torch.cartesian_prod(torch.arange(batch, device=images.device), rows, columns)
        scaled = self._scaled(images, previous)
        parts = grid.split(patches_at_once(images.device))
        logits = torch.cat([self.on_patches(scaled, *part.unbind(1)) for part in parts])
        logits = logits.view(batch, len(rows), len(columns), -1).permute(0, 3, 1, 2)
        if self.slide > 1:
            logits = logits.repeat_interleave(self.slide, 2).repeat_interleave(self.slide, 3)
        return logits[..., :height, :width]


def cut(padded: Tensor, image: Tensor, row: Tensor, column: Tensor, side: int) -> Tensor:
    """The patches [N, C, side, side] of images [B, C, H, W] whose corners are given [N]."""
    _, channels, height, width = padded.shape
    steps = torch.arange(side, device=padded.device)
    corner = (image * height + row) * width + column
    index = corner[:, None, None] + steps[:, None] * width + steps
    return F.embedding(index, padded.permute(0, 2, 3, 1).reshape(-1, channels)).permute(0, 3, 1, 2)


@torch.no_grad()
def draw_pixels(labels: Tensor, samples: int, *, balanced: bool) -> Tensor:
    """The numbers of random pixels of each label map [B, H, W], not void if there are enough, int64 [B, samples].

    balanced: pixels of a class are the likelier, the fewer the image has of it (Efraimidis and Spirakis, 2006).
    """
    flat = labels.flatten(1)
    keys = torch.rand(flat.shape, device=labels.device).log()
    if balanced:
        pixels = torch.zeros(len(flat), 256, device=labels.device)
        pixels.scatter_add_(1, flat.long(), torch.ones_like(keys))
        keys = keys * pixels.gather(1, flat.long())
    keys = keys.masked_fill(flat == VOID, -torch.inf)
    return keys.topk(min(samples, flat.shape[1]), dim=1, sorted=False).indices


def sliding_window_seg(
    backbone: Backbone,
    *,
    classes: ClassInfo,
    samples: PositiveCount = 256,
    balanced: bool = True,
    hidden: PositiveCount = 1024,
    scales: Annotated[int, Range(min=1, max=6)] = 1,
    recurrence: PositiveCount = 1,
    evaluate: Literal["dense", "sliding"] = "dense",
    slide: PositiveCount = 1,
    **options: Unpack[SegmenterOptions],
) -> Segmenter:
    """A classifier of patches.

    samples: patches to learn from, of each image; `balanced`: of all its classes alike. hidden: units of the layer before
    the last. scales: of the pyramid. recurrence: passes; all but the first are fed the labels of the one before.
    evaluate: how a whole image is labelled. slide: pixels between the patches of evaluate=sliding, each of which labels so
    many pixels in either direction.
    Raises ConfigError for a backbone that is no network for patches.
    """
    if not isinstance(backbone, PatchCNN):
        raise ConfigError(
            "task=sliding_window_seg labels the middle of a patch without padding; type backbone=patch_cnn"
        )
    if evaluate == "dense" and slide > 1:
        raise ConfigError(f"task.slide={slide} is for task.evaluate=sliding; a dense run labels every pixel")
    head = PatchHead(backbone, len(classes), scales=scales, hidden=hidden, feedback=recurrence > 1)
    return SlidingWindow(
        backbone,
        head,
        classes=classes,
        samples=samples,
        balanced=balanced,
        scales=scales,
        recurrence=recurrence,
        evaluate=evaluate,
        slide=slide,
        **options,
    )
