"""Builds what a configuration names: readers, transforms, model and evaluator, and what they run on.

Takes nodes of the resolved configuration as plain dicts; `app` puts the pieces to work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cvtasks.config.build import build
from cvtasks.config.schema import EngineConfig, LoaderConfig
from cvtasks.data.loader import eval_batches, resolve_workers
from cvtasks.engine.precision import Precision, choose_device, choose_precision
from cvtasks.models.detection.torchvision_weights import is_torchvision_detector, load_torchvision_detector
from cvtasks.nn import zoo
from cvtasks.types import ClassInfo, Reader, Sample, Split, Task

Config = dict[str, Any]

TASK_KEYS = ("name", "requires", "monitor", "loss_weights")
"""What a task's node says to us; the rest of it are the model's constructor arguments."""


@dataclass(frozen=True)
class Setup:
    """What a configuration says of the machine and of how batches get there."""

    device: torch.device
    precision: Precision
    engine: EngineConfig
    loader: LoaderConfig

    @classmethod
    def of(cls, cfg: Config) -> Setup:
        engine, loader = EngineConfig(**cfg["engine"]), LoaderConfig(**cfg["loader"])
        device = choose_device(cfg["device"])
        torch.use_deterministic_algorithms(cfg["deterministic"], warn_only=True)
        return cls(device, choose_precision(engine.precision, device), engine, loader)

    @property
    def workers(self) -> int:
        return resolve_workers(self.loader.workers, device=self.device)

    @property
    def pin_memory(self) -> bool:
        return self.device.type == "cuda"

    def eval_stream(self, reader: Reader, transform: Callable[[Sample], Sample]) -> Any:
        size = self.loader.eval_batch_size or self.loader.batch_size
        return eval_batches(
            reader, transform, batch_size=size, workers=self.workers, pin_memory=self.pin_memory
        )


def open_reader(cfg: Config, split: Split, *, classes: ClassInfo | None = None) -> Reader:
    """One split of the configured data set, with the fields that the task requires."""
    node = cfg["dataset"] if classes is None else cfg["dataset"] | {"classes": list(classes.names)}
    return build(node, split=split, fields=frozenset(cfg["task"]["requires"]))


def build_task(cfg: Config, classes: ClassInfo, judged: ClassInfo) -> Task:
    """Model and evaluator. `judged` are the same classes with the ids of the data set to be judged on."""
    node = cfg["task"]
    model = build(
        {key: value for key, value in node.items() if key not in TASK_KEYS},
        backbone=build(cfg["backbone"]),
        classes=classes,
    )
    evaluator = build(cfg["evaluator"], classes=judged)
    return Task(
        node["name"], model, evaluator, frozenset(node["requires"]), node["monitor"], node["loss_weights"]
    )


def build_transform(cfg: Config, reader: Reader, *, train: bool) -> Callable[[Sample], Sample]:
    return build(cfg["pipeline"], train=train, flip_index=reader.classes.flip_index)


def absolute(cfg: Config) -> Config:
    """The same configuration with absolute paths, so that it means the same from any folder."""
    dataset = dict(cfg["dataset"])
    if dataset.get("root") is not None:
        dataset["root"] = str(Path(dataset["root"]).expanduser().absolute())
    else:
        for split in ("train", "val"):
            paths = ("images", "annotations", "labels", "list")
            dataset[split] = {
                key: str(Path(value).expanduser().absolute())
                if key in paths and isinstance(value, str)
                else value
                for key, value in (dataset.get(split) or {}).items()
            }
    backbone = dict(cfg["backbone"])
    files = {"weights": cfg["weights"], "run_dir": cfg["run_dir"]}
    for node in (files, backbone):
        for key in ("weights", "run_dir"):
            if node.get(key) is not None and Path(node[key]).expanduser().exists():
                node[key] = str(Path(node[key]).expanduser().absolute())
    return cfg | {"dataset": dataset, "backbone": backbone} | files


def start_from(
    model: Any, weights: tuple[zoo.StateDict, tuple[str, ...] | None], classes: ClassInfo, source: str
) -> list[str]:
    """Load a whole model's weights; what belongs to other classes starts afresh. Returns notes for the user."""
    state, names = weights
    if is_torchvision_detector(state):
        return load_torchvision_detector(model, state, classes=classes.names, names=names, source=source)
    own = model.state_dict()
    # Classes of other names are other classes, even if they are as many.
    others = names is not None and names != classes.names
    of_classes = [k for k in own if k in state and k.startswith(tuple(model.class_layers))]
    fresh = [k for k in of_classes if others or state[k].shape != own[k].shape]
    zoo.fit_weights(model, state | {key: own[key] for key in fresh}, source=source)
    if fresh:
        return [f"weights={source} are for other classes: {', '.join(fresh)} start afresh"]
    return []
