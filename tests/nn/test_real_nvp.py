"""Oracles: a density integrates to one, and the change of variables with the Jacobian that autograd makes."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from cvtasks.nn.real_nvp import RealNVP


def used(*, layers: int = 6, dimensions: int = 2) -> RealNVP:
    """A flow far from where it begins, in float64 but for its result."""
    torch.manual_seed(0)
    flow = RealNVP(dimensions, layers=layers, hidden=16)
    for module in flow.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.35)
            nn.init.normal_(module.bias, std=0.2)
    return flow


def to_normal(flow: RealNVP, point: Tensor) -> Tensor:
    """The couplings written out: each number in turn, by the one that is kept."""
    z = point
    for n, coupling in enumerate(flow.couplings):
        kept = n % 2  # 0: x stays in the first layer
        mask = torch.tensor([1.0, 0.0]) if kept == 0 else torch.tensor([0.0, 1.0])
        numbers = coupling(z * mask)
        moved = (z[1 - kept] - numbers[3 - kept]) * torch.exp(-torch.tanh(numbers[1 - kept]))
        z = torch.stack([z[0], moved]) if kept == 0 else torch.stack([moved, z[1]])
    return z


def test_the_density_is_the_normal_times_the_jacobians_determinant() -> None:
    flow = used()
    for point in torch.randn(8, 2):
        z = to_normal(flow, point)
        jacobian = torch.autograd.functional.jacobian(lambda p: to_normal(flow, p), point)
        normal = -0.5 * z.square().sum() - math.log(2 * math.pi)
        assert_close(flow.log_density(point), normal + jacobian.det().abs().log(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layers", [1, 2, 6])
def test_the_density_integrates_to_one(layers: int) -> None:
    flow = used(layers=layers)
    step = 0.05
    axis = torch.arange(-40, 40, step) + step / 2
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    with torch.no_grad():
        density = torch.cat([flow.log_density(rows).exp() for rows in grid.split(200)])
    assert (
        density.max() - density[len(axis) // 2, len(axis) // 2]
    ).abs() > 1e-3  # it is not the normal itself
    assert density.double().sum().item() * step**2 == pytest.approx(1, abs=2e-3)


def test_it_begins_as_the_standard_normal_and_learns_where_points_lie() -> None:
    torch.manual_seed(0)
    flow = RealNVP(hidden=32)
    points = torch.randn(512, 2) * torch.tensor([0.3, 1.5]) + torch.tensor([1.0, -0.5])
    normal = -0.5 * points.square().sum(1) - math.log(2 * math.pi)
    assert_close(flow.log_density(points), normal, rtol=0, atol=0.05)
    before = flow.log_density(points).mean()
    optimizer = torch.optim.Adam(flow.parameters(), lr=5e-3)
    for _ in range(200):
        optimizer.zero_grad()
        (-flow.log_density(points).mean()).backward()
        optimizer.step()
    entropy = math.log(0.3 * 1.5) + 1 + math.log(2 * math.pi)  # of the normal that the points are drawn from
    assert flow.log_density(points).mean() > before + 0.5
    assert flow.log_density(points).mean().item() == pytest.approx(-entropy, abs=0.15)


def test_the_layout_of_points_changes_nothing_and_bf16_is_taken_as_float32() -> None:
    flow, points = used(), torch.randn(3, 5, 2)
    assert_close(flow.log_density(points).flatten(), flow.log_density(points.flatten(0, 1)))
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(flow.log_density(points.bfloat16()), flow.log_density(points.bfloat16().float()))
