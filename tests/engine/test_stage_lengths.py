"""How long each stage is: shares of one run's steps, also when the run is made longer or shorter on the way."""

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cvtasks.config.schema import EngineConfig
from cvtasks.engine.loop import Clock, schedule_length
from cvtasks.engine.stages import stage_shares
from cvtasks.errors import ConfigError

from .staged import Cascade, staged_task, train_staged
from .test_loop import Killed, killed_after, lines
from .test_stages import resume_of


def test_a_run_shorter_than_its_stages_gives_each_a_step(tmp_path: Path) -> None:
    # What debug=one_step asks for.
    task = staged_task()
    state = train_staged(tmp_path, task=task, max_steps=1, shares=(9, 1, 1))
    assert (state.step, state.stage) == (3, 2)
    assert [line["stage"] for line in lines(tmp_path) if "fit/score" in line] == list(task.model.stages)


def test_a_finished_run_that_is_made_longer_goes_on_in_its_last_stage(tmp_path: Path) -> None:
    train_staged(tmp_path, max_steps=9, shares=None)
    task = staged_task()
    state = train_staged(tmp_path, task=task, max_steps=20, shares=None, resume=resume_of(tmp_path))
    assert (state.step, state.stage, state.stage_began) == (20, 2, 6)
    assert task.model.seen == []  # no stage began


def test_a_run_made_longer_within_a_stage_shares_what_is_left(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train_staged(tmp_path, max_steps=9, shares=None, batches=killed_after(5), checkpoint_every=1)
    train_staged(tmp_path, max_steps=19, shares=None, resume=resume_of(tmp_path))
    # The first stage had its 3 of 9 steps; the second gets half of the 16 left, and the third the other half.
    ends = {line["stage"]: line["step"] for line in lines(tmp_path) if "fit/score" in line}
    assert ends == {"stage 1": 3, "stage 2": 11, "stage 3": 19}


def test_a_run_made_shorter_than_it_is_takes_a_step_in_each_stage_that_is_left(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train_staged(tmp_path, batches=killed_after(5), checkpoint_every=1)
    state = train_staged(tmp_path, max_steps=3, resume=resume_of(tmp_path))
    assert (state.step, state.stage) == (7, 2)


@pytest.mark.parametrize(
    ("model", "shares", "said"),
    [
        (Cascade(), [1, 1], r"task\.stage_steps has 2 shares, and the model has 3 stages \(stage 1, stage 2, stage 3\)"),
        (torch.nn.Linear(1, 1), [1], "task.stage_steps has 1 shares, and the model has no stages"),
        (Cascade(), [0, 0, 0], "gives no stage any steps"),
    ],
)  # fmt: skip
def test_shares_that_do_not_fit_are_refused_in_one_line(model: Any, shares: list[float], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        stage_shares(model, shares)


@given(
    st.integers(1, 3000),
    st.lists(st.sampled_from([0, 0.1, 1, 2, 7.5]), min_size=1, max_size=6).filter(any),
)
def test_stages_share_all_steps_and_each_that_has_a_share_gets_one(steps: int, shares: list[float]) -> None:
    cfg = EngineConfig(max_steps=steps)
    clock = schedule_length(cfg, images=4, batch_size=2, shares=tuple(shares))
    lengths = clock.lengths()
    assert sum(lengths) == clock.max_steps >= steps
    assert [length > 0 for length in lengths] == [share > 0 for share in shares]
    for length, share in zip(lengths, shares, strict=True):
        exact = steps * share / sum(shares)
        assert abs(length - exact) <= len(shares) or steps < 10 * len(shares)


def test_the_borders_of_equal_and_of_other_shares() -> None:
    assert Clock(300, 1, 1, 1.0, (1.0, 1.0, 1.0)).lengths() == [100, 100, 100]
    assert Clock(100, 1, 1, 1.0, (2, 1, 1)).lengths() == [50, 25, 25]
    assert Clock(13, 1, 1, 1.0, (2, 1, 1)).lengths() == [6, 4, 3]
    assert Clock(3, 1, 1, 1.0, (10, 1, 1)).lengths() == [1, 1, 1]
