"""Orders of joints: what mirroring does to them, and landmarks of each data set's own documentation."""

from __future__ import annotations

import pytest

from cvtasks.data.skeletons import SKELETONS


@pytest.mark.parametrize("name", SKELETONS)
def test_mirroring_swaps_the_sides_and_is_undone_by_mirroring(name: str) -> None:
    skeleton = SKELETONS[name]
    assert len(set(skeleton.names)) == len(skeleton.names)
    flip = skeleton.flip_index
    assert [flip[flip[j]] for j in range(len(flip))] == list(range(len(flip)))
    for j, joint in enumerate(skeleton.names):
        moved = skeleton.names[flip[j]]
        assert (moved == joint) == (joint.split()[0] not in ("left", "right"))
    # A mirrored limb is a limb, and the joints hang together in no more than two parts (FLIC's face is one).
    limbs = {frozenset(limb) for limb in skeleton.class_info["skeleton"]}
    assert {frozenset(flip[j] for j in limb) for limb in limbs} == limbs
    assert len(limbs) == len(skeleton.limbs)


@pytest.mark.parametrize(
    ("name", "count"), [("lsp", 14), ("mpii", 16), ("coco", 17), ("aic", 14), ("crowdpose", 14), ("flic", 11)]
)
def test_each_data_set_has_its_number_of_joints(name: str, count: int) -> None:
    assert len(SKELETONS[name].names) == count


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("lsp", {0: "right ankle", 5: "left ankle", 8: "right shoulder", 12: "neck", 13: "head top"}),
        (
            "mpii",
            {0: "right ankle", 6: "pelvis", 7: "thorax", 9: "head top", 10: "right wrist", 15: "left wrist"},
        ),
        ("coco", {0: "nose", 5: "left shoulder", 10: "right wrist", 11: "left hip", 16: "right ankle"}),
        ("aic", {0: "right shoulder", 3: "left shoulder", 8: "right ankle", 12: "head top", 13: "neck"}),
        (
            "crowdpose",
            {0: "left shoulder", 1: "right shoulder", 11: "right ankle", 12: "head top", 13: "neck"},
        ),
        ("flic", {0: "left shoulder", 5: "right wrist", 6: "left hip", 7: "right hip", 10: "nose"}),
    ],
)
def test_the_joints_stand_where_the_data_set_s_readme_has_them(name: str, places: dict[int, str]) -> None:
    assert {j: SKELETONS[name].names[j] for j in places} == places
