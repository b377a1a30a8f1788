"""What an image costs a region-based detector, and where: proposals, backbone, region features, heads, suppression.

The parts of a detector are watched from outside, by their names: what one of them does while another one waits for it is
its own, so that the five add up to the whole. The network on R-CNN's crops, and on windows, is backbone; cutting them out
is region features. What decodes, clips and scales boxes belongs to the heads.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cvtasks.assembly import Config, open_reader
from cvtasks.data.loader import cores
from cvtasks.data.proposals import ComputedProposals, WithProposals, computed, pixels
from cvtasks.engine import checkpoint as checkpoints
from cvtasks.engine.progress import Progress
from cvtasks.errors import ConfigError
from cvtasks.models.detection.rfcn import PositionSensitiveHead
from cvtasks.models.detection.sliding_window import WindowClassifier
from cvtasks.nn.backbones.patch_cnn import PatchCNN
from cvtasks.nn.region_detector import RegionDetector
from cvtasks.nn.warp import WarpedCrops
from cvtasks.studies.costs import seconds_of
from cvtasks.studies.networks import trained
from cvtasks.studies.parts import Result

PROPOSALS, BACKBONE, REGIONS, HEADS, SUPPRESSION = PARTS = (
    "proposals",
    "backbone",
    "region features",
    "heads",
    "suppression",
)
CPU = torch.device("cpu")
"""Where methods compute proposals"""


class Stopwatch:
    """The seconds of each part; of nested ones the innermost alone runs."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._open: list[str] = []
        self._since = 0.0

    @contextlib.contextmanager
    def running(self, part: str) -> Iterator[None]:
        self._settle()
        self._open.append(part)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def _settle(self) -> None:
        """What has passed belongs to the part that runs."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now


@contextlib.contextmanager
def watched(model: RegionDetector, watch: Callable[[], Stopwatch]) -> Iterator[None]:
    """Meanwhile the parts of the model run on the stopwatch that `watch` names; behind it, the model is as it was."""
    with contextlib.ExitStack() as after:
        for module, method, part in _places(model):
            own = vars(module).get(method)  # of the instance itself, and not of its class
            after.callback(*((delattr, module, method) if own is None else (setattr, module, method, own)))
            setattr(module, method, _timed(getattr(module, method), part, watch))
        yield


def _timed(method: Callable[..., Any], part: str, watch: Callable[[], Stopwatch]) -> Callable[..., Any]:
    def call(*args: Any, **options: Any) -> Any:
        with watch().running(part):
            return method(*args, **options)

    return call


def _places(model: RegionDetector) -> Iterator[tuple[nn.Module, str, str]]:
    """Module, method, and the part that it is."""
    yield model, "predict", HEADS
    yield model, "maps", BACKBONE
    yield model, "propose", PROPOSALS
    for head in model.heads.values():
        yield head.suppression, "forward", SUPPRESSION  # type: ignore[misc]
        if isinstance(head, WindowClassifier):
            yield from ((head, method, REGIONS) for method in ("forward", "dense"))
            yield head, "logits", HEADS
            network = "on_patches" if isinstance(head.backbone, PatchCNN) else "forward"
            yield head.backbone, network, BACKBONE
        elif isinstance(head, PositionSensitiveHead):
            yield head, "vote", REGIONS
        else:
            yield head.features, "forward", REGIONS  # type: ignore[misc]
            if isinstance(head.features, WarpedCrops):
                yield head.features.backbone, "forward", BACKBONE


def time_proposals(config: Config, *, images: int, repeats: int) -> Result:
    """`seconds` of each of the first images of the validation split: the median of `repeats`, after one that warms up.

    The method runs in this process alone, whatever the cache holds; proposals out of a file count nothing.
    """
    reader = open_reader(config, "val")
    count = min(images, len(reader))
    found = list[float]()
    with Progress(count, title="time proposals", unit="image") as progress:
        for index in range(count):
            method = method_on(reader, index)
            runs = [0.0] if method is None else [seconds_of(method, CPU) for _ in range(1 + repeats)][1:]
            found.append(statistics.median(runs))
            progress.advance()
    return {"seconds": found}


def time_prediction(
    config: Config, folder: Path, *, images: int, repeats: int, proposals: Sequence[float] | None = None
) -> Result:
    """A run's best weights on the first images of the validation split, one by one.

    Medians over the images of the seconds of each of `PARTS`, of them all as `seconds an image` and without proposals as
    `without proposals`; of an image counts the run of median length of `repeats`, after one that warms up.
    proposals: what `time_proposals` measured of these images, for a system that is given them.
    Raises ConfigError for a model that is no region-based detector.
    """
    network = trained(config, folder / "checkpoints" / checkpoints.BEST)
    if not isinstance(network.model, RegionDetector):
        raise ConfigError(f"task={config['task']['name']} is no region-based detector; leave it out")
    found, count = list[dict[str, float]](), min(images, len(network.reader))
    with Progress(count, title=f"time {config['task']['name']}", unit="image") as progress:
        for index in range(count):
            predict = partial(network.predict, network.batch([index]))
            found.append(seconds_of_parts(network.model, predict, network.setup.device, repeats=repeats))
            if proposals is not None:
                found[-1][PROPOSALS] += proposals[index]
            progress.advance()
    parts = {part: statistics.median(each[part] for each in found) for part in PARTS}
    return {
        **parts,
        "seconds an image": statistics.median(sum(each.values()) for each in found),
        "without proposals": statistics.median(sum(each.values()) - each[PROPOSALS] for each in found),
        "images": count,
        "precision": network.setup.precision.name,
    }


def seconds_of_parts(
    model: RegionDetector,
    predict: Callable[[], Any],
    device: torch.device,
    *,
    repeats: int,
) -> dict[str, float]:
    """The seconds of each of `PARTS`, of the repeat of median length; proposals that are given have none."""
    watches: list[Stopwatch] = []
    with watched(model, lambda: watches[-1]):
        for _ in range(1 + repeats):
            watches.append(Stopwatch(device))
            predict()
    runs = sorted((watch.seconds for watch in watches[1:]), key=lambda seconds: sum(seconds.values()))
    return runs[(len(runs) - 1) // 2]


def method_on(reader: Any, index: int) -> Callable[[], Any] | None:
    """Computes the proposals of an image anew; None where no method does, and they count nothing."""
    if not isinstance(reader, ComputedProposals):
        return None
    image = pixels(reader.reader[index]["image"])
    return lambda: reader.cache.method(image)


def compute_proposals(config: Config) -> Result:
    """All proposals of both splits, where the trainings will find them, with all cores.

    Of each split the `images`, the `proposals an image`, and the `seconds` of one core, whenever they were computed (None:
    they came out of a file).
    """
    splits: tuple[Any, Any] = ("train", "val")
    readers = {split: open_reader(config, split) for split in splits}
    return {split: _computed(reader) for split, reader in readers.items()}


def _computed(reader: Any) -> Mapping[str, Any]:
    assert isinstance(reader, WithProposals)
    images = range(len(reader))
    if not isinstance(reader, ComputedProposals):
        numbers, seconds = [len(reader.of(index)) for index in images], None  # type: ignore[attr-defined]
    else:
        numbers, seconds = [], 0.0
        with Progress(len(images), title="proposals", unit="image") as progress:
            for proposed in computed(reader, images, workers=cores()):
                numbers.append(len(proposed.boxes))
                seconds += proposed.seconds
                progress.advance()
    return {
        "images": len(images),
        "proposals an image": statistics.mean(numbers or [0]),
        "seconds": seconds,
    }
