"""A task of milliseconds that has all that can break a resume: batch norm, dropout, momentum, a sampled loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cvtasks.config.schema import EngineConfig
from cvtasks.engine import loop, optim, schedules
from cvtasks.engine.distributed import ALONE, Processes
from cvtasks.engine.evaluation import evaluate, predicted
from cvtasks.engine.learner import Learner
from cvtasks.engine.precision import Precision
from cvtasks.engine.run import Follower, Run
from cvtasks.engine.stages import stage_shares
from cvtasks.types import Batch, Prediction, Task, Truth

IMAGES, BATCH_SIZE, SEED = 12, 4, 7
FP32 = Precision("fp32", torch.device("cpu"))


def image(number: int) -> Tensor:
    return torch.randint(
        0, 256, (3, 4, 4), generator=torch.Generator().manual_seed(number), dtype=torch.uint8
    )


def make_batch(ids: Sequence[int], *, truth: bool = False) -> Batch:
    """The label of an image is its mean brightness, 0..1."""
    images = torch.stack([image(i) for i in ids])
    sizes = torch.full((len(ids), 2), 4)
    labels = images.float().mean((1, 2, 3)) / 255
    truths = [{"label": v} for v in labels.tolist()] if truth else None
    return Batch(images, sizes, sizes, list(ids), label=labels, truth=truths)


def stream(first: int, *, batch_size: int = BATCH_SIZE) -> Iterator[Batch]:
    """Batches from number `first` on: a new order of all images in each epoch."""
    per_epoch = IMAGES // batch_size
    for number in range(first, 10**9):
        epoch, position = divmod(number, per_epoch)
        order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(epoch)).tolist()
        yield make_batch(order[position * batch_size : (position + 1) * batch_size])


class Regressor(nn.Module):
    def __init__(self, *, dropout: float = 0.2, norm: bool = True) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(4, 1)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.dropout(self.norm(self.backbone(images.float() / 255)))
        return self.head(maps.mean((2, 3))).squeeze(1)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.label is not None
        errors = (self(batch.images).float() - batch.label).square()
        sampled = errors[torch.randint(len(errors), ())]
        return {"fit": errors.mean(), "sampled": sampled}

    def predict(self, batch: Batch) -> list[Prediction]:
        return [{"value": v} for v in self(batch.images)]


class ErrorEvaluator:
    """`fit/score`: minus the mean absolute error."""

    def reset(self) -> None:
        self.errors: list[float] = []

    def update(self, predictions: Sequence[Prediction], truth: Sequence[Truth]) -> None:
        self.errors += [abs(float(p["value"]) - t["label"]) for p, t in zip(predictions, truth, strict=True)]

    def state(self) -> list[float]:
        return self.errors

    def merge(self, states: Iterable[list[float]]) -> None:
        for state in states:
            self.errors += state

    def compute(self) -> dict[str, float]:
        return {"fit/score": -sum(self.errors) / len(self.errors), "fit/undefined": float("nan")}


def make_task(model: nn.Module | None = None, **options: Any) -> Task:
    torch.manual_seed(SEED)
    weights = {"fit": 1.0, "sampled": 0.5}
    model = model or Regressor(**options)
    return Task("regression", model, ErrorEvaluator(), frozenset({"label"}), "fit/score", weights)


def mean_alone(task: Task) -> Task:
    """Without the sampled loss, which draws differently in two batches than in one."""
    return replace(task, loss_weights={"fit": 1.0, "sampled": 0.0})


def learner_of(task: Task, *, processes: Processes = ALONE, **engine: Any) -> Learner:
    optimizer = optim.sgd(task.model, lr=0.05)
    scheduler = schedules.constant(optimizer, max_steps=10)
    return Learner(task, optimizer, scheduler, EngineConfig(**engine), precision=FP32, processes=processes)


def train(
    folder: Path,
    *,
    task: Task | None = None,
    resume: Mapping[str, Any] | None = None,
    optimizer: str = "sgd",
    lr: float = 0.05,
    batches: Any = stream,
    on_predict: Callable[[Iterable[Batch]], Iterable[Batch]] = iter,
    shares: Sequence[float] | None = None,
    precision: Precision = FP32,
    keep_features: bool = False,
    processes: Processes = ALONE,
    **engine: Any,
) -> loop.State:
    """`fit` as the application calls it."""
    task = task or make_task()
    cfg = EngineConfig(**{"max_steps": 10, "log_every": 3, "eval_every": 5} | engine)
    given = stage_shares(task.model, shares)
    clock = loop.schedule_length(cfg, images=IMAGES, batch_size=BATCH_SIZE, shares=given)

    def optimize(steps: int) -> tuple[Any, Any]:
        built = {"sgd": optim.sgd, "adamw": optim.adamw}[optimizer](task.model, lr=lr)
        return built, schedules.cosine(built, max_steps=steps, warmup_steps=3)

    def predictions() -> Any:
        # The training images in batches of two; each process predicts every world-th.
        mine = [make_batch(range(n, n + 2), truth=True) for n in range(0, IMAGES, 2)]
        turns = on_predict(mine[processes.rank :: processes.world])
        yield from predicted(task.model, turns, precision=precision, processes=processes)

    def evaluate_now(step: int) -> dict[str, float]:
        # Each process judges one of the two batches; one alone judges both.
        mine = held_out()[processes.rank :: processes.world]
        return evaluate(task, mine, precision=precision, processes=processes)

    with Run(folder) if processes.first else Follower(folder) as run:
        return loop.fit(
            task,
            batches,
            optimize,
            cfg,
            run,
            clock=clock,
            precision=precision,
            seed=SEED,
            evaluate_now=evaluate_now,
            predictions=predictions,
            about={"task": "regression", "config": "seed: 7"},
            resume=resume,
            keep_features=keep_features,
            processes=processes,
        )


def held_out() -> list[Batch]:
    return [make_batch([100, 101, 102], truth=True), make_batch([103, 104], truth=True)]
