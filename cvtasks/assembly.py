"""Builds what a configuration names: readers, transforms, model and evaluator, and what they run on.

Takes nodes of the resolved configuration as plain dicts; `app` puts the pieces to work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from cvtasks.config import stored
from cvtasks.config.build import build
from cvtasks.config.schema import EngineConfig, LoaderConfig
from cvtasks.data.class_frequencies import median_frequency
from cvtasks.data.loader import eval_batches, resolve_workers, train_batches
from cvtasks.engine.determinism import set_deterministic
from cvtasks.engine.distributed import ALONE, Processes
from cvtasks.engine.precision import Precision, choose_device, choose_precision, place
from cvtasks.errors import ConfigError
from cvtasks.models.detection.torchvision_retinanet import (
    is_torchvision_retinanet,
    load_torchvision_retinanet,
)
from cvtasks.models.detection.torchvision_ssd import is_torchvision_ssd, load_torchvision_ssd
from cvtasks.models.detection.torchvision_weights import is_torchvision_detector, load_torchvision_detector
from cvtasks.nn import zoo
from cvtasks.nn.norm import synchronized
from cvtasks.proposing import Learned, learned_by, with_proposals
from cvtasks.redaction import as_written
from cvtasks.types import ClassInfo, Reader, Sample, Split, Task

Config = dict[str, Any]
Transform = Callable[[Sample], Sample]

TASK_KEYS = ("name", "requires", "monitor", "loss_weights", "stage_steps", "keep_features")
"""What a task's node says to us; the rest of it are the model's constructor arguments."""


@dataclass(frozen=True)
class Setup:
    """What a configuration says of the machine and of how batches get there."""

    device: torch.device
    precision: Precision
    engine: EngineConfig
    loader: LoaderConfig
    processes: Processes

    @classmethod
    def of(cls, cfg: Config, processes: Processes = ALONE) -> Setup:
        engine, loader = EngineConfig(**cfg["engine"]), LoaderConfig(**cfg["loader"])
        set_deterministic(cfg["deterministic"])
        device = choose_device(cfg["device"], processes=processes)
        return cls(device, choose_precision(engine.precision, device), engine, loader, processes)

    @property
    def batch_size(self) -> int:
        """Images of a training batch in this process."""
        assert self.loader.batch_size != "auto", "it is measured before anything is built"
        return self.loader.batch_size

    @property
    def eval_batch_size(self) -> int:
        return self.loader.eval_batch_size or self.batch_size

    def train_images(self, reader: Reader) -> int:
        """Images of an epoch."""
        if self.engine.limit_batches is None:
            return len(reader)
        return min(len(reader), self.engine.limit_batches * self.batch_size * self.processes.world)

    def eval_images(self, reader: Reader) -> int:
        if self.engine.overfit:
            return self.train_images(reader)
        if self.engine.limit_batches is None:
            return len(reader)
        return min(len(reader), self.engine.limit_batches * self.eval_batch_size)

    def train_stream(self, reader: Reader, transform: Transform, *, seed: int, first: int) -> Any:
        """The batches of this process from number `first` on, without end."""
        return train_batches(
            reader,
            transform,
            batch_size=self.batch_size,
            seed=seed,
            first_batch=first,
            limit=self.train_images(reader),
            **self._stream,
        )

    def eval_stream(self, reader: Reader, transform: Transform) -> Any:
        """This process's part of the images to judge on."""
        size, limit = self.eval_batch_size, self.eval_images(reader)
        return eval_batches(reader, transform, batch_size=size, limit=limit, **self._stream)

    def train_turns(self, reader: Reader, transform: Transform) -> Any:
        """Of the training images, each once and in order, every batch whose turn is this process's."""
        size, limit = self.eval_batch_size, self.train_images(reader)
        return eval_batches(reader, transform, batch_size=size, limit=limit, in_turns=True, **self._stream)

    def place(self, model: nn.Module) -> nn.Module:
        """The model on its device, ready to learn or to judge."""
        if self.engine.sync_batchnorm and self.processes.world > 1:
            model = synchronized(model, self.device)
        return place(model, self.device, channels_last=self.engine.channels_last)

    @property
    def _stream(self) -> dict[str, Any]:
        workers, processes = self.loader.workers, self.processes
        return {
            "workers": resolve_workers(workers, device=self.device, processes=processes.local_world),
            "pin_memory": self.device.type == "cuda",
            "rank": processes.rank,
            "world": processes.world,
        }


def open_reader(
    cfg: Config, split: Split, *, classes: ClassInfo | None = None, learned: Learned | None = None
) -> Reader:
    """One split of the configured data set, with the fields that the task requires.

    learned: what a checkpoint holds of the method that proposes regions; without it the method is fitted again.
    """
    node = cfg["dataset"] if classes is None else cfg["dataset"] | {"classes": list(classes.names)}
    fields = frozenset(cfg["task"]["requires"])
    # Proposals are no data set's own.
    reader: Reader = build(node, split=split, fields=fields - {"proposals"})
    if "proposals" not in fields:
        return reader

    def training() -> Reader:
        return reader if split == "train" else build(node, split="train", fields=fields - {"proposals"})

    return with_proposals(cfg["proposals"], reader, split, training=training, stored=learned)


