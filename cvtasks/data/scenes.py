"""Where the objects of a generated scene stand: outlines, placing, and which object owns which pixel.

Outlines are signed distances in pixels (negative inside), so that edges are smooth without supersampling
(`painting` draws them). Objects overlap in painter's order: the last one placed lies on top. Everything is
IEEE arithmetic on the uniform numbers of one `Generator`; sines and cosines are rounded, which hides the
last bit in which C libraries differ. So a seed gives the same scene on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from cvtasks.data.skeletons import LSP

Array: TypeAlias = NDArray[np.floating[Any]]
SceneKind: TypeAlias = Literal["detection", "localization", "pose"]

SHAPES = ("circle", "rectangle", "triangle", "star", "ring", "cross", "person")

EMPTY = 0.04
"""Share of detection scenes without any object."""
CUT_OFF = 0.25
"""Share of objects whose centre may lie anywhere, so that the picture's edge cuts some of them."""
MIN_VISIBLE = 0.4
"""Least visible share of an object's area, counting what the edge cuts; less would make its label unfair."""
MIN_PIXELS = 40
"""An object may lose nothing of its last 40 pixels: small objects are seen nearly whole."""
MAX_IOU = 0.4
"""Largest IoU of two objects' boxes; with more, non-maximum suppression would have to drop a true one."""
ATTEMPTS = 12
"""Places tried before an object is left out."""
MARGIN = 5
"""Pixels around an object's window, for its smooth edge and its shadow."""

# Longest side of an object as a share of the picture's: 12 to 58 pixels of 128; figures need more to be seen.
_LENGTHS: dict[SceneKind, tuple[float, float]] = {
    "detection": (0.094, 0.45),
    "localization": (0.25, 0.8),
    "pose": (0.62, 0.92),
}
_FIGURE_LENGTHS = _LENGTHS | {"detection": (0.25, 0.6), "localization": (0.45, 0.9)}


@dataclass(frozen=True)
class Layer:
    """One part of an object, in one material. `top` and `left` count from the object's window."""

    distance: Array
    """[h, w]: pixels to the part's edge, negative inside"""
    material: str
    top: int = 0
    left: int = 0


@dataclass(frozen=True)
class Thing:
    """One object: its window of the picture (which may reach outside), its parts from back to front."""

    kind: str
    layers: tuple[Layer, ...]
    distance: Array
    """[h, w]: pixels to the object's edge, negative inside"""
    joints: NDArray[np.float64] | None = None
    """[14, 2]: x, y of a person's joints, counted from the window's corner"""
    top: int = 0
    left: int = 0


@dataclass(frozen=True)
class Scene:
    """The objects of one picture from back to front."""

    things: tuple[Thing, ...]
    owner: NDArray[np.int8]
    """[S, S]: which object is seen at each pixel; -1 is background"""


def layout(
    rng: np.random.Generator, size: int, *, kinds: Sequence[str], scene: SceneKind, max_objects: int
) -> Scene:
    """Place objects of `kinds` in a picture of `size` x `size` pixels.

    detection: none (rarely) to `max_objects`; localization and pose: exactly one, whole. An object that would
    hide too much of another, or be cut too much, is moved, and after `ATTEMPTS` places left out.
    """
    count = 1
    if scene == "detection":
        count = 0 if rng.random() < EMPTY else 1 + int(rng.random() * max_objects)
    owner = np.full((size, size), -1, np.int8)
    things: list[Thing] = []
    boxes: list[tuple[int, int, int, int]] = []
    seen, needed = np.zeros(count), np.zeros(count)
    for _ in range(count):
        kind = kinds[int(rng.random() * len(kinds))]
        low, high = (_FIGURE_LENGTHS if kind == "person" else _LENGTHS)[scene]
        length = size * low * (high / low) ** rng.random()
        thing = _figure(rng, length) if kind == "person" else _shape(kind, rng, length)
        solid = thing.distance <= 0
        area = int(np.count_nonzero(solid))
        needed[len(things)] = max(MIN_VISIBLE * area, min(area, MIN_PIXELS))
        cut = scene == "detection" and rng.random() < CUT_OFF
        for _attempt in range(ATTEMPTS):
            top, left = (_position(rng, size, side, cut) for side in solid.shape)
            rows, cols, inside = crop(top, left, solid.shape, size)
            box = (left + MARGIN, top + MARGIN, left + solid.shape[1] - MARGIN, top + solid.shape[0] - MARGIN)
            if any(_iou(box, other) > MAX_IOU for other in boxes):
                continue
            mask, under = solid[inside], owner[rows, cols]
            hidden = np.bincount(under[mask & (under >= 0)], minlength=count)
            left_over = seen - hidden
            left_over[len(things)] = np.count_nonzero(mask)
            if (left_over < needed)[: len(things) + 1].any():
                continue
            under[mask] = len(things)
            seen = left_over
            boxes.append(box)
            things.append(replace(thing, top=top, left=left))
            break
    return Scene(tuple(things), owner)


