"""Oracle: numbers worked out by hand for made-up scores and offsets. Against torchvision: tests/models."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from cvtasks.errors import ConfigError
from cvtasks.nn import heads
from cvtasks.nn.backbones.base import FeatureSpec
from cvtasks.nn.heads import BoxHead, ConvFC, PretrainedFC, TwoFC
from cvtasks.nn.regions import Proposals, RegionFeatures, Samples
from cvtasks.types import Batch

K = 3
MAPS = {"p3": torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))}


class Scripted(BoxHead):
    """A head whose answers are given."""

    def __init__(self, scores: Tensor, offsets: Tensor) -> None:
        features = RegionFeatures({"p3": FeatureSpec(4, 8)}, bins=2)
        super().__init__(features, TwoFC(16, 8), K)
        self.answers = scores, offsets

    def forward(self, maps: object, boxes: object) -> tuple[Tensor, Tensor]:
        return self.answers


def batch_of(boxes: Tensor, labels: Tensor) -> Batch:
    sizes = torch.tensor([[64, 64]])
    return Batch(torch.zeros(1, 3, 64, 64), sizes, sizes, [0], boxes=boxes, labels=labels)


def samples_of(boxes: Tensor, *, drawn: list[bool], positive: list[bool], index: list[int]) -> Samples:
    return Samples(boxes, torch.tensor([drawn]), torch.tensor([positive]), torch.tensor([index]))


def test_losses_are_means_over_the_drawn_regions_alone() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 20, 40, 40], [1, 1, 2, 2]]])
    samples = samples_of(boxes, drawn=[True, True, False], positive=[True, False, False], index=[1, 0, 0])
    # The object lies one unit of x to the right of region 0: dx = 1 / 10, times the weight 10.
    batch = batch_of(torch.tensor([[[9.0, 9, 19, 19], [1, 0, 11, 10]]]), torch.tensor([[0, 2]]))
    scores = torch.zeros(1, 3, K + 1)
    scores[0, 2] = torch.nan
    offsets = torch.zeros(1, 3, K, 4)
    offsets[0, 0, 2, 1] = 3.0  # wrong by 3 in y, for the right class
    offsets[0, 0, :2] = 77  # other classes' boxes do not count
    offsets[0, 1] = 77  # nor do those of background
    losses = Scripted(scores, offsets).losses({}, samples, batch)
    assert losses["classification"].item() == pytest.approx(math.log(K + 1))
    assert losses["box_regression"].item() == pytest.approx(((1 - 1 / 18) + (3 - 1 / 18)) / 2)


def test_a_box_for_all_classes_learns_from_each_and_is_each_ones_detection() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 20, 40, 40]]])
    samples = samples_of(boxes, drawn=[True, True], positive=[True, False], index=[0, 0])
    batch = batch_of(
        torch.tensor([[[1.0, 0, 11, 10]]]), torch.tensor([[2]])
    )  # dx = 1 / 10, times the weight 10
    offsets = torch.zeros(1, 2, 1, 4)
    offsets[0, 0, 0, 1] = 3.0
    scores = torch.tensor([[[0.4, 0.3, 0.2, 0.1], [0.0, 0.0, 0.0, 1.0]]]).log()
    head = Scripted(scores, offsets)
    assert head.losses({}, samples, batch)["box_regression"].item() == pytest.approx(
        ((1 - 1 / 18) + (3 - 1 / 18)) / 2
    )
    (found,) = head.detect({}, Proposals(boxes, torch.ones(1, 2, dtype=torch.bool)), batch)
    assert found["labels"].tolist() == [0, 1, 2]
    assert_close(found["boxes"], torch.tensor([[0.0, 3, 10, 13]]).expand(3, -1))


def test_the_losses_of_single_regions_add_up_to_those_of_all() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10], [20, 20, 40, 40], [1, 1, 2, 2]]])
    samples = samples_of(boxes, drawn=[True, True, False], positive=[True, False, False], index=[0, 0, 0])
    batch = batch_of(torch.tensor([[[1.0, 0, 11, 12]]]), torch.tensor([[1]]))
    head = Scripted(torch.randn(1, 3, K + 1), torch.randn(1, 3, K, 4))
    single, together = head.region_losses({}, samples, batch), head.losses({}, samples, batch)
    assert single.keys() == together.keys()
    for name, each in single.items():
        assert each.shape == (1, 3)
        assert_close(each[0, :2].sum() / 2, together[name])
    assert single["box_regression"][0, 1] == 0


def test_the_background_is_the_last_class() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10]]])
    samples = samples_of(boxes, drawn=[True], positive=[False], index=[0])
    scores = torch.tensor([[[0.0, 0, 0, 100]]])
    losses = Scripted(scores, torch.zeros(1, 1, K, 4)).losses(
        {}, samples, batch_of(boxes, torch.tensor([[0]]))
    )
    assert losses["classification"].item() == 0


def test_detections_are_thresholded_suppressed_within_a_class_and_sorted() -> None:
    region = torch.tensor([10.0, 10, 30, 30])
    boxes = torch.stack([region, region + 1, region, region + 1, region])[None]
    valid = torch.tensor([[True, True, True, True, False]])
    probability = torch.tensor(
        [
            [0.90, 0.02, 0.02, 0.06],
            [0.50, 0.02, 0.02, 0.46],  # suppressed by the first
            [0.02, 0.02, 0.80, 0.16],
            [0.04, 0.95, 0.00, 0.01],
            [0.99, 0.00, 0.00, 0.01],  # padding
        ]
    )
    head = Scripted(probability.log()[None], torch.zeros(1, 5, K, 4))
    (found,) = head.detect({}, Proposals(boxes, valid), batch_of(boxes, torch.zeros(1, 5)))
    assert found["labels"].tolist() == [1, 0, 2]
    assert_close(found["scores"], torch.tensor([0.95, 0.9, 0.8]))
    assert_close(found["boxes"], torch.stack([region + 1, region, region]))


def test_no_detection_is_an_empty_prediction_of_the_same_shape() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10]]])
    head = Scripted(torch.tensor([[[0.0, 0, 0, 99]]]), torch.zeros(1, 1, K, 4))
    (found,) = head.detect({}, Proposals(boxes, torch.tensor([[True]])), batch_of(boxes, torch.zeros(1, 1)))
    assert {k: tuple(v.shape) for k, v in found.items()} == {"boxes": (0, 4), "scores": (0,), "labels": (0,)}


def test_each_class_has_its_own_box() -> None:
    boxes = torch.tensor([[[10.0, 10, 20, 20]]])
    offsets = torch.zeros(1, 1, K, 4)
    offsets[0, 0, 1, 0] = 10  # one width to the right
    head = Scripted(torch.tensor([[[0.0, 9, 0, 0]]]), offsets)
    (found,) = head.detect({}, Proposals(boxes, torch.tensor([[True]])), batch_of(boxes, torch.zeros(1, 1)))
    assert_close(found["boxes"], torch.tensor([[20.0, 10, 30, 20]]))


def test_a_classifiers_fc_layers_are_taken_over_with_their_function() -> None:
    classifier = nn.Sequential(
        nn.Linear(4 * 9, 10), nn.ReLU(), nn.Dropout(0.5), nn.Linear(10, 6), nn.ReLU()
    ).eval()
    regions = torch.randn(5, 4, 3, 3)
    expected = classifier(regions.flatten(1))
    trunk = PretrainedFC(classifier, 4, 3).eval()
    assert trunk.outputs == 6
    assert_close(trunk(regions), expected)


def test_a_classifier_that_begins_with_dropout_is_taken_over_too() -> None:
    classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(4 * 9, 10), nn.ReLU(), nn.Linear(10, 6)).eval()
    regions = torch.randn(5, 4, 3, 3)
    expected = classifier(regions.flatten(1))  # before its weights are put in our order
    assert_close(PretrainedFC(classifier, 4, 3).eval()(regions), expected)


def test_a_classifier_of_another_size_is_refused() -> None:
    layers = nn.Sequential(nn.Linear(100, 10), nn.Linear(10, 6))
    with pytest.raises(ConfigError, match="takes 100 numbers, and regions have 4 x 3 x 3"):
        PretrainedFC(layers, 4, 3)


def test_as_a_convolution_a_fully_connected_layer_has_the_same_values_and_gradients() -> None:
    layer = nn.Linear(16 * 9, 20)
    regions = torch.randn(heads.AS_CONVOLUTION, 3, 3, 16).permute(0, 3, 1, 2).requires_grad_()
    wanted = [regions, layer.weight, layer.bias]
    answers = heads.fully_connected(layer, regions), layer(heads.flat(regions))
    factors = torch.randn(answers[0].shape)
    gradients = [torch.autograd.grad((answer * factors).sum(), wanted) for answer in answers]
    assert_close(answers[0], answers[1])
    for got, want in zip(*gradients, strict=True):
        assert_close(got, want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("trunk", [TwoFC(4 * 4, 8), ConvFC(4, 2, 8, "group"), ConvFC(4, 2, 8, None)])
def test_scores_and_offsets_have_one_row_for_each_region(trunk: nn.Module) -> None:
    features = RegionFeatures({"p3": FeatureSpec(4, 8)}, bins=2)
    scores, offsets = BoxHead(features, trunk, K)(MAPS, torch.tensor([[[0.0, 0, 30, 30]] * 5]))
    assert scores.shape == (1, 5, K + 1)
    assert offsets.shape == (1, 5, K, 4)


def test_pooling_one_map_out_of_a_pyramid_is_refused() -> None:
    specs = {"p3": FeatureSpec(4, 8), "p4": FeatureSpec(4, 16)}
    with pytest.raises(ConfigError, match=r"roi_pool reads one map.*p3, p4"):
        RegionFeatures(specs, kind="roi_pool")
