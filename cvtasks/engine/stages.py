"""Training in stages, one after the other on one clock of steps: a cascade, or parts that are trained in turn.

DeepPose's networks, R-CNN's and SPP-net's steps, alternating training. Such a model is a `types.StagedModel`; any other
one has a single stage without a name. A stage is a fresh optimizer over what wants gradients, with a schedule and an
average of its own, and its own best checkpoint. What a stage has changed is in the model's state dict or is
`requires_grad`, so a checkpoint holds both. A stage that is solved, and not descended, has no steps and no optimizer.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from cvtasks.engine.seeding import seed_all
from cvtasks.errors import ConfigError
from cvtasks.types import Batch, Prediction


def stage_names(model: Any) -> tuple[str, ...]:
    """Of a model that trains in stages; none of any other."""
    return tuple(model.stages) if hasattr(model, "begin_stage") else ()


def stage_shares(model: Any, given: Sequence[float] | None) -> tuple[float, ...]:
    """Each stage's share of the steps: equal ones, none if it is solved, or `task.stage_steps`. Raises ConfigError."""
    names, solved = stage_names(model), getattr(model, "solved", ())
    if given is None:
        return tuple(float(name not in solved) for name in names) or (1.0,)
    if len(given) != len(names):
        stages = f"{len(names)} stages ({', '.join(names)})" if names else "no stages"
        raise ConfigError(f"task.stage_steps has {len(given)} shares, and the model has {stages}")
    for name, share in zip(names, given, strict=True):
        if share and name in solved:
            raise ConfigError(
                f"task.stage_steps gives steps to the stage {name}, which is solved; its share is 0"
            )
    if not any(given):
        raise ConfigError("task.stage_steps gives no stage any steps; type a share above 0 for one of them")
    return tuple(given)


def no_predictions() -> Generator[tuple[Batch, list[Prediction]], None, None]:
    """What the first stage gets: nothing comes before it."""
    yield from ()


def begin_stage(
    model: Any,
    index: int,
    predictions: Generator[tuple[Batch, list[Prediction]], None, None],
    *,
    seed: int,
    folder: Path | None = None,
) -> list[str]:
    """Begin a stage of a model that has stages; returns notes. What it draws at random is a function of (seed, index).

    folder: where the stages may keep what is expensive to compute again after a kill.
    """
    if not stage_names(model):
        return []
    seed_all(seed, "stage", index)
    model.zero_grad(set_to_none=True)  # of what is frozen from now on, no optimizer would
    with contextlib.closing(predictions):  # it need not be read to its end, and has workers
        return list(model.begin_stage(index, predictions, folder) or ())


def content(model: nn.Module) -> dict[str, Any]:
    """For a checkpoint of a model that has stages: their names, and what trains in the present one."""
    if not (names := stage_names(model)):
        return {}
    return {"stages": list(names), "trained": [n for n, p in model.named_parameters() if p.requires_grad]}


def restore_trained(model: nn.Module, content: Mapping[str, Any]) -> None:
    """Let the same parameters train as when the checkpoint was written; the optimizer is built over them."""
    if stage_names(model):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in content["trained"])
