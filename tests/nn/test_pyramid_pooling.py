"""Spatial pyramid pooling against a map that was worked out by hand, and against torch's adaptive pooling."""

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from cvtasks.nn.backbones.tiny import tiny
from cvtasks.nn.pyramid_pooling import ImagePyramid, PyramidPooling, choose_scale, pool, positions

# A map of 6 x 6 positions with stride 16; rows are tens, columns ones.
MAP = (10.0 * torch.arange(6)[:, None] + torch.arange(6))[None, None]


def test_the_corners_of_a_region_are_rounded_as_in_the_paper() -> None:
    # floor(x / 16) + 1 and ceil(x / 16) - 1, both included.
    boxes = torch.tensor(
        [[[20.0, 36.0, 75.0, 84.0], [16.0, 16.0, 64.0, 80.0], [17.0, 33.0, 30.0, 47.0], [0, 0, 96, 96]]]
    )
    found = positions(boxes, 16, MAP)[0].tolist()
    assert found[0] == [2, 3, 4, 5]
    assert found[1] == [2, 2, 3, 4]  # a border that is a middle of a receptive field is outside of the region
    assert found[2] == [1, 2, 1, 2]  # no middle is inside: the nearest to 1.47 and 2.5 (rounded to even)
    assert found[3] == [1, 1, 5, 5]  # 96 / 16 = 6: the last is 5, the map's


def test_a_map_worked_out_by_hand() -> None:
    # Rows 1 to 3 and columns 1 to 4: of 3 x 4 positions, by 1 x 1, 2 x 2 and 3 x 3 bins.
    found = pool(MAP, torch.tensor([[[1.0, 1.0, 4.0, 3.0]]]), (1, 2, 3))[0].tolist()
    assert found[:1] == [34]
    # Two bins of three rows share the middle one: rows 1-2 and 2-3; of four columns: 1-2 and 3-4.
    assert found[1:5] == [22, 24, 32, 34]
    # Three bins of four columns: 1-2, 2-3, 3-4.
    assert found[5:] == [12, 13, 14, 22, 23, 24, 32, 33, 34]


@given(st.integers(1, 14), st.integers(1, 14), st.integers(0, 5), st.integers(0, 5))
def test_bins_are_those_of_adaptive_pooling(height: int, width: int, top: int, left: int) -> None:
    features = torch.randn(1, 3, 20, 20)
    place = torch.tensor([[[left, top, left + width - 1.0, top + height - 1.0]]])
    part = features[:, :, top : top + height, left : left + width]
    expected = [F.adaptive_max_pool2d(part, n).flatten(1) for n in (1, 2, 3, 6)]
    torch.testing.assert_close(pool(features, place, (1, 2, 3, 6)), torch.cat(expected, 1))


def test_a_region_is_read_at_the_scale_that_brings_it_nearest_to_224() -> None:
    boxes = torch.tensor([[[0.0, 0, 224, 224], [0.0, 0, 100, 100], [0.0, 0, 500, 400], [0, 0, 448, 112]]])
    assert choose_scale(boxes, (0.5, 1.0, 2.0)).tolist() == [[1, 2, 0, 1]]


def test_several_scales_read_each_region_from_its_own_map() -> None:
    torch.manual_seed(0)
    backbone = tiny(width=16).eval()
    images = torch.randn(2, 3, 64, 64)
    boxes = torch.tensor([[[0.0, 0, 60, 60], [10, 10, 20, 30]], [[5, 5, 15, 60], [0, 0, 64, 64]]])
    both = PyramidPooling(ImagePyramid(backbone, "c3", (1.0, 8.0)))
    with torch.no_grad():
        found = both(ImagePyramid(backbone, "c3", (1.0, 8.0))(images), boxes)
        for n, scale in enumerate((1.0, 8.0)):
            one = ImagePyramid(backbone, "c3", (scale,))
            expected = PyramidPooling(one)(one(images), boxes)
            chosen = (choose_scale(boxes, (1.0, 8.0)) == n).flatten()
            torch.testing.assert_close(found[chosen], expected[chosen])
    assert found.shape == (4, 32 * 50, 1, 1)
