"""The joints of human poses, in the order of each data set, written once for every reader that has them.

Left and right are the person's own (person-centric): the left wrist of somebody who faces us is on the picture's right.
Published results are not always. Of Leeds Sports Pose there are also observer-centric labels, where left is the picture's
left (Eichner and Ferrari, ACCV 2012), and results on FLIC are given in that way (Newell et al., ECCV 2016, say so):
numbers of one kind cannot be compared with those of the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias


@dataclass(frozen=True)
class Skeleton:
    """J named joints and the limbs between them. Paired joints are named "left ..." and "right ..."."""

    names: tuple[str, ...]
    limbs: tuple[tuple[str, str], ...]

    @property
    def flip_index(self) -> tuple[int, ...]:
        """Joint j of the mirrored person is joint `flip_index[j]` of the person."""
        other = {"left": "right", "right": "left"}
        swapped = [" ".join(other.get(word, word) for word in name.split()) for name in self.names]
        return tuple(self.names.index(name) for name in swapped)

    @property
    def class_info(self) -> dict[str, Any]:
        """The three arguments of `ClassInfo` that tell of joints."""
        pairs = tuple((self.names.index(a), self.names.index(b)) for a, b in self.limbs)
        return {"keypoint_names": self.names, "flip_index": self.flip_index, "skeleton": pairs}


_RIGHT_ARM = (("right wrist", "right elbow"), ("right elbow", "right shoulder"))
_LEFT_ARM = (("left wrist", "left elbow"), ("left elbow", "left shoulder"))
_RIGHT_LEG = (("right ankle", "right knee"), ("right knee", "right hip"))
_LEFT_LEG = (("left ankle", "left knee"), ("left knee", "left hip"))
_LIMBS = (*_RIGHT_LEG, *_LEFT_LEG, *_RIGHT_ARM, *_LEFT_ARM)
_SIDES = (("right hip", "right shoulder"), ("left hip", "left shoulder"))

LSP = Skeleton(
    names=(
        *("right ankle", "right knee", "right hip", "left hip", "left knee", "left ankle"),
        *("right wrist", "right elbow", "right shoulder", "left shoulder", "left elbow", "left wrist"),
        *("neck", "head top"),
    ),
    limbs=(
        *_LIMBS,
        *(("right hip", "left hip"), *_SIDES),
        *(("right shoulder", "neck"), ("left shoulder", "neck"), ("neck", "head top")),
    ),
)
"""Leeds Sports Pose: 14 joints (Johnson & Everingham, BMVC 2010)."""

MPII = Skeleton(
    names=(
        *("right ankle", "right knee", "right hip", "left hip", "left knee", "left ankle"),
        *("pelvis", "thorax", "upper neck", "head top"),
        *("right wrist", "right elbow", "right shoulder", "left shoulder", "left elbow", "left wrist"),
    ),
    limbs=(
        *_LIMBS,
        *(("right hip", "pelvis"), ("left hip", "pelvis"), ("pelvis", "thorax")),
        *(("right shoulder", "thorax"), ("left shoulder", "thorax")),
        *(("thorax", "upper neck"), ("upper neck", "head top")),
    ),
)
"""MPII Human Pose: 16 joints (Andriluka et al., CVPR 2014)."""

COCO = Skeleton(
    names=(
        *("nose", "left eye", "right eye", "left ear", "right ear"),
        *("left shoulder", "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist"),
        *("left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle"),
    ),
    limbs=(
        *(("left ankle", "left knee"), ("left knee", "left hip")),
        *(("right ankle", "right knee"), ("right knee", "right hip")),
        *(("left hip", "right hip"), ("left shoulder", "left hip"), ("right shoulder", "right hip")),
        *(("left shoulder", "right shoulder"), ("left shoulder", "left elbow")),
        *(("right shoulder", "right elbow"), ("left elbow", "left wrist"), ("right elbow", "right wrist")),
        *(("left eye", "right eye"), ("nose", "left eye"), ("nose", "right eye")),
        *(("left eye", "left ear"), ("right eye", "right ear")),
        *(("left ear", "left shoulder"), ("right ear", "right shoulder")),
    ),
)
"""COCO keypoints: 17 joints (Lin et al., ECCV 2014), as person_keypoints_*.json has them."""

AIC = Skeleton(
    names=(
        *("right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist"),
        *("right hip", "right knee", "right ankle", "left hip", "left knee", "left ankle"),
        *("head top", "neck"),
    ),
    limbs=(
        *_LIMBS,
        *(("right hip", "left hip"), *_SIDES),
        *(("right shoulder", "neck"), ("left shoulder", "neck"), ("head top", "neck")),
    ),
)
"""AI Challenger's human keypoints: 14 joints (Wu et al., 2017)."""

CROWDPOSE = Skeleton(
    names=(
        *("left shoulder", "right shoulder", "left elbow", "right elbow", "left wrist", "right wrist"),
        *("left hip", "right hip", "left knee", "right knee", "left ankle", "right ankle"),
        *("head top", "neck"),
    ),
    limbs=(
        *_LIMBS,
        *(("left hip", "right hip"), *_SIDES),
        *(("left shoulder", "neck"), ("right shoulder", "neck"), ("head top", "neck")),
    ),
)
"""CrowdPose: 14 joints (Li et al., CVPR 2019)."""

FLIC = Skeleton(
    names=(
        *("left shoulder", "left elbow", "left wrist", "right shoulder", "right elbow", "right wrist"),
        *("left hip", "right hip", "left eye", "right eye", "nose"),
    ),
    limbs=(
        *(*_RIGHT_ARM, *_LEFT_ARM),
        *(("left shoulder", "right shoulder"), ("left hip", "right hip"), *_SIDES),
        *(("nose", "left eye"), ("nose", "right eye")),
    ),
)
"""Frames Labeled In Cinema: 11 joints of the upper body (Sapp & Taskar, CVPR 2013)."""

SkeletonName: TypeAlias = Literal["lsp", "mpii", "coco", "aic", "crowdpose", "flic"]
SKELETONS: dict[str, Skeleton] = {
    "lsp": LSP,
    "mpii": MPII,
    "coco": COCO,
    "aic": AIC,
    "crowdpose": CROWDPOSE,
    "flic": FLIC,
}
"""By the names that `dataset.skeleton` takes"""
