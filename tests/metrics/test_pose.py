"""Oracles: people whose joints are moved by known distances, and counting joint by joint in Python."""

from __future__ import annotations

import json
import logging
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cvtasks.metrics.joints import limbs, parts, sigmas
from cvtasks.metrics.pose import PoseEvaluator
from cvtasks.metrics.results import read_keypoint_results
from cvtasks.types import ClassInfo, Prediction, Truth

NAMES = (
    "left_shoulder", "right_shoulder", "left_elbow", "left_wrist", "left_hip", "right_hip", "neck", "head",
)  # fmt: skip
CLASSES = ClassInfo(("person",), (7,), NAMES, skeleton=((3, 2), (2, 0), (6, 7)))
PLACES = np.array(
    [[40, 20], [20, 20], [50, 20], [50, 30], [40, 20 + 99 ** 0.5 * 2], [20, 50], [30, 10], [30, 4]], np.float64
)  # fmt: skip
"""Right shoulder to left hip: sqrt(20 ** 2 + 4 * 99); the upper arm is 10 long, and so is the lower."""
BOX = np.array([[0.0, 0.0, 60.0, 80.0]])
"""Its diagonal is 100."""


def person(number: int | str, places: Any = PLACES, visible: Any = 2, **more: Any) -> Truth:
    places = np.array(places, np.float64)[None]
    labelled = np.broadcast_to(np.array(visible), places.shape[:2])
    return {"image_id": number, "keypoints": places, "visible": labelled, "boxes": BOX} | more


def pose(places: Any, *, score: float = 0.9, stages: Any = None) -> Prediction:
    joints = torch.tensor(np.array(places))[None]
    found = {
        "keypoints": joints,
        "keypoint_scores": torch.full(joints.shape[:2], 0.5),
        "boxes": torch.tensor(BOX),
        "scores": torch.tensor([score]),
    }
    return found | ({} if stages is None else {"stages": torch.tensor(np.array(stages))})


def nobody() -> Prediction:
    return {name: values[:0] for name, values in pose(PLACES).items()}


def moved(**joints: tuple[float, float]) -> np.ndarray:
    """PLACES with some joints elsewhere, by so many pixels."""
    places = PLACES.copy()
    for name, by in joints.items():
        places[NAMES.index(name)] += by
    return places


def judged(people: list[tuple[Truth, Prediction]], classes: ClassInfo = CLASSES) -> PoseEvaluator:
    evaluator = PoseEvaluator(classes=classes)
    for truth, found in people:
        evaluator.update([found], [truth])
    return evaluator


def numbers(*people: tuple[Truth, Prediction], classes: ClassInfo = CLASSES) -> dict[str, float]:
    """By names without `pose/`."""
    metrics = judged(list(people), classes).compute()
    assert all(name.startswith("pose/") for name in metrics)
    return {name.removeprefix("pose/"): value for name, value in metrics.items()}


def same(a: dict[str, float], b: dict[str, float]) -> bool:
    """To the last digit."""
    return a.keys() == b.keys() and all(a[k] == b[k] or (math.isnan(a[k]) and math.isnan(b[k])) for k in a)


def test_pck_is_a_fifth_of_the_torso_and_the_limit_counts() -> None:
    """The torso is made 30 long: right shoulder (20, 20) to left hip (20, 50)."""
    places = PLACES.copy()
    places[4] = (20, 50)
    found = places.copy()
    found[0] += (6, 0)
    found[3] += (6.01, 0)
    told = numbers((person(1, places), pose(found)))
    assert told["PCK@0.2/left_shoulder"] == told["PCK@0.2/neck"] == 1
    assert told["PCK@0.2/left_wrist"] == 0
    assert told["PCK@0.2"] == 7 / 8
    assert next(iter(told)) == "PCK@0.2"


def test_the_mean_of_pck_gives_each_joint_the_same_weight() -> None:
    """The wrist is labelled once and wrong, all others three times and right."""
    hidden = [2 if name != "left_wrist" else 0 for name in NAMES]
    wrong = pose(moved(left_wrist=(50, 0)))
    told = numbers((person(1), wrong), (person(2, visible=hidden), wrong), (person(3, visible=hidden), wrong))
    assert told["PCK@0.2/left_wrist"] == 0
    assert told["PCK@0.2"] == 7 / 8


