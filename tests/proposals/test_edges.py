"""Images of which the edges are known: steps, textures, colours of equal lightness."""

import numpy as np
import pytest

from cvtasks.proposals.edges import edge_map, thin


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def halves(left: tuple[int, int, int], right: tuple[int, int, int]) -> np.ndarray:
    image = np.empty((30, 40, 3), np.uint8)
    image[:, :20], image[:, 20:] = left, right
    return image


def test_a_step_is_an_edge_one_pixel_wide_in_every_row() -> None:
    edges = edge_map(halves((20, 20, 20), (220, 220, 220)))
    rows, columns = np.nonzero(edges.magnitude)
    assert rows.tolist() == list(range(30))
    assert len(set(columns)) == 1
    assert columns[0] in (19, 20)
    np.testing.assert_allclose(edges.orientation[rows, columns], np.pi / 2, atol=1e-3)


def test_a_horizontal_step_stays_in_one_row() -> None:
    edges = edge_map(np.ascontiguousarray(halves((20, 20, 20), (220, 220, 220)).transpose(1, 0, 2)))
    rows, columns = np.nonzero(edges.magnitude)
    assert sorted(columns) == list(range(30))
    assert len(set(rows)) == 1


@pytest.mark.parametrize(("sign", "angle"), [(1, np.pi / 4), (-1, 3 * np.pi / 4)])
def test_a_slanted_edge_goes_the_way_it_is_drawn(sign: int, angle: float) -> None:
    y, x = np.indices((41, 41)) - 20
    edges = edge_map(grey(np.where(x > sign * y, 220, 20)))
    inner = edges.magnitude[10:-10, 10:-10] > 0.1
    assert inner.any()
    np.testing.assert_allclose(edges.orientation[10:-10, 10:-10][inner], angle, atol=0.05)


def test_an_edge_between_two_colours_of_equal_lightness_counts() -> None:
    red, green = (222, 60, 60), (60, 133, 60)  # L* is 50.1 and 50.0
    assert edge_map(halves(red, green)).magnitude.max() > 0.3


def test_a_stronger_step_is_a_stronger_edge() -> None:
    weak, strong = (edge_map(halves((100,) * 3, (value,) * 3)).magnitude.max() for value in (140, 200))
    assert 0.1 < weak < strong < 1


@pytest.mark.parametrize("surround", [0.0, 1.0])
def test_texture_is_weaker_than_an_outline_of_its_contrast(surround: float) -> None:
    noise = np.random.default_rng(0).choice([100, 180], (60, 60))
    image = np.full((60, 140), 100)
    image[:, 80:] = noise
    image[20:40, 20:40] = 180
    magnitude = edge_map(grey(image), surround=surround).magnitude
    outline, texture = magnitude[15:45, 15:45], magnitude[10:-10, 90:-10]
    assert np.median(outline[outline > 0.1]) > (4, 20)[surround > 0] * texture.mean()
    assert np.median(outline[outline > 0.1]) > 2.3 * np.quantile(texture[texture > 0], 0.9)


def test_of_two_equal_neighbours_across_the_edge_one_stays() -> None:
    magnitude = np.array([[0, 2, 2, 0, 1, 3, 1]], np.float32)
    assert thin(magnitude, np.zeros_like(magnitude)).tolist() == [[0, 0, 2, 0, 0, 3, 0]]


def test_along_the_edge_nothing_is_thinned() -> None:
    magnitude = np.array([[1, 2, 3, 4]], np.float32)
    assert thin(magnitude, np.full_like(magnitude, np.pi / 2)).tolist() == magnitude.tolist()


@pytest.mark.parametrize("shape", [(1, 1), (1, 50), (50, 1), (2, 3), (40, 40)])
def test_a_uniform_image_of_any_size_has_no_edges(shape: tuple[int, int]) -> None:
    edges = edge_map(np.full((*shape, 3), 77, np.uint8))
    assert edges.magnitude.shape == edges.orientation.shape == shape
    assert not edges.magnitude.any()
