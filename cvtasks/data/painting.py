"""How a generated scene looks: textured ground, coloured objects with an outline and a soft shadow.

Colours are chosen to stand out from the ground and from each other: nothing is camouflaged. As in `scenes`,
only IEEE arithmetic on uniform numbers, so that pictures are the same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cvtasks.data.scenes import Array, Layer, Scene, Thing, crop, turn

CONTRAST = 0.27
"""Least distance of an object's colour from the ground's colours (black to white is 1)."""
_SKIN = ((0.98, 0.84, 0.72), (0.91, 0.71, 0.55), (0.76, 0.55, 0.39), (0.52, 0.35, 0.24), (0.36, 0.24, 0.17))
_HAIR = ((0.13, 0.10, 0.09), (0.36, 0.22, 0.12), (0.63, 0.42, 0.18), (0.80, 0.78, 0.75), (0.62, 0.24, 0.12))
_DARK = (0.10, 0.10, 0.13)


def paint(rng: np.random.Generator, scene: Scene) -> NDArray[np.uint8]:
    """Draw the scene from back to front. Returns the picture, uint8 [3, S, S]."""
    size = scene.owner.shape[0]
    ground = [_colour(rng, saturation=(0.05, 0.5), value=(0.2, 0.95)) for _ in range(2)]
    # The second colour is kept near the first: a calm ground leaves room for objects that stand out.
    ground[1] = ground[0] + (0.35 + 0.3 * rng.random()) * (ground[1] - ground[0])
    first, second = (colour[:, None, None] for colour in ground)
    canvas = first + (second - first) * _ground(rng, size)
    used: list[Array] = [*ground, (ground[0] + ground[1]) / 2]
    for thing in scene.things:
        _shadow(canvas, thing)
        fills = _person(rng, used) if thing.kind == "person" else {"plain": _vivid(rng, used)}
        width = min(max(0.035 * max(thing.distance.shape), 0.5), 1.6)
        for layer in thing.layers:
            texture = None
            if layer.material in ("plain", "shirt"):
                texture = _texture(rng, layer.distance.shape, max(4.0, 0.2 * max(layer.distance.shape)))
            _fill(
                canvas,
                thing,
                layer,
                fills[layer.material],
                texture,
                0.0 if layer.material == "eye" else width,
            )
    light = (0.88 + 0.2 * rng.random()) + 0.2 * (_gradient(rng, (size, size)) - 0.5)
    grain = 0.005 + 0.035 * rng.random()
    canvas *= light
    canvas += (rng.random(canvas.shape, dtype=np.float32) - 0.5) * grain
    return (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)


def _fill(
    canvas: Array, thing: Thing, layer: Layer, colour: Array, texture: Array | None, width: float
) -> None:
    """Lay one part over the picture, with a darker line `width` pixels wide along its edge."""
    size = canvas.shape[1]
    rows, cols, inside = crop(thing.top + layer.top, thing.left + layer.left, layer.distance.shape, size)
    distance, view = layer.distance[inside], canvas[:, rows, cols]
    shade = 1.0 - 0.5 * np.clip(distance + (width + 0.5), 0, 1) if width else 1.0
    if texture is not None:
        shade = shade * texture[inside]
    view += np.clip(0.5 - distance, 0, 1) * (colour[:, None, None] * shade - view)


def _shadow(canvas: Array, thing: Thing) -> None:
    """Darken the ground softly, a little to the right of the object and below it."""
    rows, cols, inside = crop(thing.top + 2, thing.left + 1, thing.distance.shape, canvas.shape[1])
    canvas[:, rows, cols] *= 1 - 0.3 * np.clip(0.5 - thing.distance[inside] / 4, 0, 1)


# ---------------------------------------------------------------------------------------------- colours


def _colour(
    rng: np.random.Generator, *, saturation: tuple[float, float], value: tuple[float, float]
) -> Array:
    """A random hue; [3] red, green, blue."""
    hue, s, v = rng.random(3)
    s, v = saturation[0] + s * (saturation[1] - saturation[0]), value[0] + v * (value[1] - value[0])
    ramp = [min(max(abs((hue * 6 + shift) % 6 - 3) - 1, 0), 1) for shift in (0, 4, 2)]
    return np.array([v * (1 - s * (1 - channel)) for channel in ramp], np.float32)


def _vivid(rng: np.random.Generator, used: list[Array]) -> Array:
    """A colour that stands out from those in use; it joins them."""
    best, clearest = None, -1.0
    for _ in range(24):
        grey = rng.random() < 0.12
        colour = _colour(
            rng, saturation=(0.0, 0.1) if grey else (0.55, 1.0), value=(0.1 if grey else 0.55, 1.0)
        )
        clear = min(_contrast(colour, other) for other in used)
        if clear > clearest:
            best, clearest = colour, clear
        if clear >= CONTRAST:
            break
    assert best is not None
    used.append(best)
    return best


def _contrast(a: Array, b: Array) -> float:
    """Distance of two colours, weighted as the eye weighs red, green and blue, more or less; 0 to 1."""
    red, green, blue = (float(x) - float(y) for x, y in zip(a, b, strict=True))
    return math.sqrt(0.3 * red * red + 0.5 * green * green + 0.2 * blue * blue)


def _person(rng: np.random.Generator, used: list[Array]) -> dict[str, Array]:
    """Clothes, skin and hair. One side's sleeve and leg are lighter, so that limbs can be told apart."""
    shirt, trousers = _vivid(rng, used), _vivid(rng, used)
    light, dim = ("left", "right") if rng.random() < 0.5 else ("right", "left")
    return {
        "shirt": shirt,
        "skin": _one_of(rng, _SKIN),
        "hair": _one_of(rng, _HAIR),
        "shoe": np.array(_DARK, np.float32),
        "eye": np.array(_DARK, np.float32),
        f"{light} arm": shirt + 0.25 * (1 - shirt),
        f"{light} leg": trousers + 0.15 * (1 - trousers),
        f"{dim} arm": shirt * 0.8,
        f"{dim} leg": trousers * 0.8,
    }


