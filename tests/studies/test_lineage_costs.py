"""The stopwatch, and which module's time is whose: a clock that only the modules themselves move."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from cvtasks.config.compose import compose
from cvtasks.models.detection.fast_rcnn import fast_rcnn
from cvtasks.models.detection.faster_rcnn import faster_rcnn
from cvtasks.models.detection.rcnn import rcnn
from cvtasks.models.detection.rfcn import rfcn
from cvtasks.models.detection.sliding_window import sliding_window_det
from cvtasks.models.detection.sppnet import sppnet
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.nn.region_detector import RegionDetector
from cvtasks.proposals.selective_search import SelectiveSearch
from cvtasks.studies.lineage_costs import PARTS, Stopwatch, seconds_of_parts, time_proposals, watched
from cvtasks.types import Batch, ClassInfo

CPU = torch.device("cpu")
CLASSES = ClassInfo(("one", "two"))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("cvtasks.studies.lineage_costs.time.perf_counter", lambda: now[0])
    return now


def test_of_nested_parts_the_innermost_runs_and_all_add_up(clock: list[float]) -> None:
    watch = Stopwatch(CPU)
    clock[0] = 100.0
    with watch.running("heads"):
        clock[0] += 1
        with watch.running("region features"):
            clock[0] += 2
            with watch.running("backbone"):
                clock[0] += 4
            clock[0] += 8
        clock[0] += 16
    clock[0] += 1000
    with watch.running("heads"):
        clock[0] += 32
    assert watch.seconds == {
        "proposals": 0, "backbone": 4, "region features": 10, "heads": 49, "suppression": 0,
    }  # fmt: skip


def test_a_part_that_fails_stops_its_watch(clock: list[float]) -> None:
    watch = Stopwatch(CPU)

    def failing() -> None:
        with watch.running("heads"), watch.running("backbone"):
            clock[0] += 3
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    clock[0] += 5
    with watch.running("suppression"):
        clock[0] += 7
    assert (watch.seconds["backbone"], watch.seconds["heads"], watch.seconds["suppression"]) == (3, 0, 7)


def batch(*, proposals: int = 5) -> Batch:
    size = torch.tensor([[64, 64]])
    boxes = torch.tensor([[4.0, 4, 40, 44]]).repeat(1, proposals, 1)
    return Batch(
        images=torch.zeros(1, 3, 64, 64, dtype=torch.uint8),
        sizes=size,
        orig_sizes=size,
        image_ids=[0],
        proposals=boxes,
    )


def systems() -> dict[str, Callable[[], Any]]:
    def network() -> Any:
        return tiny(width=8)

    return {
        "rcnn": lambda: rcnn(network(), classes=CLASSES, level="c4", crop_size=32, context=4, chunk=2),
        "joint": lambda: rcnn(
            network(), classes=CLASSES, training="joint", level="c4", crop_size=32, context=4
        ),
        "sppnet": lambda: sppnet(network(), classes=CLASSES, level="c3", head_channels=16),
        "fast_rcnn": lambda: fast_rcnn(network(), classes=CLASSES, level="c3", head_channels=16),
        "faster_rcnn": lambda: faster_rcnn(
            network(),
            classes=CLASSES,
            levels=["c3"],
            fpn_channels=None,
            anchor_sizes=[[16]],
            head_channels=16,
        ),
        "rfcn": lambda: rfcn(
            network(), classes=CLASSES, proposal_level="c3", level="c4", channels=16, anchor_sizes=[16]
        ),
        "sliding_window_det": lambda: sliding_window_det(
            network(), classes=CLASSES, level="c4", window_sizes=[32], crop=32, stride=16, run="crops"
        ),
    }


def slow(module: Any, clock: list[float], seconds: Callable[[], float]) -> None:
    """Its `forward` takes so many seconds of the clock."""
    forward = module.forward

    def slower(*args: Any) -> Any:
        clock[0] += seconds()
        return forward(*args)

    module.forward = slower


def cnn_of(model: Any) -> nn.Module:
    """The network, wherever a system has it."""
    head = next(iter(model.heads.values()))
    if hasattr(head, "run"):
        return head.backbone
    features = getattr(head, "features", None)
    return getattr(features, "backbone", model.backbone)


@pytest.mark.parametrize("system", systems())
def test_each_modules_time_is_its_own_parts(system: str, clock: list[float]) -> None:
    torch.manual_seed(0)
    model = systems()[system]().eval()
    head = next(iter(model.heads.values()))
    crops = {"rcnn": 3}.get(system, 1)  # five proposals, two at once
    expected = dict.fromkeys(PARTS, 0.0) | {"backbone": 2.0 * crops, "suppression": 64.0}
    slow(cnn_of(model), clock, lambda: 2)
    slow(head.suppression, clock, lambda: 64)
    if system in ("faster_rcnn", "rfcn"):
        slow(model.proposer.objectness, clock, lambda: 4)
        expected["proposals"] = 4
    if hasattr(head, "scores"):
        slow(head.scores, clock, lambda: 16)
        expected["heads"] = 16
    if hasattr(head, "features"):
        slow(head.features, clock, lambda: 32)
        expected["region features"] = 32
    began = clock[0]
    found = seconds_of_parts(model, lambda: model.predict(batch()), CPU, repeats=1)
    assert found == expected
    assert 2 * sum(found.values()) == clock[0] - began  # the one that warms up takes as long


def test_a_method_is_timed_on_each_image_whatever_the_cache_holds(
    clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    typed = ["task=fast_rcnn", "dataset.val.count=3", "dataset.image_size=64"]
    lengths = iter([100.0, 5, 1, 3, 100, 2, 8, 4])

    def slow_search(*_: Any) -> np.ndarray:
        clock[0] += next(lengths)
        return np.zeros((0, 4), np.float32)

    monkeypatch.setattr(SelectiveSearch, "__call__", slow_search)
    found = time_proposals(compose("train", typed), images=2, repeats=3)
    assert found == {"seconds": [3, 4]}  # the first of each warms up


def test_the_run_of_median_length_counts_and_the_first_one_does_not(clock: list[float]) -> None:
    model, lengths = systems()["fast_rcnn"]().eval(), iter([100.0, 5, 1, 3])
    slow(model.heads["box"].suppression, clock, lambda: next(lengths))
    found = seconds_of_parts(model, lambda: model.predict(batch()), CPU, repeats=3)
    assert found["suppression"] == sum(found.values()) == 3


def test_behind_the_watch_a_model_is_as_it_was() -> None:
    model = systems()["rcnn"]().eval()
    slow(model.heads["box"].features, [0.0], lambda: 1)
    before = {name: {**vars(module)} for name, module in model.named_modules()}
    with watched(model, lambda: Stopwatch(CPU)):
        assert "predict" in vars(model)
    assert {name: {**vars(module)} for name, module in model.named_modules()} == before


def test_a_watched_model_says_the_same() -> None:
    torch.manual_seed(1)
    model: RegionDetector = systems()["joint"]().eval()
    (plain,) = model.predict(batch())
    with watched(model, lambda: Stopwatch(CPU)):
        (timed,) = model.predict(batch())
    assert all(torch.equal(plain[key], timed[key]) for key in plain)
