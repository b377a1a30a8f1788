"""Judges a model on a stream of batches: the evaluator's numbers and the validation losses."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cvtasks.engine.distributed import ALONE, Processes
from cvtasks.engine.memory import out_of_memory_named
from cvtasks.engine.precision import Precision
from cvtasks.engine.progress import Progress
from cvtasks.engine.seeding import derive, seed_torch
from cvtasks.engine.terms import Terms
from cvtasks.types import Batch, Prediction, Task


def evaluate(
    task: Task,
    batches: Iterable[Batch],
    *,
    precision: Precision,
    losses: bool = True,
    progress: Progress | None = None,
    processes: Processes = ALONE,
) -> dict[str, float]:
    """The evaluator's numbers, and the losses as `val/loss` and `val/loss/<term>`; the same in every process.

    batches: this process's part of one list of batches. Leaves the first process's evaluator filled, and the model's
    modes and torch's random state as they were.
    """
    model, terms = task.model, Terms(task.loss_weights, precision.device)
    processes.share_buffers(model)
    task.evaluator.reset()
    summed: list[tuple[Tensor, int]] = []
    with judging(model, precision.device):
        for batch in batches:
            truth, batch = batch.truth, batch.to(precision.device)
            assert truth is not None, "evaluation needs the truth"
            # Every evaluation draws the same anchors and proposals, whichever process it is.
            seed_torch(derive(0, "evaluate", *batch.image_ids))
            with out_of_memory_named("evaluation", batch, key="loader.eval_batch_size"), precision.autocast():
                predictions = model.predict(batch)
                if losses:
                    values = terms.stack(model.losses(batch)).cpu().double()
                    summed.append((values * len(batch), len(batch)))
            task.evaluator.update(predictions, truth)
            if progress is not None:
                # The others are as far with their parts.
                progress.advance(min(len(batch) * processes.world, progress.total - progress.done))
    if processes.world > 1:
        states = processes.gather(task.evaluator.state())
        task.evaluator.reset()
        task.evaluator.merge(states)
        summed = [part for parts in processes.gather(summed) for part in parts]
    metrics = processes.share(task.evaluator.compute() if processes.first else {})
    if summed:
        # Added up batch by batch, so that one process and several come to the same last digit.
        total, images = torch.zeros(len(terms.names), dtype=torch.float64), 0
        for values, number in summed:
            total, images = total + values, images + number
        metrics |= {f"val/{name}": value for name, value in terms.record(total / images).items()}
    return metrics


def predicted(
    model: Any,
    batches: Iterable[Batch],
    *,
    precision: Precision,
    progress: Progress | None = None,
    processes: Processes = ALONE,
) -> Generator[tuple[Batch, list[Prediction]], None, None]:
    """Each batch with what the model says of it, both on the device: in every process all of them, in their order.

    A model that has `collect` says that, all others what they predict.
    batches: of one list this process's turns, every world-th. Computed as it is read, which all processes must do alike;
    the model's modes and torch's random state are the reader's in between.
    """
    processes.share_buffers(model)
    device, stream = precision.device, iter(batches)
    say = getattr(model, "collect", model.predict)
    while True:
        mine: tuple[Batch, list[Prediction]] | None = None
        if (batch := next(stream, None)) is not None:
            with (
                judging(model, device),
                out_of_memory_named("predictions", batch, key="loader.eval_batch_size"),
                precision.autocast(),
            ):
                seed_torch(derive(0, "evaluate", *batch.image_ids))
                mine = batch, [_moved(p, "cpu") for p in say(batch.to(device))]
        for turn in processes.gather(mine):
            if turn is None:  # the last round is not for everyone
                return
            batch, predictions = turn
            if progress is not None:
                progress.advance(len(batch))
            yield batch.to(device), [_moved(p, device) for p in predictions]


def _moved(prediction: Prediction, device: torch.device | str) -> Prediction:
    return {name: value.to(device) for name, value in prediction.items()}


@contextmanager
def judging(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode without gradients; modes and random state come back after it."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.no_grad():
        yield
    for module, training in modes.items():
        module.training = training
