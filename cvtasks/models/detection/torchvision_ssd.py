"""The weights of torchvision's ssd300_vgg16 and ssdlite320_mobilenet_v3_large in our SSD.

Three things differ: names; the background, which torchvision has first and we last; and the statistics that pixels are
normalised with, which are not the backbone's (Caffe's; -1 to 1) and come with the weights.
The published files have 91 classes, as COCO's category ids have gaps, so classes are found by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from cvtasks.errors import WeightsError
from cvtasks.models.detection.torchvision_weights import COCO_CATEGORIES
from cvtasks.nn import zoo
from cvtasks.nn.multibox_maps import MultiboxHead

SCALE = "backbone.scale_weight"
"""Only the network on VGG16 has it."""
SSD_STATISTICS = ((0.48235, 0.45882, 0.40784), (1 / 255,) * 3)
LITE_STATISTICS = ((0.5,) * 3, (0.5,) * 3)
"""Mean and standard deviation of red, green and blue from 0 to 1"""
POOL4 = 23
"""The number of the layer of VGG16 that torchvision's second part begins with"""
EXPANSION = 13
"""That of the block of MobileNetV3-large whose first layer is the last of torchvision's first part"""


def is_torchvision_ssd(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dictionary is that of one of torchvision's SSDs, and not of a model of ours."""
    return any(key.startswith("backbone.extra.") for key in state)


def load_torchvision_ssd(
    model: nn.Module,
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
    If a class of the model is not among them, the scores start fresh, and a note says so. Raises WeightsError where the
    networks differ.
    """
    head = getattr(model, "head", None)
    if not isinstance(head, MultiboxHead):
        raise WeightsError(f"weights={source}: an SSD of torchvision's; type task=ssd or task=ssdlite")
    lite = SCALE not in state
    mapped = {rename(key, lite=lite): value for key, value in state.items()}
    for name, values in zip(("mean", "std"), LITE_STATISTICS if lite else SSD_STATISTICS, strict=True):
        mapped[f"backbone.{name}"] = 255 * torch.tensor(values)

    own = model.state_dict()
    last = re.compile(r"head\.scores\.\d+\.1\.\w+" if lite else r"head\.scores\.\d+\.\w+")
    scores = [key for key in own if last.fullmatch(key) and key in mapped]
    kinds = {key: len(own[key]) // head.columns for key in scores}
    outputs = len(mapped[scores[0]]) // kinds[scores[0]] if scores else 0
    if names is None:
        names = ("background", *classes) if outputs == head.columns else COCO_CATEGORIES
    missing = [name for name in classes if name not in names[1:]]
    if missing or len(names) != outputs:
        unknown = f"they have no {', '.join(missing[:3])}" if missing else f"there are {outputs - 1} of them"
        zoo.fit_weights(model, mapped | {key: own[key] for key in scores}, source=source)
        return [f"weights={source}: its classes are not this data's ({unknown}): the scores start fresh"]
    rows = torch.tensor([*(names.index(name, 1) for name in classes), 0])
    for key in scores:
        mapped[key] = mapped[key].unflatten(0, (kinds[key], outputs))[:, rows].flatten(0, 1)
    zoo.fit_weights(model, mapped, source=source)
    return []


def rename(key: str, *, lite: bool) -> str:
    """The name in our detector of what torchvision's calls `key`."""
    for pattern, ours in (
        (r"head\.classification_head\.module_list\.(.+)", r"head.scores.\1"),
        (r"head\.regression_head\.module_list\.(.+)", r"head.offsets.\1"),
    ):
        key = re.sub(pattern, ours, key)
    return _rename_lite(key) if lite else _rename_vgg(key)


def _rename_vgg(key: str) -> str:
    if key == SCALE:
        return "neck.scale.weight"
    if found := re.fullmatch(r"backbone\.extra\.0\.7\.(.+)", key):
        return f"neck.fc.{found[1]}"
    if found := re.fullmatch(r"backbone\.extra\.0\.(\d+)\.(.+)", key):
        return f"backbone.features.{POOL4 + int(found[1])}.{found[2]}"
    if found := re.fullmatch(r"backbone\.extra\.(\d+)\.(.+)", key):
        return f"neck.extra.{int(found[1]) - 1}.{found[2]}"
    return key


def _rename_lite(key: str) -> str:
    key = re.sub(r"backbone\.extra\.", "neck.extra.", key)
    if found := re.fullmatch(rf"backbone\.features\.0\.{EXPANSION}\.(.+)", key):
        return f"backbone.features.{EXPANSION}.block.0.{found[1]}"
    if found := re.fullmatch(r"backbone\.features\.1\.0\.(\d+)\.(.+)", key):
        return f"backbone.features.{EXPANSION}.block.{found[1]}.{found[2]}"
    if found := re.fullmatch(r"backbone\.features\.1\.(\d+)\.(.+)", key):
        return f"backbone.features.{EXPANSION + int(found[1])}.{found[2]}"
    return re.sub(r"backbone\.features\.0\.", "backbone.features.", key)
