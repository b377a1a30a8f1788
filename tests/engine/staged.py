"""A cascade of three small regressors that are trained in turn: each corrects the sum of those before it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cvtasks.engine.loop import State
from cvtasks.types import Batch, Prediction, Task

from .regression import Regressor, make_task, train

STEPS = {"max_steps": 13, "eval_every": 4, "checkpoint_every": 2}
SHARES = (2, 1, 1)
ENDS = (6, 10, 13)
"""The last step of each stage, worked out by hand: 6.5, then 3.5 of the 7 steps left, rounded to even"""


class Cascade(nn.Module):
    """`shared` trains in every stage. From its second stage on it learns from targets that are displaced at random, by
    the mean and the deviation of the errors before."""

    number: Tensor
    errors: Tensor

    def __init__(self, stages: int = 3, **options: Any) -> None:
        super().__init__()
        self.stages = tuple(f"stage {n}" for n in range(1, stages + 1))
        self.parts = nn.ModuleList(Regressor(**options) for _ in self.stages)
        self.shared = nn.Parameter(torch.zeros(()))
        self.register_buffer("number", torch.zeros((), dtype=torch.int64))
        self.register_buffer("errors", torch.zeros(stages, 2))
        self.seen: list[list[Any]] = []
        """The images of the predictions that each stage began with"""

    @property
    def stage(self) -> int:
        return int(self.number)

    def begin_stage(
        self, index: int, predictions: Iterator[tuple[Batch, list[Prediction]]], folder: Path | None = None
    ) -> None:
        ids, errors = list[Any](), list[Tensor]()
        for batch, predicted in predictions:
            assert batch.label is not None
            ids += batch.image_ids
            errors.append(torch.stack([p["value"] for p in predicted]) - batch.label)
        self.seen.append(ids)
        if errors:
            self.errors[index] = torch.stack([torch.cat(errors).mean(), torch.cat(errors).std()])
        for n, part in enumerate(self.parts):
            part.requires_grad_(n == index)
        nn.init.normal_(self.parts[index].head.bias, std=0.1)
        self.number.fill_(index)

    def train(self, mode: bool = True) -> Cascade:
        super().train(mode)
        for part in self.parts[: self.stage]:
            part.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        return torch.stack([part(images) for part in self.parts[: self.stage + 1]]).sum(0) + self.shared

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        assert batch.label is not None
        mean, std = self.errors[self.stage]
        errors = self(batch.images).float() - batch.label + mean + std * torch.randn(len(batch))
        return {"fit": errors.square().mean(), "sampled": errors[torch.randint(len(errors), ())].square()}

    def predict(self, batch: Batch) -> list[Prediction]:
        return [{"value": value} for value in self(batch.images).float()]


def staged_task(stages: int = 3, **options: Any) -> Task:
    torch.manual_seed(5)
    return make_task(Cascade(stages, **options))


def train_staged(folder: Path, *, task: Task | None = None, **settings: Any) -> State:
    return train(folder, task=task or staged_task(), **{"shares": SHARES, **STEPS, **settings})
