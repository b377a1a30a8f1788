"""`loader.batch_size=auto`: the largest power of two of images that fits into memory, in training and in evaluation.

What is run is the worst batch that can come: copies of the image with the most objects, at the pipeline's largest shape.
"""

from __future__ import annotations

import math

from cvtasks.assembly import (
    Config,
    Setup,
    build_task,
    build_transform,
    count_class_weights,
    open_readers,
    with_backbone_of,
)
from cvtasks.config.build import build
from cvtasks.data.collate import collate
from cvtasks.data.transforms import crop_resize, image_size
from cvtasks.engine.distributed import ALONE, from_environment, joined
from cvtasks.engine.evaluation import judging
from cvtasks.engine.learner import Learner
from cvtasks.engine.memory import can_measure, largest_batch
from cvtasks.engine.stages import begin_stage, no_predictions
from cvtasks.errors import ConfigError
from cvtasks.types import Reader, Sample

MOST = {"cpu": 16}
"""On a CPU a larger batch takes as much time for each image; elsewhere the number of images is the limit."""


def largest(cfg: Config) -> int:
    """Measure it on this machine. Raises ConfigError where memory cannot be measured, OutOfMemoryError."""
    # Not joined yet: one process may try more sizes than another, and none may wait for another's gradients.
    setup = Setup.of(cfg, from_environment())
    if not can_measure(setup.device):
        raise ConfigError(
            f"loader.batch_size=auto cannot measure the memory of {setup.device} here; type a number"
        )
    train_reader, val_reader = open_readers(cfg, setup)
    cfg = count_class_weights(with_backbone_of(cfg), train_reader)
    task = build_task(cfg, train_reader.classes, val_reader.classes)
    setup.place(task.model)
    begin_stage(task.model, 0, no_predictions(), seed=cfg["seed"])
    optimizer = build(cfg["optimizer"], model=task.model)
    scheduler = build(cfg["scheduler"], optimizer=optimizer, max_steps=2)
    learner = Learner(task, optimizer, scheduler, setup.engine, precision=setup.precision, processes=ALONE)
    train_sample, val_sample = _worst(cfg, train_reader, train=True), _worst(cfg, val_reader, train=False)

    def run(images: int) -> None:
        judged = collate([val_sample] * (setup.loader.eval_batch_size or images)).to(setup.device)
        with judging(task.model, setup.device), setup.precision.autocast():
            task.model.predict(judged)
            task.model.losses(judged)
        batch = collate([train_sample] * images)
        learner.step(1, iter([batch] * setup.engine.accumulate))

    task.model.train()
    most = min(MOST.get(setup.device.type, len(train_reader)), len(train_reader))
    sharing = setup.processes.local_world if setup.device.type == "cpu" else 1
    found = largest_batch(run, setup.device, most=most, sharing=sharing)
    with joined() as processes:
        found = min(processes.gather(found))
        if processes.first:
            print(f"loader.batch_size = {found} (auto: the largest power of two that fits)")
    return found


def _worst(cfg: Config, reader: Reader, *, train: bool) -> Sample:
    """The image with the most objects, or the largest, to be cut or padded to the pipeline's largest shape."""

    def size(index: int) -> tuple[int, int]:
        truth = reader.truth(index)
        return len(truth.get("labels", ())), math.prod(truth["orig_size"])

    sample = build_transform(cfg, reader, train=False)(reader[max(range(len(reader)), key=size)])
    # A pipeline of the user's own may not know its largest shape.
    transform = build_transform(cfg, reader, train=train)
    shape: tuple[int, int] = getattr(transform, "largest", None) or sample.get("pad_to") or (0, 0)
    if train and shape != (0, 0):
        height, width = map(min, shape, image_size(sample))
        sample = crop_resize(sample, window=(0, 0, width, height), size=(height, width))
    return sample | {"pad_to": shape}
