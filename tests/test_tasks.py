"""Every `conf/task/*.yaml` is put through its paces: compose, check, build, learn, predict, save and load.

Found by itself, so a new task is tested when its YAML exists. The network is the small one of the tests where the task's
idea allows, else its own on small images. What a prediction looks like is a matter of the task's family.
"""

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from cvtasks import assembly
from cvtasks.config.build import build
from cvtasks.config.compose import compose
from cvtasks.config.locate import conf_dirs
from cvtasks.data.collate import collate
from cvtasks.engine.seeding import seed_all
from cvtasks.engine.terms import Terms
from cvtasks.types import Batch, Prediction, Task

TASKS = sorted(path.stem for path in (conf_dirs(None)[0] / "task").glob("*.yaml"))
SMALL = [
    "dataset.image_size=64",
    "pipeline.size=64",
    "device=cpu",
    "dataset.train.count=8",
    "dataset.val.count=2",
]
# With their own backbones, these would take a gigabyte and minutes.
OWN = {
    "faster_rcnn_vgg16": ["backbone=tiny", "~backbone.with_classifier", "task.head=two_fc"],
    "faster_rcnn_v2": ["backbone=tiny"],
    "faster_rcnn_mobilenet": ["backbone=tiny", "task.levels=[c3,c4]"],
    "deconvnet": [
        *("backbone=unet_encoder", "backbone.width=16", "backbone.norm=batch", "backbone.dropout=0"),
        *("task.fc_kernel=3", "task.fc_channels=64"),
    ],
    "fcn_full_res": ["backbone.width=32", "backbone.dilations=[1,1,2,4,8,4,2,1]"],
    "rfcn": [
        *("backbone=tiny", "task.proposal_level=c3", "task.level=c4", "task.channels=64"),
        "task.anchor_sizes=[8,16,32,48]",
    ],
    "sliding_window_det": [
        *("backbone.channels=[16,32,32]", "backbone.kernels=[3,3,4]", "backbone.pools=[2,2,1]"),
        *("task.window_sizes=[8,11,16,22,32,45]", "task.window_ratios=[0.4,0.63,1,1.6,2.5]"),
        *("task.hidden=64", "task.stride=4"),
    ],
    "retinanet": ["backbone=tiny", "task.score_threshold=0.001"],  # untrained, all scores are 0.01
    "retinanet_v2": ["backbone=tiny", "task.score_threshold=0.001"],
    "yolo": ["backbone=tiny", "task.level=c3"],
    "pose_heatmap": ["backbone=tiny", "task.channels=[32,32,32]"],
    "deeppose": ["backbone=tiny", "task.crop_size=32"],
    "sliding_window_seg": [
        *("backbone.channels=[8,16,32,32]", "backbone.kernels=[3,3,3,3]", "backbone.pools=[2,2,2,1]"),
        *("task.hidden=32", "task.samples=64"),
    ],
}
# What learning two images by heart needs: a stride-16 map sees nothing of small objects in 64 pixels, and batch norm's
# running statistics lag behind.
LARGER = {
    "faster_rcnn_vgg16": ["dataset.image_size=128", "pipeline.size=128"],
}
LONGER = {"faster_rcnn_v2": 250, "deconvnet": 180, "fcn_full_res": 200}


def boxes_are_stretched(one: Prediction, other: Prediction) -> None:
    assert one["boxes"].dtype == one["scores"].dtype == torch.float32
    assert one["labels"].dtype == torch.int64
    assert (one["scores"].diff() <= 0).all()
    torch.testing.assert_close(other["boxes"], one["boxes"] * torch.tensor([5.0, 3.0, 5.0, 3.0]))
    assert len(one["boxes"]) > 0


def the_label_map_is_stretched(one: Prediction, other: Prediction) -> None:
    assert one["segmentation"].dtype == torch.uint8
    assert other["segmentation"].shape[0] == 3 * one["segmentation"].shape[0]
    # Where the middle of a pixel stays the middle of one, its label stays.
    assert (other["segmentation"][1::3, 2::5] == one["segmentation"]).float().mean() > 0.999


def classes_and_boxes_are_stretched(one: Prediction, other: Prediction) -> None:
    boxes_are_stretched(one, other)
    assert torch.equal(one["labels"], other["labels"])
    assert len(one["labels"]) == 5


def classes_stay(one: Prediction, other: Prediction) -> None:
    assert one["scores"].dtype == torch.float32
    assert (one["scores"].diff() <= 0).all()
    assert one.keys() == {"labels", "scores"}
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert len(one["labels"]) == 5


def joints_are_stretched(one: Prediction, other: Prediction) -> None:
    shapes = {name: tuple(value.shape) for name, value in one.items() if name != "stages"}
    assert shapes == {"keypoints": (1, 14, 2), "keypoint_scores": (1, 14), "boxes": (1, 4), "scores": (1,)}
    assert all(value.dtype == torch.float32 for value in one.values())
    stretch = torch.tensor([5.0, 3.0])
    torch.testing.assert_close(other["keypoints"], one["keypoints"] * stretch)
    torch.testing.assert_close(other["boxes"], one["boxes"] * stretch.repeat(2))
    assert torch.equal(other["keypoint_scores"], one["keypoint_scores"])
    if "stages" in one:
        assert torch.equal(one["stages"][-1:], one["keypoints"])
        torch.testing.assert_close(other["stages"], one["stages"] * stretch)


@dataclass(frozen=True)
class Family:
    """What differs between tasks of different labels."""

    learnt: str
    """The metric that tells whether two images are known by heart, """
    above: float
    """and how high it is then."""
    lr: float
    stretched: Callable[[Prediction, Prediction], None]
    """Whether a prediction is another one for an image three times as high and five times as wide."""
    light: list[str] = field(default_factory=list)
    """Settings that make its tasks small; one that a task does not have is left out"""
    proposals: list[str] = field(default_factory=list)
    """The same of the proposals, for a task that takes any"""


