"""Maps of a network that is not ours: its levels are found by running it once, without memory, and looking at sizes.

    cvtasks train task=faster_rcnn backbone=torchvision backbone.name=convnext_tiny
    cvtasks train task=faster_rcnn backbone=timm backbone.name=resnet10t

A unit is the largest part of the network that does not take more than one step of two. A level is what the last unit of its
stride gives. Letters: B images, C channels, H x W pixels.
"""

from __future__ import annotations

import copy
import difflib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeAlias

import torch
from torch import Tensor, nn

from cvtasks.errors import ConfigError
from cvtasks.nn.backbones.base import Backbone, FeatureSpec, prepare

PROBE = (1024, 1536)
"""Pixels of the image that is looked at: large, so that a border that is not padded does not hide a stride."""
SIDES = (32, 48, 64, 80, 96, 128, 256)
COARSEST = 64
TOLERANCE = 0.15
"""Of log2 of a stride, which maps of networks that do not pad exceed a little"""

ONE_SIZE = "it is for images of one size, or makes no maps of them; choose a network of convolutions"
FROZEN_STRIDE = 4
"""Up to here `freeze_until=auto` freezes"""

Build: TypeAlias = Callable[[Sequence[str]], nn.Module]
"""Levels -> a network that gives their maps, in this order: a sequence, or a dictionary by level"""


@dataclass(frozen=True)
class Map:
    """What a part of the network gives."""

    channels: int
    stride: int
    channels_last: bool


def map_of(value: object) -> Map | None:
    """What a value is of an image of `PROBE` pixels; None if it is no map, or does not grow with the image."""
    if not isinstance(value, Tensor) or value.ndim != 4:
        return None
    for channels_last, channel, height, width in ((False, 1, 2, 3), (True, 3, 1, 2)):
        steps = [
            math.log2(full / value.shape[side]) for full, side in zip(PROBE, (height, width), strict=True)
        ]
        step = round(steps[0])
        if step >= 0 and 2**step <= COARSEST and all(abs(each - step) < TOLERANCE for each in steps):
            return Map(value.shape[channel], 2**step, channels_last)
    return None


@torch.no_grad()
def without_memory(network: nn.Module, size: tuple[int, int] = PROBE) -> Any:
    """What the network gives for an image of so many pixels, as sizes without values."""
    training = network.training
    tensors = (*network.named_parameters(), *network.named_buffers())
    state = {name: tensor.to("meta") for name, tensor in tensors}
    try:
        return torch.func.functional_call(network.eval(), state, (torch.zeros(1, 3, *size, device="meta"),))
    finally:
        network.train(training)


def smallest_side(network: nn.Module) -> int:
    """About how many pixels a side of an image needs, so that something is left of it; 1 where layers pad."""
    for side in SIDES:
        try:
            without_memory(network, (side, side))
        except (AssertionError, RuntimeError):
            continue
        return 1 if side == SIDES[0] else side
    return SIDES[-1]


