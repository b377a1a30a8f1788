"""Who is compared in `bench_train.py`: for each task ours and its peer, each ready to make a training step."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection, resnet50
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from cvtasks.engine.optim import adamw, sgd
from cvtasks.engine.precision import Precision, choose_precision, place
from cvtasks.models.detection.faster_rcnn import faster_rcnn
from cvtasks.models.detection.retinanet import retinanet
from cvtasks.models.detection.ssd import ssd
from cvtasks.models.detection.torchvision_retinanet import load_torchvision_retinanet
from cvtasks.models.detection.torchvision_ssd import load_torchvision_ssd
from cvtasks.models.detection.torchvision_weights import load_torchvision_detector
from cvtasks.models.localization.localization import Localization
from cvtasks.models.segmentation.unet import unet
from cvtasks.nn.backbones.mobilenet import mobilenet
from cvtasks.nn.backbones.resnet import resnet
from cvtasks.nn.backbones.vgg import vgg16
from cvtasks.nn.region_sampling import RandomSampling
from cvtasks.ops.pixel_losses import VOID
from cvtasks.types import Batch, ClassInfo

CLASSES = 90
LABELS = 21
"""Classes of a label map, as VOC has"""
OBJECTS = 8
"""In each image; COCO has seven on average."""
LEARNING_RATE = 1e-6
"""So low that the network stays as it is: with other scores there would be more or fewer proposals to work on."""
LOSS_NAMES = {
    "loss_objectness": "rpn_objectness",
    "loss_rpn_box_reg": "rpn_box",
    "loss_classifier": "classification",
    "loss_box_reg": "box_regression",
}
"""Ours, by torchvision's"""
ALL = 1_000_000
"""More samples than there are anchors or proposals."""


@dataclass
class Contender:
    """One of the two: a model with its batch, its optimizer and its number format."""

    model: nn.Module
    losses: Callable[[], dict[str, Tensor]]
    """The same names and order for both, but for what the peer has not"""
    optimizer: torch.optim.Optimizer
    precision: Precision
    sample_everything: Callable[[], None] = lambda: None

    def step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with self.precision.autocast():
            loss = torch.stack(list(self.losses().values())).sum()
        loss.backward()
        self.optimizer.step()
        if self.precision.device.type == "cuda":
            torch.cuda.synchronize()


def faster_rcnn_pair(args: argparse.Namespace, batch: Batch, which: Sequence[str]) -> dict[str, Contender]:
    """Faster R-CNN with a feature pyramid."""
    device = batch.images.device
    state = random_weights(torchvision_faster_rcnn, args)
    contenders = {}
    if "ours" in which:
        names = tuple(f"class {i}" for i in range(CLASSES))
        if args.backbone == "resnet50":
            ours = faster_rcnn(resnet(depth=50, norm="frozen", freeze_until="c2"), classes=ClassInfo(names))
        else:
            ours = faster_rcnn(
                mobilenet(norm="frozen", freeze_until="c3"),
                classes=ClassInfo(names),
                levels=["c5_first", "c5"],
                anchor_sizes=[[32, 64, 128, 256, 512]] * 3,
                rpn_score_threshold=0.05,
            )
        load_torchvision_detector(ours, state, classes=names, names=("background", *names))
        place(ours, device, channels_last=True).train()

        def sample_everything() -> None:
            ours.proposer.samples, ours.sampler = ALL, RandomSampling(count=ALL)
            ours.proposer.positive_fraction = ours.positive_fraction = 1.0

        contenders["ours"] = Contender(
            ours,
            lambda: ours.losses(batch),
            sgd(ours, lr=LEARNING_RATE),
            choose_precision(args.precision, device),
            sample_everything,
        )
    if "peer" in which:
        theirs = torchvision_faster_rcnn(args, FrozenBatchNorm2d)
        theirs.load_state_dict(state)
        theirs.to(device).train()
        images, targets = torchvision_batch(args, batch)

        def their_losses() -> dict[str, Tensor]:
            losses = theirs(images, targets)
            return {ours: losses[name] for name, ours in LOSS_NAMES.items()}

        def sample_everything_there() -> None:
            for part in (theirs.rpn, theirs.roi_heads):
                part.fg_bg_sampler.batch_size_per_image = ALL
                part.fg_bg_sampler.positive_fraction = 1.0

        contenders["peer"] = Contender(
            theirs,
            their_losses,
            torch.optim.SGD(
                [p for p in theirs.parameters() if p.requires_grad],
                lr=LEARNING_RATE,
                momentum=0.9,
                weight_decay=1e-4,
            ),
            Precision(args.peer_precision, device),
            sample_everything_there,
        )
    return contenders


