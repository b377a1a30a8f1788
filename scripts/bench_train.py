"""Our training step against torchvision's own detector, with the same weights, batch and image size.

    python scripts/bench_train.py --size 320 --threads 1
    python scripts/bench_train.py --backbone mobilenet_v3_large --size 320 --threads 1 --precision fp32 --json
    python scripts/bench_train.py --device cuda --height 800 --width 1333 --batch 16 --torchvision-precision bf16

A step is what training does: zero_grad, losses, backward, and the optimizer's step, each in its own default way: ours with
channels-last maps, --precision and the fused SGD of cvtasks.engine.optim; torchvision's in fp32 (--torchvision-precision)
with torch.optim.SGD, as in its reference script. Both have frozen batch norm and the frozen first stages of a network that
starts from ImageNet weights. Images and boxes are random and of one size, and torchvision's own resize is off. The two
take turns, and the median counts: another busy process slows both alike, but two threads far more than one, so compare
with --threads 1 unless the machine is idle.

Losses: of the first step, with every anchor and every proposal sampled, so that nothing is left to chance: in fp32 they
are equal. In the timed steps each samples at random, as in training.
Memory: peak above what the model alone takes, of three steps; on a CPU resident memory of a process for each (Linux),
on a GPU what torch allocates.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchvision
from benchmarking import command_line, time_in_turn
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone, resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d

from cvtasks.engine.optim import sgd
from cvtasks.engine.precision import Precision, choose_device, choose_precision, place
from cvtasks.models.detection.faster_rcnn import faster_rcnn
from cvtasks.models.detection.torchvision_weights import load_torchvision_detector
from cvtasks.nn.backbones.mobilenet import mobilenet
from cvtasks.nn.backbones.resnet import resnet
from cvtasks.types import Batch, ClassInfo

CLASSES = 90
OBJECTS = 8
"""In each image; COCO has seven on average."""
LEARNING_RATE = 1e-6
"""So low that the network stays as it is: with other scores there would be more or fewer proposals to work on."""
WARM_UP = 2
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
    """The same names and order for both"""
    sample_everything: Callable[[], None]
    optimizer: torch.optim.Optimizer
    precision: Precision

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
    state = faster_rcnn_weights(args)
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
            ours.proposer.samples = ours.samples = ALL
            ours.proposer.positive_fraction = ours.positive_fraction = 1.0

        contenders["ours"] = Contender(
            ours,
            lambda: ours.losses(batch),
            sample_everything,
            sgd(ours, lr=LEARNING_RATE),
            choose_precision(args.precision, device),
        )
    if "torchvision" in which:
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

        contenders["torchvision"] = Contender(
            theirs,
            their_losses,
            sample_everything_there,
            torch.optim.SGD(
                [p for p in theirs.parameters() if p.requires_grad],
                lr=LEARNING_RATE,
                momentum=0.9,
                weight_decay=1e-4,
            ),
            Precision(args.torchvision_precision, device),
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


def faster_rcnn_weights(args: argparse.Namespace) -> dict[str, Tensor]:
    """Random weights, the same each time; norm statistics are those of random images, so that all maps are of sane size."""
    torch.manual_seed(args.seed)
    model = torchvision_faster_rcnn(args, nn.BatchNorm2d)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model.train().backbone(torch.randn(4, 3, 128, 128))
    return model.state_dict()


PAIRS: dict[str, Callable[[argparse.Namespace, Batch, Sequence[str]], dict[str, Contender]]] = {
    "faster_rcnn": faster_rcnn_pair
}
"""A further task is one more function here."""


def random_batch(args: argparse.Namespace, device: torch.device) -> Batch:
    """Images of one size, padded to a multiple of 32, with boxes of 5 to 60 % of a side."""
    generator = torch.Generator().manual_seed(args.seed)
    sides = torch.tensor([args.width, args.height])
    height, width = (-(-side // 32) * 32 for side in (args.height, args.width))
    images = torch.zeros(args.batch, 3, height, width, dtype=torch.uint8)
    shape = (args.batch, 3, args.height, args.width)
    images[:, :, : args.height, : args.width] = torch.randint(
        0, 256, shape, dtype=torch.uint8, generator=generator
    )
    place, extent = torch.rand(2, args.batch, OBJECTS, 2, generator=generator)
    extent = 0.05 + 0.55 * extent
    corner = place * (1 - extent)
    sizes = torch.tensor([[args.height, args.width]]).repeat(args.batch, 1)
    return Batch(
        images=images,
        sizes=sizes,
        orig_sizes=sizes,
        image_ids=list(range(args.batch)),
        valid=torch.ones(args.batch, OBJECTS, dtype=torch.bool),
        boxes=torch.cat([corner, corner + extent], -1) * sides.repeat(2),
        labels=torch.randint(0, CLASSES, (args.batch, OBJECTS), generator=generator),
        ignore=torch.zeros(args.batch, OBJECTS, dtype=torch.bool),
    ).to(device)


def torchvision_batch(args: argparse.Namespace, batch: Batch) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """The same as torchvision's detectors take it: images from 0 to 1, and labels from 1."""
    assert batch.boxes is not None
    assert batch.labels is not None
    images = list(batch.images[:, :, : args.height, : args.width].float() / 255)
    return images, [{"boxes": b, "labels": n + 1} for b, n in zip(batch.boxes, batch.labels, strict=True)]