def test_unlabelled_joints_count_nowhere_and_hidden_ones_do() -> None:
    places = moved(neck=(1000, 0), head=(1000, 0))
    visible = [2, 2, 2, 2, 2, 2, 0, 1]
    told = numbers((person(1, visible=visible), pose(places)))
    assert math.isnan(told["PCK@0.2/neck"])
    assert math.isnan(told["PCP/neck - head"])
    assert told["PCK@0.2/head"] == 0
    assert told["PCK@0.2"] == 6 / 7
    assert told["mean_error"] == pytest.approx(1000 / 100 / 7)


def test_the_other_diagonal_stands_in_and_without_either_a_person_is_not_counted() -> None:
    """Right shoulder to left hip is 28.2, so 5.6 are allowed; left shoulder to right hip is 36.1, which allows 7.2."""
    six_off = pose(moved(left_wrist=(6.5, 0)))
    no_right_shoulder = [2, 0, 2, 2, 2, 2, 2, 2]
    assert numbers((person(1), six_off))["PCK@0.2/left_wrist"] == 0
    assert numbers((person(1, visible=no_right_shoulder), six_off))["PCK@0.2/left_wrist"] == 1
    no_shoulders = [0, 0, 2, 2, 2, 2, 2, 2]
    alone = numbers((person(1, visible=no_shoulders), six_off))
    assert math.isnan(alone["PCK@0.2"])
    assert math.isnan(alone["PCK@0.2/left_wrist"])
    assert alone["PCP/left lower arm"] == 0  # the other measures still see them
    both = numbers((person(1, visible=no_shoulders), six_off), (person(2), pose(PLACES)))
    assert both["PCK@0.2/left_wrist"] == 1


def test_a_torso_of_no_length_is_none() -> None:
    places = PLACES.copy()
    places[[0, 1, 4, 5]] = (30, 30)
    assert math.isnan(numbers((person(1, places), pose(places)))["PCK@0.2"])


def test_strict_pcp_asks_both_ends_to_be_within_half_the_true_limb() -> None:
    """Both arms' parts are 10 long."""

    def pcp(**joints: tuple[float, float]) -> tuple[float, float]:
        told = numbers((person(1), pose(moved(**joints))))
        return told["PCP/left upper arm"], told["PCP/left lower arm"]

    assert pcp(left_elbow=(0, 5), left_wrist=(5, 0)) == (1, 1)
    assert pcp(left_wrist=(5.01, 0)) == (1, 0)
    assert pcp(left_elbow=(0, 5.01)) == (0, 0)
    assert pcp(left_shoulder=(-9, 0)) == (
        0,
        1,
    )  # the mean of its two ends is within 5: loose PCP would take it


def test_the_mean_of_pcp_is_that_of_arms_and_legs() -> None:
    told = numbers((person(1), pose(moved(left_wrist=(9, 0), head=(50, 0)))))
    assert told["PCP/neck - head"] == 0
    assert told["PCP"] == (1 + 0) / 2
    trunk = ClassInfo(("person",), (7,), NAMES[-2:], skeleton=((0, 1),))
    alone = numbers((person(1, PLACES[-2:]), pose(PLACES[-2:])), classes=trunk)
    assert alone["PCP"] == alone["PCP/neck - head"] == 1


def test_pckh_is_over_all_labelled_joints_of_people_with_a_head() -> None:
    """A head of 20 allows 10. The wrist is labelled in one of two people."""
    hidden = [2 if name != "left_wrist" else 0 for name in NAMES]
    ten_off, eleven_off = pose(moved(left_wrist=(10, 0))), pose(moved(left_wrist=(11, 0)))
    told = numbers((person(1, head_size=20.0), ten_off))
    assert told["PCKh@0.5"] == told["PCKh@0.5/left_wrist"] == 1
    told = numbers(
        (person(1, head_size=20.0), eleven_off),
        (person(2, visible=hidden, head_size=20.0), eleven_off),
        (person(3, head_size=math.nan), pose(PLACES + 100)),
    )
    assert told["PCKh@0.5"] == 14 / 15
    assert math.isnan(numbers((person(1), ten_off))["PCKh@0.5"])


