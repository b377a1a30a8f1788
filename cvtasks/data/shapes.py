"""Generated scenes with every label that the five task families need: the data set that needs no download.

Coloured shapes and articulated figures, overlapping, small and cut off, on textured ground. Scene `index` of
a split is a function of (seed, split, index) alone, made when it is asked for: nothing is stored, and it is
the same on every machine. `scenes` places the objects, `painting` draws them, each with random numbers of its
own, so that the labels do not depend on how the objects look.

    cvtasks train task=faster_rcnn dataset=shapes
    cvtasks train task=localization dataset=shapes dataset.scene=localization
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from cvtasks.config.schema import Range
from cvtasks.data.object_maps import of_objects, of_pixels_only, with_background
from cvtasks.data.painting import paint
from cvtasks.data.people import of_one_person
from cvtasks.data.scenes import SHAPES, Scene, SceneKind, layout
from cvtasks.data.single import Select, of_one_object
from cvtasks.data.skeletons import LSP
from cvtasks.errors import ConfigError
from cvtasks.types import ClassInfo, Sample, Split, Truth

_SPLITS: dict[Split, int] = {"train": 0, "val": 1}


_OBJECTS = frozenset({"boxes", "labels", "ignore", "masks"})
"""What the truth of a list of objects has in any case"""


class Count(TypedDict):
    """How many scenes a split has."""

    count: Annotated[int, Range(min=1)]


TRAIN: Count = {"count": 10_000}
VAL: Count = {"count": 200}


class ShapesReader:
    """One split of the generated scenes (protocol `Reader`).

    `boxes` are the tight boxes of the visible pixels; `masks` hold visible pixels only; `segmentation` is 0
    for the ground and k + 1 for class k; `label` is the class of the object with the most visible pixels, and
    `classes.ignore_index` where there is no object; `keypoints` are the 14 joints of the Leeds data, and
    `visible` is 2, or 1 where something hides them or they lie outside the picture; both are 0 for what is no
    person. Nothing is marked `ignore`. If `fields` asks for `segmentation` alone, "background" is the first class.

    With "label" and without "labels" in `fields` each sample has one object, and with "keypoints" and "boxes" one person.

    scene: detection has 0 to `max_objects` objects; localization one; pose one large person.
    select: which object, where a task takes one; with largest, no scene is empty.
    classes: which shapes occur, in this order (null: all of them, or the person alone for scene=pose).
    """

    provides: ClassVar[frozenset[str]] = frozenset(
        {"label", "boxes", "labels", "ignore", "masks", "keypoints", "visible", "segmentation"}
    )

    def __init__(
        self,
        *,
        split: Split,
        fields: frozenset[str] = provides,
        scene: SceneKind = "detection",
        image_size: Annotated[int, Range(min=64, max=2048)] = 128,
        max_objects: Annotated[int, Range(min=1, max=100)] = 6,
        train: Count = TRAIN,
        val: Count = VAL,
        classes: Sequence[str] | None = None,
        select: Select = "one",
        seed: Annotated[int, Range(min=0)] = 0,
    ) -> None:
        self.fields = fields
        self.scene = scene
        self.image_size = image_size
        self.max_objects = max_objects
        self.split = split
        self.seed = seed
        self.notes: list[str] = []
        self._only_map = of_pixels_only(fields)
        self._one_object, self._one_person = of_one_object(fields), of_one_person(fields)
        if self._one_object and scene == "detection" and select == "one":
            raise ConfigError(
                f"dataset.scene=detection: scenes have up to {max_objects} objects, and this task takes one; set "
                "dataset.scene=localization, or dataset.select=largest"
            )
        if self._one_person and scene != "pose":
            raise ConfigError(f"dataset.scene={scene}: this task takes one person; set dataset.scene=pose")
        self.classes = _class_info(of_objects(classes) if self._only_map else classes, scene)
        self._kinds = self.classes.names
        if self._only_map:
            self.classes = with_background(self.classes)
        self._count = (train if split == "train" else val)["count"]

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Sample:
        """The picture and those labels that `fields` names. Raises IndexError outside the split."""
        scene = self._scene(index)
        picture = paint(self._random(index, 1), scene)
        sample: Sample = {
            "image": tv_tensors.Image(torch.from_numpy(picture)),
            "image_id": index,
            "orig_size": (self.image_size, self.image_size),
        }
        for name, array in self._labels(scene, self.fields).items():
            sample[name] = _to_torch(name, array, self.image_size)
        return sample

    def truth(self, index: int) -> Truth:
        """The labels alone: the scene is placed, not painted. `rles` where `fields` asks for masks."""
        objects = {"boxes", "masks"} if self._one_object or self._one_person else _OBJECTS
        labels = self._labels(self._scene(index), self.fields | (frozenset() if self._only_map else objects))
        truth: Truth = {
            "image_id": index,
            "file": f"shapes/{self.split}/{index}",
            "orig_size": (self.image_size, self.image_size),
        }
        if self._only_map:
            return truth | labels
        if self._one_object:
            truth["label"] = int(labels.pop("label"))
        if self._one_person:
            truth |= {"source_id": index, "head_size": float("nan")}
            labels["keypoints"] = labels["keypoints"].astype(np.float64)
        masks = labels.pop("masks")
        return truth | {
            "area": masks.sum((1, 2)).astype(np.float64),
            **labels,
            **({"rles": _rles(masks)} if "masks" in self.fields else {}),
        }

    def _random(self, index: int, purpose: int) -> np.random.Generator:
        numbers = np.random.SeedSequence([self.seed, _SPLITS[self.split], index, purpose])
        return np.random.Generator(np.random.PCG64(numbers))

    def _scene(self, index: int) -> Scene:
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        kinds = ("person",) if self.scene == "pose" else self._kinds
        for attempt in itertools.count():
            scene = layout(
                self._random(index, 2 * attempt),
                self.image_size,
                kinds=kinds,
                scene=self.scene,
                max_objects=self.max_objects,
            )
            if scene.things or not self._one_object:
                return scene
        raise AssertionError

    def _labels(self, scene: Scene, fields: frozenset[str]) -> dict[str, NDArray[Any]]:
        """Those of `fields` that the scenes have, as arrays: the one place that says what each holds."""
        labels = np.array([self._kinds.index(thing.kind) for thing in scene.things], np.int64)
        largest = _largest(scene)
        which = slice(largest, largest + 1) if self._one_object else slice(None)
        make: dict[str, Callable[[], NDArray[Any]]] = {
            "labels": lambda: labels,
            "ignore": lambda: np.zeros(len(labels), bool),
            "boxes": lambda: _boxes(_masks(scene)[which]),
            "masks": lambda: _masks(scene)[which],
            "keypoints": lambda: _joints(scene)[0][which],
            "visible": lambda: _joints(scene)[1][which],
            # `owner` is -1 on the ground, which picks the 0 at the end.
            "segmentation": lambda: np.append(labels + 1, 0).astype(np.uint8)[scene.owner],
            "label": lambda: np.array(
                labels[largest] if len(labels) else self.classes.ignore_index, np.int64
            ),
        }
        return {name: made() for name, made in make.items() if name in fields}


def _class_info(classes: Sequence[str] | None, scene: SceneKind) -> ClassInfo:
    """Check the names against the shapes that can be drawn. Raises ConfigError."""
    names = tuple(classes) if classes is not None else ("person",) if scene == "pose" else SHAPES
    for name in names:
        if name not in SHAPES:
            near = difflib.get_close_matches(str(name), SHAPES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(SHAPES)}"
            raise ConfigError(f"dataset.classes: shapes cannot draw '{name}'; {hint}")
    if not names or len(set(names)) < len(names):
        raise ConfigError(f"dataset.classes: expected one or more different shapes, got [{', '.join(names)}]")
    if scene == "pose" and "person" not in names:
        raise ConfigError(
            "dataset.classes: scene=pose draws a person, which is not among the classes; "
            "add person, or set dataset.scene=detection"
        )
    return ClassInfo(names, **(LSP.class_info if "person" in names else {}))


def _largest(scene: Scene) -> int:
    """The object with the most visible pixels; 0 where there is none."""
    return int(np.bincount(scene.owner.ravel() + 1, minlength=2)[1:].argmax())


def _masks(scene: Scene) -> NDArray[np.bool_]:
    """Visible pixels of each object, bool [N, S, S]."""
    return np.equal(scene.owner, np.arange(len(scene.things), dtype=np.int8)[:, None, None])


def _boxes(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Tight boxes of masks [N, S, S] of a pixel or more; float64 [N, 4], where x2 is the last column + 1."""
    rows, cols = np.any(masks, 2), np.any(masks, 1)
    size = masks.shape[1]
    sides = [cols.argmax(1), rows.argmax(1), size - cols[:, ::-1].argmax(1), size - rows[:, ::-1].argmax(1)]
    return np.stack(sides, 1).astype(np.float64)


