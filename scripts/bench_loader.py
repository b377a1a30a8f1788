"""Images a second that one core reads and augments: python scripts/bench_loader.py --json

    python scripts/bench_loader.py --pipeline ssd --size 300 --json

Decodes JPEG files of COCO's size (640 x 480, about 160 kB each; made here in a temporary folder, or your own
with --images) with one thread and no worker process: decoding alone, reading into a Sample, and whole batches
with scale jitter and flip, or with SSD's augmentation (a larger ground, patches, other colours, flip). The best of several
interleaved rounds counts, since other processes can only make a round slower; cpu_... are by the processor's time of
this process, which a busy machine changes less.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from benchmarking import command_line, time_in_turn
from PIL import Image
from torchvision import tv_tensors

from cvtasks.data.images import find_images, read_image
from cvtasks.data.loader import train_batches
from cvtasks.data.pipelines import scale_jitter, ssd
from cvtasks.types import ClassInfo, Sample, Truth


class JpegReader:
    """JPEG files, each with as many random boxes as an image of COCO has on average."""

    provides: ClassVar[frozenset[str]] = frozenset({"boxes", "labels", "ignore"})
    objects = 7

    def __init__(self, files: list[Path]) -> None:
        self.files = files
        self.classes = ClassInfo(names=("thing",))
        self.notes: list[str] = []
        corners = np.random.default_rng(0).random((len(files), self.objects, 2, 2), dtype=np.float32)
        self.corners = np.sort(corners, axis=2).reshape(len(files), self.objects, 4)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        image = read_image(self.files[index])
        height, width = image.shape[-2:]
        boxes = torch.from_numpy(self.corners[index]) * torch.tensor([width, height, width, height])
        return {
            "image": image,
            "image_id": index,
            "orig_size": (height, width),
            "boxes": tv_tensors.BoundingBoxes(boxes, format="XYXY", canvas_size=(height, width)),
            "labels": torch.zeros(self.objects, dtype=torch.int64),
            "ignore": torch.zeros(self.objects, dtype=torch.bool),
        }

    def truth(self, index: int) -> Truth:
        return {"image_id": index}


def make_jpegs(folder: Path, count: int) -> list[Path]:
    """Smooth random shapes with some grain: as many bytes, and so as much to decode, as photographs have."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC), dtype=np.float32)
        grain = rng.normal(0, 12, (480, 640, 1)).astype(np.float32)
        pixels = (smooth + grain).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04}.jpg", quality=90)
    return sorted(folder.glob("*.jpg"))


PIPELINES = {"scale_jitter": scale_jitter, "ssd": ssd}


def measure(files: list[Path], pipeline: str, size: int, batch_size: int, rounds: int) -> dict[str, Any]:
    reader = JpegReader(files)
    transform = PIPELINES[pipeline](train=True, size=size)
    steps = max(1, len(files) // batch_size)

    def decode() -> None:
        for file in files:
            with Image.open(file) as image:
                image.load()

    def read() -> None:
        for index in range(len(reader)):
            reader[index]

    def load() -> None:
        batches = train_batches(reader, transform, batch_size=batch_size, seed=0)
        for _ in range(steps):
            next(batches)

    cpu: dict[str, list[float]] = {}

    def timed(name: str, part: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            start = time.process_time()
            part()
            cpu.setdefault(name, []).append(time.process_time() - start)

        return run

    parts = {"decode": decode, "read": read, "pipeline": load}
    seconds = time_in_turn({name: timed(name, part) for name, part in parts.items()}, rounds)
    images = {"decode": len(files), "read": len(files), "pipeline": steps * batch_size}
    return {
        f"{prefix}{name}_images_per_second_per_core": round(images[name] / min(times), 1)
        for prefix, measured in (("", seconds), ("cpu_", cpu))
        for name, times in measured.items()
    }


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--pipeline", choices=PIPELINES, default="scale_jitter", help="default: %(default)s")
    parser.add_argument("--size", type=int, default=320, help="side of the training images (320)")
    parser.add_argument("--count", type=int, default=160, help="JPEG files to make (160)")
    parser.add_argument("--images", help="a folder or glob of your own images instead")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = find_images(args.images) if args.images else make_jpegs(Path(folder), args.count)
        result = measure(files, args.pipeline, args.size, args.batch_size, args.rounds)
        result |= {
            "pipeline": args.pipeline,
            "size": args.size,
            "images": len(files),
            "mean_kilobytes": round(sum(file.stat().st_size for file in files) / len(files) / 1000, 1),
            "torch": torch.__version__,
        }
    print(json.dumps(result) if args.json else "\n".join(f"{k:40}{v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
