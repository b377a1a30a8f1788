"""Multiply-adds, kept bytes and peaks, by hand."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cvtasks.studies.costs import kept_for_backward, multiply_adds, peak_bytes, seconds_in_turn

IMAGES = torch.rand(1, 2, 8, 8)
MAP = 64 * 4  # bytes of an 8 x 8 map in float32


def test_multiply_adds_are_those_of_each_output_in_turn() -> None:
    with torch.no_grad():
        assert multiply_adds(lambda: nn.Conv2d(2, 4, 3, padding=1)(IMAGES)) == 8 * 8 * 4 * (2 * 9)
        assert multiply_adds(lambda: nn.Conv2d(2, 4, 3, stride=2)(IMAGES)) == 3 * 3 * 4 * (2 * 9)
        assert multiply_adds(lambda: nn.ConvTranspose2d(2, 4, 2, 2)(IMAGES)) == 8 * 8 * 2 * (4 * 4)
        assert multiply_adds(lambda: nn.Linear(5, 7)(torch.rand(3, 5))) == 3 * 5 * 7


def test_a_convolution_keeps_its_input_and_its_weights_are_the_models_own() -> None:
    layer = nn.Conv2d(2, 4, 3, padding=1)
    assert kept_for_backward(lambda: layer(IMAGES), layer) == 2 * MAP
    assert kept_for_backward(lambda: layer(torch.cat([IMAGES] * 3)), layer) == 3 * 2 * MAP


def test_a_map_that_two_layers_keep_counts_once() -> None:
    # ReLU keeps what it gives, and the convolution behind it what it is given: the same four maps.
    layers = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3))
    assert kept_for_backward(lambda: layers(IMAGES), layers) == (2 + 4) * MAP


def test_what_is_kept_is_counted_through_to_the_end_of_the_backward_pass() -> None:
    layers = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 1, 1))
    step = lambda: layers(IMAGES).sum().backward()  # noqa: E731
    assert kept_for_backward(step, layers) == (2 + 4) * MAP
    assert layers[0].weight.grad is not None


def test_nothing_is_kept_without_gradients() -> None:
    layer = nn.Conv2d(2, 4, 3)
    with torch.no_grad():
        assert kept_for_backward(lambda: layer(IMAGES), layer) == 0


def test_works_take_turns_and_their_first_time_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = [0.0], list[str]()
    long = {"a": iter([100, 1, 5, 3]), "b": iter([100, 20, 20, 20])}

    def work(name: str) -> None:
        order.append(name)
        clock[0] += next(long[name])

    monkeypatch.setattr("cvtasks.studies.costs.time.perf_counter", lambda: clock[0])
    works = {name: lambda name=name: work(name) for name in "ab"}
    assert seconds_in_turn(works, torch.device("cpu"), repeats=3) == {"a": 3, "b": 20}
    assert order == ["a", "b"] * 4


def peak(work: Callable[[], Any]) -> float:
    with torch.no_grad():
        return peak_bytes(work, torch.device("cpu")) / (2 * MAP)  # of tensors as large as IMAGES


def test_the_peak_is_of_what_is_there_at_one_time() -> None:
    def chain() -> None:
        x = IMAGES
        for _ in range(5):
            x = x + 1

    def all_kept() -> list[Tensor]:
        return [IMAGES + 1 for _ in range(5)]

    assert peak(lambda: IMAGES + 1) == 1
    assert peak(chain) == 2  # the one before and the one that is made
    assert peak(all_kept) == 5
    assert peak(lambda: (all_kept(), chain())) == 5 + 2


def test_views_and_changes_in_place_take_no_memory() -> None:
    def work() -> None:
        x = IMAGES + 1
        for _ in range(5):
            x.add_(1).view(-1)[3:].mul_(2)

    assert peak(work) == 1
    assert peak(lambda: IMAGES.view(-1).unsqueeze(0)) == 0


def test_a_networks_peak_is_that_of_its_maps() -> None:
    layers = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1))
    assert peak(lambda: layers(IMAGES)) == 2 + 1