def first_losses(args: argparse.Namespace, batch: Batch) -> dict[str, dict[str, float]]:
    losses = {}
    for name, contender in PAIRS[args.task](args, batch, ("ours", "torchvision")).items():
        contender.sample_everything()
        with torch.no_grad(), contender.precision.autocast():
            losses[name] = {key: value.item() for key, value in contender.losses().items()}
    return losses


def seconds_of_steps(args: argparse.Namespace, batch: Batch) -> dict[str, list[float]]:
    contenders = PAIRS[args.task](args, batch, ("ours", "torchvision"))
    for contender in contenders.values():
        for _ in range(WARM_UP):
            contender.step()
    gc.collect()
    gc.disable()
    seconds = time_in_turn({name: c.step for name, c in contenders.items()}, args.steps)
    gc.enable()
    return seconds


def peak_memory(args: argparse.Namespace, which: str) -> float | None:
    """Megabytes above those of the model alone; None where that cannot be told. Runs in a process of its own."""
    if args.threads:
        torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    if device.type == "cpu" and not Path("/proc/self/clear_refs").exists():
        return None
    (contender,) = PAIRS[args.task](args, random_batch(args, device), (which,)).values()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        with contextlib.suppress(AttributeError):  # where the C library is not glibc
            ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = _resident("VmRSS")
    for _ in range(3):
        contender.step()
    after = torch.cuda.max_memory_allocated() if device.type == "cuda" else _resident("VmHWM")
    return round((after - before) / 1e6, 1)


def _resident(field: str) -> int:
    """Bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    device = choose_device(args.device)
    if args.threads:
        torch.set_num_threads(args.threads)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        memory = {which: pool.apply(peak_memory, (args, which)) for which in ("ours", "torchvision")}
    batch = random_batch(args, device)
    losses, seconds = first_losses(args, batch), seconds_of_steps(args, batch)
    result: dict[str, Any] = {
        "task": args.task,
        "backbone": args.backbone,
        "height": args.height,
        "width": args.width,
        "batch": args.batch,
        "steps": args.steps,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "load_before": load,
        "torch": torch.__version__,
        "torchvision_version": torchvision.__version__,
    }
    formats = {
        "ours": choose_precision(args.precision, device).name,
        "torchvision": args.torchvision_precision,
    }
    for name in ("ours", "torchvision"):
        median = statistics.median(seconds[name])
        result[name] = {
            "precision": formats[name],
            "median_seconds": round(median, 4),
            "min_seconds": round(min(seconds[name]), 4),
            "images_per_second": round(args.batch / median, 3),
            "peak_megabytes": memory[name],
            "losses": losses[name],
        }
    ours, theirs = result["ours"], result["torchvision"]
    result["speedup"] = round(theirs["median_seconds"] / ours["median_seconds"], 3)
    result["speedup_of_minima"] = round(theirs["min_seconds"] / ours["min_seconds"], 3)
    if None not in memory.values():
        result["memory_ratio"] = round(ours["peak_megabytes"] / theirs["peak_megabytes"], 3)
    result["losses_differ"] = max(
        abs(ours["losses"][key] / value - 1) for key, value in theirs["losses"].items()
    )
    return result


def table(result: dict[str, Any]) -> str:
    ours, theirs = result["ours"], result["torchvision"]
    lines = [
        f"{result['task']} {result['backbone']}, {result['batch']} x {result['height']} x {result['width']}, "
        f"{result['device']}, threads {result['threads']}, {result['steps']} steps, load {result['load_before']}",
        f"{'':22}{'ours':>12}{'torchvision':>14}{'':>4}",
    ]
    for key, ratio in (
        ("precision", ""),
        ("median_seconds", f"{result['speedup']:.2f} times as fast"),
        ("min_seconds", f"{result['speedup_of_minima']:.2f}"),
        ("images_per_second", ""),
        ("peak_megabytes", f"{result.get('memory_ratio', '')} of the memory"),
    ):
        lines.append(f"{key:22}{ours[key]!s:>12}{theirs[key]!s:>14}    {ratio}")
    for key in ours["losses"]:
        lines.append(f"{key:22}{ours['losses'][key]:>12.6f}{theirs['losses'][key]:>14.6f}")
    return "\n".join(lines)


def main() -> None:
    parser = command_line(__doc__)
    number = {"type": int, "metavar": "N"}
    parser.add_argument("--task", choices=PAIRS, default="faster_rcnn", help="default: %(default)s")
    parser.add_argument(
        "--backbone",
        choices=("resnet50", "mobilenet_v3_large"),
        default="resnet50",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--size", **number, default=320, help="both sides of the images (default: %(default)s)"
    )
    parser.add_argument("--height", **number, help="instead of --size")
    parser.add_argument("--width", **number, help="instead of --size")
    parser.add_argument("--batch", **number, default=2, help="images in a step (default: %(default)s)")
    parser.add_argument("--steps", **number, default=10, help="of each that are timed (default: %(default)s)")
    parser.add_argument("--threads", **number, help="of the CPU (default: torch's, one for each core)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    formats = ("fp32", "bf16")
    parser.add_argument(
        "--precision", choices=("auto", *formats), default="auto", help="ours (default: %(default)s)"
    )
    parser.add_argument(
        "--torchvision-precision", choices=formats, default="fp32", help="default: %(default)s"
    )
    parser.add_argument("--seed", **number, default=0, help="of weights and images (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    args = parser.parse_args()
    args.height, args.width = args.height or args.size, args.width or args.size
    result = measure(args)
    print(json.dumps(result) if args.json else table(result))


if __name__ == "__main__":
    main()
