"""The joints of human poses, in the order of each data set, written once for every reader that has them.

Left and right are the person's own, as in all of these data sets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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


LSP = Skeleton(
    names=(
        *("right ankle", "right knee", "right hip", "left hip", "left knee", "left ankle"),
        *("right wrist", "right elbow", "right shoulder", "left shoulder", "left elbow", "left wrist"),
        *("neck", "head top"),
    ),
    limbs=(
        *(("right ankle", "right knee"), ("right knee", "right hip")),
        *(("left ankle", "left knee"), ("left knee", "left hip")),
        *(("right wrist", "right elbow"), ("right elbow", "right shoulder")),
        *(("left wrist", "left elbow"), ("left elbow", "left shoulder")),
        *(("right hip", "left hip"), ("right hip", "right shoulder"), ("left hip", "left shoulder")),
        *(("right shoulder", "neck"), ("left shoulder", "neck"), ("neck", "head top")),
    ),
)
"""Leeds Sports Pose: 14 joints (Johnson & Everingham, BMVC 2010)."""