def test_pckh_leaves_out_pelvis_and_thorax_as_mpii_does() -> None:
    classes = ClassInfo(("person",), (1,), ("pelvis", "thorax", "head top"))
    places, found = np.zeros((3, 2)), np.array([[90.0, 0], [90, 0], [0, 0]])
    told = numbers((person(1, places, head_size=20.0), pose(found)), classes=classes)
    assert told["PCKh@0.5"] == 1
    assert told["PCKh@0.5/pelvis"] == 0


def test_mean_error_is_of_the_boxs_diagonal() -> None:
    assert numbers((person(1), pose(PLACES + np.array([3, 4]))))["mean_error"] == pytest.approx(5 / 100)


def test_each_stage_of_a_cascade_has_its_numbers_and_the_last_has_the_whole() -> None:
    stages = [PLACES + 50, moved(left_wrist=(9, 0)), PLACES]
    told = numbers((person(1), pose(PLACES, stages=stages)), (person(2), pose(PLACES, stages=stages)))
    assert [told[f"PCK@0.2/stage {n}"] for n in (1, 2, 3)] == [0, 7 / 8, 1]
    assert [told[f"PCP/stage {n}"] for n in (1, 2, 3)] == [0, 1 / 2, 1]
    assert [told[f"mean_error/stage {n}"] for n in (1, 2, 3)] == pytest.approx(
        [50 * 2**0.5 / 100, 9 / 100 / 8, 0]
    )
    evaluator = judged([(person(1), pose(PLACES, stages=stages))])
    assert evaluator.plot_data()["stages"]["PCP"] == [0, 1 / 2, 1]
    assert not [name for name in numbers((person(1), pose(PLACES))) if "stage" in name]


def test_a_person_without_a_prediction_is_missed_and_in_no_mean_error() -> None:
    told = numbers((person(1), nobody()), (person(2), pose(PLACES + np.array([3, 4]))))
    assert told["PCK@0.2"] == told["PCP"] == 1 / 2
    assert told["mean_error"] == pytest.approx(5 / 100)


def test_joints_that_are_not_finite_are_far_off() -> None:
    found = moved(left_wrist=(math.nan, 0))
    told = numbers((person(1, area=[1000.0]), pose(found)))
    assert told["PCK@0.2/left_wrist"] == 0
    assert told["PCK@0.2/neck"] == 1
    assert told["mean_error"] > 100
    assert told["OKS_AP50"] == pytest.approx(1)  # seven of eight joints are exact


def test_a_skeleton_without_a_torso_says_so(caplog: pytest.LogCaptureFixture) -> None:
    arm = ClassInfo(("person",), (1,), ("right shoulder", "right elbow", "right wrist"))
    with caplog.at_level(logging.WARNING):
        told = numbers((person(1, PLACES[:3]), pose(PLACES[:3])), classes=arm)
    assert "no shoulder and hip" in caplog.text
    assert math.isnan(told["PCK@0.2"])
    assert told["PCP"] == 1
    data = judged([(person(1, PLACES[:3]), pose(PLACES[:3]))], arm).plot_data()
    assert set(data) == {"per_limb_pcp"}


def test_oks_is_told_where_areas_are_known_with_an_images_people_together() -> None:
    """Two people at one place: the better score is right, and the other finds the second one."""
    beside = PLACES + np.array([200, 0])
    two = [
        (person("a#0", source_id=5, area=[2000.0]), pose(PLACES, score=0.9)),
        (person("a#1", beside, source_id=5, area=[2000.0]), pose(beside, score=0.8)),
    ]
    assert numbers(*two)["OKS_AP"] == pytest.approx(1)
    # Each in an image of its own, found where the other is: wrong. In one image the pairs are told by the joints.
    swapped = [(two[0][0], two[1][1]), (two[1][0], two[0][1])]
    assert numbers(*swapped)["OKS_AP"] == pytest.approx(1)
    apart = [(truth | {"source_id": i}, found) for i, (truth, found) in enumerate(swapped)]
    assert numbers(*apart)["OKS_AP"] == 0
    assert math.isnan(numbers((person(1), pose(PLACES)))["OKS_AP"])
    assert math.isnan(numbers(two[0], (person(2, area=[math.nan]), pose(PLACES)))["OKS_AP"])


