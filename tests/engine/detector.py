"""A small Faster R-CNN that draws no samples at random: it learns from all anchors and regions."""

from collections.abc import Iterable

from cvtasks.assembly import TASK_KEYS
from cvtasks.config.build import build
from cvtasks.config.compose import compose
from cvtasks.data.collate import collate
from cvtasks.data.shapes import ShapesReader
from cvtasks.engine.seeding import seed_all
from cvtasks.nn.region_sampling import RandomSampling
from cvtasks.types import Batch, Task

SIZE = 64


def reader() -> ShapesReader:
    return ShapesReader(split="train", image_size=SIZE, train={"count": 8}, val={"count": 8})


def detector_task() -> Task:
    cfg = compose("train", ["task=faster_rcnn", f"pipeline.size={SIZE}"])
    node = {key: value for key, value in cfg["task"].items() if key not in TASK_KEYS}
    seed_all(3)
    model = build(node, backbone=build(cfg["backbone"]), classes=reader().classes)
    model.proposer.samples = 10**6
    model.sampler = RandomSampling(count=10**6)
    evaluator = build(cfg["evaluator"], classes=reader().classes)
    weights = cfg["task"]["loss_weights"]
    return Task("detector", model, evaluator, frozenset(), "box/AP", weights)


def scenes(indices: Iterable[int]) -> Batch:
    return collate([reader()[index] for index in indices])
