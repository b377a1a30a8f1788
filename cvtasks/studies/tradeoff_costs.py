"""One point of the trade-off: what a trained detector finds, how long it takes, and what it needs for that.

Accuracy is of the whole validation split. Time, memory and operations are of its first images, read and resized before.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cvtasks.assembly import Config
from cvtasks.engine.evaluation import evaluate
from cvtasks.engine.progress import Progress
from cvtasks.errors import ConfigError, DataError
from cvtasks.studies.costs import multiply_adds, peak_bytes, seconds_of
from cvtasks.studies.lineage_costs import method_on
from cvtasks.studies.networks import Trained, trained
from cvtasks.studies.parts import Result

METRICS = {
    "AP": "box/AP",
    "AP50": "box/AP50",
    "AP small": "box/AP_small",
    "AP medium": "box/AP_medium",
    "AP large": "box/AP_large",
}
"""COCO's sizes of objects: areas below 32 x 32 pixels, up to 96 x 96, and above"""


def measure(config: Config, *, images: int, repeats: int, batch_sizes: Sequence[int] = ()) -> Result:
    """The checkpoint of a configuration, judged and measured as that says.

    `metrics`; of each number of images at once, single ones first, the `seconds an image`: median and both quartiles;
    `peak_memory`, the most bytes that one of `images` takes, weights included; the median of their `flops`, where a
    multiply-add is two; `parameters`; `precision`. A time is of one run, and each batch is run `repeats` times after one
    that warms up; a method that computes proposals counts, too.
    """
    network = trained(config, Path(config["checkpoint"]))
    count = min(images, len(network.reader))
    if count == 0:
        raise DataError("the validation split has no image: check dataset.val and dataset.classes")
    batches = list(dict.fromkeys([1, *batch_sizes]))
    total = network.setup.eval_images(network.reader) + (1 + len(batches)) * count
    with Progress(total, title=f"measure {config['task']['name']}", unit="image") as progress:
        found = evaluate(
            network.task,
            network.setup.eval_stream(network.reader, network.transform),
            precision=network.setup.precision,
            losses=False,
            progress=progress,
        )
        if METRICS["AP"] not in found:
            raise ConfigError(f"task={config['task']['name']} is no detector; leave it out")
        times = {}
        for size in batches:
            times[str(size)] = seconds_an_image(network, size, images=count, repeats=repeats)
            progress.advance(count)
        peaks, operations = list[int](), list[int]()
        for index in range(count):
            batch = network.batch([index])
            peaks.append(peak_bytes(lambda batch=batch: network.predict(batch), network.setup.device))  # type: ignore[misc]
            operations.append(multiply_adds(lambda batch=batch: network.predict(batch)))  # type: ignore[misc]
            progress.advance()
    weights = [*network.model.parameters(), *network.model.buffers()]
    return {
        "metrics": {name: found.get(metric) for name, metric in METRICS.items()},
        "seconds an image": times,
        "peak_memory": max(peaks) + sum(each.numel() * each.element_size() for each in weights),
        "flops": 2 * float(np.median(operations)),
        "parameters": sum(each.numel() for each in network.model.parameters()),
        "precision": network.setup.precision.name,
    }


def seconds_an_image(network: Trained, batch_size: int, *, images: int, repeats: int) -> list[float]:
    """The median and the two quartiles of all runs; where the last batch lacks images, the first ones fill it."""
    seconds = []
    for first in range(0, images, batch_size):
        indices = [(first + i) % images for i in range(batch_size)]
        methods = [method for i in indices if (method := method_on(network.reader, i)) is not None]
        batch = network.batch(indices)

        def work(batch=batch, methods=methods) -> None:  # type: ignore[no-untyped-def]
            for method in methods:
                method()
            network.predict(batch)

        runs = [seconds_of(work, network.setup.device) for _ in range(1 + repeats)]
        seconds += [run / batch_size for run in runs[1:]]
    return [float(number) for number in np.percentile(seconds, (50, 25, 75))]
