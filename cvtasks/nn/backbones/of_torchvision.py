"""Any classification network of torchvision's, by its name.

    cvtasks train task=faster_rcnn backbone=torchvision backbone.name=convnext_tiny
    cvtasks train task=faster_rcnn backbone=torchvision backbone.name=efficientnet_b0 backbone.weights=imagenet

What a level is, `nn.backbones.extracted` says: the maps are those that the network's parts give, so DenseNet's last ReLU,
which is none, is left out. A network for images of one size (ViT, MaxViT) is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal, Self

from torch import nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from cvtasks.errors import ConfigError
from cvtasks.nn import zoo
from cvtasks.nn.backbones.base import Backbone, Level
from cvtasks.nn.backbones.extracted import ONE_SIZE, Extracted, finish, levels_of, no_such, units
from cvtasks.nn.norm import Norm, NormKind, choose_norm, replace_norms

OWN_INPUT = {
    name: {"init_weights": True, "aux_logits": False, "transform_input": True}
    for name in ("googlenet", "inception_v3")
}
"""Those whose published weights expect pixels from -1 to 1, and turn ImageNet's statistics into these themselves"""


class TorchvisionNetwork(Extracted):
    """Reads the files of the whole network."""

    left_out: tuple[str, ...] = ()
    """Names of the whole network's state, of which the backbone has some"""

    def load(self, weights: str, *, network: str) -> Self:
        zoo.load_into(self.network, weights, network=network, ignore=self.left_out, rename=_renamed)
        return self


def torchvision(
    *,
    name: str = "convnext_tiny",
    weights: str | None = None,
    norm: Norm = "auto",
    freeze_until: Level | Literal["auto"] | None = "auto",
) -> Backbone:
    """The network without its classifier, with all strides that it has.

    name: as `torchvision.models.list_models()` has it. norm: of its batch norms, if it has any; "auto" is frozen with
    `weights`, and what the network has without. freeze_until: "auto" is the last level up to c2 with `weights`,
    nothing without. Raises ConfigError for a name that is none, or a network that makes no maps of any image.
    """
    known = models.list_models(module=models)
    if name not in known:
        raise ConfigError(no_such(name, known, of="torchvision"))
    network = _network(name)
    classifiers = tuple(each for each, _ in network.named_children() if f"{each}." in zoo.CLASSIFIERS)
    try:
        parts = {unit: one for unit, one in units(network).items() if not unit.startswith(classifiers)}
    except (AssertionError, RuntimeError) as error:
        raise ConfigError(f"backbone.name={name}: {ONE_SIZE}") from error
    levels = levels_of(parts.values())
    last = {one.stride: unit for unit, one in parts.items()}
    nodes = {level: last[one.stride] for level, one in levels.items()}
    kind = choose_norm(norm, weights=weights, otherwise="batch")
    pixels = models.get_model_weights(name).DEFAULT.transforms()
    build = partial(_build, name, nodes, kind)
    backbone = TorchvisionNetwork(build, parts, levels, mean=pixels.mean, std=pixels.std)
    backbone.left_out = tuple(network.state_dict())
    return finish(backbone, network=name, weights=weights, freeze_until=freeze_until)


def _network(name: str) -> nn.Module:
    network: nn.Module = getattr(models, name)(**OWN_INPUT.get(name, {}))
    return network


def _build(name: str, nodes: Mapping[str, str], kind: NormKind, levels: Sequence[str]) -> nn.Module:
    extractor = create_feature_extractor(_network(name), {nodes[level]: level for level in levels})
    replace_norms(extractor, kind)
    return extractor


def _renamed(key: str) -> str:
    """torchvision's files of DenseNet still have names of old: denselayer1.norm.1.weight is norm1."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key)
