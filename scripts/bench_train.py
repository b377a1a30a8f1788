"""Our training step against that of the library people use for it, its peer, with the same batch and image size.

    python scripts/bench_train.py --size 320 --threads 1
    python scripts/bench_train.py --backbone mobilenet_v3_large --size 320 --threads 1 --precision fp32 --json
    python scripts/bench_train.py --device cuda --height 800 --width 1333 --batch 16 --peer-precision bf16
    python scripts/bench_train.py --task localization --size 224 --threads 1
    python scripts/bench_train.py --task unet --size 256         (pip install -e '.[bench]')

A step is what training does: zero_grad, losses, backward, and the optimizer's step, each in its own default way: ours with
channels-last maps, --precision and the fused optimizers of cvtasks.engine.optim; the peer's in fp32 (--peer-precision)
with torch's optimizers as they are. The two take turns, and the median counts: another busy process slows both alike, but
two threads far more than one, so compare with --threads 1 unless the machine is idle.

faster_rcnn: torchvision's detector, with the same weights. Both have frozen batch norm and the frozen first stages of a
network that starts from ImageNet weights. Images and boxes are random and of one size, and torchvision's own resize is off.
Losses are those of the first step, with every anchor and every proposal sampled, so that nothing is left to chance: in fp32
they are equal. In the timed steps each samples at random, as in training.
retinanet: torchvision's retinanet_resnet50_fpn with the same weights, frozen as faster_rcnn. Nothing is drawn at random: in
fp32 the losses are equal.
ssd: torchvision's ssd300_vgg16 with the same weights, all of them trained; --size 300. Nothing is drawn at random, and in
fp32 the losses are equal.
localization: a ResNet-50 with batch norm that tells class and box, against torchvision's bare classifier: its cross-entropy
alone, and no box. Theirs gets images that are normalised already.
unet: U-Net of segmentation_models_pytorch, with the same encoder and the same channels behind each step of the decoder.
Theirs up-samples all channels, ours with the paper's 2x2 up-convolution, which halves them first. Theirs gets images that
are normalised already.
Memory: peak above what the model alone takes, of three steps; on a CPU resident memory of a process for each (Linux),
on a GPU what torch allocates.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import importlib.util
import json
import math
import multiprocessing
import os
import statistics
from pathlib import Path
from typing import Any

import torch
import torchvision
from benchmarking import command_line, time_in_turn
from contenders import BOTH, CLASSES, LABELS, OBJECTS, PAIRS

from cvtasks.engine.precision import choose_device, choose_precision
from cvtasks.ops.pixel_losses import VOID
from cvtasks.types import Batch

WARM_UP = 2
"""Steps that are not timed"""


def random_batch(args: argparse.Namespace, device: torch.device) -> Batch:
    """Images of one size, padded to a multiple of 32, with boxes of 5 to 60 % of a side, and random label maps."""
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
    segmentation = torch.full((args.batch, height, width), VOID, dtype=torch.uint8)
    segmentation[:, : args.height, : args.width] = torch.randint(
        0, LABELS, (args.batch, args.height, args.width), dtype=torch.uint8, generator=generator
    )
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
        segmentation=segmentation,
    ).to(device)


def first_losses(args: argparse.Namespace, batch: Batch) -> dict[str, dict[str, float]]:
    losses = {}
    for name, contender in PAIRS[args.task].contenders(args, batch, BOTH).items():
        contender.sample_everything()
        with torch.no_grad(), contender.precision.autocast():
            losses[name] = {key: value.item() for key, value in contender.losses().items()}
    return losses


def seconds_of_steps(args: argparse.Namespace, batch: Batch) -> dict[str, list[float]]:
    contenders = PAIRS[args.task].contenders(args, batch, BOTH)
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
    (contender,) = PAIRS[args.task].contenders(args, random_batch(args, device), (which,)).values()
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
        memory = {which: pool.apply(peak_memory, (args, which)) for which in BOTH}
    batch = random_batch(args, device)
    losses, seconds = first_losses(args, batch), seconds_of_steps(args, batch)
    result: dict[str, Any] = {
        "task": args.task,
        "compared_with": PAIRS[args.task].peer,
        "backbone": args.backbone,
        "height": args.height,
        "width": args.width,
        "batch": args.batch,
        "steps": args.steps,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "load_before": load,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    formats = {
        "ours": choose_precision(args.precision, device).name,
        "peer": args.peer_precision,
    }
    for name in BOTH:
        median = statistics.median(seconds[name])
        result[name] = {
            "precision": formats[name],
            "median_seconds": round(median, 4),
            "min_seconds": round(min(seconds[name]), 4),
            "images_per_second": round(args.batch / median, 3),
            "peak_megabytes": memory[name],
            "losses": losses[name],
        }
    ours, theirs = result["ours"], result["peer"]
    result["speedup"] = round(theirs["median_seconds"] / ours["median_seconds"], 3)
    result["speedup_of_minima"] = round(theirs["min_seconds"] / ours["min_seconds"], 3)
    if None not in memory.values():
        result["memory_ratio"] = round(ours["peak_megabytes"] / theirs["peak_megabytes"], 3)
    if PAIRS[args.task].same_weights:
        result["losses_differ"] = max(
            abs(ours["losses"][key] / value - 1) for key, value in theirs["losses"].items()
        )
    return result


def table(result: dict[str, Any]) -> str:
    ours, theirs = result["ours"], result["peer"]
    width = len(result["compared_with"]) + 3
    lines = [
        f"{result['task']} {result['backbone']}, {result['batch']} x {result['height']} x {result['width']}, "
        f"{result['device']}, threads {result['threads']}, {result['steps']} steps, load {result['load_before']}",
        f"{'':22}{'ours':>12}{result['compared_with']:>{width}}",
    ]
    for key, ratio in (
        ("precision", ""),
        ("median_seconds", f"{result['speedup']:.2f} times as fast"),
        ("min_seconds", f"{result['speedup_of_minima']:.2f}"),
        ("images_per_second", ""),
        ("peak_megabytes", f"{result.get('memory_ratio', '')} of the memory"),
    ):
        lines.append(f"{key:22}{ours[key]!s:>12}{theirs[key]!s:>{width}}    {ratio}")
    for key in ours["losses"]:
        their_loss = theirs["losses"].get(key, math.nan)
        lines.append(f"{key:22}{ours['losses'][key]:>12.6f}{their_loss:>{width}.6f}")
    return "\n".join(lines)


def main() -> None:
    parser = command_line(__doc__)
    number = {"type": int, "metavar": "N"}
    parser.add_argument("--task", choices=PAIRS, default="faster_rcnn", help="default: %(default)s")
    parser.add_argument(
        "--backbone",
        help="; ".join(f"{task}: {', '.join(pair.backbones)}" for task, pair in PAIRS.items())
        + " (default: the first)",
    )
    parser.add_argument(
        "--size", **number, default=320, help="both sides of the images (default: %(default)s)"
    )
    parser.add_argument("--height", **number, help="instead of --size")
    parser.add_argument("--width", **number, help="instead of --size")
    parser.add_argument("--batch", **number, help="images in a step (default: the task's)")
    parser.add_argument("--steps", **number, default=10, help="of each that are timed (default: %(default)s)")
    parser.add_argument("--threads", **number, help="of the CPU (default: torch's, one for each core)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda (default: %(default)s)")
    formats = ("fp32", "bf16")
    parser.add_argument(
        "--precision", choices=("auto", *formats), default="auto", help="ours (default: %(default)s)"
    )
    parser.add_argument(
        "--peer-precision", choices=formats, default="fp32", help="the peer's (default: %(default)s)"
    )
    parser.add_argument("--seed", **number, default=0, help="of weights and images (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    args = parser.parse_args()
    pair = PAIRS[args.task]
    args.backbone, args.batch = args.backbone or pair.backbones[0], args.batch or pair.batch
    if args.backbone not in pair.backbones:
        parser.error(f"--backbone {args.backbone}: --task {args.task} has {', '.join(pair.backbones)}")
    if importlib.util.find_spec(pair.peer) is None:
        parser.error(f"{pair.peer} is not installed; type pip install -e '.[bench]'")
    args.height, args.width = args.height or args.size, args.width or args.size
    result = measure(args)
    print(json.dumps(result) if args.json else table(result))


if __name__ == "__main__":
    main()
