"""COCO's format (Lin et al., ECCV 2014): boxes, masks and keypoints, from any JSON of that form.

    cvtasks train task=faster_rcnn dataset=coco dataset.root=/data/coco
    cvtasks train task=faster_rcnn dataset=coco dataset.train.images=DIR dataset.train.annotations=JSON \\
                  dataset.val.images=DIR dataset.val.annotations=JSON
    cvtasks train task=localization dataset=coco dataset.root=/data/coco dataset.select=largest
    cvtasks train task=pose_regression dataset=coco dataset.root=/data/coco
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar, TypedDict

import torch
from torchvision import tv_tensors

from cvtasks.data.annotations import Annotations, Findings, OnError
from cvtasks.data.coco_file import read_coco
from cvtasks.data.object_maps import of_objects, of_pixels_only, with_background
from cvtasks.data.paths import Folder, quoted, root_folder
from cvtasks.data.people import People, choose_people, of_one_person
from cvtasks.data.single import Select, SingleObjects, choose_objects, of_one_object
from cvtasks.data.skeletons import SKELETONS, SkeletonName
from cvtasks.errors import ConfigError
from cvtasks.types import Sample, Split, Truth


class CocoSplit(TypedDict, total=False):
    """Where one split lies; relative to `dataset.root` if that is given, else to the working directory."""

    images: str | None
    annotations: str | None


class CocoReader:
    """One split of a COCO data set (protocol `Reader`).

    The classes are the categories in the order of their ids; if `fields` asks for the label map alone, behind
    "background". In the map smaller objects lie on larger ones, and crowds are void. All annotations are checked
    here; images are looked for here and decoded when they are asked for. A box that is a single point is left
    out, and one that is up to two pixels over the image's edge clipped, both with a note. Keypoints are
    continuous: the file's pixel index plus 0.5.

    With "label" in `fields` each image has one object. With "keypoints" and without "labels" each sample is one person:
    the classes are those that have keypoints, crowds and people without a labelled joint are left out with a note, and
    `image_id` is <image id>#<n>, n from 1.

    root: with COCO's own layout in it (annotations/instances_train2017.json, train2017/, and the same for
        val) nothing else is needed; keypoints are read from person_keypoints_*.json.
    train, val: folder and JSON file, for any other layout. `images` of val may be null if only `truth` is
        used.
    classes: which to use, in this order; null: all.
    select: which object, where a task takes one; crowds do not count.
    skeleton: names and limbs of the joints, for files that do not name them, or not rightly; null: the file's.
    on_error: raise stops at the first record that is wrong; skip leaves out the object or the image, says so
        in `notes`, and decodes every image once beforehand.

    Raises DataError naming file and record, ConfigError naming the key to type.
    """

    provides: ClassVar[frozenset[str]] = frozenset(
        {"boxes", "labels", "ignore", "label", "masks", "keypoints", "visible", "segmentation"}
    )

    def __init__(
        self,
        *,
        split: Split,
        fields: frozenset[str] = frozenset({"boxes", "labels", "ignore"}),
        root: str | None = None,
        train: CocoSplit | None = None,
        val: CocoSplit | None = None,
        classes: Sequence[str] | None = None,
        select: Select = "one",
        skeleton: SkeletonName | None = None,
        on_error: OnError = "raise",
    ) -> None:
        annotations, images = _paths(root, split, (train if split == "train" else val) or {}, fields)
        findings = Findings("coco", on_error)
        folder = None if images is None else Folder(images)
        self.split = split
        self._folder = None if folder is None else folder.path
        self._with_map, self._only_map = "segmentation" in fields, of_pixels_only(fields)
        self._annotations, self.classes = read_coco(
            annotations,
            folder,
            fields=fields | {"masks"} if self._with_map else fields,
            classes=of_objects(classes) if self._only_map else classes,
            skeleton=SKELETONS[skeleton] if skeleton else None,
            split=split,
            findings=findings,
        )
        self._labels: Annotations | SingleObjects | People = self._annotations
        if of_one_object(fields):
            self._labels = choose_objects(
                self._annotations,
                select,
                findings,
                annotations.name,
                self._record(annotations.name),
                fields=fields,
            )
        elif of_one_person(fields):
            self._labels = choose_people(
                self._annotations, findings, annotations.name, self._record(annotations.name)
            )
        if self._labels is not self._annotations and not fields.isdisjoint({"masks", "segmentation"}):
            raise ConfigError("dataset coco: has one object in a sample, or masks, for a task, not both")
        if self._only_map:
            self.classes = with_background(self.classes)
        self.notes = findings.notes()

    def _record(self, file: str) -> Callable[[int], str]:
        return lambda index: f"{file}: image {quoted(self._annotations.image_id(index))}"

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> Sample:
        if self._folder is None:
            raise ConfigError(f"dataset coco: the images are needed; type dataset.{self.split}.images=DIR")
        read = self._annotations.picture if self._only_map else self._labels.sample
        sample = read(index, self._folder)
        if self._with_map:
            sample["segmentation"] = tv_tensors.Mask(torch.from_numpy(self._annotations.label_map(index)))
        return sample

    def truth(self, index: int) -> Truth:
        truth = self._labels.truth(index, self._folder)
        if self._only_map:
            truth = {key: truth[key] for key in ("image_id", "file", "orig_size")}
        return truth | {"segmentation": self._annotations.label_map(index)} if self._with_map else truth


def _paths(
    root: str | None, split: Split, own: CocoSplit, fields: frozenset[str]
) -> tuple[Path, Path | None]:
    """The JSON file and the folder of images (None: not given)."""
    typed = f"dataset.{split}.images=DIR dataset.{split}.annotations=JSON"
    annotations, images = own.get("annotations"), own.get("images")
    base = root_folder(root)
    if root is None and annotations is None:
        raise ConfigError(
            f"dataset coco: there is no {split} data; type {typed}, or dataset.root=DIR for a folder with "
            f"annotations/instances_{split}2017.json and {split}2017/"
        )
    if root is not None:
        kind = "person_keypoints" if "keypoints" in fields else "instances"
        images = images or (f"{split}2017" if annotations is None or split == "train" else None)
        annotations = annotations or f"annotations/{kind}_{split}2017.json"
    assert annotations is not None
    json_file = base / Path(annotations).expanduser()
    if not json_file.is_file():
        raise ConfigError(f"dataset coco: there is no file {json_file}; type {typed}")
    if images is None:
        if split == "train":
            raise ConfigError(
                "dataset coco: dataset.train.images is not given; type dataset.train.images=DIR"
            )
        return json_file, None
    folder = base / Path(images).expanduser()
    if not folder.is_dir():
        raise ConfigError(f"dataset coco: there is no folder {folder}; type dataset.{split}.images=DIR")
    return json_file, folder
