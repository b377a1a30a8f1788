"""Oracles: the paper's decoder of torch's own layers, and heat maps that are painted."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from people import JOINTS, PERSON, make_batch, nonzero_gradients
from torch import Tensor, nn
from torch.testing import assert_close

from cvtasks.errors import ConfigError
from cvtasks.models.pose.heatmap import PoseHeatmap
from cvtasks.nn.backbones.resnet import resnet
from cvtasks.nn.backbones.tiny import tiny
from cvtasks.nn.backbones.unet import unet_encoder
from cvtasks.nn.poses import places
from cvtasks.nn.upsample import UpsampleKind
from cvtasks.ops.heatmaps import gaussians

CHANNELS = (16, 16, 16)


def make(**settings: Any) -> PoseHeatmap:
    torch.manual_seed(0)
    model = PoseHeatmap(tiny(width=16), classes=PERSON, **{"channels": CHANNELS} | settings)
    nn.init.normal_(model.decoder.joints.weight, std=0.2)
    return model.eval()


class Painted(nn.Module):
    """A decoder whose heat maps are given, of a stride; mirrored if the image is."""

    def __init__(self, heat: Tensor, stride: int, seen: Tensor | None = None) -> None:
        super().__init__()
        self.heat, self.stride, self.seen = heat, stride, seen

    def forward(self, maps: Any, images: Tensor) -> Tensor:
        return self.heat


def test_it_is_three_transposed_convolutions_with_norms_and_a_1x1_convolution() -> None:
    model = PoseHeatmap(resnet(depth=18, norm="batch"), classes=PERSON).eval()
    oracle = nn.Sequential()
    width = 512
    for n, upsample in enumerate(model.decoder.upsample):
        layer = nn.ConvTranspose2d(width, 256, 4, stride=2, padding=1, bias=False)
        layer.weight = upsample.weight  # type: ignore[assignment]
        oracle += nn.Sequential(layer, nn.BatchNorm2d(256), nn.ReLU())
        oracle[-2].load_state_dict(model.decoder.norms[n].state_dict())
        width = 256
    oracle.append(model.decoder.joints)
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        found, expected = model.heat(images), oracle.eval()(model.backbone(images)["c5"])
    assert found.shape == (1, JOINTS, 16, 24)
    assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_squared_error_of_maps_of_labelled_joints_inside_the_image() -> None:
    model, batch = make(sigma=1.5), make_batch()
    assert batch.keypoints is not None
    assert batch.visible is not None
    batch.visible[0, 0, 0] = 0
    batch.keypoints[0, 0, 1] = -9.0
    heat = model.heat(model.backbone.normalize(batch.images, batch.sizes))
    errors = []
    for n in range(3):
        for joint in range(JOINTS):
            if n == 0 and joint in (0, 1):
                continue
            middle = batch.keypoints[n, 0, joint] / 4
            target = gaussians(middle[None, None], heat.shape[2:], sigma=1.5)[0, 0]
            errors.append(F.mse_loss(heat[n, joint], target))
    assert_close(model.losses(batch)["keypoints"], torch.stack(errors).mean())


@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("size", [64, 56])
def test_a_map_of_the_truth_predicts_it_to_a_quarter_of_its_pixels(stride: int, size: int) -> None:
    # 56 pixels are padded to 64, and the file is twice as large.
    batch = make_batch(2)
    batch.sizes[:] = size
    batch.orig_sizes = 2 * batch.sizes
    assert batch.keypoints is not None
    batch.keypoints = batch.keypoints.clamp(2 * stride, size - 2 * stride)
    model = make()
    model.decoder = Painted(
        gaussians(batch.keypoints[:, 0] / stride, (64 // stride, 64 // stride), sigma=2.0), stride
    )
    found = torch.cat([prediction["keypoints"] for prediction in model.predict(batch)])
    assert (found / 2 - batch.keypoints[:, 0]).abs().max() <= 0.25 * stride + 1e-3
    assert torch.cat([p["keypoint_scores"] for p in model.predict(batch)]).min() > 0.9


def test_a_mirrored_image_has_mirrored_joints_with_left_and_right_exchanged() -> None:
    model, batch, other = make(eval_flip=True), make_batch(), make_batch()
    batch.sizes[:] = 64
    batch.orig_sizes = other.orig_sizes = 2 * batch.sizes
    other.sizes = batch.sizes
    other.images = batch.images.flip(3)
    order = list(PERSON.flip_index)
    for one, two in zip(model.predict(batch), model.predict(other), strict=True):
        mirrored = one["keypoints"][:, order] * torch.tensor([-1, 1]) + torch.tensor([128, 0])
        assert (two["keypoints"] - mirrored).abs().max() < 1e-3
        assert_close(two["keypoint_scores"], one["keypoint_scores"][:, order])
    plain = make().predict(batch)[0]["keypoint_scores"]
    assert not torch.allclose(plain, model.predict(batch)[0]["keypoint_scores"])


@pytest.mark.parametrize("kind", ["nearest", "bed_of_nails", "max_unpool", "bilinear", "resize_conv"])
def test_every_kind_of_up_sampling_learns(kind: UpsampleKind) -> None:
    model, batch = make(upsample=kind), make_batch()
    model.train().losses(batch)["keypoints"].backward()
    assert len(nonzero_gradients(model)) == len(list(model.parameters()))


def test_a_backbone_of_a_finer_stride_has_finer_maps_and_too_many_steps_are_refused() -> None:
    model, batch = PoseHeatmap(unet_encoder(width=4), classes=PERSON, channels=(8, 8, 8)).eval(), make_batch()
    assert model.heat(model.backbone.normalize(batch.images, batch.sizes)).shape[2:] == (32, 32)
    with pytest.raises(ConfigError, match=r"task.channels=.*stride 16.*shorter"):
        PoseHeatmap(unet_encoder(width=4), classes=PERSON, channels=(8,) * 5)


def test_joints_outside_the_image_have_no_map_to_learn() -> None:
    model, batch = make(), make_batch()
    assert batch.keypoints is not None
    batch.keypoints[:] = -5
    assert not (places(batch)[0].abs() <= 0.5).all(-1).any()
    loss = model.losses(batch)["keypoints"]
    loss.backward()
    assert loss == 0
    assert nonzero_gradients(model) == []
