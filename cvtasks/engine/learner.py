"""One optimizer step: losses of the accumulated batches, their gradients, the update, and the average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from cvtasks.config.schema import EngineConfig
from cvtasks.engine import stages
from cvtasks.engine.distributed import Processes
from cvtasks.engine.ema import Ema
from cvtasks.engine.memory import out_of_memory_named
from cvtasks.engine.precision import Precision
from cvtasks.engine.terms import Terms
from cvtasks.errors import WeightsError
from cvtasks.types import Batch, ImageId, Task


@dataclass
class Step:
    """What is remembered of a step until the next log line."""

    number: int
    lr: float
    images: list[ImageId]
    losses: Tensor
    """float32 [terms], on the device"""


class Learner:
    """All that changes with a step, and so is in every checkpoint: model, average, optimizer, scheduler, scaler."""

    def __init__(
        self,
        task: Task,
        optimizer: Optimizer | None,
        scheduler: LRScheduler | None,
        cfg: EngineConfig,
        *,
        precision: Precision,
        processes: Processes,
        began: int = 0,
    ) -> None:
        """began: the step after which its stage began; the average of the weights begins anew with each.

        optimizer, scheduler: None for a stage without steps.
        """
        self.model, self.optimizer, self.scheduler = task.model, optimizer, scheduler
        self.cfg, self.precision, self._began = cfg, precision, began
        self.terms = Terms(task.loss_weights, precision.device)
        self.scaler = torch.amp.GradScaler(precision.device.type, enabled=precision.name == "fp16")
        self.ema = Ema(task.model, cfg.ema) if cfg.ema is not None else None
        self._trained = [p for p in task.model.parameters() if p.requires_grad]
        self._parallel: nn.Module = _Losses(task.model, self.terms)
        if optimizer is not None:
            self._parallel = processes.parallel(self._parallel)
        self._losses = torch.compile(self._parallel) if cfg.compile else self._parallel

    def step(self, number: int, stream: Iterator[Batch]) -> Step:
        """Learn from the next batches of the stream. Nothing in it waits for the device."""
        assert self.optimizer is not None, "a stage without steps takes none"
        assert self.scheduler is not None
        self.optimizer.zero_grad(set_to_none=True)
        lr, losses, ids = self.optimizer.param_groups[0]["lr"], list[Tensor](), list[ImageId]()
        accumulate = self.cfg.accumulate
        for last in [False] * (accumulate - 1) + [True]:
            batch = next(stream).to(self.precision.device)
            named = out_of_memory_named(
                f"step {number}", batch, key="loader.batch_size", accumulate=accumulate
            )
            with named, contextlib.nullcontext() if last else self._alone():
                with self.precision.autocast():
                    values = self._losses(batch)
                self.scaler.scale(self.terms.total(values) / accumulate).backward()
            losses.append(values.detach())
            ids += batch.image_ids
        if self.cfg.clip_norm is not None:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self._trained, self.cfg.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.scheduler.step()
        if self.ema is not None:
            self.ema.update(number - self._began)
        return Step(number, lr, ids, losses[0] if accumulate == 1 else torch.stack(losses).mean(0))

    def judged(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the model has the weights that are to be judged: their average, if one is kept."""
        return contextlib.nullcontext() if self.ema is None else self.ema.applied()

    def keep_judged(self) -> None:
        """Give the model for good the weights that were judged: its next stage builds on them."""
        if self.ema is not None:
            self.model.load_state_dict(self.ema.average)

    def content(self) -> dict[str, Any]:
        """For a checkpoint. `ema` is what to evaluate with, where it is there."""
        average = {} if self.ema is None else {"ema": self.ema.average}
        return {
            **average,
            **stages.content(self.model),
            "model": self.model.state_dict(),
            "optimizer": {} if self.optimizer is None else self.optimizer.state_dict(),
            "scheduler": {} if self.scheduler is None else self.scheduler.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def restore(self, content: Mapping[str, Any]) -> None:
        """Take over a checkpoint's state. Raises WeightsError if it is of another model or optimizer."""
        try:
            self.model.load_state_dict(content["model"])
            if self.optimizer is not None and self.scheduler is not None:
                self.optimizer.load_state_dict(content["optimizer"])
                self.scheduler.load_state_dict(content["scheduler"])
            if content.get("scaler") and self.scaler.is_enabled():
                self.scaler.load_state_dict(content["scaler"])
            if self.ema is not None:
                # A run that kept no average so far begins one with its weights.
                self.ema.load(content.get("ema", content["model"]))
        except (RuntimeError, ValueError, KeyError) as error:
            reason = " ".join(str(error).split())[:200]
            raise WeightsError(
                f"the checkpoint is of another model or optimizer ({reason}); resume without task=, backbone= and "
                "optimizer="
            ) from None

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """Inside, processes do not exchange gradients: they do so at the last of the accumulated batches."""
        no_sync = getattr(self._parallel, "no_sync", contextlib.nullcontext)
        return no_sync()


class _Losses(nn.Module):
    """The losses as a module's call, which is what DistributedDataParallel and torch.compile take."""

    def __init__(self, model: Any, terms: Terms) -> None:
        super().__init__()
        self.model, self.terms = model, terms

    def forward(self, batch: Batch) -> Tensor:
        return self.terms.stack(self.model.losses(batch))
