"""The weights of torchvision's Faster R-CNN (R50-FPN, its v2, and MobileNetV3-FPN) in our detector.

Four things differ: names; the background, which torchvision has first and we last; the order in which a region is
flattened; and MobileNet's batch norm, which adds 1e-3 to the variance as in its paper, and in torchvision's detectors 1e-5.
The published files have 91 classes, as COCO's category ids have gaps, so classes are found by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor
from torchvision.models.detection import FasterRCNN_ResNet50_FPN_Weights

from cvtasks.errors import WeightsError
from cvtasks.nn import zoo
from cvtasks.nn.backbones.base import Backbone
from cvtasks.nn.heads import BoxHead, weight_for_flat
from cvtasks.nn.region_detector import RegionDetector
from cvtasks.nn.regions import RegionFeatures

KeyMap: TypeAlias = Sequence[tuple[re.Pattern[str], str]]

COCO_CATEGORIES: Sequence[str] = FasterRCNN_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
TORCHVISION_EPS = 1e-5
"""Of every batch norm in torchvision's detectors (`zoo` sees to the published weights that had none)."""
SCORES, OFFSETS = "roi_heads.box_predictor.cls_score", "roi_heads.box_predictor.bbox_pred"

# The published files of the first models name a layer without the ".0" that later releases put after it.
PYRAMID_KEYS = (
    (r"backbone\.body\.(\d+\..+)", r"backbone.features.\1"),
    (r"backbone\.body\.(.+)", r"backbone.\1"),
    (r"backbone\.fpn\.inner_blocks\.(\d+)\.(weight|bias)", r"neck.lateral.\1.0.\2"),
    (r"backbone\.fpn\.layer_blocks\.(\d+)\.(weight|bias)", r"neck.output.\1.0.\2"),
    (r"backbone\.fpn\.inner_blocks\.(.+)", r"neck.lateral.\1"),
    (r"backbone\.fpn\.layer_blocks\.(.+)", r"neck.output.\1"),
)
"""Of all detectors with a pyramid: patterns of torchvision's names, and ours"""
KEY_MAP = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        *PYRAMID_KEYS,
        (r"rpn\.head\.conv\.(weight|bias)", r"proposer.convs.0.\1"),
        (r"rpn\.head\.conv\.(\d+)\.0\.(weight|bias)", r"proposer.convs.\1.\2"),
        (r"rpn\.head\.cls_logits\.(.+)", r"proposer.objectness.\1"),
        (r"rpn\.head\.bbox_pred\.(.+)", r"proposer.offsets.\1"),
        (r"roi_heads\.box_head\.(fc[67]\..+)", r"heads.box.trunk.\1"),
        (r"roi_heads\.box_head\.5\.(.+)", r"heads.box.trunk.fc.\1"),
        (r"roi_heads\.box_head\.(\d+\..+)", r"heads.box.trunk.convs.\1"),
        (r"roi_heads\.box_predictor\.cls_score\.(.+)", r"heads.box.scores.\1"),
        (r"roi_heads\.box_predictor\.bbox_pred\.(.+)", r"heads.box.offsets.\1"),
    )
)


def is_torchvision_detector(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dictionary is that of one of torchvision's Faster R-CNNs, and not of a model of ours."""
    return f"{SCORES}.weight" in state


def load_torchvision_detector(
    model: RegionDetector,
    state: Mapping[str, Tensor],
    *,
    classes: Sequence[str],
    names: Sequence[str] | None = None,
    source: str = "torchvision",
) -> list[str]:
    """Load torchvision's `state` into `model`; returns notes for the user, one line each.

    classes: the names of the model's classes.
    names: those of the state's outputs, the background first, as in `weights.meta["categories"]`. None, for a file
        that does not tell: the model's classes in their order where the number fits, or else COCO's.
    If a class of the model is not among them, the predictor starts fresh, and a note says so. Raises WeightsError where
    the networks differ.
    """
    if not is_torchvision_detector(state):
        raise WeightsError(
            f"weights={source}: not a Faster R-CNN of torchvision's ({SCORES}.weight is missing)"
        )
    head = model.heads["box"]
    assert isinstance(head, BoxHead)
    features = head.features
    assert isinstance(features, RegionFeatures)
    own = model.state_dict()
    mapped = {rename(key): value for key, value in state.items()}
    adapt_eps(model.backbone, mapped)
    for key in ("heads.box.trunk.fc6.weight", "heads.box.trunk.fc.weight"):
        if key in mapped and mapped[key].shape[1] % features.bins**2 == 0:
            mapped[key] = weight_for_flat(mapped[key], features.bins)

    notes = []
    outputs = len(state[f"{SCORES}.weight"])
    if names is None:
        names = ("background", *classes) if outputs == len(classes) + 1 else COCO_CATEGORIES
    missing = [name for name in classes if name not in names[1:]]
    if missing or len(names) != outputs:
        unknown = f"they have no {', '.join(missing[:3])}" if missing else f"there are {outputs - 1} of them"
        notes.append(
            f"weights={source}: its classes are not this data's ({unknown}): the box head's last layers start fresh"
        )
        mapped |= {
            key: own[key] for key in own if key.startswith(("heads.box.scores.", "heads.box.offsets."))
        }
    else:
        foreground = torch.tensor([names.index(name, 1) for name in classes])
        rows = torch.cat([foreground, torch.tensor([0])])
        for part in ("weight", "bias"):
            mapped[f"heads.box.scores.{part}"] = state[f"{SCORES}.{part}"][rows]
            boxes = state[f"{OFFSETS}.{part}"].unflatten(0, (outputs, 4))[foreground]
            mapped[f"heads.box.offsets.{part}"] = boxes.flatten(0, 1)
    zoo.fit_weights(model, mapped, source=source)
    return notes


def adapt_eps(backbone: Backbone, mapped: dict[str, Tensor]) -> None:
    """Change the weights of the backbone's batch norms so that they say with our eps what they said with torchvision's."""
    for name, module in backbone.named_modules():
        if (key := f"backbone.{name}.running_var") in mapped:
            # In the weight: subtracted from a small variance, the difference would cost most of its digits.
            ratio = (mapped[key] + module.eps) / (mapped[key] + TORCHVISION_EPS)  # type: ignore[operator]
            mapped[f"backbone.{name}.weight"] = mapped[f"backbone.{name}.weight"] * ratio.sqrt()


def rename(key: str, key_map: KeyMap = KEY_MAP) -> str:
    """The name in our detector of what torchvision's calls `key`."""
    for pattern, ours in key_map:
        if pattern.fullmatch(key):
            return pattern.sub(ours, key)
    return key
