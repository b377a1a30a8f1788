"""The parts of region-based detectors from what a task's YAML says of them, for all systems of the lineage alike.

Every part has its own defaults; an option that is not given leaves them as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, TypedDict

from torch import nn

from cvtasks.config.schema import Range
from cvtasks.errors import ConfigError
from cvtasks.nn.backbones.base import Backbone, FeatureSpec
from cvtasks.nn.fpn import SingleMap
from cvtasks.nn.given_proposals import GivenProposals
from cvtasks.nn.heads import ConvFC, PretrainedFC, TwoFC
from cvtasks.nn.norm import NormKind
from cvtasks.nn.region_sampling import HardExampleMining, RandomSampling
from cvtasks.nn.regions import Sampler
from cvtasks.nn.rpn import RegionProposalNetwork
from cvtasks.nn.suppression import Suppression
from cvtasks.nn.svm_detector import SvmDetector, SvmHead
from cvtasks.types import ClassInfo

Count: TypeAlias = Annotated[int, Range(min=1)]
Share: TypeAlias = Annotated[float, Range(min=0, max=1)]
PositiveNumber: TypeAlias = Annotated[float, Range(above=0)]
Trunk: TypeAlias = Literal["auto", "two_fc", "conv_fc", "vgg_fc"]


class SamplingOptions(TypedDict, total=False):
    """Which regions the heads learn from: `nn.region_sampling`."""

    roi_sampling: Literal["random", "ohem"]
    roi_samples: Count
    roi_positive_fraction: Share
    roi_positive_iou: Share
    roi_negative_iou: Share
    roi_background_iou: Share
    ohem_nms_threshold: Share


class DetectionOptions(TypedDict, total=False):
    """What becomes of scored regions: `nn.suppression`."""

    score_threshold: float
    nms_threshold: Share
    detections_per_image: Count


class BoxOptions(TypedDict, total=False):
    """How boxes are regressed: `nn.heads.RegionHead`."""

    coder_weights: tuple[PositiveNumber, PositiveNumber, PositiveNumber, PositiveNumber]
    box_beta: Annotated[float, Range(min=0)]


class ProposalNetworkOptions(TypedDict, total=False):
    """`nn.rpn`, but for the anchors' sizes."""

    anchor_ratios: Sequence[PositiveNumber]
    rpn_convs: Count
    rpn_positive_iou: Share
    rpn_negative_iou: Share
    rpn_samples: Count
    rpn_positive_fraction: Share
    rpn_before_nms_train: Count
    rpn_before_nms_test: Count
    rpn_nms_threshold: Share
    rpn_score_threshold: Share
    rpn_proposals_train: Count
    rpn_proposals_test: Count


class RegionOptions(SamplingOptions, DetectionOptions, BoxOptions, total=False):
    """Of a detector whose proposals are given."""


class SvmOptions(RegionOptions, total=False):
    """Of the three stages of R-CNN and SPP-net: `nn.svm_detector`."""

    classifier: Literal["svm", "softmax"]
    svm_cost: PositiveNumber
    svm_positive_weight: PositiveNumber
    svm_negative_iou: Share
    box_iou: Share
    box_regularization: PositiveNumber


class TwoStageOptions(RegionOptions, ProposalNetworkOptions, total=False):
    """Of a detector that makes its own proposals."""


def make_sampler(options: Mapping[str, Any]) -> Sampler:
    """From `SamplingOptions`. What is drawn at random alone (share of positives, least overlap), mining has no use for."""
    both = _given(
        options, count="roi_samples", positive_iou="roi_positive_iou", negative_iou="roi_negative_iou"
    )
    if options.get("roi_sampling", "random") == "ohem":
        return HardExampleMining(**both, **_given(options, nms_threshold="ohem_nms_threshold"))
    further = _given(options, positive_fraction="roi_positive_fraction", background_iou="roi_background_iou")
    return RandomSampling(**both, **further)


