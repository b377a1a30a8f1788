"""What each of two processes does in test_distributed.py; run as `python -m engine.two_processes FOLDER`.

It leaves `<check>.<rank>.pt` for the tests to look at.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cvtasks.engine import checkpoint
from cvtasks.engine.distributed import Processes, joined
from cvtasks.engine.evaluation import evaluate, predicted
from cvtasks.engine.learner import Learner
from cvtasks.errors import CvtasksError
from cvtasks.nn.norm import synchronized
from cvtasks.types import Batch, Task

from .detector import detector_task, scenes
from .regression import (
    FP32,
    Regressor,
    held_out,
    learner_of,
    make_batch,
    make_task,
    mean_alone,
    stream,
    train,
)
from .staged import staged_task, train_staged
from .test_solved_stages import solved_task, train_solved


class Killed(Exception):
    pass


def part(batches: Callable[[int], Iterator[Batch]], processes: Processes) -> Any:
    """A process's own images of each batch of the stream."""

    def own(first: int) -> Iterator[Batch]:
        for batch in batches(first):
            rows = slice(processes.rank * 2, processes.rank * 2 + 2)
            moved = {k: v[rows] if isinstance(v, Tensor) else v for k, v in vars(batch).items()}
            yield Batch(**moved | {"image_ids": batch.image_ids[rows]})

    return own


def gradients(learner: Learner) -> dict[str, Tensor]:
    return {n: p.grad for n, p in learner.model.named_parameters() if p.grad is not None}


def check_gradients(folder: Path, processes: Processes) -> dict[str, Any]:
    task = mean_alone(make_task(dropout=0.0))
    synchronized(task.model, torch.device("cpu"))
    learner = learner_of(task, processes=processes, accumulate=2)
    learner.step(1, part(stream, processes)(0))
    return gradients(learner) | {"running": task.model.norm.running_var}


def check_detector(folder: Path, processes: Processes) -> dict[str, Any]:
    learner = learner_of(detector_task(), processes=processes)
    step = learner.step(1, iter([scenes(range(2 * processes.rank, 2 * processes.rank + 2))]))
    return gradients(learner) | {"losses": torch.stack(processes.gather(step.losses)).mean(0)}


def check_evaluation(folder: Path, processes: Processes) -> dict[str, Any]:
    task = make_task()
    if not processes.first:  # running statistics of its own images
        task.model.norm.running_mean += 1.0
    mine = held_out()[processes.rank : processes.rank + 1]
    return evaluate(task, mine, precision=FP32, processes=processes)


def check_resume(folder: Path, processes: Processes) -> dict[str, Any]:
    settings = {"max_steps": 9, "checkpoint_every": 2, "eval_every": 4, "ema": 0.9}
    batches = part(stream, processes)

    def killed(first: int) -> Iterator[Batch]:
        for number, batch in enumerate(batches(first), first):
            if number == 5:
                raise Killed
            yield batch

    train(folder / "unbroken", batches=batches, processes=processes, **settings)
    with contextlib.suppress(Killed):
        train(folder / "broken", batches=killed, processes=processes, **settings)
    resume = processes.share(checkpoint.load_last(folder / "broken")[0])
    train(folder / "broken", batches=batches, processes=processes, resume=resume, **settings)
    return {}


def check_stages(folder: Path, processes: Processes) -> dict[str, Any]:
    """A run in stages; one that is killed while the second stage, and then the third, reads its predictions."""

    def train_part(name: str, task: Task, **more: Any) -> None:
        resume = processes.share(checkpoint.load_last(folder / name)[0])
        batches = part(stream, processes)
        train_staged(folder / name, task=task, batches=batches, processes=processes, resume=resume, **more)

    def killed(batches: Iterable[Batch]) -> Iterator[Batch]:
        yield next(iter(batches))
        raise Killed

    whole = staged_task()
    train_part("staged", whole, ema=0.9)
    with contextlib.suppress(Killed):
        train_part("staged broken", staged_task(), ema=0.9, on_predict=killed)
    with contextlib.suppress(Killed):
        train_part("staged broken", staged_task(), ema=0.9, on_predict=killed)
    train_part("staged broken", staged_task(), ema=0.9)
    return {"seen": whole.model.seen, "model": whole.model.state_dict()}


def check_solved(folder: Path, processes: Processes) -> dict[str, Any]:
    """A run whose last two stages are solved; DistributedDataParallel refuses a model in which nothing learns."""
    task = solved_task()
    train_solved(folder / "solved", task, batches=part(stream, processes), processes=processes)
    return {"stage": task.model.stage, "model": task.model.state_dict()}


def check_predicted(folder: Path, processes: Processes) -> dict[str, Any]:
    """Of three batches the first process has two."""
    model = staged_task().model
    if not processes.first:  # running statistics of its own images
        model.parts[0].norm.running_mean += 1.0
    all_batches = [make_batch(ids, truth=True) for ids in ([5, 3], [1, 4], [2])]
    mine = all_batches[processes.rank :: processes.world]
    pairs = list(predicted(model, mine, precision=FP32, processes=processes))
    return {
        "ids": [batch.image_ids for batch, _ in pairs],
        "labels": torch.cat([batch.label for batch, _ in pairs]),
        "values": torch.stack([p["value"] for _, found in pairs for p in found]),
    }


def check_not_finite(folder: Path, processes: Processes) -> dict[str, Any]:
    class Breaks(Regressor):
        steps = 0

        def losses(self, batch: Batch) -> dict[str, Tensor]:
            self.steps += self.training
            bad = float("nan") if self.steps == 2 and processes.rank == 1 else 0.0
            return {name: value + bad for name, value in super().losses(batch).items()}

    try:
        train(folder / "nan", task=make_task(Breaks()), batches=part(stream, processes), processes=processes)
    except CvtasksError as error:
        return {"error": str(error), "code": error.exit_code}
    return {}


def check_signal(folder: Path, processes: Processes) -> dict[str, Any]:
    def signalled(first: int) -> Iterator[Batch]:
        for number, batch in enumerate(part(stream, processes)(first), first):
            if number == 3 and processes.rank == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    try:
        train(folder / "signal", batches=signalled, processes=processes)
    except CvtasksError as error:
        return {"error": str(error), "code": error.exit_code}
    return {}


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with joined() as processes:
        for name, check in list(globals().items()):
            if name.startswith("check_"):
                torch.manual_seed(processes.rank)  # nothing may depend on it
                result = check(folder, processes)
                torch.save(result, folder / f"{name.removeprefix('check_')}.{processes.rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
