"""The steps since the last log line: their losses are read from the device all at once, checked, and averaged.

A loss that is not finite is therefore seen some steps late. The stream can be entered anywhere, so the batch that
caused it is loaded again, and kept for replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from cvtasks.config.schema import EngineConfig
from cvtasks.engine import checkpoint as checkpoints
from cvtasks.engine.distributed import Processes
from cvtasks.engine.learner import Step
from cvtasks.engine.run import Run
from cvtasks.engine.terms import Terms
from cvtasks.errors import CvtasksError, NonFiniteLossError
from cvtasks.types import Batch, ImageId, Task

REPLAY = "not_finite.pt"
"""In the run's folder: `step` and `batches`, each the fields of a `Batch`."""


class Window:
    """Collects the losses of steps, of all processes together.

    read: rows of losses [terms] on the host that were read since the last line; a part of the run's state.
    batches: the stream of training batches from batch n on.
    """

    def __init__(
        self,
        read: list[Tensor],
        task: Task,
        cfg: EngineConfig,
        batches: Callable[[int], Iterator[Batch]],
        run: Run,
        processes: Processes,
    ) -> None:
        self._read, self._new = read, list[Step]()
        self._last: Step | None = None
        self._model, self._terms = task.model, Terms(task.loss_weights, torch.device("cpu"))
        self._accumulate = cfg.accumulate
        self._batches, self._run, self._processes = batches, run, processes

    def add(self, step: Step) -> None:
        self._new.append(step)

    def record(self) -> dict[str, float]:
        """The mean of all steps since the last call, by the names of the terms. Raises NonFiniteLossError."""
        self.check()
        record = self._terms.record(torch.stack(self._read).mean(0))
        self._read.clear()
        return record

    def check(self) -> None:
        """Wait for the device and read what is new. Raises NonFiniteLossError for the first NaN or infinity."""
        if not self._new:
            return
        losses = torch.stack([step.losses for step in self._new]).cpu()
        each = self._processes.gather((losses, [step.images for step in self._new]))
        rows = torch.stack([part for part, _ in each], dim=1)  # [steps, processes, terms]
        bad = (~rows.isfinite()).nonzero()
        if len(bad):
            row, rank, term = bad[0].tolist()
            step, images = self._new[row], each[rank][1][row]
            what = f"the loss {self._terms.names[term]} is {rows[row, rank, term].item()}"
            raise self._not_finite(step, what, images, mine=rank == self._processes.rank)
        self._read += rows.mean(1)
        self._last, self._new = self._new[-1], []

    def check_weights(self) -> None:
        """After `check`: raises NonFiniteLossError if the last step has spoilt them; no checkpoint is worth less."""
        weights = self._model.state_dict()
        finite = torch.stack([w.isfinite().all() for w in weights.values()])
        if not finite.all():
            what = f"the weights {list(weights)[int(finite.int().argmin())]} are no longer finite"
            if self._last is None:  # no step has been taken: a stage has begun with them
                raise NonFiniteLossError(what)
            raise self._not_finite(self._last, what, self._last.images)

    def _not_finite(
        self, step: Step, what: str, images: Sequence[ImageId], *, mine: bool = True
    ) -> NonFiniteLossError:
        file = self._run.folder / REPLAY
        kept = f"; the batch is kept in {file}" if not mine or self._keep(step, file) else ""
        return NonFiniteLossError(
            f"step {step.number}: {what} (learning rate {step.lr:.3g}, images {', '.join(map(str, images))}){kept}; "
            "try a lower optimizer.lr, engine.clip_norm=10, or engine.precision=fp32"
        )

    def _keep(self, step: Step, file: Path) -> bool:
        try:
            stream = self._batches((step.number - 1) * self._accumulate)
            batches = [vars(next(stream)) for _ in range(self._accumulate)]
            checkpoints.save(file, {"step": step.number, "batches": batches})
        except CvtasksError:  # it must not hide what is told here
            return False
        return True
