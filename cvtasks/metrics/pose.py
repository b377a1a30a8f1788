"""One person's joints against the true ones: PCP, PCK, PCKh, the PDJ curve, and COCO's AP by object keypoint similarity.

Letters: P people, J joints, M poses found, S stages. A joint that is not labelled counts nowhere; a hidden one that is
labelled counts. A joint is found if it is as near as:

- PCK@0.2 (Yang & Ramanan, PAMI 2013): 0.2 of the person's torso, which is right shoulder to left hip, or left shoulder
  to right hip where that is not labelled. People with neither are not counted, nor is anyone if the skeleton has none.
  The mean is over joints, each by its own rate.
- PDJ (Sapp & Taskar, CVPR 2013): the same for all fractions of the torso from 0 to 0.5, as a curve.
- PCKh@0.5 (Andriluka et al., CVPR 2014): half of the person's head size. As in MPII's own evaluation the mean is
  over all joints that are labelled, without pelvis and thorax.

PCP (Ferrari et al., CVPR 2008), in its strict form: a limb is found if each of its ends is within half of the true limb's
length. The mean is over the upper and lower arms and legs, as in DeepPose (Toshev & Szegedy, CVPR 2014), each by its own
rate; over all limbs if the skeleton has none of these.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from cvtasks.metrics import coco
from cvtasks.metrics.collected import Collected, Objects
from cvtasks.metrics.joints import is_arm_or_leg, limbs, parts, sigmas, torso_diagonals, torso_sizes
from cvtasks.metrics.results import coco_keypoints, source_id, write_records
from cvtasks.types import ClassInfo, ImageId, Prediction, Truth

_log = logging.getLogger(__name__)

FRACTIONS = np.arange(51) / 100
"""Of the torso or the head, for the curves"""
FAR = 1e6
"""Pixels"""
_NOT_IN_PCKH = ("pelvis", "thorax")


@dataclass(frozen=True)
class _People:
    """The truth of all people."""

    keypoints: np.ndarray
    """[P, J, 2]"""
    labelled: np.ndarray
    """bool [P, J]"""
    diagonal: np.ndarray
    """[P]: of the person's box; NaN where it is 0"""
    torso: np.ndarray
    """[P]; NaN where not known, as the next"""
    head: np.ndarray

    def detected(
        self, found: np.ndarray, scale: np.ndarray, fraction: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Which joints of `found` [P, J, 2] are within this fraction of `scale` [P], and which count: bool [P, J] each."""
        counted = self.labelled & ~np.isnan(scale)[:, None]
        return counted & (self.distances(found) / scale[:, None] <= fraction), counted

    def distances(self, found: np.ndarray) -> np.ndarray:
        """[P, J], in pixels; NaN where there is nothing."""
        return np.linalg.norm(found - self.keypoints, axis=2)


class PoseEvaluator:
    """An `Evaluator` for the joints of one person at a time.

    A person without a prediction is missed, and is in no mean error. A predicted joint that is not finite is `FAR` off.
    Poses behind a prediction's first belong to nobody; they count for OKS alone.
    """

    judges: ClassVar[frozenset[str]] = frozenset({"keypoints", "visible", "boxes"})

    def __init__(self, *, classes: ClassInfo) -> None:
        self.classes = classes
        self._limbs = limbs(classes)
        self._diagonals = torso_diagonals(classes)
        if not self._diagonals:
            _log.warning("the skeleton has no shoulder and hip across: PCK@0.2 and PDJ are not defined")
        self.reset()

    def reset(self) -> None:
        self._collected = Collected()

    def update(self, predictions: Sequence[Prediction], truth: Sequence[Truth]) -> None:
        for prediction, labels in zip(predictions, truth, strict=True):
            self._collected.add(
                labels["image_id"],
                truth=_truth_columns(labels),
                bystanders=_bystander_columns(labels),
                predictions=_pose_columns(prediction, labels["image_id"]),
                stages={
                    "keypoints": _stages(prediction, labels["image_id"], len(self.classes.keypoint_names))
                },
            )

    def state(self) -> dict[str, Any]:
        return self._collected.state()

    def merge(self, states: Iterable[dict[str, Any]]) -> None:
        """Adds what other processes collected. The order and the split leave no trace in the numbers."""
        self._collected.merge(states)

    def compute(self) -> dict[str, float]:
        """`pose/PCK@0.2`, `pose/PCP`, `pose/PCKh@0.5`, `pose/OKS_AP` (with COCO's other nine where each person's area is
        known), `pose/mean_error` (distance of a joint, of the diagonal of the person's box); the first two and the last
        after each stage; each of the first three for each joint or limb. NaN where undefined.
        """
        people, found = self._people(), self._found()
        numbers = self._measured(people, found)
        numbers = {
            "PCK@0.2": numbers["PCK@0.2"],
            "PCP": numbers["PCP"],
            "PCKh@0.5": self._pckh(people, found),
            **{f"OKS_{name}": value for name, value in self._oks().items()},
            "mean_error": numbers["mean_error"],
        }
        for number, joints in enumerate(self._found_by_stage(), start=1):
            measured = self._measured(people, joints)
            numbers |= {f"{name}/stage {number}": value for name, value in measured.items()}
        names = self.classes.keypoint_names
        numbers |= _named("PCK@0.2", names, _rates(*people.detected(found, people.torso, 0.2)))
        if not np.isnan(people.head).all():
            numbers |= _named("PCKh@0.5", names, _rates(*people.detected(found, people.head, 0.5)))
        numbers |= _named("PCP", self._limbs, self._pcp(people, found))
        return {f"pose/{name}": float(value) for name, value in numbers.items()}

    def write(self, folder: Path) -> None:
        """`keypoint_results.json` in `folder`: COCO's results format, a record for each person, with the image's own id
        and the box that was given.

        Evaluated again the file gives the same numbers, but for the stages. So does pycocotools.
        """
        category_id = (*self.classes.category_ids, 1)[0]
        records = []
        for truth, poses in zip(
            self._collected.by_image("truth"), self._collected.by_image("predictions"), strict=True
        ):
            for joints, box, score in zip(
                coco_keypoints(poses["keypoints"], poses["keypoint_scores"]).tolist(),
                poses["boxes"].tolist(),
                poses["scores"].tolist(),
                strict=True,
            ):
                about = {"image_id": truth["source_id"][0], "category_id": category_id}
                records.append(about | {"keypoints": joints, "bbox": box, "score": score})
        write_records(folder / "keypoint_results.json", records)

    def plot_data(self) -> dict[str, Any]:
        """`pdj` and `pckh`: shares of found joints over the fractions of torso or head, for each part of the body (left and
        right together); `per_joint_pck`, `per_limb_pcp`; `stages`. What is not defined is left out.
        """
        people, found = self._people(), self._found()
        names = self.classes.keypoint_names
        pck = _rates(*people.detected(found, people.torso, 0.2))
        data: dict[str, Any] = {
            "per_limb_pcp": dict(zip(self._limbs, self._pcp(people, found).tolist(), strict=True))
        }
        if not np.isnan(people.torso).all():
            data["pdj"] = self._curves(people, found, people.torso)
            data["per_joint_pck"] = dict(zip(names, pck.tolist(), strict=True))
        if not np.isnan(people.head).all():
            data["pckh"] = self._curves(people, found, people.head)
        stages = [self._measured(people, joints) for joints in self._found_by_stage()]
        if stages:
            data["stages"] = {name: [stage[name] for stage in stages] for name in stages[0]}
        return data

    def _people(self) -> _People:
        tables = self._collected.by_image("truth")
        num_joints = len(self.classes.keypoint_names)
        keypoints = np.array([t["keypoints"][0] for t in tables]).reshape(-1, num_joints, 2)
        labelled = np.array([t["visible"][0] > 0 for t in tables], np.bool_).reshape(-1, num_joints)
        size = np.array([t["boxes"][0, 2:] for t in tables]).reshape(-1, 2)
        diagonal = np.linalg.norm(size, axis=1)
        head = np.array([t["head_size"][0] for t in tables], np.float64)
        return _People(
            keypoints,
            labelled,
            np.where(diagonal > 0, diagonal, np.nan),
            torso_sizes(keypoints, labelled, self._diagonals),
            np.where(head > 0, head, np.nan),
        )

    def _found(self) -> np.ndarray:
        """Each person's own pose, [P, J, 2]; NaN where there is none."""
        return self._padded([t["keypoints"][:1] for t in self._collected.by_image("predictions")])[:, 0]

    def _found_by_stage(self) -> list[np.ndarray]:
        """[P, J, 2] for each stage; none if what predicted has no stages."""
        joints = self._padded([t["keypoints"] for t in self._collected.by_image("stages")], at_least=0)
        return list(joints.transpose(1, 0, 2, 3))

    def _padded(self, rows: list[np.ndarray], *, at_least: int = 1) -> np.ndarray:
        """Rows [?, J, 2] of each person as one array, with NaN for those who have less."""
        most = max([at_least, *map(len, rows)])
        padded = np.full((len(rows), most, len(self.classes.keypoint_names), 2), np.nan)
        for into, own in zip(padded, rows, strict=True):
            into[: len(own)] = own
        return padded

    def _measured(self, people: _People, found: np.ndarray) -> dict[str, float]:
        """What is told of each stage."""
        limbs_found = self._pcp(people, found)
        chosen = [is_arm_or_leg(limb) for limb in self._limbs]
        errors = (people.distances(found) / people.diagonal[:, None])[people.labelled]
        return {
            "PCK@0.2": _mean(_rates(*people.detected(found, people.torso, 0.2))),
            "PCP": _mean(limbs_found[chosen] if any(chosen) else limbs_found),
            "mean_error": _mean(errors),
        }

    def _pckh(self, people: _People, found: np.ndarray) -> float:
        hits, counted = people.detected(found, people.head, 0.5)
        chosen = [name not in _NOT_IN_PCKH for name in self.classes.joints]
        return float(_rates(hits[:, chosen].reshape(-1, 1), counted[:, chosen].reshape(-1, 1))[0])

    def _pcp(self, people: _People, found: np.ndarray) -> np.ndarray:
        """The share of each limb that is found, [number of limbs]."""
        a, b = (np.array([pair[end] for pair in self._limbs.values()], np.int64) for end in (0, 1))
        half = np.linalg.norm(people.keypoints[:, a] - people.keypoints[:, b], axis=2) / 2
        distances, counted = people.distances(found), people.labelled[:, a] & people.labelled[:, b]
        return _rates(counted & (distances[:, a] <= half) & (distances[:, b] <= half), counted)

    def _oks(self) -> dict[str, float]:
        """COCO's numbers with each image's people together, its bystanders as in COCO: a pose that is theirs counts neither
        way."""
        truth: dict[ImageId, list[Objects]] = defaultdict(list)
        predictions: dict[ImageId, list[Objects]] = defaultdict(list)
        tables = (self._collected.by_image(name) for name in ("truth", "bystanders", "predictions"))
        for person, bystanders, poses in zip(*tables, strict=True):
            image = person["source_id"][0]
            if image not in truth:  # each person of an image tells of the same bystanders
                truth[image].append(_oks_bystanders(bystanders, len(self.classes.keypoint_names)))
            truth[image].append(_oks_truth(person))
            predictions[image].append(_oks_poses(poses))
        images = [_joined(tables) for tables in truth.values()]
        if not images or not all(np.isfinite(image["area"]).all() for image in images):
            return {"AP": float("nan")}
        result = coco.evaluate(
            images,
            [_joined(tables) for tables in predictions.values()],
            num_classes=1,
            iou_type="keypoints",
            sigmas=sigmas(self.classes),
        )
        return result.numbers

    def _curves(self, people: _People, found: np.ndarray, scale: np.ndarray) -> dict[str, Any]:
        rates = [_rates(*people.detected(found, scale, fraction)) for fraction in FRACTIONS]
        curves = {}
        for part, joints in parts(self.classes).items():
            curve = [_mean(rate[joints]) for rate in rates]
            if not np.isnan(curve).any():
                curves[part] = curve
        return {"fractions": FRACTIONS.tolist(), "parts": curves, "mean": [_mean(rate) for rate in rates]}


def _truth_columns(truth: Truth) -> Objects:
    image_id = np.empty(1, object)  # a number or a name, and neither becomes the other
    image_id[0] = source_id(truth)
    return {
        "source_id": image_id,
        "keypoints": np.asarray(truth["keypoints"], np.float64),
        "visible": np.asarray(truth["visible"], np.int64),
        "boxes": coco.xywh(truth["boxes"]),
        "area": np.asarray(truth.get("area", [np.nan]), np.float64),
        "ignore": np.asarray(truth.get("ignore", [False]), np.bool_),
        "head_size": np.array([truth.get("head_size", np.nan)], np.float64),
    }


def _bystander_columns(truth: Truth) -> Objects:
    found = truth.get("bystanders", {"boxes": np.zeros((0, 4)), "area": [], "ignore": []})
    return {
        "boxes": coco.xywh(found["boxes"]),
        "area": np.asarray(found["area"], np.float64),
        "ignore": np.asarray(found["ignore"], np.bool_),
    }


def _pose_columns(prediction: Prediction, image_id: ImageId) -> Objects:
    names = ("keypoint_scores", "boxes", "scores")
    joint_scores, boxes, scores = (prediction[n].detach().cpu().double().numpy() for n in names)
    return {
        "keypoints": _sound(prediction["keypoints"], image_id),
        "keypoint_scores": joint_scores,
        "boxes": coco.xywh(boxes),
        "scores": scores,
    }


def _stages(prediction: Prediction, image_id: ImageId, num_joints: int) -> np.ndarray:
    """[S, J, 2]; S is 0 where there are none."""
    if "stages" not in prediction:
        return np.zeros((0, num_joints, 2))
    return _sound(prediction["stages"], image_id)


def _sound(joints: Any, image_id: ImageId) -> np.ndarray:
    joints = joints.detach().cpu().double().numpy()
    sound = (np.abs(joints) <= FAR).all(axis=-1, keepdims=True)
    if not sound.all():
        _log.warning("person %s: %d predicted joints make no sense", image_id, (~sound).sum())
    return np.where(sound, joints, -FAR)


def _oks_truth(person: Objects) -> Objects:
    return {
        "boxes": person["boxes"],
        "labels": np.zeros(len(person["area"]), np.int64),
        "area": person["area"],
        "ignore": person["ignore"],
        "keypoints": coco_keypoints(person["keypoints"], person["visible"]),
        "num_keypoints": (person["visible"] > 0).sum(axis=1),
    }


def _oks_bystanders(bystanders: Objects, num_joints: int) -> Objects:
    """People without a labelled joint."""
    count = len(bystanders["area"])
    return _oks_truth(
        bystanders
        | {
            "keypoints": np.zeros((count, num_joints, 2)),
            "visible": np.zeros((count, num_joints), np.int64),
        }
    )


def _oks_poses(poses: Objects) -> Objects:
    return {
        "boxes": poses["boxes"],
        "labels": np.zeros(len(poses["scores"]), np.int64),
        "area": poses["boxes"][:, 2] * poses["boxes"][:, 3],
        "scores": poses["scores"],
        "keypoints": coco_keypoints(poses["keypoints"], poses["keypoint_scores"]),
    }


def _joined(tables: Sequence[Objects]) -> Objects:
    return {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}


def _named(metric: str, names: Iterable[str], values: np.ndarray) -> dict[str, float]:
    return {f"{metric}/{name}": value for name, value in zip(names, values.tolist(), strict=True)}


def _rates(hits: np.ndarray, counted: np.ndarray) -> np.ndarray:
    """The share of what counts in each column, [N]; NaN where nothing does."""
    total = counted.sum(axis=0)
    return np.divide(hits.sum(axis=0), total, out=np.full(len(total), np.nan), where=total > 0)


def _mean(values: np.ndarray) -> float:
    """Of those that are defined."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