def open_readers(
    cfg: Config, setup: Setup, *, classes: ClassInfo | None = None, learned: Learned | None = None
) -> tuple[Reader, Reader]:
    """What to train on, and what to judge on: the same, if one batch is to be learnt by heart."""
    train_reader = open_reader(cfg, "train", classes=classes, learned=learned)
    if setup.engine.overfit:
        return train_reader, train_reader
    learned = learned_by(cfg["proposals"], train_reader)
    return train_reader, open_reader(cfg, "val", classes=train_reader.classes, learned=learned)


def build_task(cfg: Config, classes: ClassInfo, judged: ClassInfo) -> Task:
    """Model and evaluator. `judged` are the same classes with the ids of the data set to be judged on."""
    node = cfg["task"]
    model = build(
        {key: value for key, value in node.items() if key not in TASK_KEYS},
        backbone=build(cfg["backbone"]),
        classes=classes,
    )
    evaluator = build(cfg["evaluator"], classes=judged)
    # A model may have losses that it computes only if an option asks for them.
    names = getattr(model, "loss_names", node["loss_weights"])
    weights = {name: weight for name, weight in node["loss_weights"].items() if name in names}
    return Task(node["name"], model, evaluator, frozenset(node["requires"]), node["monitor"], weights)


def with_backbone_of(cfg: Config) -> Config:
    """The configuration that `backbone.weights=RUN` stands for: `norm: auto` is written out as the run's weights need it.

    Raises ConfigError where the run's backbone is another one: a plain network's weights would fit a residual one.
    """
    node = cfg["backbone"]
    found = None if node.get("weights") is None else zoo.trained(node["weights"])
    if found is None:
        return cfg
    state, text = found
    theirs = stored.parse(text, Path(node["weights"])).get("backbone") or {}
    if theirs.get("name") != node["name"]:
        raise ConfigError(
            f"backbone.weights={node['weights']}: is of backbone={theirs.get('name')}, and this is "
            f"backbone={node['name']}; type backbone={theirs.get('name')}, or other weights"
        )
    if node.get("norm") != "auto":
        return cfg
    batch_norm = any("backbone." in key and key.endswith("running_var") for key in state)
    return cfg | {"backbone": node | {"norm": "frozen" if batch_norm else "group"}}


def count_class_weights(cfg: Config, reader: Reader) -> Config:
    """The same configuration with numbers for `task.class_weights=median_frequency`, so that a run's own has them."""
    if cfg["task"].get("class_weights") != "median_frequency":
        return cfg
    return cfg | {"task": cfg["task"] | {"class_weights": median_frequency(reader)}}


def build_transform(cfg: Config, reader: Reader, *, train: bool) -> Transform:
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
        for key in ("classes", "colors"):  # or a text file that names them
            if isinstance(dataset.get(key), str):
                dataset[key] = str(Path(dataset[key]).expanduser().absolute())
    backbone, proposals = dict(cfg["backbone"]), dict(cfg["proposals"])
    for key in ("cache", "train", "val"):
        if isinstance(proposals.get(key), str):
            proposals[key] = str(Path(proposals[key]).expanduser().absolute())
    files = {"weights": cfg["weights"], "run_dir": cfg["run_dir"]}
    for node in (files, backbone):
        for key in ("weights", "run_dir"):
            if node.get(key) is not None and Path(node[key]).expanduser().exists():
                node[key] = str(Path(node[key]).expanduser().absolute())
    return cfg | {"dataset": dataset, "backbone": backbone, "proposals": proposals} | files


def as_yaml(cfg: Config) -> str:
    """The configuration for a file: `${oc.env:NAME}` stands where a value came from the environment."""
    return yaml.safe_dump(as_written(cfg), sort_keys=False)


def start_from(
    model: Any, weights: tuple[zoo.StateDict, tuple[str, ...] | None], classes: ClassInfo, source: str
) -> list[str]:
    """Load a whole model's weights; what belongs to other classes starts afresh. Returns notes for the user."""
    state, names = weights
    if is_torchvision_detector(state):
        return load_torchvision_detector(model, state, classes=classes.names, names=names, source=source)
    if is_torchvision_ssd(state):
        return load_torchvision_ssd(model, state, classes=classes.names, names=names, source=source)
    if is_torchvision_retinanet(state):
        return load_torchvision_retinanet(model, state, classes=classes.names, names=names, source=source)
    own, notes = model.state_dict(), list[str]()
    # What an earlier stage of a system that is trained in stages lacks, or had for itself.
    stage = tuple(getattr(model, "stage_layers", ()))
    added = [k for k in own if k.startswith(stage) and k not in state]
    dropped = [k for k in state if k.startswith(stage) and k not in own]
    if added:
        notes.append(
            f"weights={source} are of an earlier stage: {', '.join(added)} begin as in a new model, scores at zero"
        )
    state = {k: v for k, v in state.items() if k not in dropped}
    # Classes of other names are other classes, even if they are as many.
    others = names is not None and names != classes.names
    of_classes = [k for k in own if k in state and k.startswith(tuple(model.class_layers))]
    fresh = [k for k in of_classes if others or state[k].shape != own[k].shape]
    zoo.fit_weights(model, state | {key: own[key] for key in (*added, *fresh)}, source=source)
    if fresh:
        notes.append(f"weights={source} are for other classes: {', '.join(fresh)} start afresh")
    return notes
