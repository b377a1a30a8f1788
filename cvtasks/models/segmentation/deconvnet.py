"""The deconvolution network (Noh et al., ICCV 2015): VGG16 and its mirror image, which unpools what VGG16 has pooled.

Every unpooling puts values back to where the matching max pooling found them; a 7x7 transposed convolution
undoes fc6, and every layer has batch norm.

    cvtasks train task=deconvnet dataset=voc dataset.root=/data/VOC2012 backbone.weights=imagenet

Deviations: it is trained on crops of whole images, in one stage, and predicts whole images: no object proposals, whose
crops the paper labels one by one. A "deconvolution" of stride 1 is a convolution, and is written as one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Unpack

from torch import Tensor, nn

from cvtasks.config.schema import Range
from cvtasks.errors import ConfigError
from cvtasks.models.segmentation.fcn import as_convolutions
from cvtasks.nn.backbones.base import Backbone, FeatureSpec
from cvtasks.nn.norm import NormKind, make_norm
from cvtasks.nn.segmenter import Segmenter, SegmenterOptions, images_like
from cvtasks.nn.upsample import UpsampleKind, make_upsample
from cvtasks.types import ClassInfo

PositiveCount = Annotated[int, Range(min=1)]


class Mirror(nn.Module):
    """fc6 and fc7, fc6's transpose, and from there the backbone backwards: [B, K, H, W].

    Each step up-samples to the next finer map's size (max_unpool: to where that map has its maxima, which is where the
    backbone's pooling found them), and convolves as often as VGG16 does there, down to the finer map's channels.
    Of several maps of one stride the last is read.
    """

    class_layers = ("score",)

    def __init__(
        self,
        specs: Mapping[str, FeatureSpec],
        num_classes: int,
        *,
        upsample: UpsampleKind,
        classifier: nn.Sequential | None,
        fc_kernel: int,
        fc_channels: int,
        norm: NormKind,
    ) -> None:
        super().__init__()
        levels = {spec.stride: name for name, spec in specs.items()}
        self.stride = max(levels)
        self.top, channels = levels[self.stride], specs[levels[self.stride]].channels
        if classifier is None:
            fc6, fc7 = nn.Conv2d(channels, fc_channels, fc_kernel), nn.Conv2d(fc_channels, fc_channels, 1)
        else:
            fc6, fc7 = (m for m in as_convolutions(classifier, channels) if isinstance(m, nn.Conv2d))
            fc6.padding, fc_channels, fc_kernel = (0, 0), fc6.out_channels, fc6.kernel_size[0]
        self.fc_kernel = fc_kernel
        back = nn.ConvTranspose2d(fc_channels, channels, fc_kernel)
        self.fc = nn.Sequential(
            *_with_norm(fc6, fc_channels, norm),
            *_with_norm(fc7, fc_channels, norm),
            *_with_norm(back, channels, norm),
        )
        self.maps: list[str | None] = []
        self.upsample, self.convolutions = nn.ModuleList(), nn.ModuleList()
        stride = self.stride
        while stride > 1:
            stride //= 2
            name = levels.get(stride)
            width = specs[name].channels if name else max(1, channels // 2)
            below = levels.get(stride // 2)
            outputs = specs[below].channels if below else width
            self.maps.append(name)
            self.upsample.append(make_upsample(upsample, channels, width))
            layers: list[nn.Module] = []
            for last in [False] * (2 if stride >= 4 else 1) + [True]:
                convolution = nn.Conv2d(width, outputs if last else width, 3, padding=1)
                nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
                layers += _with_norm(convolution, convolution.out_channels, norm)
            self.convolutions.append(nn.Sequential(*layers))
            channels = outputs
        self.score = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: Mapping[str, Tensor], images: Tensor) -> Tensor:
        x = maps[self.top]
        if min(x.shape[2:]) < self.fc_kernel:
            raise ConfigError(
                f"task=deconvnet: fc6 spans {self.fc_kernel} steps of {self.stride} pixels, and a side of these images "
                f"has {min(images.shape[2:])}; choose images of {self.fc_kernel * self.stride} or more, or a "
                "smaller task.fc_kernel (with backbone.with_classifier=false)"
            )
        x = self.fc(x)
        for name, upsample, convolutions in zip(self.maps, self.upsample, self.convolutions, strict=True):
            x = convolutions(upsample(x, images_like(x, images, 2) if name is None else maps[name]))
        return self.score(x)


def _with_norm(layer: nn.Module, channels: int, norm: NormKind) -> list[nn.Module]:
    return [layer, make_norm(norm, channels), nn.ReLU(inplace=True)]


def deconvnet(
    backbone: Backbone,
    *,
    classes: ClassInfo,
    upsample: UpsampleKind = "max_unpool",
    fc_kernel: PositiveCount = 7,
    fc_channels: PositiveCount = 4096,
    norm: NormKind = "batch",
    **options: Unpack[SegmenterOptions],
) -> Segmenter:
    """The mirror of any backbone. `fc_kernel` and `fc_channels` are the backbone's own where it has fc6 and fc7.

    Raises ConfigError for a backbone that does not down-sample.
    """
    if max(spec.stride for spec in backbone.specs.values()) == 1:
        raise ConfigError("task=deconvnet unpools, and this backbone does not pool; type backbone=vgg16_bn")
    decoder = Mirror(
        backbone.specs,
        len(classes),
        upsample=upsample,
        classifier=backbone.take_classifier() if hasattr(backbone, "classifier") else None,
        fc_kernel=fc_kernel,
        fc_channels=fc_channels,
        norm=norm,
    )
    return Segmenter(backbone, decoder, classes=classes, **options)
