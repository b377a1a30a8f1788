"""What a batch, a sample or a prediction has decides what is drawn. Oracle: the pixels of the sheets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cvtasks.data.collate import collate
from cvtasks.types import ClassInfo, Sample
from cvtasks.viz import report
from cvtasks.viz.colors import SIDE_COLORS, VOID_COLOR, class_color

CLASSES = ClassInfo(("cat", "dog", "owl"))


def sample(**labels: Any) -> Sample:
    image = torch.full((3, 40, 60), 200, dtype=torch.uint8)
    return {"image": image, "image_id": 1, "orig_size": (40, 60), **labels}


def boxes(count: int = 1, label: int = 0) -> dict[str, torch.Tensor]:
    corners = torch.tensor([[10.0, 10.0, 50.0, 30.0]]).repeat(count, 1)
    return {"boxes": corners, "labels": torch.full((count,), label), "ignore": torch.zeros(count).bool()}


def label_map(value: int) -> dict[str, torch.Tensor]:
    labels = torch.zeros(40, 60, dtype=torch.uint8)
    labels[:, 30:] = value
    return {"segmentation": labels}


def near(path: Path, color: tuple[int, int, int]) -> int:
    """Pixels of about that colour."""
    pixels = np.array(Image.open(path).convert("RGB")).astype(int)
    return int((np.abs(pixels - color).max(axis=2) < 12).sum())


@pytest.mark.parametrize(
    ("labels", "seen"),
    [
        (boxes(label=1), {1}),
        (label_map(2), {0, 2}),
        (boxes(label=1) | label_map(2), {0, 1, 2}),
        ({"label": torch.tensor(1)}, {1}),
    ],
)
def test_a_batch_shows_the_fields_that_it_has(
    tmp_path: Path, labels: dict[str, torch.Tensor], seen: set[int]
) -> None:
    report.draw_batch(collate([sample(**labels)] * 2), CLASSES, tmp_path / "batch.png")
    shown = {k for k in range(3) if near(tmp_path / "batch.png", class_color(k)) > 30}
    assert shown == seen


def test_padding_is_not_shown(tmp_path: Path) -> None:
    """Collating pads to 64 x 64, the map with void, and the second image's boxes with empty ones of class 0."""
    labels = label_map(2)
    labels["segmentation"][:, :30] = 1
    batch = collate([sample(**boxes(3, label=1), **labels), sample(**boxes(1, label=1), **labels)])
    report.draw_batch(batch, CLASSES, tmp_path / "batch.png")
    assert near(tmp_path / "batch.png", class_color(1)) > 30
    assert near(tmp_path / "batch.png", class_color(0)) == near(tmp_path / "batch.png", VOID_COLOR) == 0


def test_truth_stands_beside_what_was_found(tmp_path: Path) -> None:
    path = tmp_path / "plots.png"
    picture = report.draw_predictions([sample(**label_map(1))], [label_map(2)], CLASSES, path)
    pixels = np.array(picture).astype(int)
    left, right = np.array_split(pixels, 2, axis=1)
    for half, found, other in ((left, 1, 2), (right, 2, 1)):
        distances = [np.abs(half - class_color(k)).max(axis=2) for k in (found, other)]
        assert (distances[0] < 12).sum() > 100 > (distances[1] < 12).sum() == 0
    assert report.as_tensor(picture).shape == (3, *pixels.shape[:2])


def test_only_objects_have_scores_to_be_above() -> None:
    """As many objects as the label map has rows: it is still left whole."""
    scores = torch.linspace(0.1, 0.9, 40)
    prediction = {"boxes": torch.zeros(40, 4), "labels": torch.zeros(40).long(), "scores": scores}
    kept = report.above(prediction | label_map(1), 0.5)
    assert len(kept["boxes"]) == len(kept["labels"]) == len(kept["scores"]) == int((scores >= 0.5).sum())
    assert kept["segmentation"].shape == (40, 60)
    assert report.above(label_map(1), 0.5)["segmentation"].shape == (40, 60)


def test_of_one_object_the_best_guess_is_drawn_whatever_its_score(tmp_path: Path) -> None:
    guesses = {
        "boxes": torch.tensor([[10.0, 10, 50, 30], [2, 2, 58, 38]]),
        "labels": torch.tensor([2, 1]),
        "scores": torch.tensor([0.3, 0.2]),
    }
    truth = sample(boxes=torch.tensor([[10.0, 10, 50, 30]]), label=torch.tensor(0))
    report.draw_predictions([truth], [guesses], CLASSES, tmp_path / "p.png")
    seen = [near(tmp_path / "p.png", class_color(k)) > 30 for k in range(3)]
    assert seen == [True, False, True]  # truth, the second guess, the first


def test_a_batch_shows_the_class_of_its_only_objects_and_a_persons_joints(tmp_path: Path) -> None:
    one = sample(boxes=torch.tensor([[10.0, 10, 50, 30]]), label=torch.tensor(1))
    report.draw_batch(collate([one, one]), CLASSES, tmp_path / "one.png")
    assert near(tmp_path / "one.png", class_color(1)) > 30
    classes = ClassInfo(("person",), keypoint_names=("left knee", "left foot"), skeleton=((0, 1),))
    person = sample(
        boxes=torch.tensor([[10.0, 10, 50, 30]]),
        keypoints=torch.tensor([[[15.0, 15], [45, 25]]]),
        visible=torch.tensor([[2, 1]]),
    )
    report.draw_batch(collate([person, person]), classes, tmp_path / "pose.png")
    assert near(tmp_path / "pose.png", SIDE_COLORS["left"]) > 100


def test_a_pose_is_drawn_whatever_its_score_and_several_are_put_together() -> None:
    pose = {
        "keypoints": torch.zeros(1, 3, 2),
        "keypoint_scores": torch.zeros(1, 3),
        "boxes": torch.zeros(1, 4),
        "scores": torch.tensor([0.1]),
        "stages": torch.zeros(4, 3, 2),
    }
    assert len(report.above(pose, 0.5)["keypoints"]) == 1
    both = report.together([pose, pose])
    assert both["keypoints"].shape == (2, 3, 2)
    assert both["scores"].shape == (2,)
    assert "stages" not in both
    assert report.together([]) == {}
    assert report.together([label_map(1)])["segmentation"].shape == (40, 60)


def test_everything_that_an_evaluator_offers_is_drawn(tmp_path: Path) -> None:
    data = {
        "confusion_matrix": {"classes": ["a", "b"], "shares": [[1.0, 0.0], [0.5, 0.5]]},
        "per_class_iou": {"a": 0.5, "b": 0.25},
    }
    report.draw_evaluation(data, tmp_path)
    for name in data:
        assert np.asarray(Image.open(tmp_path / f"{name}.png")).std() > 1