def _joints(scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Joints [N, 14, 2] and whether they are seen [N, 14]: 2 yes, 1 hidden or outside, 0 not a person's."""
    count, size = len(scene.things), len(scene.owner)
    joints = np.zeros((count, len(LSP.names), 2), np.float32)
    visible = np.zeros((count, len(LSP.names)), np.int64)
    for k, thing in enumerate(scene.things):
        if thing.joints is None:
            continue
        joints[k] = thing.joints + np.array([thing.left, thing.top])
        col, row = np.floor(joints[k]).astype(np.int64).T
        inside = (row >= 0) & (row < size) & (col >= 0) & (col < size)
        visible[k] = 1 + (inside & (scene.owner[row.clip(0, size - 1), col.clip(0, size - 1)] == k))
    return joints, visible


def _rles(masks: NDArray[np.bool_]) -> list[dict[str, Any]]:
    from pycocotools import mask as coco_mask  # only evaluation of masks needs it

    return [coco_mask.encode(np.asfortranarray(mask, np.uint8)) for mask in masks]


def _to_torch(name: str, array: NDArray[Any], size: int) -> torch.Tensor:
    """A label as `Sample` wants it: float32, and wrapped so that transforms know what it is."""
    tensor = torch.from_numpy(array)
    if name == "boxes":
        return tv_tensors.BoundingBoxes(tensor.float(), format="XYXY", canvas_size=(size, size))  # type: ignore[call-arg]
    if name in ("masks", "segmentation"):
        return tv_tensors.Mask(tensor)
    return tensor
