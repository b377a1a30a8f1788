"""Oracle: torchvision's AnchorGenerator, and the paper's nine anchors by hand."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from cvtasks.ops.anchors import cell_anchors, grid_anchors


def test_one_square_anchor_is_centred_on_the_origin() -> None:
    assert cell_anchors([32], [1.0]).tolist() == [[-16, -16, 16, 16]]


def test_a_ratio_of_two_is_twice_as_high_as_wide() -> None:
    x1, y1, x2, y2 = cell_anchors([64], [2.0])[0].tolist()
    assert (y2 - y1) / (x2 - x1) > 1.9


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([(8,), (32, 64, 128), (16, 20)]))
def test_anchors_are_torchvisions_also_on_maps_that_were_rounded_up(
    rows: int, columns: int, sizes: tuple[int, ...]
) -> None:
    ratios = (0.5, 1.0, 2.0)
    image = torch.zeros(1, 3, 150, 170)
    maps = [torch.zeros(1, 1, rows, columns)]
    (expected,) = AnchorGenerator((sizes,), (ratios,))(ImageList(image, [(150, 170)]), maps)
    assert_close(grid_anchors(cell_anchors(sizes, ratios), (150, 170), (rows, columns)), expected)
