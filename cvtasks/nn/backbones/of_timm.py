"""Any network of timm's (PyTorch Image Models, an optional extra) that gives feature maps, by its name.

    pip install 'cvtasks[timm]'
    cvtasks train task=faster_rcnn backbone=timm backbone.name=mobilenetv4_conv_small
    cvtasks train task=faster_rcnn backbone=timm backbone.name=resnet50.a1_in1k backbone.weights=imagenet

Maps are timm's own (`features_only=True`); of several of one stride the last is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from types import ModuleType
from typing import Any, Literal, Self

from torch import nn

from cvtasks.errors import ConfigError
from cvtasks.nn import zoo
from cvtasks.nn.backbones.base import Backbone, Level
from cvtasks.nn.backbones.extracted import (
    ONE_SIZE,
    Extracted,
    finish,
    levels_of,
    map_of,
    no_such,
    units,
    without_memory,
)
from cvtasks.nn.norm import Norm, NormKind, choose_norm, replace_norms

ANY_SIZE: tuple[dict[str, Any], ...] = ({}, {"dynamic_img_size": True}, {"strict_img_size": False})
"""What makes networks take images of any size: nothing, for most"""


class TimmNetwork(Extracted):
    """Reads files of ours, and what timm publishes."""

    whole: partial[nn.Module]
    """Makes the network with all of its levels, and takes `pretrained`"""

    def load(self, weights: str, *, network: str) -> Self:
        state = zoo.load_timm(self.whole, weights, network=network, own=list(self.network.state_dict()))
        if state is not None:
            zoo.fit_weights(self.network, state, source=weights)
        return self


def timm(
    *,
    name: str = "mobilenetv4_conv_small",
    weights: str | None = None,
    norm: Norm = "auto",
    freeze_until: Level | Literal["auto"] | None = "auto",
) -> Backbone:
    """The network without its classifier, with all strides that timm gives.

    name: as `timm.list_models()` has it, with a tag of weights if there are several. weights: "imagenet" is timm's choice;
    a file is of timm's whole network, or of ours. norm: of its batch norms, if it has any; "auto" is frozen
    with `weights`, and what the network has without. freeze_until: "auto" is the last level up to c2 with `weights`,
    nothing without. Raises ConfigError where timm is not installed, has no such network, or no maps of it.
    """
    library = _library()
    if ":" in name or not library.is_model(name):
        raise ConfigError(no_such(name, library.list_models(), of="timm"))
    network, options = _of_any_size(library, name)
    maps = [map_of(each) for each in without_memory(network)]
    given = {number: one for number, one in enumerate(maps) if one is not None}
    levels = levels_of(given.values())
    if not levels:
        raise ConfigError(f"backbone.name={name}: {ONE_SIZE}")
    info: Any = network.feature_info
    last = {one.stride: info.out_indices[number] for number, one in given.items()}
    kept = {level: last[one.stride] for level, one in levels.items()}
    whole = partial(library.create_model, name, features_only=True, **options)
    kind = choose_norm(norm, weights=weights, otherwise="batch")
    published = library.get_pretrained_cfg(name)
    backbone = TimmNetwork(
        partial(_build, whole, kept, kind), units(network), levels, mean=published.mean, std=published.std
    )
    backbone.whole = partial(whole, out_indices=list(kept.values()))
    return finish(backbone, network=name, weights=weights, freeze_until=freeze_until)


def _library() -> ModuleType:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise ConfigError("backbone=timm: timm is not installed; type pip install 'cvtasks[timm]'") from error
    return timm


def _of_any_size(library: ModuleType, name: str) -> tuple[nn.Module, dict[str, Any]]:
    """The network, and with which option it takes images of any size. Raises ConfigError if it never does."""
    for options in ANY_SIZE:
        try:
            network = library.create_model(name, features_only=True, **options)
            without_memory(network)
        except (AssertionError, RuntimeError, TypeError):
            continue
        return network, options
    raise ConfigError(f"backbone.name={name}: {ONE_SIZE}")


def _build(
    whole: partial[nn.Module], kept: Mapping[str, int], kind: NormKind, levels: Sequence[str]
) -> nn.Module:
    network = whole(out_indices=[kept[level] for level in levels])
    replace_norms(network, kind)
    return network