def _one_of(rng: np.random.Generator, colours: Sequence[tuple[float, float, float]]) -> Array:
    return np.array(colours[int(rng.random() * len(colours))], np.float32)


# ---------------------------------------------------------------------------------------------- textures


def _ground(rng: np.random.Generator, size: int) -> Array:
    """How much of the second colour there is at each pixel: gradient, noise, stripes, checks or dots."""
    shape, kind = (size, size), int(rng.random() * 6)
    period = size * (0.08 + 0.17 * rng.random())
    if kind == 0:
        return _gradient(rng, shape)
    if kind <= 2:
        cells = (size / 3, size / 7, size / 16, size / 40) if kind == 1 else (size / 6, size / 24)
        return _noise(rng, shape, cells)
    field = (_stripes, _checks, _dots)[kind - 3](rng, shape, period)
    return 0.7 * field + 0.3 * _noise(rng, shape, (size / 4, size / 12))


def _texture(rng: np.random.Generator, shape: tuple[int, ...], period: float) -> Array:
    """A factor on an object's colour: half of the objects have a pattern, the others a soft light."""
    kind, depth = int(rng.random() * 8), 0.25 + 0.2 * rng.random()
    if kind >= 4:
        return 1.12 - 0.24 * _gradient(rng, shape)
    if kind == 3:
        return 1.1 - depth * _noise(rng, shape, (period, period / 2))
    return 1.05 - depth * (_stripes, _checks, _dots)[kind](rng, shape, period)


def _axes(rng: np.random.Generator, shape: tuple[int, ...], period: float) -> tuple[Array, Array]:
    """Two turned axes [h, w], counted in periods, from a random origin."""
    cos, sin = turn(rng.random() * 2 * math.pi)
    cos, sin = round(cos / period, 5), round(sin / period, 5)
    x = np.arange(shape[1], dtype=np.float32)[None, :]
    y = np.arange(shape[0], dtype=np.float32)[:, None]
    return cos * x + (sin * y + rng.random(dtype=np.float32)), cos * y + (
        rng.random(dtype=np.float32) - sin * x
    )


def _wave(axis: Array) -> Array:
    """-1 to 1 and back in each period, with steep flanks."""
    return np.clip(6 * np.abs(axis - np.floor(axis) - 0.5) - 1.5, -1, 1)


def _stripes(rng: np.random.Generator, shape: tuple[int, ...], period: float) -> Array:
    return 0.5 + 0.5 * _wave(_axes(rng, shape, period)[0])


def _checks(rng: np.random.Generator, shape: tuple[int, ...], period: float) -> Array:
    u, v = _axes(rng, shape, 1.5 * period)
    return 0.5 + 0.5 * _wave(u) * _wave(v)


def _dots(rng: np.random.Generator, shape: tuple[int, ...], period: float) -> Array:
    u, v = _axes(rng, shape, period)
    u, v = u - np.floor(u) - 0.5, v - np.floor(v) - 0.5
    return np.clip((0.34 - np.sqrt(u * u + v * v)) * float(np.float32(period)) + 0.5, 0, 1)


def _gradient(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """0 to 1 along a random direction."""
    cos, sin = turn(rng.random() * 2 * math.pi)
    x = np.arange(shape[1], dtype=np.float32)[None, :] - shape[1] / 2
    y = np.arange(shape[0], dtype=np.float32)[:, None] - shape[0] / 2
    length = abs(cos) * shape[1] + abs(sin) * shape[0]
    return (cos / length) * x + ((sin / length) * y + 0.5)


def _noise(rng: np.random.Generator, shape: tuple[int, ...], cells: Sequence[float]) -> Array:
    """Smooth noise at several scales (cell sizes in pixels), each weaker than the one before; 0 to 1."""
    total, weight, weights = np.zeros(shape, np.float32), 1.0, 0.0
    for cell in cells:
        (row, down), (col, across) = (_lattice(side, cell) for side in shape)
        values = rng.random((int(row[-1]) + 2, int(col[-1]) + 2), dtype=np.float32)
        lines = values[row] + down[:, None] * (values[row + 1] - values[row])
        start = lines[:, col]
        total += weight * (start + across * (lines[:, col + 1] - start))
        weights += weight
        weight *= 0.55
    # Sums of several octaves crowd around the middle; spread them again.
    return np.clip(0.5 + 1.6 * (total / weights - 0.5), 0, 1)


def _lattice(side: int, cell: float) -> tuple[NDArray[np.int64], Array]:
    """For each pixel the lattice point before it and the (smoothed) way to the next."""
    place = np.arange(side, dtype=np.float32) / max(cell, 1.0)
    before = np.floor(place)
    way = place - before
    return before.astype(np.int64), way * way * (3 - 2 * way)
