"""Oracle: cells and places worked out by hand, and decode as the inverse of encode."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close

from cvtasks.ops.grid_cells import Grid, assign, cells_of, decode, encode, occupied

GRID = Grid(side=3, height=60, width=120)
"""Cells of 20 pixels down and 40 across"""


def around(x: float, y: float, w: float = 4.0, h: float = 4.0) -> list[float]:
    return [x - w / 2, y - h / 2, x + w / 2, y + h / 2]


def one_image(boxes: list[list[float]], labels: list[int] | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [1, N, 4], labels and objects [1, N]."""
    number = torch.tensor([labels or [0] * len(boxes)])
    return torch.tensor([boxes]), number, torch.ones_like(number, dtype=torch.bool)


def test_cells_are_numbered_row_by_row() -> None:
    boxes = torch.tensor([around(10, 5), around(60, 5), around(110, 5), around(10, 30), around(110, 55)])
    assert cells_of(boxes, GRID).tolist() == [0, 1, 2, 3, 8]


def test_a_centre_on_a_border_is_of_the_cell_to_the_right_and_below() -> None:
    boxes = torch.tensor([around(40, 10), around(20, 20), around(80, 40), around(0, 0)])
    assert cells_of(boxes, GRID).tolist() == [1, 3, 8, 0]
    assert encode(boxes, cells_of(boxes, GRID), GRID)[:, :2].tolist() == [[0, 0.5], [0.5, 0], [0, 0], [0, 0]]


def test_a_centre_on_the_images_right_or_lower_edge_is_of_the_last_cell() -> None:
    # An object that touches the edge has its centre before it; one without a width there has it on it.
    boxes = torch.tensor(
        [[100.0, 20, 120, 40], [120.0, 20, 120, 40], [100.0, 60, 120, 60], [120.0, 60, 120, 60]]
    )
    cells = cells_of(boxes, GRID)
    assert cells.tolist() == [5, 5, 8, 8]
    places = encode(boxes, cells, GRID)[:, :2]
    assert_close(places, torch.tensor([[0.75, 0.5], [1.0, 0.5], [0.75, 1.0], [1.0, 1.0]]))


def test_a_box_is_its_place_in_the_cell_and_the_roots_of_its_share_of_the_image() -> None:
    box = torch.tensor(around(50, 45, w=30, h=15))  # 30 of 120 and 15 of 60: a quarter each
    assert_close(encode(box, torch.tensor(7), GRID), torch.tensor([10 / 40, 5 / 20, 0.5, 0.5]))


@settings(max_examples=50)
@given(
    side=st.integers(1, 15),
    size=st.tuples(st.integers(32, 700), st.integers(32, 700)),
    corners=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
)
def test_decoding_what_was_encoded_gives_the_box_again(
    side: int, size: tuple[int, int], corners: list[float]
) -> None:
    grid = Grid(side, *size)
    (x1, x2), (y1, y2) = sorted(corners[:2]), sorted(corners[2:])
    box = torch.tensor([x1 * grid.width, y1 * grid.height, x2 * grid.width, y2 * grid.height])
    cell = cells_of(box, grid)
    numbers = encode(box, cell, grid)
    assert ((numbers > -1e-4) & (numbers < 1 + 1e-4)).all()
    assert 0 <= cell < side * side
    assert_close(decode(numbers, cell, grid), box, rtol=1e-4, atol=0.01)
    # From any other cell, too: then the place lies outside of it.
    assert_close(decode(encode(box, cell * 0, grid), cell * 0, grid), box, rtol=1e-4, atol=0.01)


def test_a_root_below_zero_is_as_wide_as_one_above() -> None:
    numbers = torch.tensor([[0.5, 0.5, 0.5, -0.5], [0.5, 0.5, -0.5, 0.5]])
    one, other = decode(numbers, torch.tensor([4, 4]), GRID)
    assert_close(one, torch.tensor(around(60, 30, w=30, h=15)))
    assert_close(other, one)


def test_each_cell_answers_for_the_object_whose_centre_it_holds() -> None:
    boxes, labels, objects = one_image([around(110, 55), around(10, 5), around(60, 30)])
    index, found = assign(boxes, labels, objects, GRID)
    assert found[0].nonzero().flatten().tolist() == [0, 4, 8]
    assert index[0, [0, 4, 8]].tolist() == [1, 2, 0]


def test_of_several_objects_in_a_cell_the_largest_is_learnt() -> None:
    boxes, labels, objects = one_image([around(60, 30, 8, 8), around(62, 31, 9, 8), around(58, 30, 8, 8)])
    index, found = assign(boxes, labels, objects, GRID)
    assert found.sum() == 1
    assert index[0, 4] == 1
    index, found = assign(boxes, labels, torch.tensor([[True, False, False]]), GRID)
    assert (int(index[0, 4]), int(found.sum())) == (0, 1)


def test_padding_and_what_is_no_object_have_no_cell() -> None:
    # Padding is an empty box at the origin, whose centre lies in cell 0.
    boxes, labels, _ = one_image([around(60, 30), [0.0, 0, 0, 0], around(10, 50, 20, 20)])
    _, found = assign(boxes, labels, torch.tensor([[True, False, False]]), GRID)
    assert found[0].nonzero().flatten().tolist() == [4]
    _, found = assign(boxes, labels, torch.zeros(1, 3, dtype=torch.bool), GRID)
    assert not found.any()
    assert not occupied(boxes, torch.zeros(1, 3, dtype=torch.bool), GRID).any()
    assert occupied(boxes, torch.tensor([[False, False, True]]), GRID)[0].nonzero().flatten().tolist() == [6]


@settings(max_examples=50)
@given(st.permutations(range(6)))
def test_the_order_of_the_objects_never_counts(order: list[int]) -> None:
    # All in one cell and of one area: two stand where two lie, two of those in one place with different labels.
    boxes, labels, objects = one_image(
        [around(60, 30, 4, 8), around(60, 30, 8, 4), around(61, 30, 8, 4), around(60, 30, 8, 4)]
        + [[0.0] * 4] * 2,
        [1, 0, 0, 2, 0, 0],
    )
    objects[:, 4:] = False

    def chosen(order: list[int]) -> tuple[list[float], int]:
        index, _ = assign(boxes[:, order], labels[:, order], objects[:, order], GRID)
        first = int(index[0, 4])
        return boxes[0, order][first].tolist(), int(labels[0, order][first])

    assert chosen(order) == chosen(list(range(6)))
