"""Oracle: the data that a plot was given, read back from the figure."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image

from cvtasks.viz import plots

RECORDS: list[dict[str, Any]] = [
    {
        "step": s, "lr": 0.01, "images_per_s": 30.0, "loss": 2.0 / s,
        "loss/rpn_box": 0.5 / s, "loss/classification": 1.5 / s,
    }
    for s in range(1, 101)
] + [
    {
        "step": s, "val/loss": 1.0, "val/loss/rpn_box": 0.3,
        "box/AP": 0.01 * s, "box/AP50": 0.5, "box/AP75": None, "box/AP/cat": 1,
    }
    for s in (50, 100)
]  # fmt: skip
CURVES = {"recall": [0, 0.5, 1], "classes": {"cat": [1, 1, 0], "dog": [1, 0, 0]}, "mean": [1, 0.5, 0]}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is written."""
    written: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, path: (written.append(self), save(self, path)))
    return written


def labels(axes: Any) -> list[str]:
    return axes.get_legend_handles_labels()[1]


def test_losses_show_the_total_and_each_term_with_validation_dashed(tmp_path: Path, figures: list) -> None:
    plots.losses(RECORDS, tmp_path / "plots" / "losses.png")
    total, terms = figures[0].axes
    assert labels(total) == ["training", "validation"]
    assert labels(terms) == ["rpn_box", "classification"]
    dashed = [line for line in terms.lines if line.get_linestyle() == "--"]
    assert [list(line.get_ydata()) for line in dashed] == [[0.3, 0.3]]
    raw = total.lines[0]
    assert list(raw.get_ydata()) == [2.0 / s for s in range(1, 101)]
    with Image.open(tmp_path / "plots" / "losses.png") as picture:
        assert [round(dpi) for dpi in picture.info["dpi"]] == [150, 150]


def test_the_running_mean_looks_back_only(tmp_path: Path, figures: list) -> None:
    plots.losses(RECORDS, tmp_path / "losses.png")
    smooth = list(figures[0].axes[0].lines[1].get_ydata())
    assert smooth[0] == 2.0
    assert smooth[9] == pytest.approx(sum(2.0 / s for s in range(6, 11)) / 5)


def test_metrics_show_headlines_and_skip_what_is_null(tmp_path: Path, figures: list) -> None:
    plots.metrics(RECORDS, tmp_path / "metrics.png")
    (axes,) = figures[0].axes
    assert labels(axes) == ["box/AP", "box/AP50"]
    assert list(axes.lines[0].get_xdata()) == [50, 100]


def test_recall_of_proposals_is_a_curve_for_each_number_and_each_size(tmp_path: Path, figures: list) -> None:
    curves = {"10": [0.5, 0.2], "1000": [0.9, 0.4]}
    plots.recall_at_iou({"iou": [0.5, 0.95], "recall": curves}, tmp_path / "a.png")
    sizes = {"all": [0.1, 0.5, 0.7], "large": [0.2, 0.6, 0.9]}
    plots.recall_of_proposals({"proposals": [1, 10, 100], "recall": sizes}, tmp_path / "b.png")
    (first,), (second,) = figures[0].axes, figures[1].axes
    assert labels(first) == ["best 10", "best 1000"]
    assert [list(line.get_ydata()) for line in first.lines] == list(curves.values())
    assert labels(second) == ["all", "large"]
    assert [list(line.get_xdata()) for line in second.lines] == [[1, 10, 100]] * 2
    assert second.get_xscale() == "log"
    plots.recall_of_proposals({"proposals": [1], "recall": {}}, tmp_path / "empty.png")


@pytest.mark.parametrize("name", plots.RECORD_PLOTS)
def test_a_dotted_line_marks_the_last_step_of_each_stage_but_the_last(
    tmp_path: Path, figures: list, name: str
) -> None:
    stages = {range(1, 41): "stage 1", range(41, 91): "stage 2", range(91, 101): "stage 3"}
    named = {step: stage for steps, stage in stages.items() for step in steps}
    records = [record | {"stage": named[record["step"]]} for record in RECORDS[:100]]
    plots.RECORD_PLOTS[name](records, tmp_path / "plot.png")
    for axes in figures[0].axes:
        dotted = [line for line in axes.lines if line.get_linestyle() == ":"]
        assert [list(line.get_xdata()) for line in dotted] == [[40, 40], [90, 90]]
        assert [text.get_text() for text in axes.texts] == ["stage 2", "stage 3"]


def test_per_class_bars_are_sorted_and_keep_the_color_of_their_class(tmp_path: Path, figures: list) -> None:
    plots.per_class_ap({"cat": 0.2, "dog": 0.7}, tmp_path / "a.png")
    plots.precision_recall(CURVES, tmp_path / "b.png")
    bars, curves = figures[0].axes[0], figures[1].axes[0]
    assert [t.get_text() for t in bars.get_yticklabels()] == ["dog", "cat"]
    assert [bar.get_width() for bar in bars.patches] == [0.7, 0.2]
    assert labels(curves) == ["cat", "dog", "mean of 2 classes"]
    from matplotlib.colors import to_rgba

    assert bars.patches[0].get_facecolor() == to_rgba(curves.lines[1].get_color())


def test_a_class_without_a_number_has_no_bar(tmp_path: Path, figures: list) -> None:
    plots.per_class_iou({"road": 0.5, "sky": float("nan"), "car": 0.0}, tmp_path / "a.png")
    (axes,) = figures[0].axes
    assert [t.get_text() for t in axes.get_yticklabels()] == ["road", "car"]
    assert [bar.get_width() for bar in axes.patches] == [0.5, 0.0]


