from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR, PolynomialLR

from cvtasks.engine.schedules import constant, cosine, multi_step, polynomial


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=0.5)


def rates(build: Callable[..., LRScheduler], steps: int, **settings: Any) -> list[float]:
    """The learning rate of each step."""
    o = optimizer()
    scheduler, found = build(o, **settings), []
    for _ in range(steps):
        found.append(o.param_groups[0]["lr"])
        o.step()
        scheduler.step()
    return found


def test_hand_numbers() -> None:
    warm = {"warmup_steps": 2, "warmup_factor": 0.5, "max_steps": 8}
    assert rates(constant, 4, **warm) == pytest.approx([0.25, 0.375, 0.5, 0.5])
    assert rates(multi_step, 8, milestones=[0.5, 0.75], gamma=0.1, **warm) == pytest.approx(
        [0.25, 0.375, 0.5, 0.5, 0.05, 0.05, 0.005, 0.005]
    )
    assert rates(polynomial, 9, power=1, warmup_steps=0, max_steps=8) == pytest.approx(
        [0.5 * (8 - i) / 8 for i in range(9)]
    )
    halfway = rates(cosine, 9, final_factor=0.2, warmup_steps=0, max_steps=8)
    assert [halfway[0], halfway[4], halfway[8]] == pytest.approx([0.5, 0.3, 0.1])


@pytest.mark.parametrize(
    ("ours", "settings", "torchs"),
    [
        (multi_step, {"milestones": [0.6, 0.9], "gamma": 0.2}, lambda o: MultiStepLR(o, [60, 90], gamma=0.2)),
        (cosine, {"final_factor": 0.1}, lambda o: CosineAnnealingLR(o, 100, eta_min=0.05)),
        (polynomial, {"power": 0.9}, lambda o: PolynomialLR(o, 100, power=0.9)),
        (
            constant,
            {"warmup_steps": 20, "warmup_factor": 0.1},
            lambda o: LinearLR(o, start_factor=0.1, total_iters=20),
        ),
    ],
)
def test_without_warmup_they_are_torchs_own(
    ours: Callable[..., LRScheduler], settings: dict[str, Any], torchs: Callable[..., LRScheduler]
) -> None:
    settings = {"warmup_steps": 0, "max_steps": 100} | settings
    assert rates(ours, 100, **settings) == pytest.approx(rates(torchs, 100), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("build", [multi_step, cosine, polynomial, constant])
def test_a_schedule_is_a_function_of_the_step_alone(build: Callable[..., LRScheduler]) -> None:
    # A resumed schedule, loaded at any step, goes on with the same bits.
    settings = {"max_steps": 20, "warmup_steps": 6}
    whole = rates(build, 20, **settings)
    o = optimizer()
    first = build(o, **settings)
    for _ in range(9):
        o.step()
        first.step()
    again = optimizer()
    second = build(again, **settings)
    again.load_state_dict(o.state_dict())
    second.load_state_dict(first.state_dict())
    found = []
    for _ in range(9, 20):
        found.append(again.param_groups[0]["lr"])
        again.step()
        second.step()
    assert found == whole[9:]


def test_a_short_run_still_leaves_its_warmup() -> None:
    assert max(rates(constant, 10, max_steps=10, warmup_steps=500)) == 0.5
    assert rates(constant, 1, max_steps=1, warmup_steps=500) == [0.5]
