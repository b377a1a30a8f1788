"""Oracles: images judged by hand, a count written as a loop, and numbers of a file that was written."""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cvtasks.errors import DataError
from cvtasks.metrics.class_table import read_table
from cvtasks.metrics.classification import ClassificationEvaluator
from cvtasks.types import ClassInfo, ImageId, Prediction, Truth

CLASSES = ClassInfo(("cat", "dog", "owl, barn", "cow", "pig", "fox", "hen"))


def truth(image_id: ImageId, label: int) -> Truth:
    return {"image_id": image_id, "label": label}


def guesses(*labels: int) -> Prediction:
    return {"labels": torch.tensor(labels, dtype=torch.int64), "scores": 1 - 0.1 * torch.arange(len(labels))}


Images = list[tuple[Truth, Prediction]]


def judged(images: Images, classes: ClassInfo = CLASSES) -> ClassificationEvaluator:
    evaluator = ClassificationEvaluator(classes=classes)
    for true, found in images:
        evaluator.update([found], [true])
    return evaluator


FOUR: Images = [
    (truth(0, 0), guesses(0, 1)),  # right
    (truth(1, 0), guesses(1, 2, 3, 4, 0)),  # the fifth is
    (truth(2, 0), guesses(1, 2, 3, 4, 5, 0)),  # the sixth is
    (truth(3, 2), guesses()),
]


def test_four_images_by_hand() -> None:
    found = judged(FOUR).compute()
    assert list(found)[:3] == ["cls/top1", "cls/top5", "cls/mean_accuracy"]
    assert found == pytest.approx(
        {
            "cls/top1": 1 / 4,
            "cls/top5": 2 / 4,
            "cls/mean_accuracy": (1 / 3 + 0) / 2,
            "cls/accuracy/cat": 1 / 3,
            "cls/accuracy/owl, barn": 0,
        }
    )


def test_with_five_classes_or_fewer_top5_is_not_defined() -> None:
    few = ClassInfo(CLASSES.names[:5])
    assert math.isnan(judged([(truth(0, 0), guesses(1, 0))], few).compute()["cls/top5"])
    assert judged([(truth(0, 0), guesses(1, 0))], ClassInfo(CLASSES.names[:6])).compute()["cls/top5"] == 1


def test_nothing_judged_is_nan() -> None:
    assert all(math.isnan(value) for value in judged([]).compute().values())


def test_the_confusion_is_of_first_guesses_and_rows_lack_what_has_none() -> None:
    evaluator = judged(FOUR)
    evaluator.compute()
    data = evaluator.plot_data()["confusion_matrix"]
    shares = np.array(data["shares"])
    np.testing.assert_allclose(shares[0, :3], [1 / 3, 2 / 3, 0])
    np.testing.assert_allclose(shares[2], 0)  # its image has no guess
    assert np.isnan(shares[[1, 3, 4, 5, 6]]).all()
    assert (data["classes"], data["of"]) == (list(CLASSES.names), "images")


def random_images(seed: int, count: int = 12) -> Images:
    rng = np.random.default_rng(seed)
    return [
        (
            truth(f"a/{n}.jpg", int(rng.integers(4))),
            guesses(*rng.permutation(7)[: rng.integers(0, 8)].tolist()),
        )
        for n in rng.permutation(count)
    ]


@settings(max_examples=20)
@given(seed=st.integers(0, 10_000), data=st.data())
def test_order_split_and_images_seen_twice_leave_no_trace_in_the_last_digit(seed: int, data: Any) -> None:
    images = random_images(seed)
    expected = judged(images).compute()
    order = data.draw(st.permutations(images))
    cut = data.draw(st.integers(0, len(images)))
    parts = [judged(order[:cut]), judged(order[cut:] + order[:1])]
    merged = ClassificationEvaluator(classes=CLASSES)
    merged.merge(pickle.loads(pickle.dumps([part.state() for part in parts])))
    assert merged.compute() == expected
    right = [true["label"] in found["labels"][:1].tolist() for true, found in images]
    assert expected["cls/top1"] == sum(right) / len(right)


