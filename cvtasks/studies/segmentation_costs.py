"""What the study of semantic segmentation measures: an image labelled in two ways, and training steps.

All in fp32, so that counted numbers are the same on every machine; a GPU's convolutions are kept from TF32.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from cvtasks.assembly import Config, Setup, build_transform, open_reader
from cvtasks.config.build import build
from cvtasks.data.collate import collate
from cvtasks.engine import checkpoint as checkpoints
from cvtasks.engine.distributed import ALONE
from cvtasks.engine.learner import Learner
from cvtasks.engine.progress import Progress
from cvtasks.engine.seeding import derive
from cvtasks.models.segmentation.sliding_window import SlidingWindow
from cvtasks.nn import zoo
from cvtasks.studies.costs import kept_for_backward, multiply_adds, seconds_in_turn
from cvtasks.studies.networks import untrained
from cvtasks.studies.parts import Result
from cvtasks.types import Batch, ClassInfo

Way: TypeAlias = Literal["sliding", "dense"]


def label_both_ways(
    config: Config, classes: ClassInfo, trained: Path, *, images: int, repeats: int
) -> Result:
    """The weights of a run's folder slide over the first images of the validation split, and are run densely.

    Of each way the `seconds an image` and `10^9 multiply-adds an image`; `equal`, the share of pixels with equal labels;
    `difference`, the largest between two logits; how many `images`, and the `size` of the first.
    """
    setup = Setup.of(config)
    content = checkpoints.load(trained / "checkpoints" / "best.pt")
    model = untrained(config, classes).model
    zoo.fit_weights(model, checkpoints.judged_weights(content), source=str(trained))
    setup.place(model).eval()
    assert isinstance(model, SlidingWindow)
    reader = open_reader(config, "val", classes=classes)
    transform = build_transform(config, reader, train=False)

    def image(index: int) -> Tensor:
        batch = collate([transform(reader[index])]).to(setup.device)
        height, width = batch.sizes[0].tolist()
        return model.backbone.normalize(batch.images, batch.sizes)[..., :height, :width]

    def logits(way: Way, image: Tensor) -> Tensor:
        model.evaluate = way
        return model.logits(image)

    equal, pixels, difference, count = 0, 0, 0.0, min(images, len(reader))
    with torch.no_grad(), _exact(), Progress(count, title="label", unit="image") as progress:
        for index in range(count):
            shown = image(index)
            one, other = (logits(way, shown) for way in get_args(Way))
            equal += int((one.argmax(1) == other.argmax(1)).sum())
            pixels += one[:, 0].numel()
            difference = max(difference, float((one - other).abs().max()))
            progress.advance()
        first = image(0)
        works = {way: partial(logits, way, first) for way in get_args(Way)}
        operations = {way: multiply_adds(work) for way, work in works.items()}
        seconds = seconds_in_turn(works, setup.device, repeats=repeats)
    costs = {
        way: {"seconds an image": seconds[way], "10^9 multiply-adds an image": operations[way] / 1e9}
        for way in works
    }
    size = "x".join(map(str, first.shape[2:]))
    return {**costs, "equal": equal / pixels, "difference": difference, "images": count, "size": size}


def training_steps(
    systems: Mapping[str, Config],
    classes: ClassInfo,
    *,
    size: int,
    batch_size: int,
    repeats: int,
    seed: int,
) -> Result:
    """Of each system with images of size x size random pixels: the `seconds a step`, the `MB kept an image` for the
    gradients, and the `10^9 multiply-adds an image` to label it."""
    random = _random_batch(size, batch_size, len(classes), seed)
    steps, costs = {}, dict[str, dict[str, float]]()
    with _exact(), Progress(len(systems), title=f"{size} pixels", unit="system") as progress:
        for system, config in systems.items():
            setup, task = Setup.of(config), untrained(config, classes)
            batch = random.to(setup.device)
            model: Any = setup.place(task.model)
            optimizer = build(config["optimizer"], model=model)
            scheduler = build(config["scheduler"], optimizer=optimizer, max_steps=repeats)
            learner = Learner(
                task, optimizer, scheduler, setup.engine, precision=setup.precision, processes=ALONE
            )
            steps[system] = partial(learner.step, 1, repeat(batch))
            model.eval()
            with torch.no_grad():
                image = model.backbone.normalize(batch.images[:1], batch.sizes[:1])
                operations = multiply_adds(partial(model.logits, image))
            model.train()
            kept = kept_for_backward(steps[system], model) / batch_size
            costs[system] = {"MB kept an image": kept / 1e6, "10^9 multiply-adds an image": operations / 1e9}
            progress.advance()
        seconds = seconds_in_turn(steps, setup.device, repeats=repeats)
    return {system: {"seconds a step": seconds[system], **costs[system]} for system in systems}


def _random_batch(size: int, count: int, classes: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(derive(seed, "segmentation", size))
    draw = partial(torch.randint, dtype=torch.uint8, generator=generator)
    sizes = torch.tensor([[size, size]]).repeat(count, 1)
    return Batch(
        images=draw(0, 256, (count, 3, size, size)),
        sizes=sizes,
        orig_sizes=sizes,
        image_ids=list(range(count)),
        segmentation=draw(0, classes, (count, size, size)),
    )


def _exact() -> AbstractContextManager[None]:
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
