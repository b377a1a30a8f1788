"""Oracles: torchvision's ResNet and AlexNet with the same weights, and losses written out."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from people import CLASSES, Pixels, make_batch, nonzero_gradients, spread
from torch import Tensor
from torch.testing import assert_close
from torchvision import models

from cvtasks.errors import ConfigError
from cvtasks.models.classification.classifier import Classifier
from cvtasks.nn.backbones.alexnet import alexnet
from cvtasks.nn.backbones.resnet import resnet
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.types import Batch, ClassInfo

TEN = ClassInfo(tuple("abcdefghij"))


def make(**settings: Any) -> Classifier:
    torch.manual_seed(0)
    model = Classifier(tiny(width=16), classes=CLASSES, **settings)
    spread(model, scores=0.2)
    return model


def normalized(model: Classifier, batch: Batch) -> Tensor:
    return model.backbone.normalize(batch.images, batch.sizes)


def whole(size: int, images: int = 2) -> Batch:
    """Without padding, which torchvision's networks do not know of."""
    batch = make_batch(images, size=size)
    batch.sizes[:] = size
    return batch


def test_a_resnet_with_average_pooling_is_torchvisions() -> None:
    torch.manual_seed(0)
    oracle = models.resnet18(num_classes=10).eval()
    model = Classifier(resnet(depth=18, norm="batch"), classes=TEN).eval()
    state = oracle.state_dict()
    last = {"scores.weight": state.pop("fc.weight"), "scores.bias": state.pop("fc.bias")}
    model.load_state_dict({f"backbone.{name}": value for name, value in state.items()} | last)
    batch = whole(64)
    assert_close(model(batch), oracle(normalized(model, batch)))


def test_an_alexnet_with_its_own_fully_connected_layers_is_torchvisions() -> None:
    torch.manual_seed(0)
    oracle = models.alexnet(num_classes=10).eval()
    backbone = alexnet(with_classifier=True)
    state = oracle.state_dict()
    last = {name: state.pop(f"classifier.6.{name}") for name in ("weight", "bias")}
    backbone.load_state_dict(state)
    model = Classifier(backbone, classes=TEN, head="fully_connected").eval()
    model.scores.load_state_dict(last)
    batch = whole(224, images=1)
    assert_close(model(batch), oracle(normalized(model, batch)))


@pytest.mark.parametrize("head", ["average", "max"])
def test_the_head_pools_the_map_of_the_level_that_it_is_told(head: Any) -> None:
    model, batch = make(head=head, level="c3").eval(), make_batch()
    maps = model.backbone(normalized(model, batch))
    assert list(maps)[-1] == "c3"  # what leads higher is gone
    vector = maps["c3"].mean((2, 3)) if head == "average" else maps["c3"].amax((2, 3))
    assert_close(model(batch), vector @ model.scores.weight.T + model.scores.bias)


def test_a_fully_connected_head_tells_where_in_the_image_something_is() -> None:
    torch.manual_seed(0)
    batch = make_batch(1)
    mirrored = Batch(batch.images.flip(3), batch.sizes, batch.orig_sizes, [0])
    pooled = Classifier(Pixels(), classes=CLASSES).eval()
    whole = Classifier(Pixels(), classes=CLASSES, head="fully_connected", bins=4, hidden=(8,)).eval()
    assert whole.scores.in_features == 8
    assert_close(pooled(batch), pooled(mirrored))
    assert (whole(batch) - whole(mirrored)).abs().max() > 1e-3


def test_the_loss_is_cross_entropy_with_smoothed_labels() -> None:
    batch = make_batch()
    assert batch.label is not None
    for smoothing in (0.0, 0.1):
        model = make(label_smoothing=smoothing).eval()
        logs = model(batch).log_softmax(1)
        own = logs.gather(1, batch.label[:, None])[:, 0]
        expected = -((1 - smoothing) * own + smoothing * logs.mean(1)).mean()
        assert_close(model.losses(batch), {"classification": expected})


def test_mixup_learns_two_labels_by_the_shares_of_their_images() -> None:
    """With two images, one share of them and of their labels explains images and loss at once."""
    model, batch = make(mixup=0.4), make_batch(2)
    assert batch.label is not None
    seen: list[Tensor] = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    loss = model.losses(batch)["classification"]
    one, other = normalized(model, batch)
    share = ((seen[0][0] - other) * (one - other)).sum() / (one - other).square().sum()
    assert 0.01 < share < 0.99
    assert_close(seen[0][0], share * one + (1 - share) * other)
    with torch.no_grad():
        scores = model._scores(seen[0])
    each = [F.cross_entropy(scores, labels) for labels in (batch.label, batch.label.flip(0))]
    assert_close(loss.detach(), share * each[0] + (1 - share) * each[1])
    seen.clear()
    model.eval().losses(batch)
    assert torch.equal(seen[0], normalized(model, batch))  # what is judged is not mixed


def test_cutmix_pastes_a_part_of_one_image_into_the_other() -> None:
    model, batch = make(cutmix=1.0), make_batch(2)
    seen: list[Tensor] = []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model.losses(batch)
    one, other = normalized(model, batch)
    from_other = (seen[0][0] == other).all(0)
    assert from_other.any()
    assert ((seen[0][0] == one).all(0) | from_other).all()


def test_a_prediction_is_the_best_five_classes_or_all_if_there_are_fewer() -> None:
    model, batch = make().eval(), make_batch()
    scores = model(batch).softmax(1)
    for row, prediction in zip(scores, model.predict(batch), strict=True):
        order = row.argsort(descending=True)[:5]
        assert torch.equal(prediction["labels"], order)
        assert_close(prediction["scores"], row[order])
    few = Classifier(tiny(width=16), classes=ClassInfo(("one", "other"))).eval().predict(batch)
    assert [len(one["labels"]) for one in few] == [2, 2, 2]


def test_every_part_learns() -> None:
    model = make(head="fully_connected", bins=2, hidden=(16,), dropout=0.2).train()
    model.losses(make_batch())["classification"].backward()
    assert set(nonzero_gradients(model)) == {name for name, _ in model.named_parameters()}


def test_what_does_not_fit_is_said_with_the_key_to_type() -> None:
    with pytest.raises(ConfigError, match=r"task\.level=c9: expected a level .* c1, c2, c3, c4, c5"):
        make(level="c9")
    for settings in ({"head": "average"}, {"head": "fully_connected", "level": "c3"}):
        with pytest.raises(ConfigError, match=r"type backbone\.with_classifier=false"):
            Classifier(alexnet(with_classifier=True), classes=CLASSES, **settings)  # type: ignore[arg-type]
