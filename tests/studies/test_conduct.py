"""The verb, on a study of the user's own: a function in a module of theirs, and a YAML file."""

import csv
import inspect
import json
import sys
from pathlib import Path

import pytest
import yaml
from sweeps import stand_ins

from cvtasks.cli import main
from cvtasks.config.build import locate, use_plugins
from cvtasks.config.compose import compose
from cvtasks.config.locate import conf_dirs, options
from cvtasks.config.stored import newest_run
from cvtasks.errors import ConfigError

MODULE = """
from collections.abc import Mapping, Sequence
from typing import Annotated

from cvtasks.config.schema import Range
from cvtasks.errors import DataError
from cvtasks.studies.findings import Findings
from cvtasks.studies.parts import StudyRun


def mine(*, run: StudyRun, wrong: Sequence[str] = (), size: Annotated[int, Range(min=1)] = 2) -> Findings:
    def work(name, folder):
        print(f"working on {name}")
        if name in wrong:
            raise DataError(f"{name}.png: broken")
        return {"pixels": size**2, "accuracy": float("nan")}

    found = {name: run.part(name, lambda f, n=name: work(n, f), settings={"size": size}) for name in "ab"}
    rows = [{"part": name, **result} for name, result in found.items() if result]
    return Findings("Mine", {"Numbers": rows, "None": []}, lambda path: path.write_text("drawn"), text="Said | so.")
"""
YAML = """\
# A study of my own
name: mine
_target_: my_study.mine
wrong: []
size: 2
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "my_study", raising=False)
    (tmp_path / "my_study.py").write_text(MODULE)
    (tmp_path / "conf" / "study").mkdir(parents=True)
    (tmp_path / "conf" / "study" / "mine.yaml").write_text(YAML)
    return tmp_path


def study(*words: str) -> int:
    return main(["study", "mine", "-cd", "conf", "plugins=[my_study]", *words])


def test_a_study_is_one_function_and_one_yaml_file(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert study("run_dir=R", "study.size=3", "seed=4") == 0
    assert {f.name for f in Path("R").iterdir() if not f.name.startswith(".")} == {
        "config.yaml", "parts", "mine.json", "mine.csv", "mine.md", "mine.png",
    }  # fmt: skip
    found = json.loads(Path("R/mine.json").read_text())
    assert (found["study"], found["settings"], found["seed"]) == ("mine", {"wrong": [], "size": 3}, 4)
    assert [(r["part"], r["pixels"], r["accuracy"]) for r in found["tables"]["Numbers"]] == [
        ("a", 9, None),
        ("b", 9, None),
    ]
    rows = list(csv.DictReader(Path("R/mine.csv").read_text().splitlines()))
    assert [(r["table"], r["part"], r["pixels"], r["accuracy"]) for r in rows] == [
        ("Numbers", "a", "9", ""),
        ("Numbers", "b", "9", ""),
    ]
    page = Path("R/mine.md").read_text()
    assert page.startswith("# Mine\n\nSaid | so.\n\n## Numbers\n\n| part | ")
    assert "## None" not in page
    assert "![Mine](mine.png)" in page
    printed = capsys.readouterr().out
    assert page in printed
    assert yaml.safe_load(Path("R/config.yaml").read_text())["study"]["size"] == 3


def test_the_same_command_again_does_only_what_is_not_done(capsys: pytest.CaptureFixture[str]) -> None:
    assert study("run_dir=R", "study.wrong=[a]") == 1
    shown = capsys.readouterr()
    assert shown.err == (
        "cvtasks: 1 of the study's parts failed: a: a.png: broken; the same command with run_dir=R tries them again\n"
    )
    assert json.loads(Path("R/mine.json").read_text())["failed"] == {"a": "a.png: broken"}
    assert "- a: a.png: broken" in Path("R/mine.md").read_text()
    assert Path("R/mine.png").is_file()
    assert study("run_dir=R") == 0
    printed = capsys.readouterr().out
    assert "working on a" in printed
    assert "working on b" not in printed
    assert study("run_dir=R", "study.size=3") == 2
    assert "a was begun with other settings (size: 2, and now 3)" in capsys.readouterr().err


def test_a_study_without_any_result_draws_nothing() -> None:
    assert study("run_dir=R", "study.wrong=[a,b]") == 1
    assert Path("R/mine.md").is_file()
    assert not Path("R/mine.png").exists()


def test_without_a_folder_every_study_gets_a_new_one() -> None:
    assert (study(), study()) == (0, 0)
    assert len(list(Path("runs/studies/mine").iterdir())) == 2
    assert len(list(Path("runs/studies/mine").rglob("mine.json"))) == 2


def test_the_newest_run_is_never_a_part_of_a_study() -> None:
    assert study() == 0
    (folder,) = Path("runs/studies/mine").iterdir()
    (folder / "parts" / "a" / "checkpoints").mkdir()
    for file in ("config.yaml", "checkpoints/best.pt"):
        (folder / "parts" / "a" / file).touch()
    with pytest.raises(ConfigError, match="there is no run with a checkpoint"):
        newest_run()


def test_a_sweep_of_studies_gives_each_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_ins.in_process(monkeypatch)
    assert study("-m", "study.size=1,2", "run_dir=S") == 0
    assert sorted(f.parent.name for f in Path("S").rglob("mine.json")) == ["0_study.size-1", "1_study.size-2"]


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (
            "study",
            "type which study: cvtasks study NAME, one of lineage, lineage_photos, segmentation, tradeoff, upsampling",
        ),
        ("study -cd conf", "one of lineage, lineage_photos, mine, segmentation, tradeoff, upsampling"),
        ("study upsamplin", "study=upsamplin: there is no study upsamplin; did you mean upsampling?"),
        ("study a b", "study takes one name, not a, b"),
        ("study upsampling sede=1", "there is no setting sede; did you mean seed?"),
        ("study upsampling study.stride=[2]", "did you mean study.strides?"),
        ("study upsampling task=faster_rcnn", "override task: there is no such group"),
        ("study upsampling run_dri=R", "there is no setting run_dri; did you mean run_dir?"),
        ("study upsampling study._target_=os.system", "os.system is not allowed here"),
        ("study mine -cd conf", "add plugins=[my_study]"),
        ("study mine -cd conf plugins=[my_study] study.size=0", "expected an integer of at least 1, not 0"),
        ("study mine -cd conf plugins=[my_study] study.sise=1", "did you mean study.size?"),
        ("train task=faster_rcnn study=upsampling", "override study: there is no such group"),
        ("train task=faster_rcnn task._target_=cvtasks.studies.conduct.conduct", "is not allowed here"),
    ],
)
def test_what_is_typed_wrong_exits_with_2_and_one_line(
    typed: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(typed.split()) == 2
    printed = capsys.readouterr()
    assert line in printed.err
    assert (printed.err.count("\n"), printed.out) == (1, "")
    assert not Path("runs").exists()


def test_a_study_runs_in_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert study() == 2
    assert "start it without torchrun" in capsys.readouterr().err


def test_studies_are_listed_completed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    def told(*words: str) -> list[str]:
        assert main(list(words)) == 0
        return capsys.readouterr().out.splitlines()

    listed = [line.split(maxsplit=1) for line in told("list", "studies", "-cd", "conf")]
    assert ["mine", "A study of my own"] in listed
    assert "studies       lineage, lineage_photos, segmentation, tradeoff, upsampling" in told("list")
    assert told("complete", "cvtasks study up") == ["upsampling"]
    assert told("complete", "cvtasks study -cd conf m") == ["mine"]
    assert told("complete", "cvtasks study upsampling study.kernel") == ["study.kernel=", "study.kernels="]
    assert told("complete", "cvtasks study upsampling run") == ["run_dir="]
    assert told("complete", "cvtasks list stu") == ["studies"]
    assert told("complete", "cvtasks train stu") == [""]
    shown = yaml.safe_load("\n".join(told("study", "upsampling", "--cfg", "job")))
    assert shown["study"]["name"] == "upsampling"


@pytest.mark.parametrize("name", options("study", conf_dirs()))
def test_every_study_of_ours_lists_all_its_settings(name: str) -> None:
    """Hydra refuses overrides of keys that are not in the file."""
    node = compose("study", [f"study={name}"], checked=False)["study"]
    use_plugins([], studies=True)
    takes = inspect.signature(locate(node["_target_"])).parameters
    assert set(takes) - {"run", "dataset"} == set(node) - {"name", "_target_"}
    assert node["name"] == name
    use_plugins([])
    with pytest.raises(ConfigError, match="is not allowed here"):
        locate(node["_target_"])
