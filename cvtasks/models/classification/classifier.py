"""Classification: what an image shows, by any backbone with a head of scores; also how a backbone is pretrained.

The heads are those of the networks' own papers: the last map's means (global average pooling: Lin et al., ICLR 2014;
GoogLeNet, ResNet, MobileNet), its maxima, or fully connected layers on all of it (LeNet, AlexNet, VGG).

    cvtasks train task=classification
    cvtasks train task=classification dataset=folders dataset.root=/data/mine backbone=resnet50 backbone.weights=imagenet
    cvtasks train task=faster_rcnn backbone=tiny backbone.weights=RUN      a backbone that was trained here

Label smoothing is that of Szegedy et al. (CVPR 2016), mixup of Zhang et al. (ICLR 2018), CutMix of Yun et al. (ICCV 2019),
as torchvision has them: pairs within a batch, one share for all of them.
Letters: B images, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from cvtasks.config.schema import Range
from cvtasks.errors import ConfigError
from cvtasks.nn.backbones.base import Backbone, Level
from cvtasks.nn.vector import ImageVector, exact
from cvtasks.types import Batch, ClassInfo, Prediction

ANSWERS = 5
"""Classes of a prediction: top-5 looks at so many."""


class Classifier(nn.Module):
    """A `VisionModel` for one label an image.

    level: the backbone's map that is read; null: its last.
    head: average and max are global pooling. fully_connected reads the whole map: through the backbone's own layers where
        it has them (`backbone.with_classifier=true`), else as the means of `bins` x `bins` parts.
    hidden: widths of further layers before the scores, each with a ReLU.
    dropout: of what these layers and the scores read.
    mixup, cutmix: alpha of the Beta distribution that shares are drawn from; 0: not used. With both, a batch has either.

    Raises ConfigError for a level that the backbone lacks, or layers that the head leaves without use.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        classes: ClassInfo,
        level: Level | None = None,
        head: Literal["average", "max", "fully_connected"] = "average",
        bins: Annotated[int, Range(min=1)] = 7,
        hidden: Sequence[Annotated[int, Range(min=1)]] = (),
        dropout: Annotated[float, Range(min=0, below=1)] = 0.0,
        label_smoothing: Annotated[float, Range(min=0, below=1)] = 0.0,
        mixup: Annotated[float, Range(min=0)] = 0.0,
        cutmix: Annotated[float, Range(min=0)] = 0.0,
    ) -> None:
        super().__init__()
        levels = list(backbone.specs)
        if level is not None and level not in levels:
            raise ConfigError(
                f"task.level={level}: expected a level of this backbone, which are {', '.join(levels)}"
            )
        if hasattr(backbone, "classifier") and (head != "fully_connected" or level not in (None, levels[-1])):
            raise ConfigError(
                f"task.head={head}, task.level={level}: the backbone's fully connected layers would be without use; type "
                "backbone.with_classifier=false, or task.head=fully_connected task.level=null"
            )
        if level is not None:
            backbone.truncate(level)
        self.backbone = backbone
        self.vector = ImageVector(
            backbone,
            bins=bins if head == "fully_connected" else 1,
            pool="max" if head == "max" else "average",
        )
        layers: list[nn.Module] = []
        inputs = self.vector.outputs
        for width in hidden:
            layers += [nn.Dropout(dropout), nn.Linear(inputs, width), nn.ReLU(inplace=True)]
            inputs = width
        self.hidden = nn.Sequential(*layers, nn.Dropout(dropout))
        self.scores = nn.Linear(inputs, len(classes))
        nn.init.normal_(self.scores.weight, std=0.01)
        nn.init.zeros_(self.scores.bias)
        self.class_layers = ["scores."]
        self.label_smoothing = label_smoothing
        mixes = [
            mix(alpha=alpha, num_classes=len(classes))
            for mix, alpha in ((v2.MixUp, mixup), (v2.CutMix, cutmix))
            if alpha
        ]
        self.mix = v2.RandomChoice(mixes) if mixes else None

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """`classification`: cross-entropy, the mean over the images. Where they are mixed, so are their labels."""
        assert batch.label is not None
        images, labels = self.backbone.normalize(batch.images, batch.sizes), batch.label
        if self.mix is not None and self.training:
            images, labels = self.mix(images, labels)
        return {
            "classification": F.cross_entropy(
                self._scores(images), labels, label_smoothing=self.label_smoothing
            )
        }

    @torch.no_grad()
    def predict(self, batch: Batch) -> list[Prediction]:
        """`labels` and `scores` [5, or K if there are fewer] of each image, best first."""
        scores, labels = self(batch).softmax(1).topk(min(ANSWERS, self.scores.out_features))
        return [{"labels": label, "scores": score} for label, score in zip(labels, scores, strict=True)]

    def forward(self, batch: Batch) -> Tensor:
        """Scores [B, K] (logits), float32."""
        return self._scores(self.backbone.normalize(batch.images, batch.sizes))

    def _scores(self, images: Tensor) -> Tensor:
        return exact(self.scores, self.hidden(self.vector(self.backbone(images))))