def make_suppression(options: Mapping[str, Any]) -> Suppression:
    """From `DetectionOptions`."""
    names = {"score_threshold": "score_threshold", "nms_threshold": "nms_threshold"}
    return Suppression(**_given(options, **names, detections="detections_per_image"))


def box_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """From `BoxOptions` and `DetectionOptions`, what a `RegionHead` takes."""
    given = _given(options, coder_weights="coder_weights", beta="box_beta")
    return given | {"suppression": make_suppression(options)}


def make_proposer(
    specs: Mapping[str, FeatureSpec],
    anchor_sizes: Sequence[Sequence[float]],
    options: Mapping[str, Any],
    **more: Any,
) -> RegionProposalNetwork:
    """From `ProposalNetworkOptions`; `more` are arguments of the network's own."""
    names = ("convs", "positive_iou", "negative_iou", "samples", "positive_fraction", "nms_threshold")
    given = _given(options, **{name: f"rpn_{name}" for name in (*names, "score_threshold")})
    for name, keys, default in (
        ("before_nms", ("rpn_before_nms_train", "rpn_before_nms_test"), (2000, 1000)),
        ("after_nms", ("rpn_proposals_train", "rpn_proposals_test"), (2000, 1000)),
    ):
        given[name] = tuple(options.get(key, each) for key, each in zip(keys, default, strict=True))
    ratios = options.get("anchor_ratios", (0.5, 1.0, 2.0))
    return RegionProposalNetwork(specs, anchor_sizes=anchor_sizes, anchor_ratios=ratios, **given, **more)


def make_svm_detector(
    images: Backbone,
    features: nn.Module,
    trunk: nn.Module,
    options: Mapping[str, Any],
    *,
    pooled: int,
    classes: ClassInfo,
    settings: tuple[object, ...],
) -> SvmDetector:
    """R-CNN's and SPP-net's, from `SvmOptions`. images: makes the maps that `features` reads; others: its."""
    of_head = ("svm_cost", "svm_positive_weight", "box_regularization")
    head = SvmHead(
        features,
        trunk,
        len(classes),
        pooled=pooled,
        suppression=make_suppression(options),
        **_given(options, **{name: name for name in of_head}),
    )
    of_detector = ("classifier", "svm_negative_iou", "box_iou")
    return SvmDetector(
        images,
        nn.Identity(),
        GivenProposals(),
        head,
        sampler=make_sampler(options),
        classes=classes,
        settings=settings,
        **_given(options, **{name: name for name in of_detector}),
    )


def check_levels(backbone: Backbone, **levels: str | Sequence[str]) -> None:
    """Raises ConfigError, which names the setting, for a level that the backbone does not have, or for none at all."""
    for key, value in levels.items():
        named = [value] if isinstance(value, str) else list(value)
        if not named or any(level not in backbone.specs for level in named):
            raise ConfigError(
                f"task.{key}={value if isinstance(value, str) else named}: expected levels of this backbone, which "
                f"are {', '.join(backbone.specs)}"
            )


def single_map(backbone: Backbone, level: str) -> SingleMap:
    """The backbone's map of this level as the neck; stages above it go."""
    check_levels(backbone, level=level)
    neck = SingleMap(backbone.specs, level)
    backbone.truncate(level)
    return neck


def make_trunk(
    kind: Trunk, backbone: Backbone, channels: int, bins: int, *, outputs: int, norm: NormKind | None = None
) -> nn.Module:
    """From regions [R, channels, bins, bins] to their vectors.

    "auto" takes the backbone's fc6 and fc7 over where it has them (`backbone.with_classifier=true`), else it is "two_fc".
    """
    if kind == "vgg_fc" or (kind == "auto" and hasattr(backbone, "classifier")):
        return PretrainedFC(backbone.take_classifier(), channels, bins)
    if kind == "conv_fc":
        return ConvFC(channels, bins, outputs, norm)
    return TwoFC(channels * bins**2, outputs)


def _given(options: Mapping[str, Any], **names: str) -> dict[str, Any]:
    """The options by the names that a part has for them, of those that are given."""
    return {name: options[key] for name, key in names.items() if key in options}
