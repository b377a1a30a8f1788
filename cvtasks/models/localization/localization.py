"""Classification and localization: what the one object of an image is, and its box, from one vector.

The lecture's network: a backbone's vector goes into two heads, class scores with the softmax loss and four numbers of the
box with the L2 loss; what is learnt is their weighted sum. The box is (x, y, w, h), its centre and size as parts of
the image.

    cvtasks train task=localization
    cvtasks train task=localization dataset=voc dataset.root=/data/mine backbone=resnet50 backbone.weights=imagenet
    cvtasks train -m task=localization backbone.freeze_until=null,layer2,layer4      transfer learning: what is trained

Letters: B images, K classes.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import generalized_box_iou_loss

from cvtasks.config.schema import Range
from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.vector import ImageVector, exact
from cvtasks.ops.boxes import clip
from cvtasks.ops.losses import RegressionKind, count, masked_sum, regression
from cvtasks.types import Batch, ClassInfo, Prediction

BoxLoss: TypeAlias = RegressionKind | Literal["giou"]

ANSWERS = 5
"""Classes of a prediction, with a box each: ILSVRC's top-5 looks at so many."""


class Localization(nn.Module):
    """A `VisionModel` for images of one object.

    box: one box whatever the class (4 numbers), or one for each class (4 K), of which the true one's is learnt.
    box_loss: of x, y, w and h; giou is generalized IoU (Rezatofighi et al., CVPR 2019), of the box as a whole.
    box_beta: where smooth_l1 turns from squared to absolute, as a part of the image.
    bins: parts a side whose means are the vector (`nn.vector`).
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        classes: ClassInfo,
        box: Literal["shared", "per_class"] = "shared",
        box_loss: BoxLoss = "l2",
        box_beta: Annotated[float, Range(above=0)] = 0.1,
        bins: Annotated[int, Range(min=1)] = 1,
    ) -> None:
        super().__init__()
        self.backbone, self.vector = backbone, ImageVector(backbone, bins=bins)
        self.box_loss, self.box_beta = box_loss, box_beta
        self.scores = nn.Linear(self.vector.outputs, len(classes))
        self.boxes = nn.Linear(self.vector.outputs, 4 if box == "shared" else 4 * len(classes))
        self.class_layers = ["scores."] if box == "shared" else ["scores.", "boxes."]
        for layer in (self.scores, self.boxes):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        nn.init.constant_(self.boxes.bias, 0.5)  # the middle of the image, half as wide and high

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`classification` and `box_regression`, both means over the images that have an object."""
        assert batch.label is not None
        assert batch.boxes is not None
        assert batch.valid is not None
        scores, boxes = self(batch)
        has_object = batch.valid[:, 0]
        labels = batch.label.where(has_object, 0)
        own = _of_classes(boxes, labels[:, None])[:, 0]
        truth = centre_and_size(batch.boxes[:, 0] / _width_and_height(batch.sizes))
        number = count(has_object)
        return {
            "classification": masked_sum(F.cross_entropy(scores, labels, reduction="none"), has_object)
            / number,
            "box_regression": masked_sum(self._box_loss(own, truth), has_object) / number,
        }

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """The best classes, best first, each with its box in the original image's pixels."""
        logits, boxes = self(batch)
        scores, labels = logits.softmax(1).topk(min(ANSWERS, logits.shape[1]))
        parts = corners(_of_classes(boxes, labels))
        pixels = clip(parts * _width_and_height(batch.orig_sizes)[:, None], batch.orig_sizes)
        return [
            {"labels": label, "scores": score, "boxes": box}
            for label, score, box in zip(labels, scores, pixels, strict=True)
        ]

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scores [B, K] (logits) and boxes [B, K or 1, 4] (x, y, w, h as parts of the image), float32."""
        vector = self.vector(self.backbone(self.backbone.normalize(batch.images, batch.sizes)))
        return exact(self.scores, vector), exact(self.boxes, vector).unflatten(1, (-1, 4))

    def _box_loss(self, predicted: Tensor, truth: Tensor) -> Tensor:
        if self.box_loss == "giou":  # stretching both boxes alike does not change it
            return generalized_box_iou_loss(corners(predicted), corners(truth))
        return regression(self.box_loss, predicted, truth, beta=self.box_beta)


def centre_and_size(boxes: Tensor) -> Tensor:
    """(x1, y1, x2, y2) -> (x, y, w, h), [..., 4]"""
    low, high = boxes.split(2, -1)
    return torch.cat([(low + high) / 2, high - low], -1)


def corners(boxes: Tensor) -> Tensor:
    """(x, y, w, h) -> (x1, y1, x2, y2), [..., 4]. A size below zero counts as above: x1 <= x2."""
    centre, size = boxes.split(2, -1)
    return torch.cat([centre - size.abs() / 2, centre + size.abs() / 2], -1)


def _of_classes(boxes: Tensor, labels: Tensor) -> Tensor:
    """Boxes [B, K or 1, 4] of classes [B, N] -> [B, N, 4]"""
    if boxes.shape[1] == 1:
        return boxes.expand(-1, labels.shape[1], -1)
    return boxes.gather(1, labels[..., None].expand(-1, -1, 4))


def _width_and_height(sizes: Tensor) -> Tensor:
    """Sizes [B, 2] (height, width) -> [B, 4], for boxes"""
    return sizes.flip(1).repeat(1, 2)
