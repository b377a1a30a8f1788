"""VOC's label images (Everingham et al., IJCV 2010): SegmentationClass, a palette PNG for some of the images.

Index 0 is background, 1 to 20 are VOC's classes in the order below, and 255, a line around each object, is void.

    cvtasks train task=unet dataset=voc dataset.root=/data/VOCdevkit/VOC2012
    cvtasks train task=unet dataset=voc dataset.root=/data/VOCdevkit/VOC2012 \\
                  dataset.train.annotations=SegmentationClassAug dataset.train.list=trainaug.txt
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cvtasks.data.annotations import Findings, choose_classes
from cvtasks.data.label_images import LabelDecoder, voc_colors
from cvtasks.data.label_maps import LabelMaps, affordable, check_labels, first_palette, locate
from cvtasks.data.object_maps import of_objects, with_background
from cvtasks.data.pairs import Pairs
from cvtasks.data.paths import Folder
from cvtasks.data.splits import part
from cvtasks.data.transforms import VOID
from cvtasks.errors import ConfigError
from cvtasks.types import ClassInfo, Split

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow"),
    *(
        "diningtable",
        "dog",
        "horse",
        "motorbike",
        "person",
        "pottedplant",
        "sheep",
        "sofa",
        "train",
        "tvmonitor",
    ),
)


def read_voc_segmentation(
    root: str | None,
    split: Split,
    own: Mapping[str, Any],
    val_fraction: float | None,
    split_seed: int,
    classes: Sequence[str] | None,
    findings: Findings,
) -> tuple[LabelMaps, ClassInfo]:
    """The label images of one split. Classes that `classes` leaves out are background."""
    pairs = _pairs(root, split, own)
    chosen = choose_classes(VOC_CLASSES, of_objects(classes), split, findings)
    left_out = [name for name in VOC_CLASSES if name not in chosen]
    if left_out:
        findings.note(f"background are the classes that dataset.classes leaves out: {', '.join(left_out)}")
    class_of = {0: 0} | {
        index: 1 + chosen.index(name) if name in chosen else 0 for index, name in enumerate(VOC_CLASSES, 1)
    }
    located = locate(pairs.find(findings), pairs.images, pairs.labels, findings)
    decoder = LabelDecoder(
        len(class_of),
        ignore_index=VOID,
        label_map=class_of if chosen != list(VOC_CLASSES) else None,
        palette=first_palette(located, pairs.labels),
    )
    if findings.on_error == "skip" or affordable(located):
        located, _ = check_labels(located, pairs.labels, decoder, findings)
    if val_fraction is not None:
        keys = set(part([found.pair.key for found in located], split, val_fraction, split_seed))
        located = [found for found in located if found.pair.key in keys]
    colors = voc_colors(len(class_of))
    ids = tuple(1 + VOC_CLASSES.index(name) for name in chosen)
    info = ClassInfo(names=tuple(chosen), category_ids=ids, colors=tuple(colors[i] for i in ids))
    return LabelMaps.of(located, pairs.images, pairs.labels, decoder), with_background(info)


def _pairs(root: str | None, split: Split, own: Mapping[str, Any]) -> Pairs:
    base = Path(root or "").expanduser()
    images = base / Path(own.get("images") or "JPEGImages").expanduser()
    labels = base / Path(own.get("annotations") or "SegmentationClass").expanduser()
    own_list = f"ImageSets/Segmentation/{own.get('split') or split}.txt"
    list_file = base / Path(own.get("list") or own_list).expanduser()
    for path, there in (
        (images, images.is_dir()),
        (labels, labels.is_dir()),
        (list_file, list_file.is_file()),
    ):
        if not there:
            raise ConfigError(
                f"dataset voc: there is no {path}; type dataset.root=DIR for a folder with JPEGImages, "
                "SegmentationClass and ImageSets/Segmentation, or dataset=masks for any other layout"
            )
    return Pairs(Folder(images), Folder(labels), list_file)
