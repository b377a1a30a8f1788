"""Every `conf/task/*.yaml` is put through its paces: compose, check, build, learn, predict, save and load.

Found by itself, so a new task is tested when its YAML exists. The network is the small one of the tests where the task's
idea allows, else its own on small images.
"""

import copy
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
from cvtasks.types import Batch, Task

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
}
# What learning two images by heart needs: a stride-16 map sees nothing of small objects in 64 pixels, and batch norm's
# running statistics lag behind.
LARGER = {"faster_rcnn_vgg16": ["dataset.image_size=128", "pipeline.size=128"]}
LONGER = {"faster_rcnn_v2": 250}
LIGHT = [
    "task.head_channels=64",
    "task.roi_samples=64",
    "task.rpn_proposals_train=100",
    "task.rpn_proposals_test=50",
]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def config(name: str, *more: str) -> dict[str, Any]:
    return compose("train", [f"task={name}", *SMALL, *OWN.get(name, ["backbone=tiny"]), *LIGHT, *more])


def task_and_batch(name: str, *more: str, images: int = 2) -> tuple[Task, Batch]:
    cfg = config(name, *more)
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
def test_an_image_without_objects_has_finite_losses(name: str) -> None:
    task, batch = task_and_batch(name)
    assert batch.valid is not None
    batch.valid[:] = False
    losses = task.model.losses(batch)
    assert all(value.isfinite() for value in losses.values())


@pytest.mark.parametrize("name", TASKS)
def test_predictions_are_in_the_original_images_pixels(name: str) -> None:
    """The same pixels, said to come from an image twice as wide and three times as high, give stretched boxes."""
    task, batch = task_and_batch(name)
    task.model.eval()
    plain = task.model.predict(batch)
    stretched = copy.copy(batch)
    stretched.orig_sizes = batch.orig_sizes * torch.tensor([3, 2])
    for one, other in zip(plain, task.model.predict(stretched), strict=True):
        assert one.keys() == other.keys()
        assert one["boxes"].dtype == one["scores"].dtype == torch.float32
        assert one["labels"].dtype == torch.int64
        assert (one["scores"].diff() <= 0).all()
        torch.testing.assert_close(other["boxes"], one["boxes"] * torch.tensor([2.0, 3.0, 2.0, 3.0]))
        assert len(one["boxes"]) > 0


@pytest.mark.parametrize("name", TASKS)
def test_two_images_are_learnt_by_heart(name: str) -> None:
    task, batch = task_and_batch(name, *LARGER.get(name, []))
    optimizer = torch.optim.AdamW(task.model.parameters(), lr=1e-3)
    terms = Terms(task.loss_weights, torch.device("cpu"))
    for step in range(LONGER.get(name, 120)):
        seed_all(0, step)
        optimizer.zero_grad()
        terms.total(terms.stack(task.model.losses(batch))).backward()
        optimizer.step()
    task.model.eval()
    assert batch.truth is not None
    task.evaluator.update(task.model.predict(batch), batch.truth)
    assert task.evaluator.compute()["box/AP50"] > 0.9


@pytest.mark.parametrize("name", TASKS)
def test_saved_and_loaded_it_predicts_the_same(name: str, tmp_path: Path) -> None:
    task, batch = task_and_batch(name)
    torch.save(task.model.state_dict(), tmp_path / "model.pt")
    other, _ = task_and_batch(name)
    for parameter in other.model.parameters():
        torch.nn.init.zeros_(parameter)
    other.model.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    for one, two in zip(task.model.eval().predict(batch), other.model.eval().predict(batch), strict=True):
        assert torch.equal(one["boxes"], two["boxes"])