def torchvision_faster_rcnn(args: argparse.Namespace, norm: type[nn.Module]) -> Any:
    """fasterrcnn_resnet50_fpn or fasterrcnn_mobilenet_v3_large_fpn, as they train from ImageNet weights."""
    settings: dict[str, Any] = {
        "min_size": min(args.height, args.width),
        "max_size": max(args.height, args.width),
        "_skip_resize": True,
    }
    backbone: nn.Module
    if args.backbone == "resnet50":
        backbone = resnet_fpn_backbone(
            backbone_name="resnet50", weights=None, norm_layer=norm, trainable_layers=3
        )
    else:
        backbone = mobilenet_backbone(
            backbone_name="mobilenet_v3_large", weights=None, fpn=True, norm_layer=norm, trainable_layers=3
        )
        anchors = AnchorGenerator(((32, 64, 128, 256, 512),) * 3, ((0.5, 1.0, 2.0),) * 3)
        settings |= {"rpn_anchor_generator": anchors, "rpn_score_thresh": 0.05}
    return detection.FasterRCNN(backbone, CLASSES + 1, **settings)


def random_weights(
    make: Callable[[argparse.Namespace, type[nn.Module]], Any], args: argparse.Namespace
) -> dict[str, Tensor]:
    """Random weights, the same each time; norm statistics are those of random images, so that all maps are of sane size."""
    torch.manual_seed(args.seed)
    model = make(args, nn.BatchNorm2d)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train().backbone(torch.randn(4, 3, 128, 128))
    return model.state_dict()


def retinanet_pair(args: argparse.Namespace, batch: Batch, which: Sequence[str]) -> dict[str, Contender]:
    """RetinaNet as torchvision's retinanet_resnet50_fpn."""
    device = batch.images.device
    state = random_weights(torchvision_retinanet, args)
    contenders = {}
    if "ours" in which:
        names = tuple(f"class {i}" for i in range(CLASSES))
        backbone = resnet(depth=50, norm="frozen", freeze_until="c2")
        ours = retinanet(backbone, classes=ClassInfo(names), extra_from="pyramid")
        load_torchvision_retinanet(ours, state, classes=names, names=names)
        place(ours, device, channels_last=True).train()
        contenders["ours"] = Contender(
            ours,
            lambda: ours.losses(batch),
            sgd(ours, lr=LEARNING_RATE),
            choose_precision(args.precision, device),
        )
    if "peer" in which:
        theirs = torchvision_retinanet(args, FrozenBatchNorm2d)
        theirs.load_state_dict(state)
        theirs.to(device).train()
        images, targets = torchvision_batch(args, batch, first_label=0)

        def their_losses() -> dict[str, Tensor]:
            losses = theirs(images, targets)
            return {
                "classification": losses["classification"],
                "box_regression": losses["bbox_regression"],
            }

        contenders["peer"] = Contender(
            theirs,
            their_losses,
            torch.optim.SGD(
                [p for p in theirs.parameters() if p.requires_grad],
                lr=LEARNING_RATE,
                momentum=0.9,
                weight_decay=1e-4,
            ),
            Precision(args.peer_precision, device),
        )
    return contenders


def torchvision_retinanet(args: argparse.Namespace, norm: type[nn.Module]) -> Any:
    """retinanet_resnet50_fpn, as it trains from ImageNet weights, without an output for a background that it never has."""
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50",
        weights=None,
        norm_layer=norm,
        trainable_layers=3,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    return detection.RetinaNet(
        backbone,
        CLASSES,
        min_size=min(args.height, args.width),
        max_size=max(args.height, args.width),
        _skip_resize=True,
    )


def ssd_pair(args: argparse.Namespace, batch: Batch, which: Sequence[str]) -> dict[str, Contender]:
    """SSD as torchvision's ssd300_vgg16, all of it trained; its batches are of the images' size, without padding."""
    device = batch.images.device
    torch.manual_seed(args.seed)
    theirs = detection.ssd300_vgg16(
        weights=None, weights_backbone=None, num_classes=CLASSES + 1, _skip_resize=True
    )
    contenders = {}
    if "ours" in which:
        names = tuple(f"class {i}" for i in range(CLASSES))
        ours = ssd(vgg16(), classes=ClassInfo(names))
        load_torchvision_ssd(ours, theirs.state_dict(), classes=names, names=("background", *names))
        place(ours, device, channels_last=True).train()
        exact = dataclasses.replace(batch, images=batch.images[:, :, : args.height, : args.width])
        contenders["ours"] = Contender(
            ours,
            lambda: ours.losses(exact),
            sgd(ours, lr=LEARNING_RATE),
            choose_precision(args.precision, device),
        )
    if "peer" in which:
        theirs.to(device).train()
        images, targets = torchvision_batch(args, batch)

        def their_losses() -> dict[str, Tensor]:
            losses = theirs(images, targets)
            return {
                "classification": losses["classification"],
                "box_regression": losses["bbox_regression"],
            }

        contenders["peer"] = Contender(
            theirs,
            their_losses,
            torch.optim.SGD(theirs.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4),
            Precision(args.peer_precision, device),
        )
    return contenders