def crop(top: int, left: int, shape: tuple[int, ...], size: int) -> tuple[slice, slice, tuple[slice, slice]]:
    """The rows and columns of the picture that a window covers, and the same part of the window itself."""
    (rows, down), (cols, across) = (
        _common(first, side, size) for first, side in zip((top, left), shape, strict=True)
    )
    return rows, cols, (down, across)


def _common(first: int, side: int, size: int) -> tuple[slice, slice]:
    start = min(max(first, 0), size)
    stop = max(min(first + side, size), start)
    return slice(start, stop), slice(max(start - first, 0), max(stop - first, 0))


def turn(angle: float) -> tuple[float, float]:
    """Cosine and sine, rounded so that every C library gives the same."""
    return round(math.cos(angle), 5), round(math.sin(angle), 5)


def _position(rng: np.random.Generator, size: int, side: int, cut: bool) -> int:
    """First row (or column) of a window of `side` pixels: anywhere if `cut`, else with the object inside."""
    first, last = (-side // 2, size - side // 2) if cut else (-MARGIN, size - side + MARGIN)
    return first + int(rng.random() * (max(last - first, 0) + 1))


def _iou(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    common = max(width, 0) * max(height, 0)
    return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)


def _thing(
    kind: str, layers: Sequence[Layer], distance: Array, joints: NDArray[np.float64] | None = None
) -> Thing:
    """Cut the window to the object's own pixels and `MARGIN` around them."""
    solid = distance <= 0
    rows, cols = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    top, left = int(rows[0]) - MARGIN, int(cols[0]) - MARGIN
    assert min(top, left) >= 0, "a window has room for the margin"
    window = distance[top : int(rows[-1]) + MARGIN + 1, left : int(cols[-1]) + MARGIN + 1]
    if joints is None:
        return Thing(kind, (Layer(window, layers[0].material),), window)
    moved = tuple(replace(layer, top=layer.top - top, left=layer.left - left) for layer in layers)
    return Thing(kind, moved, window, joints - (left, top))


# ---------------------------------------------------------------------------------------------- plain shapes


def _shape(kind: str, rng: np.random.Generator, length: float) -> Thing:
    """A shape about `length` pixels long, at a random angle and a random fraction of a pixel."""
    half = round(length * 32) / 64
    reach = int(half * 1.45) + MARGIN + 2
    grid = np.arange(2 * reach, dtype=np.float32) + np.float32(0.5 - reach)
    x = (grid - round(rng.random() * 64) / 64)[None, :]
    y = (grid - round(rng.random() * 64) / 64)[:, None]
    cos, sin = turn(rng.random() * 2 * math.pi)
    u, v = cos * x + sin * y, cos * y - sin * x
    form = round(rng.random(), 5)
    if kind == "circle":
        distance = np.sqrt(x * x + y * y) - half
    elif kind == "ring":
        hole = half * (0.45 + 0.15 * form)
        distance = np.abs(np.sqrt(x * x + y * y) - (half + hole) / 2) - (half - hole) / 2
    elif kind == "rectangle":
        side = 0.95 * half
        distance = _rectangle(u, v, side, side * (0.6 + 0.4 * form))
    elif kind == "cross":
        side, thin = half, half * (0.28 + 0.1 * form)
        distance = np.minimum(_rectangle(u, v, side, thin), _rectangle(u, v, thin, side))
    elif kind == "triangle":
        base, height = half * (0.85 + 0.3 * form), half * 1.05
        distance = _convex(u, v, [(-base, height * 0.8), (0.0, -height), (base, height * 0.8)])
    else:
        assert kind == "star", kind
        distance = _star(u, v, 1.12 * half, 0.45 + 0.1 * form)
    return _thing(kind, [Layer(distance, "plain")], distance)


def _rectangle(u: Array, v: Array, width: float, height: float) -> Array:
    return np.maximum(np.abs(u) - width, np.abs(v) - height)


def _convex(x: Array, y: Array, corners: Sequence[tuple[float, float]]) -> Array:
    """Distance to a convex polygon: the largest of the distances to its edges' lines (corners clockwise)."""
    distance = None
    for (x1, y1), (x2, y2) in zip(corners, [*corners[1:], corners[0]], strict=True):
        length = math.sqrt((x2 - x1) ** 2 + (y2 - y1) ** 2)
        across, down = (y2 - y1) / length, (x1 - x2) / length
        edge = across * x + (down * y - (across * x1 + down * y1))
        distance = edge if distance is None else np.maximum(distance, edge, out=distance)
    assert distance is not None
    return distance


def _star(u: Array, v: Array, radius: float, inner: float) -> Array:
    """A star of five points: three mirrors fold them all into half a point, which is one straight edge."""
    cos, sin = turn(math.pi / 5)
    u = np.abs(u)
    for across in (cos, -cos):
        beyond = 2 * np.maximum(across * u - sin * v, 0)
        u, v = u - across * beyond, v + sin * beyond
    u, v = np.abs(u), v - radius
    # From the tip at the origin to the notch between two points.
    notch_u, notch_v = radius * inner * sin, radius * (inner * cos - 1)
    length = math.sqrt(notch_u**2 + notch_v**2)
    along = np.clip((u * notch_u + v * notch_v) / length**2, 0, 1)
    du, dv = u - along * notch_u, v - along * notch_v
    return np.copysign(np.sqrt(du * du + dv * dv), v * notch_u - u * notch_v)


# ---------------------------------------------------------------------------------------------- the figure


def _pose(rng: np.random.Generator) -> dict[str, tuple[float, float]]:
    """Joints of a standing, waving or running figure that faces us: pelvis at the origin, height about 1.

    It always faces us, so its right is on the picture's left. That is how the sides are told apart: unlike a
    colour for each side, it still holds in a mirrored picture with left and right swapped.
    """

    def ahead(start: tuple[float, float], length: float, angle: float) -> tuple[float, float]:
        return start[0] + length * math.sin(angle), start[1] + length * math.cos(angle)

    def between(low: float, high: float) -> float:
        return math.radians(low + (high - low) * rng.random())

    lean, bow = between(-25, 25), between(-12, 12)
    up = lean + bow + math.pi
    joints = {"pelvis": (0.0, 0.0), "neck": ahead((0, 0), 0.30, up)}
    joints["head"] = ahead(joints["neck"], 0.13, up + between(-15, 15))
    chest = ahead((0, 0), 0.26, up)
    for side, sign in (("right", -1), ("left", 1)):
        joints[f"{side} shoulder"] = ahead(chest, 0.115, up - sign * math.pi / 2)
        joints[f"{side} hip"] = ahead((0, 0), 0.06, lean + sign * math.pi / 2)
        thigh = between(-2, 55)
        shin = thigh - between(-15, 60)
        arm = between(8, 165)
        forearm = arm + between(-80, 95)
        joints[f"{side} knee"] = ahead(joints[f"{side} hip"], 0.22, lean + sign * thigh)
        joints[f"{side} ankle"] = ahead(joints[f"{side} knee"], 0.21, lean + sign * shin)
        joints[f"{side} elbow"] = ahead(joints[f"{side} shoulder"], 0.16, lean + bow + sign * arm)
        joints[f"{side} wrist"] = ahead(joints[f"{side} elbow"], 0.15, lean + bow + sign * forearm)
    return joints


def _figure(rng: np.random.Generator, length: float) -> Thing:
    """A person about `length` pixels long from one end to the other, with the 14 joints of `LSP`."""
    pose = _pose(rng)
    xs, ys = zip(*pose.values(), strict=True)
    around = 0.11  # the head's radius and a little more
    scale = length / (max(max(xs) - min(xs), max(ys) - min(ys)) + around)
    reach = around * scale + MARGIN + 3
    x0, y0 = min(xs) * scale - reach - rng.random(), min(ys) * scale - reach - rng.random()
    at = {
        name: (round((x * scale - x0) * 64) / 64, round((y * scale - y0) * 64) / 64)
        for name, (x, y) in pose.items()
    }
    shape = tuple(int((max(side) - min(side)) * scale + 2 * reach) + 2 for side in (ys, xs))
    unit = round(scale * 64) / 64
    limb, head = max(0.04 * unit, 0.95), max(0.1 * unit, 2.5)
    upwards = (at["head"][0] - at["neck"][0], at["head"][1] - at["neck"][1])
    tall = math.sqrt(upwards[0] ** 2 + upwards[1] ** 2)
    upwards = (upwards[0] / tall, upwards[1] / tall)

    layers: list[Layer] = []
    distance = np.full(shape, MARGIN, np.float32)

    def add(material: str, *chains: tuple[str, ...], radius: float, filled: bool = False) -> Layer:
        """Thick lines through joints as one layer; `filled` too if they go round a convex area."""
        points = [at[name] for chain in chains for name in chain]
        left, top = (int(min(p[axis] for p in points) - radius) - MARGIN for axis in (0, 1))
        right, bottom = (int(max(p[axis] for p in points) + radius) + MARGIN + 1 for axis in (0, 1))
        x = (np.arange(left, right, dtype=np.float32) + np.float32(0.5))[None, :]
        y = (np.arange(top, bottom, dtype=np.float32) + np.float32(0.5))[:, None]
        field, *others = [_bone(x, y, at[a], at[b]) for chain in chains for a, b in _links(chain)]
        for other in others:
            np.minimum(field, other, out=field)
        if filled:
            depth = _convex(x, y, points[:-1])
            field = np.where(depth < 0, depth, field)
        field -= np.float32(radius)
        window = distance[top:bottom, left:right]
        np.minimum(window, field, out=window)
        layers.append(Layer(field, material, top, left))
        return layers[-1]

    def towards(start: str, end: str, share: float) -> tuple[float, float]:
        (x1, y1), (x2, y2) = at[start], at[end]
        return x1 + share * (x2 - x1), y1 + share * (y2 - y1)

    for side in ("left", "right"):
        add(f"{side} leg", (f"{side} hip", f"{side} knee", f"{side} ankle"), radius=1.2 * limb)
    for side, sign in (("left", 1), ("right", -1)):
        x, y = at[f"{side} ankle"]
        at[f"{side} toe"] = (x + sign * 0.8 * limb, y + 0.5 * limb)
        at[f"{side} collar"] = towards(f"{side} shoulder", "neck", 0.25)
    add("shoe", ("left ankle", "left toe"), ("right ankle", "right toe"), radius=1.25 * limb)
    trunk = ("right hip", "right shoulder", "left shoulder", "left hip", "right hip")
    add("shirt", trunk, radius=1.1 * limb, filled=True)
    add("skin", ("neck", "head"), radius=0.8 * limb)
    face = add("skin", ("head",), radius=head)
    x = np.arange(face.left, face.left + face.distance.shape[1], dtype=np.float32) + 0.5 - at["head"][0]
    y = np.arange(face.top, face.top + face.distance.shape[0], dtype=np.float32) + 0.5 - at["head"][1]
    height = upwards[0] * x[None, :] + upwards[1] * y[:, None]
    layers.append(replace(face, distance=np.maximum(face.distance, 0.35 * head - height), material="hair"))
    if head >= 4.5:
        for side, sign in (("right", -1), ("left", 1)):
            across, below = sign * 0.38 * head, 0.12 * head
            at[f"{side} eye"] = (
                at["head"][0] - upwards[1] * across - upwards[0] * below,
                at["head"][1] + upwards[0] * across - upwards[1] * below,
            )
        add("eye", ("right eye",), ("left eye",), radius=0.13 * head)
    for side in ("left", "right"):
        add(f"{side} arm", (f"{side} collar", f"{side} elbow", f"{side} wrist"), radius=limb)
    add("skin", ("left wrist",), ("right wrist",), radius=1.15 * limb)

    # The crown, one pixel inside the head, so that the pixel under the joint is the head's own.
    crown = head - 0.95
    at["head top"] = (at["head"][0] + crown * upwards[0], at["head"][1] + crown * upwards[1])
    joints = np.round(np.array([at[name] for name in LSP.names]) * 64) / 64
    return _thing("person", layers, distance, joints)


def _links(chain: tuple[str, ...]) -> list[tuple[str, str]]:
    return list(zip(chain, chain[1:] or chain, strict=False))


def _bone(x: Array, y: Array, start: tuple[float, float], end: tuple[float, float]) -> Array:
    """Distance to a straight line from `start` to `end`; a point where they are the same."""
    dx, dy = x - start[0], y - start[1]
    across, down = end[0] - start[0], end[1] - start[1]
    length = across**2 + down**2
    if length:
        along = np.clip(dx * (across / length) + dy * (down / length), 0, 1)
        dx, dy = dx - along * across, dy - along * down
    return np.sqrt(dx * dx + dy * dy)
