"""Oracle: pycocotools itself on the same records, for the kinds of overlap beside boxes."""

from __future__ import annotations

import contextlib
import copy
import io

import numpy as np
from pycocotools import mask as run_lengths
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cvtasks.metrics import coco


def reference(truth: list[dict], results: list[dict], iou_type: str, images: int) -> np.ndarray:
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = COCO()
        dataset.dataset = {
            "images": [{"id": i, "height": 64, "width": 64} for i in range(images)],
            "categories": [{"id": 0}, {"id": 1}],
            "annotations": truth,
        }
        dataset.createIndex()
        evaluation = COCOeval(dataset, dataset.loadRes(copy.deepcopy(results)), iou_type)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return np.where(evaluation.stats == -1, np.nan, evaluation.stats)


def test_masks_and_keypoints_use_the_same_accumulation() -> None:
    rng = np.random.default_rng(0)
    truth, results, columns = [], [], []
    for image in range(4):
        ours: tuple[list, list] = ([], [])
        for which, side in enumerate((truth, results)):
            for _ in range(6):
                mask = np.zeros((64, 64), np.uint8)
                x, y = rng.integers(0, 8, 2)
                mask[y : y + rng.integers(30, 50), x : x + rng.integers(30, 50)] = 1
                rle = run_lengths.encode(np.asfortranarray(mask))
                points = np.c_[rng.uniform(0, 40, (17, 2)), rng.integers(0, 3, 17)]
                points[:, 2] *= rng.random() < 0.8  # some people without any visible joint
                record = {
                    "image_id": image, "category_id": int(rng.integers(2)), "segmentation": rle,
                    "area": float(run_lengths.area(rle)), "bbox": run_lengths.toBbox(rle).tolist(),
                    "keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum()),
                    "iscrowd": 0, "score": float(rng.random()), "id": len(side) + 1,
                }  # fmt: skip
                side.append(record)
                ours[which].append(record)
        columns.append(ours)

    def arrays(records: list[dict], *names: str) -> dict[str, np.ndarray]:
        source = {"boxes": "bbox", "labels": "category_id", "scores": "score", "rles": "segmentation"}
        source["ignore"] = "iscrowd"
        filled = {n: np.array([r[source.get(n, n)] for r in records]) for n in names if n != "rles"}
        return filled | ({"rles": np.array([r["segmentation"] for r in records])} if "rles" in names else {})

    shared = ("boxes", "labels", "area")
    masks = coco.evaluate(
        [arrays(t, *shared, "ignore", "rles") for t, _ in columns],
        [arrays(p, *shared, "scores", "rles") for _, p in columns],
        num_classes=2,
        iou_type="segm",
    )
    strip = [{k: r[k] for k in ("image_id", "category_id", "segmentation", "score")} for r in results]
    np.testing.assert_array_equal(
        [*masks.numbers.values()], reference(copy.deepcopy(truth), strip, "segm", 4)
    )

    joints = coco.evaluate(
        [arrays(t, *shared, "ignore", "keypoints", "num_keypoints") for t, _ in columns],
        [arrays(p, *shared, "scores", "keypoints") for _, p in columns],
        num_classes=2,
        iou_type="keypoints",
    )
    strip = [{k: r[k] for k in ("image_id", "category_id", "keypoints", "score", "bbox")} for r in results]
    np.testing.assert_array_equal(
        [*joints.numbers.values()], reference(copy.deepcopy(truth), strip, "keypoints", 4)
    )
    assert masks.numbers["AP"] > 0
    assert joints.numbers.keys() == set(coco.NAMES["keypoints"])


def test_xywh_gives_back_the_numbers_of_the_file() -> None:
    # 2.3 + 12.66 - 2.3 is 12.659999999999998 in floating point.
    box = np.array([[2.3, 12.68, 2.3 + 12.66, 12.68 + 268.6]])
    assert coco.xywh(box).tolist() == [[2.3, 12.68, 12.66, 268.6]]