def unet_pair(args: argparse.Namespace, batch: Batch, which: Sequence[str]) -> dict[str, Contender]:
    """U-Net on a ResNet-18 with batch norm, all of it trained. Weights are random."""
    device = batch.images.device
    widths = (256, 128, 64, 32, 16)
    contenders = {}
    torch.manual_seed(args.seed)
    if "ours" in which:
        names = ClassInfo(tuple(f"class {i}" for i in range(LABELS)))
        encoder = resnet(depth=18, norm="batch")
        ours = unet(encoder, classes=names, channels=widths, norm="batch")
        place(ours, device, channels_last=True).train()
        contenders["ours"] = Contender(
            ours,
            lambda: ours.losses(batch),
            adamw(ours, lr=LEARNING_RATE),
            choose_precision(args.precision, device),
        )
    if "peer" in which:
        from segmentation_models_pytorch import Unet

        assert batch.segmentation is not None
        theirs = Unet("resnet18", encoder_weights=None, classes=LABELS, decoder_channels=widths)
        theirs.to(device).train()
        images, labels = torch.randn(batch.images.shape, device=device), batch.segmentation.long()
        loss = nn.CrossEntropyLoss(ignore_index=VOID)
        contenders["peer"] = Contender(
            theirs,
            lambda: {"segmentation": loss(theirs(images), labels)},
            torch.optim.AdamW(theirs.parameters(), lr=LEARNING_RATE),
            Precision(args.peer_precision, device),
        )
    return contenders


def localization_pair(args: argparse.Namespace, batch: Batch, which: Sequence[str]) -> dict[str, Contender]:
    """ResNet-50 with batch norm, all of it trained: ours tells class and box, theirs the class. Weights are random."""
    assert batch.boxes is not None
    assert batch.labels is not None
    assert batch.valid is not None
    device, labels = batch.images.device, batch.labels[:, 0]
    contenders = {}
    torch.manual_seed(args.seed)
    if "ours" in which:
        names = ClassInfo(tuple(f"class {i}" for i in range(CLASSES)))
        ours = Localization(resnet(depth=50, norm="batch"), classes=names)
        place(ours, device, channels_last=True).train()
        single = dataclasses.replace(
            batch, label=labels, boxes=batch.boxes[:, :1], valid=batch.valid[:, :1], labels=None
        )
        contenders["ours"] = Contender(
            ours,
            lambda: ours.losses(single),
            sgd(ours, lr=LEARNING_RATE),
            choose_precision(args.precision, device),
        )
    if "peer" in which:
        theirs = resnet50(num_classes=CLASSES).to(device).train()
        images = torch.randn(batch.images.shape, device=device)
        loss = nn.CrossEntropyLoss()
        contenders["peer"] = Contender(
            theirs,
            lambda: {"classification": loss(theirs(images), labels)},
            torch.optim.SGD(theirs.parameters(), lr=LEARNING_RATE, momentum=0.9, weight_decay=1e-4),
            Precision(args.peer_precision, device),
        )
    return contenders


@dataclass(frozen=True)
class Pair:
    """What is compared, with whom, and whether both have the same weights."""

    peer: str
    contenders: Callable[[argparse.Namespace, Batch, Sequence[str]], dict[str, Contender]]
    backbones: tuple[str, ...]
    """The first is the default"""
    same_weights: bool
    batch: int
    """Images in a step, unless --batch says so"""


PAIRS = {
    "faster_rcnn": Pair("torchvision", faster_rcnn_pair, ("resnet50", "mobilenet_v3_large"), True, 2),
    "localization": Pair("torchvision", localization_pair, ("resnet50",), False, 16),
    "retinanet": Pair("torchvision", retinanet_pair, ("resnet50",), True, 2),
    "ssd": Pair("torchvision", ssd_pair, ("vgg16",), True, 4),
    "unet": Pair("segmentation_models_pytorch", unet_pair, ("resnet18",), False, 8),
}
"""A further task is one more function and one more line."""
BOTH = ("ours", "peer")


def torchvision_batch(
    args: argparse.Namespace, batch: Batch, *, first_label: int = 1
) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """The same as torchvision's detectors take it: images from 0 to 1, and labels from 1 where 0 is the background."""
    assert batch.boxes is not None
    assert batch.labels is not None
    images = list(batch.images[:, :, : args.height, : args.width].float() / 255)
    return images, [
        {"boxes": b, "labels": n + first_label} for b, n in zip(batch.boxes, batch.labels, strict=True)
    ]
