"""The networks that studies measure: as a training begins, and with the weights that a run ended with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cvtasks.assembly import Config, Setup, Transform, build_task, build_transform, open_reader
from cvtasks.data.collate import collate
from cvtasks.engine import checkpoint as checkpoints
from cvtasks.nn import zoo
from cvtasks.types import Batch, ClassInfo, Prediction, Reader, Task


def untrained(config: Config, classes: ClassInfo) -> Task:
    """As a training begins, but without the weights that it may begin with."""
    with zoo.weights_follow():
        return build_task(config, classes, classes)


@dataclass(frozen=True)
class Trained:
    """A run's weights on their device, and the validation split that they are judged on."""

    setup: Setup
    task: Task
    reader: Reader
    transform: Transform

    @property
    def model(self) -> Any:
        return self.task.model

    def batch(self, indices: Iterable[int]) -> Batch:
        """These images, read, resized, and on the device."""
        return collate([self.transform(self.reader[index]) for index in indices]).to(self.setup.device)

    def predict(self, batch: Batch) -> list[Prediction]:
        with torch.no_grad(), self.setup.precision.autocast():
            return self.model.predict(batch)


def trained(config: Config, source: Path) -> Trained:
    """The weights of a checkpoint, ready to judge with, as the configuration says."""
    setup = Setup.of(config)
    content = checkpoints.load(source)
    classes = checkpoints.classes_of(content, source)
    reader = open_reader(config, "val", classes=classes, learned=content.get("proposals"))
    with zoo.weights_follow():
        task = build_task(config, classes, reader.classes)
    zoo.fit_weights(task.model, checkpoints.judged_weights(content), source=str(source))
    setup.place(task.model).eval()
    return Trained(setup, task, reader, build_transform(config, reader, train=False))
