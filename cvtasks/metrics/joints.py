"""What the measures of pose take from a skeleton: limbs, the torso, and how exactly each joint can be placed.

Letters: P people, J joints. Joints go by their names (`ClassInfo.joints`), so any data set's order will do. Left and
right are the person's own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cvtasks.types import ClassInfo

_LIMBS = {
    "upper arm": ("shoulder", "elbow"),
    "lower arm": ("elbow", "wrist"),
    "upper leg": ("hip", "knee"),
    "lower leg": ("knee", "ankle"),
}
_SIGMAS = {
    "nose": 0.026, "eye": 0.025, "ear": 0.035, "shoulder": 0.079, "elbow": 0.072, "wrist": 0.062,
    "hip": 0.107, "knee": 0.087, "ankle": 0.089, "head": 0.079, "head top": 0.079, "neck": 0.079,
}  # fmt: skip
"""COCO's (Lin et al., 2014), and CrowdPose's (Li et al., CVPR 2019), which adds head and neck"""
_OTHER_SIGMA = 0.1
_AIC_JOINTS = (
    "right shoulder", "right elbow", "right wrist", "left shoulder", "left elbow", "left wrist", "right hip",
    "right knee", "right ankle", "left hip", "left knee", "left ankle", "head top", "neck",
)  # fmt: skip
_AIC_SIGMAS = (
    0.01388152, 0.01515228, 0.01057665, 0.01417709, 0.01497891, 0.01402144, 0.03909642,
    0.03686941, 0.01981803, 0.03843971, 0.03412318, 0.02415081, 0.01291456, 0.01236173,
)  # fmt: skip
"""AI Challenger's own (Wu et al., 2017), whose evaluation writes them as halves"""


def limbs(classes: ClassInfo) -> dict[str, tuple[int, int]]:
    """The two joints of each limb: arms and legs by the joints' names ("left lower arm"), whether the skeleton has them or
    not, then what else the skeleton has ("neck - head top").
    """
    names = classes.joints
    found = {
        f"{side} {limb}": (names.index(f"{side} {a}"), names.index(f"{side} {b}"))
        for side in ("right", "left")
        for limb, (a, b) in _LIMBS.items()
        if f"{side} {a}" in names and f"{side} {b}" in names
    }
    known = set(map(frozenset, found.values()))
    others = [pair for pair in classes.skeleton if frozenset(pair) not in known]
    return found | {f"{names[a]} - {names[b]}": (a, b) for a, b in others}


def is_arm_or_leg(limb: str) -> bool:
    return limb.endswith(tuple(_LIMBS))


def parts(classes: ClassInfo) -> dict[str, list[int]]:
    """The joints with left and right together: "wrist": both wrists."""
    found: dict[str, list[int]] = {}
    for joint, name in enumerate(classes.joints):
        found.setdefault(part_of(name), []).append(joint)
    return found


def part_of(joint: str) -> str:
    """The joint's name without its side."""
    return joint.removeprefix("left ").removeprefix("right ")


def sigmas(classes: ClassInfo) -> list[float]:
    """The width of each joint for OKS: the data set's own where they are published, COCO's for a joint that COCO or
    CrowdPose has, and 0.1 for any other."""
    if classes.joints == _AIC_JOINTS:
        return list(_AIC_SIGMAS)
    return [_SIGMAS.get(part_of(name), _OTHER_SIGMA) for name in classes.joints]


def torso_diagonals(classes: ClassInfo) -> list[tuple[int, int]]:
    """The joints of right shoulder to left hip, and of left shoulder to right hip; those that the skeleton has."""
    names = classes.joints
    pairs = (("right shoulder", "left hip"), ("left shoulder", "right hip"))
    return [(names.index(a), names.index(b)) for a, b in pairs if a in names and b in names]


def torso_sizes(
    keypoints: np.ndarray, labelled: np.ndarray, diagonals: Sequence[tuple[int, int]]
) -> np.ndarray:
    """The first diagonal whose two joints are labelled, in pixels [P]; NaN for people without, or with one of length 0.

    keypoints: [P, J, 2]. labelled: bool [P, J].
    """
    sizes = np.full(len(keypoints), np.nan)
    for a, b in reversed(diagonals):
        length = np.linalg.norm(keypoints[:, a] - keypoints[:, b], axis=1)
        sizes = np.where(labelled[:, a] & labelled[:, b] & (length > 0), length, sizes)
    return sizes
