"""GoogLeNet (Szegedy et al., CVPR 2015), torchvision's.

    cvtasks train task=faster_rcnn backbone=googlenet backbone.weights=imagenet

Deviations are torchvision's: batch norm behind every convolution, and 3x3 convolutions where the paper has 5x5. The two
auxiliary classifiers are no part of a backbone; published weights have them, and are read without.
"""

from __future__ import annotations

from typing import Literal

from torchvision import models

from cvtasks.nn.backbones.base import Backbone, Level, prepare
from cvtasks.nn.backbones.inception_parts import AdoptedStages
from cvtasks.nn.norm import Norm, choose_norm, replace_norms

STAGES = {
    "c1": ("conv1",),
    "c2": ("maxpool1", "conv2", "conv3"),
    "c3": ("maxpool2", "inception3a", "inception3b"),
    "c4": ("maxpool3", *(f"inception4{each}" for each in "abcde")),
    "c5": ("maxpool4", "inception5a", "inception5b"),
}
CHANNELS = (64, 192, 480, 832, 1024)


def googlenet(
    *,
    weights: str | None = None,
    norm: Norm = "auto",
    freeze_until: Level | Literal["auto"] | None = "auto",
) -> Backbone:
    """GoogLeNet without its classifiers. Its images have pixels from -1 to 1.

    `norm="auto"` is frozen batch norm with `weights`, batch norm without; `freeze_until="auto"` is c2 with
    `weights`, nothing without.
    """
    network = models.googlenet(aux_logits=False, init_weights=True)
    replace_norms(network, choose_norm(norm, weights=weights, otherwise="batch"))
    backbone = AdoptedStages(network, CHANNELS, STAGES)
    return prepare(backbone, network="googlenet", weights=weights, freeze_until=freeze_until)