@settings(max_examples=10)
@given(seed=st.integers(0, 10_000))
def test_the_written_table_gives_the_same_numbers_again(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, images = tmp_path_factory.mktemp("table"), random_images(seed)
    evaluator = judged(images)
    evaluator.write(folder)
    results = read_table(folder / "classes.csv", CLASSES, [true["image_id"] for true, _ in images])
    again = judged([(true, results.predictions[true["image_id"]]) for true, _ in images])
    assert again.compute() == evaluator.compute()


def test_predictions_in_half_precision_and_with_gradients_are_taken() -> None:
    found = guesses(0)
    found["scores"] = found["scores"].to(torch.bfloat16).requires_grad_()
    assert judged([(truth(0, 0), found)]).compute()["cls/top1"] == 1


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "guesses.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    return path


def test_a_table_of_another_tool_is_sorted_by_score_and_its_ids_may_be_numbers(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        "\ufeffclass,image_id,by,score\r\n"
        'dog,7,me,0.2\r\n"owl, barn",7,me,0.7\r\n\r\ncat,7,me,0.2\r\nfox,b.jpg,me,1e-3\r\n',
    )
    results = read_table(path, CLASSES, [7, "b.jpg"])
    assert results.predictions[7]["labels"].tolist() == [2, 1, 0]  # equal scores: the file's order
    assert results.predictions[7]["scores"].tolist() == [0.7, 0.2, 0.2]
    assert results.predictions["b.jpg"]["labels"].tolist() == [5]
    assert results.notes == []


def test_without_scores_the_order_of_the_rows_counts(tmp_path: Path) -> None:
    results = read_table(table(tmp_path, "image_id,class\n1,dog\n1,cat\n"), CLASSES, [1])
    assert results.predictions[1]["labels"].tolist() == [1, 0]


def test_unknown_images_and_images_without_a_row_are_told(tmp_path: Path) -> None:
    path = table(tmp_path, "image_id,class,score\n1,dog,1\n9,dog,1\n")
    results = read_table(path, CLASSES, [1, 2, 3])
    assert [len(results.predictions[i]["labels"]) for i in (1, 2, 3)] == [1, 0, 0]
    assert results.notes == [
        f"predictions {path}: 1 rows are of no image of the data set ('9')",
        f"predictions {path}: 2 of 3 images have no row, and count as wrong ('2', '3')",
    ]


HEAD = "image_id,class,score\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: there is no column image_id; expected a table with the head image_id,class,score"),
        ("image_id,label\n1,dog\n", "line 1: there is no column class"),
        (HEAD, "no row is of an image of the data set, which has '1', '2'"),
        (HEAD + "8,dog,1\n", "no row is of an image .*; there is '8'"),
        (HEAD + "1,dog,1\n2,wolf,1\n", "line 3: there is no class 'wolf'; the data set has 'cat', 'dog', 'owl, barn', "),
        (HEAD + "1,dog,1\n1,cat,.5\n1,dog,0\n", "line 4: image '1' has the class 'dog' twice"),
        (HEAD + "1,dog,nan\n", "line 2: score is 'nan'; expected a finite number"),
        (HEAD + "1,dog,\n", "line 2: score is ''; expected a finite number"),
        (HEAD + "1,dog\n", "line 2: has 2 values for 3 columns"),
        (HEAD + '1,"dog,1\n', "line 2: is no row of a table"),
        (HEAD + "1," + "x" * 200_000 + ",1\n", "line 2: is no row of a table"),
        (HEAD + "1,\udcff\0\x1b[31m,1\n", "line 2: "),
    ],
)  # fmt: skip
def test_a_wrong_table_is_one_line_that_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(DataError, match=message) as caught:
        read_table(path, CLASSES, [1, 2])
    line = str(caught.value)
    assert str(path) in line
    assert line.isprintable()
    assert len(line) < 400


def test_a_table_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"predictions .*none\.csv: cannot be read \(No such file"):
        read_table(tmp_path / "none.csv", CLASSES, [1])
