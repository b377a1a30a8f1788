"""The weights of torchvision's RetinaNets (R50-FPN and its v2) in our detector.

Names differ, and torchvision's have an output for a background, which is never true; so classes are found by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cvtasks.errors import WeightsError
from cvtasks.models.detection.torchvision_weights import (
    COCO_CATEGORIES,
    PYRAMID_KEYS,
    adapt_eps,
    rename,
)
from cvtasks.nn import zoo
from cvtasks.nn.dense_detector import DenseDetector

SCORES = "head.classification_head.cls_logits"
TOWERS = (("classification", "class_tower"), ("regression", "box_tower"))

KEY_MAP = tuple(
    (re.compile(pattern), ours)
    for pattern, ours in (
        (r"backbone\.fpn\.extra_blocks\.p6\.(.+)", r"neck.extra.convs.0.\1"),
        (r"backbone\.fpn\.extra_blocks\.p7\.(.+)", r"neck.extra.convs.1.\1"),
        *PYRAMID_KEYS,
        # The first published file counts the ReLUs between the convolutions.
        *(
            (rf"head\.{theirs}_head\.conv\.{2 * i}\.(weight|bias)", rf"head.{ours}.{i}.0.\1")
            for theirs, ours in TOWERS
            for i in range(4)
        ),
        *((rf"head\.{theirs}_head\.conv\.(.+)", rf"head.{ours}.\1") for theirs, ours in TOWERS),
        (r"head\.classification_head\.cls_logits\.(.+)", r"head.scores.\1"),
        (r"head\.regression_head\.bbox_reg\.(.+)", r"head.offsets.\1"),
    )
)


def is_torchvision_retinanet(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dictionary is that of one of torchvision's RetinaNets, and not of a model of ours."""
    return f"{SCORES}.weight" in state and any(key.startswith("backbone.fpn.extra_blocks.") for key in state)


def load_torchvision_retinanet(
    model: DenseDetector,
    state: Mapping[str, Tensor],
    *,
    classes: Sequence[str],
    names: Sequence[str] | None = None,
    source: str = "torchvision",
) -> list[str]:
    """Load torchvision's `state` into `model`; returns notes for the user, one line each.

    classes: the names of the model's classes.
    names: those of the state's outputs, with its background, as in `weights.meta["categories"]`. None, for a file that does
        not tell: the model's classes in their order where the number fits, or else COCO's.
    If a class of the model is not among them, the scores start fresh, and a note says so. Raises WeightsError where the
    networks differ.
    """
    if not is_torchvision_retinanet(state):
        raise WeightsError(f"weights={source}: not a RetinaNet of torchvision's ({SCORES}.weight is missing)")
    own = model.state_dict()
    mapped = {rename(key, KEY_MAP): value for key, value in state.items()}
    adapt_eps(model.backbone, mapped)
    of_p6 = "neck.extra.convs.0.weight"
    if of_p6 in own and mapped[of_p6].shape[1] != own[of_p6].shape[1]:
        other = "pyramid" if mapped[of_p6].shape[1] == mapped[of_p6].shape[0] else "backbone"
        raise WeightsError(
            f"weights={source}: their P6 has {mapped[of_p6].shape[1]} channels to read, and this network's "
            f"{own[of_p6].shape[1]}; type task.extra_from={other}"
        )

    notes, kinds = [], len(own["head.offsets.bias"]) // 4
    outputs = len(state[f"{SCORES}.bias"]) // kinds
    if names is None:
        background = ["background"] * (outputs - len(classes))
        names = [*background, *classes] if len(background) <= 1 else COCO_CATEGORIES
    missing = [name for name in classes if name not in names]
    if missing or len(names) != outputs:
        unknown = f"they have no {', '.join(missing[:3])}" if missing else f"there are {outputs} of them"
        notes.append(
            f"weights={source}: its classes are not this data's ({unknown}): the layer of scores starts fresh"
        )
        mapped |= {key: own[key] for key in own if key.startswith("head.scores.")}
    else:
        rows = torch.tensor([names.index(name) for name in classes])
        for part in ("weight", "bias"):
            of_kinds = state[f"{SCORES}.{part}"].unflatten(0, (kinds, outputs))
            mapped[f"head.scores.{part}"] = of_kinds[:, rows].flatten(0, 1)
    zoo.fit_weights(model, mapped, source=source)
    return notes