def test_a_pose_of_a_bystander_counts_neither_way_in_oks() -> None:
    """Beside the person stands one without a labelled joint; a better-scored pose is theirs, or nobody's."""
    two = {name: torch.cat([values, values]) for name, values in pose(PLACES).items()}
    two["keypoints"][1] += 200
    two["scores"][1] = 0.95
    bystanders = {"boxes": BOX + 200, "area": [2000.0], "ignore": [False]}
    one = person("5#1", source_id=5, area=[2000.0])
    assert numbers((one | {"bystanders": bystanders}, two))["OKS_AP"] == pytest.approx(1)
    assert numbers((one, two))["OKS_AP"] == pytest.approx(0.5)
    # Two people of that image tell of the same bystander; a second pose there is of the same one, and wrong.
    beside = person("5#2", PLACES + 500, source_id=5, area=[2000.0], bystanders=bystanders)
    again = {name: torch.cat([values, values]) for name, values in pose(PLACES + 500).items()}
    again["keypoints"][1] -= 300
    again["scores"][1] = 0.99
    assert numbers((one | {"bystanders": bystanders}, two), (beside, again))["OKS_AP"] < 0.99
    crowd = bystanders | {"ignore": [True]}
    people = [(truth | {"bystanders": crowd}, found) for truth, found in ((one, two), (beside, again))]
    assert numbers(*people)["OKS_AP"] == pytest.approx(1)


def test_oks_by_hand() -> None:
    """One wrist alone is off by d: OKS = (7 + exp(-d^2 / (2 area (2 sigma)^2))) / 8 with COCO's sigma of 0.062."""
    area = 1000.0
    for oks in (0.91, 0.94):  # below and above are the thresholds 0.90, 0.95
        share = 8 * oks - 7
        off = math.sqrt(-2 * area * (2 * 0.062) ** 2 * math.log(share))
        told = numbers((person(1, area=[area]), pose(moved(left_wrist=(off, 0)))))
        assert told["OKS_AP"] == pytest.approx(9 / 10)  # of the thresholds 0.50, 0.55, ..., 0.95


def test_curves_rise_to_the_metrics_and_left_and_right_are_one_part() -> None:
    evaluator = judged([(person(1, head_size=20.0), pose(moved(left_shoulder=(5, 0), left_wrist=(40, 0))))])
    told, data = evaluator.compute(), evaluator.plot_data()
    pdj = data["pdj"]
    assert pdj["fractions"][0] == 0
    assert pdj["fractions"][-1] == 0.5
    assert set(pdj["parts"]) == {"shoulder", "elbow", "wrist", "hip", "neck", "head"}
    assert pdj["parts"]["shoulder"][0] == 1 / 2  # the right one is exact
    assert pdj["parts"]["shoulder"][20] == 1
    assert pdj["parts"]["wrist"][-1] == 0
    assert pdj["mean"][20] == told["pose/PCK@0.2"]
    assert data["pckh"]["mean"][25] == 7 / 8
    for curve in (pdj["mean"], *pdj["parts"].values()):
        assert curve == sorted(curve)
    assert data["per_joint_pck"]["left_wrist"] == 0
    assert data["per_limb_pcp"]["neck - head"] == 1


def random_people(seed: int, count: int = 6) -> list[tuple[Truth, Prediction]]:
    rng = np.random.default_rng(seed)
    people = []
    for number in rng.permutation(count).tolist():
        places = PLACES + rng.normal(0, 5, PLACES.shape)
        stages = places + rng.normal(0, 6, (2, *PLACES.shape))
        truth = person(
            f"{number // 2}#{number}", places, rng.choice([0, 1, 2], len(NAMES)), source_id=number // 2,
            area=[float(rng.uniform(500, 5000))], head_size=float(rng.choice([math.nan, 12.0])),
        )  # fmt: skip
        truth["boxes"] = BOX + 100 * number
        found = pose(stages[-1], score=round(rng.random(), 1), stages=stages)
        people.append((truth, found | {"boxes": torch.tensor(BOX + 100 * number)}))
    return people


