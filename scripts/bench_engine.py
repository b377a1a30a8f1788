"""What the training engine adds to a bare step: python scripts/bench_engine.py --json

The same model on the same batches, on one thread: a hand-written loop (losses, backward, optimizer, scheduler), and
`fit` with all that it does besides: seeding, logging to metrics.jsonl and TensorBoard, progress, one clock. Two
models: one that does nearly nothing, for the microseconds, and the detector of `cvtasks train task=faster_rcnn`, for
the share. The two loops take turns, and the median of the differences between neighbours counts, in processor time,
which on one thread is the time that passes, but for what other programs take. Evaluations and checkpoints are left
out, as each run chooses how many it has.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from benchmarking import command_line
from torch import Tensor, nn

from cvtasks.assembly import build_task, build_transform, open_reader
from cvtasks.config.compose import compose
from cvtasks.config.schema import EngineConfig
from cvtasks.data.collate import collate
from cvtasks.engine.loop import Clock, fit
from cvtasks.engine.optim import sgd
from cvtasks.engine.precision import Precision
from cvtasks.engine.run import Run
from cvtasks.engine.schedules import cosine
from cvtasks.types import Batch, Task

FP32 = Precision("fp32", torch.device("cpu"))


class Nothing(nn.Module):
    """A model of microseconds with as many losses as a detector has."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        return {f"term{n}": value for n, value in enumerate(self.weight.unbind())}


def nothing() -> tuple[Task, Batch]:
    sizes = torch.full((8, 2), 4)
    batch = Batch(torch.zeros(8, 3, 4, 4, dtype=torch.uint8), sizes, sizes, list(range(8)))
    weights = {f"term{n}": 1.0 for n in range(4)}
    return Task("nothing", Nothing(), None, frozenset(), "none", weights), batch  # type: ignore[arg-type]


def detector() -> tuple[Task, Batch]:
    cfg = compose("train", ["task=faster_rcnn"])
    reader = open_reader(cfg, "train")
    transform = build_transform(cfg, reader, train=False)
    batch = collate([transform(reader[index]) for index in range(cfg["loader"]["batch_size"])])
    return build_task(cfg, reader.classes, reader.classes), batch


def bare(task: Task, batch: Batch, steps: int) -> float:
    """Seconds of a hand-written loop."""
    optimizer = sgd(task.model, lr=1e-6)
    scheduler = cosine(optimizer, max_steps=steps)
    weights = torch.tensor(list(task.loss_weights.values()))
    task.model.train()
    began = time.process_time()
    for _ in range(steps):
        optimizer.zero_grad()
        losses = task.model.losses(batch)
        (torch.stack(list(losses.values())) * weights).sum().backward()
        optimizer.step()
        scheduler.step()
    return time.process_time() - began


def engine(task: Task, batch: Batch, steps: int) -> float:
    """Seconds of `fit` from one batch's being asked for to the last one's."""
    optimizer = sgd(task.model, lr=1e-6)
    scheduler = cosine(optimizer, max_steps=steps)
    asked: list[float] = []

    def batches(first: int) -> Iterator[Batch]:
        for _ in itertools.count():
            asked.append(time.process_time())
            yield batch

    class Enough(Exception):
        pass

    def evaluate_now(step: int) -> dict[str, float]:
        raise Enough

    clock = Clock(steps + 1, steps + 1, steps + 1, 100.0)
    with (
        tempfile.TemporaryDirectory() as folder,
        contextlib.suppress(Enough),
        contextlib.redirect_stdout(io.StringIO()),
        Run(Path(folder)) as run,
    ):
        fit(
            task, batches, lambda steps: (optimizer, scheduler), EngineConfig(), run, clock=clock, precision=FP32, seed=0,
            evaluate_now=evaluate_now, about={},
        )  # fmt: skip
    return asked[steps] - asked[0]


def measure(task: Task, batch: Batch, steps: int, rounds: int) -> dict[str, Any]:
    bare(task, batch, steps), engine(task, batch, steps)  # first runs import and compile
    pairs = [(bare(task, batch, steps) / steps, engine(task, batch, steps) / steps) for _ in range(rounds)]
    step = statistics.median(a for a, _ in pairs)
    overhead = statistics.median(b - a for a, b in pairs)
    return {
        "bare_step_ms": round(1000 * step, 3),
        "overhead_us": round(1e6 * overhead, 1),
        "overhead_percent": round(100 * overhead / step, 2),
    }


def main() -> None:
    parser = command_line(__doc__)
    parser.add_argument("--steps", type=int, default=50, help="steps of a loop with the detector (50)")
    parser.add_argument("--rounds", type=int, default=7, help="how often the loops take turns (7)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    args = parser.parse_args()
    torch.set_num_threads(1)
    parts = {"nothing": (nothing(), 20 * args.steps), "faster_rcnn": (detector(), args.steps)}
    result: dict[str, Any] = {
        name: measure(*pair, steps, args.rounds) for name, (pair, steps) in parts.items()
    }
    result["torch"] = torch.__version__
    print(json.dumps(result) if args.json else "\n".join(f"{k:14}{v}" for k, v in result.items()))


if __name__ == "__main__":
    main()
