"""The network of YOLO's figure 3: its layers counted by hand, and the same maps as the layers one by one."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from cvtasks.nn.backbones import darknet
from cvtasks.nn.backbones.darknet import darknet24

FIGURE = """
7x7x64-s-2 pool
3x3x192 pool
1x1x128 3x3x256 1x1x256 3x3x512 pool
1x1x256 3x3x512 1x1x256 3x3x512 1x1x256 3x3x512 1x1x256 3x3x512 1x1x512 3x3x1024 pool
1x1x512 3x3x1024 1x1x512 3x3x1024 3x3x1024 3x3x1024-s-2
3x3x1024 3x3x1024
"""


def test_layers_are_those_of_the_papers_figure() -> None:
    with torch.device("meta"):
        backbone = darknet24(norm=None)
    found = []
    for layer in backbone.modules():
        if isinstance(layer, nn.MaxPool2d):
            found.append("pool")
        elif isinstance(layer, nn.Conv2d):
            size, stride = layer.kernel_size[0], layer.stride[0]
            found.append(f"{size}x{size}x{layer.out_channels}" + ("-s-2" if stride == 2 else ""))
    assert found == FIGURE.split()
    assert sum(word != "pool" for word in found) == 24


def test_maps_are_what_the_layers_make_one_after_the_other(monkeypatch) -> None:
    narrow = {
        level: tuple((channels // 16, kernel, stride) for channels, kernel, stride in layers)
        for level, layers in darknet.LAYERS.items()
    }
    monkeypatch.setattr(darknet, "LAYERS", narrow)
    torch.manual_seed(0)
    backbone = darknet24(norm=None).eval()
    x = images = torch.randn(1, 3, 128, 64)
    convolutions = [m for m in backbone.modules() if isinstance(m, nn.Conv2d)]
    widths = iter(convolutions)
    with torch.no_grad():
        for word in FIGURE.split():
            if word == "pool":
                x = F.max_pool2d(x, 2, 2)
            else:
                conv, size = next(widths), int(word[0])
                stride = 2 if word.endswith("s-2") else 1
                x = F.leaky_relu(F.conv2d(x, conv.weight, conv.bias, stride, size // 2), 0.1)
        maps = backbone(images)
    assert_close(maps["c6"], x)
    assert {level: tuple(m.shape[2:]) for level, m in maps.items()} == {
        "c1": (64, 32),
        "c2": (32, 16),
        "c3": (16, 8),
        "c4": (8, 4),
        "c5_first": (4, 2),
        "c5": (4, 2),
        "c6": (2, 1),
    }


def test_images_are_from_zero_to_one_and_signals_keep_their_size_through_all_layers() -> None:
    with torch.device("meta"):
        backbone = darknet24()
    assert sum(isinstance(m, nn.BatchNorm2d) for m in backbone.modules()) == 24
    white = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    small = darknet.Backbone({}, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    assert_close(small.normalize(white, torch.tensor([[2, 2]])), torch.ones(1, 3, 2, 2))