BOXES = Family(
    "box/AP50",
    0.9,
    1e-3,
    boxes_are_stretched,
    [
        "task.head_channels=64",
        "task.roi_samples=64",
        "task.rpn_proposals_train=100",
        "task.rpn_proposals_test=50",
    ],
    ["proposals=selective_search", "proposals.limit=100"],
)
# One large object in an image: the mean over classes would hang on a few pixels of a small one.
LABEL_MAPS = Family("seg/mIoU", 0.85, 5e-3, the_label_map_is_stretched, ["dataset.scene=localization"])
OBJECT = Family("loc/accuracy", 0.9, 3e-3, classes_and_boxes_are_stretched, ["dataset.scene=localization"])
IMAGE = Family("cls/top1", 0.9, 3e-3, classes_stay, ["dataset.scene=localization"])
# Of two images' four positions, batch norm's variance in training is far from the one that it remembers.
JOINTS = Family(
    "pose/PCK@0.2",
    0.9,
    3e-3,
    joints_are_stretched,
    ["dataset.scene=pose", "pipeline.size=[64,64]", "backbone.norm=group"],
)
FAMILIES = {
    ("labels",): BOXES,
    ("segmentation",): LABEL_MAPS,
    ("label", "boxes"): OBJECT,
    ("label",): IMAGE,
    ("keypoints",): JOINTS,
}
"""By the labels that a task requires; the first that fits"""


@functools.cache
def family(name: str) -> Family:
    requires = compose("train", [f"task={name}"])["task"]["requires"]
    return next(found for labels, found in FAMILIES.items() if set(labels) <= set(requires))


@functools.cache
def config(name: str, *more: str) -> dict[str, Any]:
    own, node = OWN.get(name, ["backbone=tiny"]), compose("train", [f"task={name}"])["task"]
    light = [
        setting
        for setting in family(name).light
        if not setting.startswith("task.") or setting.removeprefix("task.").partition("=")[0] in node
    ]
    proposals = family(name).proposals if "proposals" in node["requires"] else []
    return compose("train", [f"task={name}", *SMALL, *light, *proposals, *own, *more])


def task_and_batch(name: str, *more: str, images: int = 2) -> tuple[Task, Batch]:
    cfg = copy.deepcopy(config(name, *more))
    reader = assembly.open_reader(cfg, "train")
    seed_all(0)
    task = assembly.build_task(cfg, reader.classes, reader.classes)
    transform = build(cfg["pipeline"], train=False, flip_index=reader.classes.flip_index)
    truth = [reader.truth(i) for i in range(images)]
    return task, collate([transform(reader[i]) for i in range(images)], truth=truth)


@pytest.mark.parametrize("name", TASKS)
def test_its_losses_are_finite_and_reach_every_parameter(name: str) -> None:
    task, batch = task_and_batch(name)
    terms = Terms(task.loss_weights, torch.device("cpu"))
    terms.total(terms.stack(task.model.losses(batch))).backward()
    idle = [n for n, p in task.model.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle
    assert all(p.grad.isfinite().all() for p in task.model.parameters() if p.grad is not None)


@pytest.mark.parametrize("name", TASKS)
def test_an_image_without_objects_or_without_any_label_has_finite_losses(name: str) -> None:
    task, batch = task_and_batch(name)
    for label in (0, 255):
        if batch.valid is not None:
            batch.valid[:] = False
        if batch.segmentation is not None:
            batch.segmentation[:] = label
        losses = task.model.losses(batch)
        assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("name", TASKS)
def test_predictions_are_in_the_original_images_pixels(name: str) -> None:
    """The same pixels, as if of an image five times as wide and three times as high, give stretched predictions."""
    task, batch = task_and_batch(name)
    task.model.eval()
    plain = task.model.predict(batch)
    stretched = copy.copy(batch)
    stretched.orig_sizes = batch.orig_sizes * torch.tensor([3, 5])
    if batch.window is not None:
        stretched.window = batch.window * torch.tensor([5, 3, 5, 3])
    for one, other in zip(plain, task.model.predict(stretched), strict=True):
        assert one.keys() == other.keys()
        family(name).stretched(one, other)


@pytest.mark.parametrize("name", TASKS)
def test_two_images_are_learnt_by_heart(name: str) -> None:
    task, batch = task_and_batch(name, *LARGER.get(name, []))
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=family(name).lr)
    terms = Terms(task.loss_weights, torch.device("cpu"))
    for step in range(LONGER.get(name, 120)):
        seed_all(0, step)
        optimizer.zero_grad()
        terms.total(terms.stack(task.model.losses(batch))).backward()
        optimizer.step()
    task.model.eval()
    assert batch.truth is not None
    task.evaluator.update(task.model.predict(batch), batch.truth)
    assert task.evaluator.compute()[family(name).learnt] > family(name).above


@pytest.mark.parametrize("name", TASKS)
def test_saved_and_loaded_it_predicts_the_same(name: str, tmp_path: Path) -> None:
    task, batch = task_and_batch(name)
    torch.save(task.model.state_dict(), tmp_path / "model.pt")
    other, _ = task_and_batch(name)
    for parameter in other.model.parameters():
        torch.nn.init.zeros_(parameter)
    other.model.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    for one, two in zip(task.model.eval().predict(batch), other.model.eval().predict(batch), strict=True):
        assert one.keys() == two.keys()
        assert all(torch.equal(one[key], two[key]) for key in one)