def test_the_confusion_matrix_shows_shares_with_truth_in_rows(tmp_path: Path, figures: list) -> None:
    shares = [[0.75, 0.25, 0.0], [0.004, 0.996, 0.0], [float("nan")] * 3]
    plots.confusion_matrix({"classes": ["road", "sky", "car"], "shares": shares}, tmp_path / "a.png")
    axes = figures[0].axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["road", "sky", "car"]
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("truth", "found")
    drawn = axes.images[0].get_array()
    assert drawn[:2].tolist() == shares[:2]
    assert {(t.get_position(), t.get_text()) for t in axes.texts} == {
        ((0, 0), "0.75"), ((1, 0), "0.25"), ((1, 1), "1.00"),
    }  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 26, 150])
def test_confusion_of_any_number_of_classes_is_a_picture(tmp_path: Path, figures: list, count: int) -> None:
    shares = [[float(i == j) for j in range(count)] for i in range(count)]
    plots.confusion_matrix(
        {"classes": [f"class {k}" for k in range(count)], "shares": shares}, tmp_path / "a.png"
    )
    assert len(figures[0].axes[0].texts) == (count if count <= 25 else 0)
    with Image.open(tmp_path / "a.png") as picture:
        assert max(picture.size) < 2000
        assert len(picture.convert("L").getcolors()) > 10


def test_errors_of_first_guesses_are_bars_that_end_at_one(tmp_path: Path, figures: list) -> None:
    shares = {"right": 0.5, "box": 0.25, "class": 0.25, "both": 0.0}
    plots.error_breakdown(
        {"all images": shares, "cat": shares | {"right": 0.75, "box": 0}}, tmp_path / "a.png"
    )
    (axes,) = figures[0].axes
    assert labels(axes) == ["right", "box wrong", "class wrong", "both wrong"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["all images", "cat"]
    ends = [round(bar.get_x() + bar.get_width(), 6) for bar in axes.patches]
    assert ends[::2] == [0.5, 0.75, 1, 1]  # of all images; a bar of each verdict
    assert ends[1::2] == [0.75, 0.75, 1, 1]


def test_a_thousand_classes_have_no_thousand_bars_of_errors(tmp_path: Path, figures: list) -> None:
    shares = {"right": 1.0, "box": 0.0, "class": 0.0, "both": 0.0}
    plots.error_breakdown({f"class {k}": shares for k in range(1000)}, tmp_path / "a.png")
    assert len(figures[0].axes[0].get_yticklabels()) == 60
    with Image.open(tmp_path / "a.png") as picture:
        assert max(picture.size) < 3000


@pytest.mark.parametrize(("plot", "marked"), [("pdj", 0.2), ("pckh", 0.5)])
def test_each_part_of_the_body_has_a_curve_and_the_mean_is_bold(
    tmp_path: Path, figures: list, plot: str, marked: float
) -> None:
    data = {
        "fractions": [0, 0.25, 0.5],
        "parts": {"wrist": [0, 0.2, 0.4], "hip": [0, 0.5, 1]},
        "mean": [0, 0.35, 0.7],
    }
    plots.PLOTS[plot](data, tmp_path / "a.png")
    (axes,) = figures[0].axes
    assert labels(axes) == ["wrist", "hip", "mean"]
    assert list(axes.lines[-1].get_ydata()) == [0, 0.35, 0.7]
    assert axes.lines[-1].get_linewidth() > axes.lines[1].get_linewidth()
    assert list(axes.lines[0].get_xdata()) == [marked, marked]


def test_seventeen_joints_of_one_colour_each_are_told_apart(tmp_path: Path, figures: list) -> None:
    parts = {f"part {k}": [0, 0.5] for k in range(17)}
    plots.pdj({"fractions": [0, 0.5], "parts": parts, "mean": [0, 0.5]}, tmp_path / "a.png")
    looks = {(line.get_color(), line.get_linestyle()) for line in figures[0].axes[0].lines[1:]}
    assert len(looks) == 18


def test_stages_show_error_beside_what_is_found(tmp_path: Path, figures: list) -> None:
    data = {"PCK@0.2": [0.5, 0.75], "PCP": [0.25, float("nan")], "mean_error": [0.2, 0.1]}
    plots.stages(data, tmp_path / "a.png")
    errors, rates = figures[0].axes
    assert list(errors.lines[0].get_ydata()) == [0.2, 0.1]
    assert labels(rates) == ["PCK@0.2", "PCP"]
    assert [t.get_text() for t in rates.texts] == ["0.500", "0.750", "0.250"]


@pytest.mark.parametrize("name", plots.RECORD_PLOTS)
def test_a_run_without_records_still_gives_a_picture(tmp_path: Path, name: str) -> None:
    plots.RECORD_PLOTS[name]([], tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 0


def test_an_evaluation_without_truth_still_gives_a_picture(tmp_path: Path) -> None:
    plots.PLOTS["precision_recall"]({"recall": [], "classes": {}, "mean": []}, tmp_path / "a.png")
    plots.PLOTS["per_class_ap"]({}, tmp_path / "b.png")
    plots.PLOTS["per_class_iou"]({"road": float("nan")}, tmp_path / "c.png")


def test_eighty_classes_are_drawn_without_a_legend_of_eighty(tmp_path: Path, figures: list) -> None:
    many = {f"class {i}": [1.0, 0.5, 0.0] for i in range(80)}
    plots.precision_recall(CURVES | {"classes": many}, tmp_path / "a.png")
    assert labels(figures[0].axes[0]) == ["mean of 80 classes"]


def test_matplotlib_is_not_imported_before_something_is_drawn() -> None:
    code = "import sys, cvtasks.viz.plots; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
