"""What the systems of semantic segmentation share: their losses, and prediction in the original image's pixels.

A system is a backbone and a decoder, which makes logits of its maps: `decoder(maps, images)` -> [B, K, h, w], at any
resolution. What differs beyond that is a method of `Segmenter` that the system replaces.
Letters: B images, K classes, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypedDict

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cvtasks.config.schema import Range
from cvtasks.errors import ConfigError
from cvtasks.nn.backbones.base import Backbone
from cvtasks.ops import pixel_losses
from cvtasks.ops.label_maps import label_map
from cvtasks.ops.windows import blend, mirrored, tiles
from cvtasks.types import Batch, ClassInfo, Prediction

Count = Annotated[int, Range(min=1)]
Probability = Annotated[float, Range(min=0, max=1)]

DIVISOR = 32
"""Sides of a batch are multiples of it (`data.collate`)."""


class SegmenterOptions(TypedDict, total=False):
    """The keyword arguments that every system hands on to `Segmenter`; `conf/segmentation.yaml` has their defaults."""

    class_weights: Sequence[Annotated[float, Range(min=0)]] | Literal["median_frequency"] | None
    loss: Literal["cross_entropy", "focal", "hard_pixels"]
    focal_gamma: Annotated[float, Range(min=1)]
    hard_threshold: Probability
    hard_min_kept: Annotated[int, Range(min=0)]
    dice: bool
    eval_window: Count | None
    eval_stride: Count | None
    eval_margin: Annotated[int, Range(min=0)] | None
    eval_scales: Sequence[Annotated[float, Range(above=0)]]
    eval_flip: bool


class Segmenter(nn.Module):
    """A `VisionModel` for label maps.

    class_weights: a factor of the loss for each class.
    loss: what is averaged over the pixels: cross-entropy, focal loss, or cross-entropy of hard pixels alone.
    dice: adds the loss of that name.
    eval_window: predict in windows of so many pixels, `eval_stride` apart (two thirds of a window, if null), whose logits
        are blended. With `eval_margin` it is U-Net's overlap-tile strategy: the image is mirrored at its borders, a
        window labels its middle without that margin, and nothing of the whole image is in memory but its labels.
    eval_scales, eval_flip: the mean of the probabilities at several scales, and of mirrored images.
    pixel_weights: of a batch, a factor for each pixel of the loss [B, H, W].

    Raises ConfigError for options that do not fit the classes or each other.
    """

    class_weights: Tensor | None

    def __init__(
        self,
        backbone: Backbone,
        decoder: nn.Module,
        *,
        classes: ClassInfo,
        class_weights: Sequence[float] | Literal["median_frequency"] | None = None,
        loss: Literal["cross_entropy", "focal", "hard_pixels"] = "cross_entropy",
        focal_gamma: float = 2.0,
        hard_threshold: float = 0.7,
        hard_min_kept: int = 10_000,
        dice: bool = False,
        eval_window: int | None = None,
        eval_stride: int | None = None,
        eval_margin: int | None = None,
        eval_scales: Sequence[float] = (1.0,),
        eval_flip: bool = False,
        pixel_weights: Callable[[Batch], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.decoder = backbone, decoder
        self.register_buffer("class_weights", _checked_weights(class_weights, classes), persistent=False)
        self.loss, self.focal_gamma, self.dice = loss, focal_gamma, dice
        self.hard_threshold, self.hard_min_kept = hard_threshold, hard_min_kept
        self.window, self.margin = eval_window, eval_margin
        self.stride = eval_stride or (eval_window and max(1, 2 * eval_window // 3))
        self.scales, self.flip = tuple(eval_scales), eval_flip
        self.pixel_weights = pixel_weights
        if not self.scales:
            raise ConfigError("task.eval_scales: the list is empty; expected at least one, for example [1.0]")
        if eval_window is None and (eval_stride or eval_margin is not None):
            raise ConfigError("task.eval_stride and task.eval_margin are for windows: set task.eval_window")
        if eval_window is not None and eval_margin is not None:
            if eval_window <= 2 * eval_margin:
                raise ConfigError(
                    f"task.eval_margin={eval_margin}: a window of task.eval_window={eval_window} has no middle left"
                )
            if eval_stride or self._averages:
                raise ConfigError(
                    "task.eval_margin labels each tile at once: leave task.eval_stride, task.eval_scales and "
                    "task.eval_flip as they are, or set task.eval_margin=null"
                )
        if eval_window is not None and self.stride is not None and self.stride > eval_window:
            raise ConfigError(
                f"task.eval_stride={eval_stride}: windows of task.eval_window={eval_window} would leave gaps"
            )

    @property
    def loss_names(self) -> list[str]:
        """What `losses` returns; a weight for another loss has nothing to do."""
        return ["segmentation", "dice"] if self.dice else ["segmentation"]

    @property
    def class_layers(self) -> list[str]:
        """The layers whose outputs stand for classes; weights for other classes leave them as they are."""
        return [f"decoder.{layer}." for layer in self.decoder.class_layers]  # type: ignore[union-attr]

    @property
    def stage_layers(self) -> list[str]:
        """The layers that weights of an earlier stage of training do not have, or have in another form."""
        return [f"decoder.{layer}." for layer in getattr(self.decoder, "stage_layers", ())]

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`segmentation`, and `dice` if it is asked for."""
        assert batch.segmentation is not None
        images = self.backbone.normalize(batch.images, batch.sizes)
        weights = None if self.pixel_weights is None else self.pixel_weights(batch)
        examples = self.examples(images, batch.segmentation)
        losses = {"segmentation": _mean([self._loss(*each, weights) for each in examples])}
        return losses | (
            {"dice": _mean([pixel_losses.dice(*each) for each in examples])} if self.dice else {}
        )

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """`segmentation` uint8 [H, W] in the original images' pixels."""
        sizes, orig_sizes = batch.sizes.tolist(), batch.orig_sizes.tolist()
        if self.margin is not None:
            return [
                {"segmentation": self._label_tiles(image[:, : size[0], : size[1]], tuple(orig_size))}
                for image, size, orig_size in zip(batch.images, sizes, orig_sizes, strict=True)
            ]
        images = self.backbone.normalize(batch.images, batch.sizes)
        # What is kept at the size of the input is kept for one image at a time.
        parts = images.split(1) if self._averages or self.window is not None else (images,)
        scores = (each for part in parts for each in self.scores(part))
        input_size = (images.shape[2], images.shape[3])
        return [
            {"segmentation": label_map(each, input_size=input_size, valid=tuple(size), size=tuple(orig_size))}
            for each, size, orig_size in zip(scores, sizes, orig_sizes, strict=True)
        ]

    def logits(self, images: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] -> [B, K, h, w], as the decoder makes them."""
        logits: Tensor = self.decoder(self.backbone(images), images)
        return logits

    def examples(self, images: Tensor, labels: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What is learnt from normalised images and labels [B, H, W]: logits [B, K, h, w] and labels uint8 [B, h, w]."""
        return [(_resized(self.logits(images), images), labels)]

    def scores(self, images: Tensor) -> Tensor:
        """Logits, or the mean probabilities of all scales and mirrored images: [B, K, h, w]."""
        if not self._averages:
            return self._windowed(images)
        total: Tensor | float = 0.0
        for scale in self.scales:
            scaled = _scaled(images, scale)
            for axes in [()] + [(3,)] * self.flip:
                logits = _resized(self._windowed(scaled.flip(axes)).flip(axes), images)
                total = total + logits.softmax(1)
        assert isinstance(total, Tensor)
        return total

    def _windowed(self, images: Tensor) -> Tensor:
        if self.window is None or self.window >= max(images.shape[2:]):
            return self.logits(images)
        assert self.stride is not None
        return blend(
            lambda part: _resized(self.logits(part), part), images, window=self.window, stride=self.stride
        )

    def _label_tiles(self, image: Tensor, orig_size: tuple[int, int]) -> Tensor:
        """uint8 [3, H, W] -> uint8 [orig_size]. A tile is resized by itself, to the pixels that it covers."""
        assert self.window is not None
        assert self.margin is not None
        window, margin, size = self.window, self.margin, (image.shape[1], image.shape[2])
        labels = torch.empty(orig_size, dtype=torch.uint8, device=image.device)
        whole = torch.tensor([[window, window]], device=image.device)
        for (top, bottom), (left, right) in tiles(size, window - 2 * margin):
            seen = mirrored(image[None], (top - margin, left - margin), (window, window))
            seen = self.backbone.normalize(seen, whole)
            rows, columns = slice(margin, margin + bottom - top), slice(margin, margin + right - left)
            logits = _resized(self.logits(seen), seen)[0, :, rows, columns]
            (up, down), (start, end) = (
                (round(low * new / old), round(high * new / old))
                for (low, high), new, old in zip(((top, bottom), (left, right)), orig_size, size, strict=True)
            )
            part = (bottom - top, right - left)
            labels[up:down, start:end] = label_map(
                logits, input_size=part, valid=part, size=(down - up, end - start)
            )
        return labels

    def _loss(self, logits: Tensor, labels: Tensor, pixel_weights: Tensor | None) -> Tensor:
        factors = {"class_weights": self.class_weights, "pixel_weights": pixel_weights}
        if self.loss == "focal":
            return pixel_losses.focal(logits, labels, gamma=self.focal_gamma, **factors)
        if self.loss == "hard_pixels":
            return pixel_losses.hard_pixels(
                logits, labels, threshold=self.hard_threshold, min_kept=self.hard_min_kept, **factors
            )
        return pixel_losses.cross_entropy(logits, labels, **factors)

    @property
    def _averages(self) -> bool:
        return self.flip or self.scales != (1.0,)


