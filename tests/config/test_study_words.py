"""The short words of `cvtasks study`, and what they stand for."""

from pathlib import Path

import pytest

from cvtasks.config.study_words import settings_of, spelled_out

TRADEOFF, LINEAGE = "study=tradeoff", "study=lineage"


@pytest.mark.parametrize(
    ("typed", "full"),
    [
        ([TRADEOFF, "task=ssd,yolo"], [TRADEOFF, "study.task=[ssd,yolo]"]),
        ([TRADEOFF, "image_size=96"], [TRADEOFF, "study.image_size=[96]"]),
        ([TRADEOFF, "image_size=[96,128]"], [TRADEOFF, "study.image_size=[96,128]"]),
        ([TRADEOFF, "steps=5", "retrain_sizes=true"], [TRADEOFF, "study.steps=5", "study.retrain_sizes=true"]),
        # What all studies have, what is in full, and what nobody knows, is left as it is.
        ([TRADEOFF, "dataset=voc", "seed=1", "run_dir=R"], [TRADEOFF, "dataset=voc", "seed=1", "run_dir=R"]),
        ([TRADEOFF, "study.task=[ssd]", "taks=ssd"], [TRADEOFF, "study.task=[ssd]", "taks=ssd"]),
        # Neither a text nor a mapping becomes a list.
        ([LINEAGE, "backbone=resnet18", "steps.rcnn=3"], [LINEAGE, "study.backbone=resnet18", "study.steps.rcnn=3"]),
        (["study=upsampling", "kernel=1,4,2"], ["study=upsampling", "study.kernel=[1,4,2]"]),
        (["study=lineage_photos", "systems=rcnn"], ["study=lineage_photos", "study.systems=[rcnn]"]),
        (["study=nothing", "task=ssd"], ["study=nothing", "task=ssd"]),
    ],
)  # fmt: skip
def test_a_studys_own_settings_need_no_prefix(typed: list[str], full: list[str]) -> None:
    assert spelled_out(typed) == full


def test_in_a_sweep_commas_separate_jobs() -> None:
    typed = [TRADEOFF, "task=[ssd],[yolo]", "steps=1,2"]
    assert spelled_out(typed, sweep=True) == [TRADEOFF, "study.task=[ssd],[yolo]", "study.steps=1,2"]


def test_runs_end_where_a_setting_stands(tmp_path: Path) -> None:
    strange = tmp_path / 'a=b "c"'
    strange.mkdir()
    words = spelled_out([TRADEOFF], runs=["runs/a", str(strange), "image_size=64,96", "run_dir=R"])
    quoted = str(strange).replace('"', '\\"')
    assert words == [TRADEOFF, "study.image_size=[64,96]", "run_dir=R", f'study.runs=["runs/a","{quoted}"]']


def test_a_study_of_the_users_own_has_short_words_too(tmp_path: Path) -> None:
    (tmp_path / "study").mkdir()
    file = tmp_path / "study" / "mine.yaml"
    file.write_text("# Mine\nname: mine\n_target_: my.study\nsizes: [1]\nseed: 3\n")
    assert settings_of("mine", str(tmp_path)) == {"sizes": [1]}
    assert spelled_out(["study=mine", "sizes=2"], config_dir=str(tmp_path)) == [
        "study=mine",
        "study.sizes=[2]",
    ]
    for damaged in ("a: [", "[1]", ""):
        file.write_text(damaged)
        assert settings_of("mine", str(tmp_path)) == {}
