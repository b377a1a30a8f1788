"""Edge maps made by hand, whose groups and affinities can be counted."""

import numpy as np
import pytest
from scipy import sparse

from cvtasks.proposals.edge_groups import Groups, affinities, continuations, edge_groups
from cvtasks.proposals.edges import Edges


def drawn(strokes: list[tuple[list[tuple[int, int]], float]], *, shape: tuple[int, int] = (24, 24)) -> Edges:
    """Pixels (x, y) of magnitude 1 with one orientation for each stroke"""
    magnitude, orientation = np.zeros((2, *shape), np.float32)
    for pixels, angle in strokes:
        for x, y in pixels:
            magnitude[y, x], orientation[y, x] = 1, angle
    return Edges(magnitude, orientation)


def turning(turn: float, number: int) -> Edges:
    """A row of pixels, each turned against the one before"""
    return drawn([([(2 + k, 5)], k * turn % np.pi) for k in range(number)])


def across(x: range, y: int) -> list[tuple[int, int]]:
    return [(k, y) for k in x]


def down(x: int, y: range) -> list[tuple[int, int]]:
    return [(x, k) for k in y]


def test_a_group_ends_where_its_turns_add_up_to_more_than_a_right_angle() -> None:
    of_pixel = edge_groups(turning(0.3, 12)).of_pixel[5, 2:14]
    assert of_pixel.tolist() == [0] * 6 + [1] * 6  # five turns of 0.3 are 1.5, six are 1.8


def test_a_right_angle_is_not_more_than_a_right_angle() -> None:
    corner = drawn([(across(range(2, 10), 3), 0.0), (down(10, range(4, 12)), np.float32(1.5))])
    assert edge_groups(corner).of_pixel.max() == 0


def test_the_neighbour_that_turns_least_joins_first() -> None:
    # A line down, and two branches at its end: one turns by 0.5, the other, which is read first, by 1.24: 1.74 in all.
    fork = drawn(
        [
            (down(12, range(2, 12)), np.pi / 2),
            ([(11, 12), (10, 13), (9, 14)], np.pi / 2 + 1.24),
            ([(13, 12), (14, 13), (15, 14)], np.pi / 2 - 0.5),
        ]
    )
    of_pixel = edge_groups(fork).of_pixel
    assert of_pixel[14, 15] == of_pixel[2, 12] == 0
    assert of_pixel[14, 9] == 1


def test_pixels_that_touch_at_a_corner_are_together_and_those_with_a_gap_are_not() -> None:
    diagonal = drawn([([(k, k) for k in range(3, 9)], np.pi / 4)])
    assert edge_groups(diagonal).mass.tolist() == [6]
    gap = drawn([(across(range(2, 8), 5), 0.0), (across(range(9, 14), 5), 0.0)])
    assert edge_groups(gap).mass.tolist() == [6, 5]


def test_directions_just_above_zero_and_just_below_pi_are_the_same_direction() -> None:
    edges = drawn([([(2 + k, 5)], 0.05 if k % 2 else np.pi - 0.05) for k in range(10)])
    groups = edge_groups(edges)
    assert groups.mass.tolist() == [10]
    assert min(groups.orientation[0], np.pi - groups.orientation[0]) < 0.01


def test_means_are_weighted_by_magnitude() -> None:
    edges = drawn([(across(range(4, 6), 7), 0.0)])
    edges.magnitude[7, 5] = 0.25
    groups = edge_groups(edges)
    assert (groups.x[0], groups.y[0], groups.mass[0]) == pytest.approx((4.2, 7, 1.25))


def test_a_faint_pixel_is_no_edge() -> None:
    edges = drawn([(across(range(2, 8), 5), 0.0)])
    edges.magnitude[5, 4] = 0.09
    assert edge_groups(edges).of_pixel[5, 2:8].tolist() == [0, 0, -1, 1, 1, 1]


def test_a_small_group_joins_its_neighbour_and_a_large_one_does_not() -> None:
    edges = turning(0.3, 8)
    assert edge_groups(edges).of_pixel[5, 2:10].tolist() == [0] * 6 + [1] * 2
    edges.magnitude[5, 8:10] = 0.2  # 0.4 in all
    groups = edge_groups(edges)
    assert groups.of_pixel[5, 2:10].tolist() == [0] * 8  # the last by way of the one before
    assert groups.mass == pytest.approx([6.4])


def test_a_small_group_alone_is_no_edge_and_the_others_are_numbered_without_it() -> None:
    edges = drawn([(across(range(2, 4), 2), 0.0), (across(range(2, 8), 9), 0.0)])
    edges.magnitude[2] *= 0.2
    groups = edge_groups(edges)
    assert groups.mass.tolist() == [6]
    assert set(groups.of_pixel[2]) == {-1}
    assert set(groups.of_pixel[9, 2:8]) == {0}


def test_no_edges_are_no_groups() -> None:
    groups = edge_groups(drawn([]))
    assert len(groups.mass) == 0
    assert (groups.of_pixel == -1).all()


LINE = across(range(9), 4)  # its mean is at x = 4


@pytest.mark.parametrize(
    ("other", "angle", "expected"),
    [
        (across(range(10, 20), 4), 0.0, 1.0),  # one after the other
        (across(range(11, 20), 4), 0.0, 0.0),  # the same, three pixels from the end of the first
        (across(range(9), 6), 0.0, 0.0),  # side by side
        (
            down(9, range(5, 14)),
            np.pi / 2,
            0.25,
        ),  # a corner: both are at 45 degrees to what joins (4, 4) and (9, 9)
    ],
)
def test_affinities_are_those_worked_out_by_hand(
    other: list[tuple[int, int]], angle: float, expected: float
) -> None:
    of_pixel = np.full((24, 24), -1, np.int32)
    for number, pixels in enumerate((LINE, other)):
        for x, y in pixels:
            of_pixel[y, x] = number
    x, y = (np.array([np.mean(p, axis=0)[k] for p in (LINE, other)], np.float32) for k in (0, 1))
    groups = Groups(of_pixel, np.full(2, 9, np.float32), x, y, np.array([0, angle], np.float32))
    table = affinities(groups, gamma=2.0).toarray()
    np.testing.assert_allclose(table, [[0, expected], [expected, 0]], atol=1e-6)
    np.testing.assert_allclose(affinities(groups, gamma=1.0).toarray(), np.sqrt(table), atol=1e-6)


def test_the_best_path_counts_and_not_the_direct_one() -> None:
    table = np.zeros((5, 5))
    for i, j, value in [(0, 1, 0.5), (1, 2, 0.4), (0, 2, 0.1), (2, 3, 0.2), (3, 4, 1.0)]:
        table[i, j] = table[j, i] = value
    paths = continuations(sparse.csr_array(table)).toarray()
    np.testing.assert_allclose(np.diagonal(paths), 1)
    np.testing.assert_allclose(paths, paths.T)
    assert paths[0, 2] == pytest.approx(0.2)  # 0.5 * 0.4
    assert paths[1, 4] == pytest.approx(0.08)
    assert paths[0, 3] == 0  # 0.5 * 0.4 * 0.2 is below 0.05
    assert paths[3, 4] == pytest.approx(1, abs=1e-5)