def units(network: nn.Module) -> dict[str, Map]:
    """The names of all units and what they give, in the order in which they end. Costs no memory and little time.

    Raises whatever the network does for an image of another size than its own.
    """
    calls: dict[str, tuple[Map | None, Map | None]] = {}

    def record(name: str, module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        calls.pop(name, None)  # the last call counts
        calls[name] = (map_of(inputs[0]) if inputs else None, map_of(output))

    handles = [
        module.register_forward_hook(partial(record, name))
        for name, module in network.named_modules()
        if name
    ]
    try:
        without_memory(network)
    finally:
        for handle in handles:
            handle.remove()

    def inside(module: nn.Module, path: str) -> Iterator[str]:
        for name, child in module.named_children():
            below = f"{path}{name}"
            given, gives = calls.get(below, (None, None))
            if gives and (not any(child.children()) or (given and gives.stride <= 2 * given.stride)):
                yield below
            else:
                yield from inside(child, f"{below}.")

    chosen = set(inside(network, ""))
    return {name: gives for name, (_, gives) in calls.items() if name in chosen and gives}


def levels_of(maps: Iterable[Map]) -> dict[str, Map]:
    """{"c2": the last of stride 4, ...}, finest first"""
    last = {one.stride: one for one in maps}
    return {f"c{stride.bit_length() - 1}": last[stride] for stride in sorted(last)}


def stages_of(
    network: nn.Module, parts: Mapping[str, Map], levels: Mapping[str, Map]
) -> dict[str, list[str]]:
    """The units that lead to each level; of a network without any, all of it leads to the last one."""
    known = {name for name, _ in network.named_modules()}
    stages: dict[str, list[str]] = {level: [] for level in levels}
    for name, part in parts.items():
        level = next((level for level, one in levels.items() if one.stride >= part.stride), None)
        if level is not None and name in known:
            stages[level].append(f"network.{name}")
    if not any(stages.values()):
        stages[list(levels)[-1]] = ["network"]
    return stages


class Extracted(Backbone):
    """A network that `build` makes for any choice of its levels. parts: its units, for freezing."""

    def __init__(
        self,
        build: Build,
        parts: Mapping[str, Map],
        levels: Mapping[str, Map],
        *,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        network = build(list(levels))
        super().__init__(
            {level: FeatureSpec(one.channels, one.stride) for level, one in levels.items()},
            stages_of(network, parts, levels),
            mean=mean,
            std=std,
        )
        self.network, self._build, self.smallest = network, build, smallest_side(network)
        self.channels_last = {level for level, one in levels.items() if one.channels_last}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        self.check_size(images)
        return self._by_level(self.network(images))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """With each part in its own mode: a copy of torchvision's extractor trains, whatever the original does."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        twin.network.train(self.network.training)
        for module, original in zip(twin.modules(), self.modules(), strict=True):
            module.training = original.training
        return twin

    def truncate(self, last: str) -> Self:
        """Build the network anew, as far as it is needed, with the same weights."""
        assert last in self.specs, f"{last} is not one of {list(self.specs)}"
        levels = list(self.specs)
        kept, state = levels[: levels.index(last) + 1], self.network.state_dict()
        if kept == levels:
            return self
        self.network = self._build(kept)
        self.network.load_state_dict({key: state[key] for key in self.network.state_dict()})
        self.specs = {level: self.specs[level] for level in kept}
        self.stages = {level: self.stages[level] for level in kept}
        self.frozen = tuple(level for level in self.frozen if level in kept)
        return self.freeze(self.frozen[-1]) if self.frozen else self

    def dilate(self) -> Self:
        """As of any backbone; raises ConfigError, too, where the maps would not have the size that is promised."""
        super().dilate()
        level, spec = list(self.specs.items())[-1]
        try:
            found = map_of(self._by_level(without_memory(self.network))[level])
        except RuntimeError:  # branches of a module that are not as large as each other
            found = None
        if found is None or found.stride != spec.stride:
            raise ConfigError(
                f"task.dilate=true: the last stage that is used of this network ({level}) is not one that convolutions "
                "alone stride; type task.dilate=false, or backbone=resnet50"
            )
        return self

    def _by_level(self, given: Any) -> dict[str, Tensor]:
        found = given if isinstance(given, dict) else dict(zip(self.specs, given, strict=True))
        return {
            level: found[level].permute(0, 3, 1, 2) if level in self.channels_last else found[level]
            for level in self.specs
        }


def finish(backbone: Extracted, *, network: str, weights: str | None, freeze_until: str | None) -> Backbone:
    """`prepare`, for levels that are only known now."""
    fine = [level for level, spec in backbone.specs.items() if spec.stride <= FROZEN_STRIDE]
    until = (fine[-1] if fine and weights is not None else None) if freeze_until == "auto" else freeze_until
    return prepare(backbone, network=network, weights=weights, freeze_until=until)


def no_such(name: str, known: Sequence[str], *, of: str) -> str:
    """What to say of a name that none of `known` is."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"backbone.name={name}: {of} has no such network" + (f"; did you mean {near[0]}?" if near else "")
