"""Colours of one `Sample`, on bytes. Nothing here is random: the pipelines draw."""

from __future__ import annotations

import cmath
import math

import numpy as np
import torch
from PIL import Image
from torchvision import tv_tensors

from cvtasks.data.transforms import plain
from cvtasks.types import Sample

GREY = (0.2989, 0.587, 0.114)
"""Weights of red, green and blue in a grey value, as torchvision has them."""
_YIQ = np.array([GREY, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
"""Grey, and two axes of colour at right angles"""


def adjust_color(
    sample: Sample,
    *,
    brightness: float = 1.0,
    contrast: float = 1.0,
    saturation: float = 1.0,
    hue: float = 0.0,
    offset: float = 0.0,
) -> Sample:
    """Hue, saturation, contrast (around the mean grey) and brightness, as one affine map of the colours.

    The last three are factors of which 1 changes nothing, and the same as v2's functions in that order. `hue` turns
    the colours by a part of the circle, -0.5 to 0.5, in the plane of YIQ, so that their grey values stay (v2's keeps
    the largest channel). `offset` is added to all channels at the end. Pillow applies the map to bytes and clips once:
    half the time of floats, and the same bits with any number of threads.
    """
    pixels = plain(sample["image"])
    turn = cmath.exp(-2j * math.pi * hue)
    rotation = np.array([[1, 0, 0], [0, turn.real, -turn.imag], [0, turn.imag, turn.real]])
    grey = np.tile(GREY, (3, 1))
    colors = saturation * np.eye(3) + (1 - saturation) * grey
    colors = brightness * contrast * colors @ np.linalg.solve(_YIQ, rotation @ _YIQ)
    means = pixels.flatten(1).sum(1, dtype=torch.int64).numpy() / pixels[0].numel()
    shift = brightness * (1 - contrast) * grey @ means + offset
    matrix = np.column_stack((colors, shift)).ravel().tolist()
    picture = Image.fromarray(pixels.permute(1, 2, 0).numpy()).convert("RGB", tuple(matrix))
    return sample | {"image": tv_tensors.Image(torch.from_numpy(np.array(picture)).permute(2, 0, 1))}


def adjust_hsv(sample: Sample, *, saturation: float = 1.0, exposure: float = 1.0) -> Sample:
    """Saturation and value of HSV by factors, as darknet does: clipped only once they are red, green and blue again.

    In HSV a channel c of a pixel whose largest is v lies v - c below it, by a part of v that is the saturation's: so it
    becomes exposure * (v - saturation * (v - c)).
    """
    pixels = plain(sample["image"])
    largest = pixels.amax(0).float().mul_(exposure * (1 - saturation))
    adjusted = pixels.float().mul_(exposure * saturation).add_(largest).round_().clamp_(0, 255)
    return sample | {"image": tv_tensors.Image(adjusted.to(torch.uint8))}