def _mean(losses: list[Tensor]) -> Tensor:
    return losses[0] if len(losses) == 1 else torch.stack(losses).mean()


def _checked_weights(weights: Sequence[float] | str | None, classes: ClassInfo) -> Tensor | None:
    if weights is None:
        return None
    if isinstance(weights, str):
        raise ConfigError(
            f"task.class_weights={weights} is counted from the training data by cvtasks train; give a list of numbers here"
        )
    if len(weights) != len(classes):
        raise ConfigError(
            f"task.class_weights: {len(weights)} numbers for {len(classes)} classes ({', '.join(classes.names)})"
        )
    return torch.tensor([float(w) for w in weights])


def _resized(logits: Tensor, images: Tensor) -> Tensor:
    """Logits in float32, as large as the images."""
    logits, size = logits.float(), images.shape[2:]
    return logits if logits.shape[2:] == size else F.interpolate(logits, size=size, mode="bilinear")


def _scaled(images: Tensor, scale: float) -> Tensor:
    """Images at another scale, with sides that every stride divides, as a batch's are."""
    if scale == 1:
        return images
    size = [max(1, round(side * scale / DIVISOR)) * DIVISOR for side in images.shape[2:]]
    return F.interpolate(images, size=size, mode="bilinear", antialias=scale < 1)


def images_like(maps: Tensor, images: Tensor, stride: int) -> Tensor:
    """Images at `stride` times the size of a map, but no larger than they are: what an up-sampling layer is to fit."""
    size = [min(stride * low, high) for low, high in zip(maps.shape[2:], images.shape[2:], strict=True)]
    return images if list(images.shape[2:]) == size else F.interpolate(images, size=size, mode="bilinear")