def by_counting(people: list[tuple[Truth, Prediction]]) -> dict[str, float]:
    hits, counted = dict.fromkeys(NAMES, 0), dict.fromkeys(NAMES, 0)
    errors, heads = [], []
    for truth, found in people:
        true, seen = truth["keypoints"][0].tolist(), truth["visible"][0].tolist()
        at = dict(zip(NAMES, true, strict=True))
        labelled = {name for name, v in zip(NAMES, seen, strict=True) if v}
        torso = math.nan
        for a, b in (("right_shoulder", "left_hip"), ("left_shoulder", "right_hip")):
            if math.isnan(torso) and {a, b} <= labelled:
                torso = math.dist(at[a], at[b])
        for name, place in zip(NAMES, found["keypoints"][0].tolist(), strict=True):
            if name not in labelled:
                continue
            off = math.dist(place, at[name])
            errors.append(off / 100)
            if not math.isnan(truth["head_size"]):
                heads.append(off <= 0.5 * truth["head_size"])
            if not math.isnan(torso):
                hits[name] += off <= 0.2 * torso
                counted[name] += 1
    rates = [hits[n] / counted[n] for n in NAMES if counted[n]]

    def mean(values: list) -> float:
        return sum(values) / len(values) if values else math.nan

    return {"PCK@0.2": mean(rates), "PCKh@0.5": mean(heads), "mean_error": mean(errors)}


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_numbers_equal_those_of_counting_joint_by_joint(seed: int) -> None:
    people = random_people(seed)
    told = numbers(*people)
    for name, value in by_counting(people).items():
        assert told[name] == pytest.approx(value, nan_ok=True), name


@settings(max_examples=15)
@given(seed=st.integers(0, 10_000), data=st.data())
def test_order_split_and_people_seen_twice_leave_no_trace_in_the_last_digit(seed: int, data: Any) -> None:
    people = random_people(seed)
    expected = judged(people).compute()
    order = data.draw(st.permutations(people))
    cut = data.draw(st.integers(0, len(people)))
    states = [judged(order[:cut]).state(), judged(order[cut:] + order[:1]).state()]
    merged = PoseEvaluator(classes=CLASSES)
    merged.merge(pickle.loads(pickle.dumps(states)))
    assert same(merged.compute(), expected)


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_the_written_file_gives_the_same_numbers_again(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("results")
    people = random_people(seed)
    evaluator = judged(people)
    evaluator.write(folder)
    truths = [truth for truth, _ in people]
    results = read_keypoint_results(folder / "keypoint_results.json", CLASSES, truths)
    again = judged([(t, results.predictions[t["image_id"]]) for t in truths]).compute()
    expected = {k: v for k, v in evaluator.compute().items() if "stage" not in k}
    assert same(again, expected)


def test_the_file_counts_pixels_and_we_measure_from_the_edge(tmp_path: Path) -> None:
    """The middle of pixel 12 is at 12.5."""
    judged([(person("8#1", source_id=8), pose(PLACES * 0 + (12.5, 3.0)))]).write(tmp_path)
    (record,) = json.loads((tmp_path / "keypoint_results.json").read_text())
    assert record["keypoints"] == [12.0, 2.5, 0.5] * len(NAMES)
    assert (record["image_id"], record["category_id"], record["bbox"]) == (8, 7, [0, 0, 60, 80])


def test_joints_are_known_by_their_names_in_any_spelling() -> None:
    names = ("LeftShoulder", "l_elbow", "left wrist", "HIP-RIGHT", "r knee", "Right.Ankle", "upper neck")
    classes = ClassInfo(("person",), (1,), names, skeleton=((1, 0), (6, 0)))
    assert list(limbs(classes)) == [
        "right upper leg", "right lower leg", "left upper arm", "left lower arm", "upper neck - left shoulder",
    ]  # fmt: skip
    assert limbs(classes)["left lower arm"] == (1, 2)
    assert parts(classes)["hip"] == [3]


def test_widths_of_joints_are_the_data_sets_own_where_published() -> None:
    coco = ClassInfo(("person",), (1,), ("nose", "left_eye", "right_hip", "left ankle", "tail"))
    assert sigmas(coco) == [0.026, 0.025, 0.107, 0.089, 0.1]
    from cvtasks.data.skeletons import AIC, CROWDPOSE

    aic = sigmas(ClassInfo(("person",), **AIC.class_info))
    assert (aic[0], aic[-1]) == (0.01388152, 0.01236173)
    assert sigmas(ClassInfo(("person",), **CROWDPOSE.class_info)) == [
        0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079,
    ]  # fmt: skip
