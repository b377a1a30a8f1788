"""Oracle: the layer itself at full rank, and the theorem of Eckart and Young below."""

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from cvtasks.nn.heads import TwoFC, run_layers
from cvtasks.nn.low_rank import LowRankLayers, low_rank


def product(first: nn.Linear, second: nn.Linear) -> Tensor:
    return second.weight @ first.weight


def test_with_all_components_two_layers_are_the_one() -> None:
    for inputs, outputs in ((12, 7), (7, 12)):
        layer = nn.Linear(inputs, outputs)
        first, second = low_rank(layer, min(inputs, outputs))
        x = torch.randn(5, inputs)
        assert_close(second(first(x)), layer(x))
        assert first.bias is None
        more = low_rank(layer, 1000)
        assert more[0].out_features == 7


def test_with_fewer_they_are_the_nearest_matrix_of_that_rank() -> None:
    layer = nn.Linear(12, 7)
    singular = torch.linalg.svdvals(layer.weight)
    for t in (1, 3, 6):
        cut = product(*low_rank(layer, t))
        assert torch.linalg.matrix_rank(cut) == t
        # No matrix of rank t is nearer than what is left of the singular values.
        assert_close((layer.weight - cut).norm(), singular[t:].norm())
        assert_close(torch.linalg.matrix_norm(layer.weight - cut, 2), singular[t])


def test_fc6_and_fc7_are_cut_to_components_of_their_own_and_what_is_between_stays() -> None:
    trunk = TwoFC(2 * 9, 8)
    regions = torch.randn(5, 2, 3, 3)
    layers = LowRankLayers(trunk.layers, (3, None))()
    assert [type(layer).__name__ for layer in layers] == ["Linear", "Linear", "ReLU", "Linear", "ReLU"]
    assert layers[0].out_features == 3  # type: ignore[union-attr]
    whole = LowRankLayers(trunk.layers, (18, 8))()
    assert_close(run_layers(whole, regions), trunk(regions))
    assert not torch.allclose(run_layers(layers, regions), trunk(regions))


def test_they_are_cut_once_and_again_when_the_weights_have_changed() -> None:
    trunk = TwoFC(4, 8)
    cut = LowRankLayers(trunk.layers, (2, 2))
    before = cut()
    assert cut()[0] is before[0]
    optimizer = torch.optim.SGD(trunk.parameters(), lr=0.5)
    trunk(torch.randn(3, 4, 1, 1)).sum().backward()
    optimizer.step()
    after = cut()
    assert after[0] is not before[0]
    u, s, v = torch.linalg.svd(trunk.fc6.weight)
    assert_close(product(*after[:2]), u[:, :2] * s[:2] @ v[:2])  # type: ignore[arg-type]


def test_an_average_that_takes_the_weights_place_is_cut_for_itself() -> None:
    trunk = TwoFC(4, 8)
    cut = LowRankLayers(trunk.layers, (4, 8))
    regions = torch.randn(3, 4, 1, 1)
    cut()
    trunk.fc6.weight.data = torch.randn(8, 4)
    assert_close(run_layers(cut(), regions), trunk(regions))
    trunk.load_state_dict(TwoFC(4, 8).state_dict())
    assert_close(run_layers(cut(), regions), trunk(regions))
