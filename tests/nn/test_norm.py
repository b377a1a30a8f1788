"""Oracles: torchvision's FrozenBatchNorm2d, torch's own BatchNorm2d and GroupNorm."""

import pytest
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d as Published

from cvtasks.errors import ConfigError
from cvtasks.nn.norm import FrozenBatchNorm2d, choose_norm, make_norm


def batch_norm_with_history(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels).eval()
    lows = {"weight": 0.5, "bias": -1, "running_mean": -2, "running_var": 0.01}
    for name, low in lows.items():
        nn.init.uniform_(norm.state_dict()[name], low, low + 2)
    return norm


def test_frozen_norm_equals_torchvisions_and_an_ordinary_one_at_rest() -> None:
    ordinary, published, ours = batch_norm_with_history(6), Published(6), FrozenBatchNorm2d(6)
    published.load_state_dict(ordinary.state_dict())
    ours.load_state_dict(ordinary.state_dict())
    x = torch.randn(2, 6, 5, 7, requires_grad=True)
    for expected in (published(x), ordinary(x)):
        torch.testing.assert_close(ours(x), expected)
    gradients = [torch.autograd.grad(layer(x).pow(2).sum(), x)[0] for layer in (ours, published)]
    torch.testing.assert_close(*gradients)


def test_frozen_norm_keeps_bf16_maps_and_still_uses_float32_constants() -> None:
    ordinary, ours = batch_norm_with_history(6), FrozenBatchNorm2d(6)
    ours.load_state_dict(ordinary.state_dict())
    x = torch.randn(2, 6, 5, 7).bfloat16()
    expected = ordinary(x.float()).bfloat16()  # one rounding, at the end
    assert ours(x).dtype == torch.bfloat16
    torch.testing.assert_close(ours(x), expected, rtol=2**-8, atol=1e-5)


def test_frozen_norm_has_nothing_to_train_and_ignores_the_mode() -> None:
    ours = FrozenBatchNorm2d(4).train()
    ours(torch.randn(2, 4, 3, 3) + 5)
    assert list(ours.parameters()) == []
    assert torch.equal(ours.running_mean, torch.zeros(4))


@pytest.mark.parametrize(
    ("channels", "groups"), [(16, 1), (32, 2), (64, 4), (512, 32), (24, 3), (40, 5), (72, 9), (6, 3), (5, 5)]
)
def test_group_norm_has_sixteen_channels_a_group_where_they_divide(channels: int, groups: int) -> None:
    norm = make_norm("group", channels)
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups == groups
    assert norm(torch.randn(1, channels, 2, 2)).shape == (1, channels, 2, 2)


def test_an_unknown_kind_is_refused_with_the_right_names() -> None:
    with pytest.raises(ConfigError, match=r"norm=layer.*batch, frozen, group"):
        make_norm("layer", 8)  # type: ignore[arg-type]


def test_auto_is_frozen_with_weights_and_the_networks_choice_without() -> None:
    assert choose_norm("auto", weights="imagenet", otherwise="group") == "frozen"
    assert choose_norm("auto", weights=None, otherwise="group") == "group"
    assert choose_norm("batch", weights="imagenet", otherwise="group") == "batch"
