"""`${oc.env:NAME}`: a run works with the value, and nothing that it leaves holds it."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image
from sweeps import stand_ins

from cvtasks.config.compose import compose
from cvtasks.config.environment import may_hold
from cvtasks.engine import checkpoint
from cvtasks.errors import ConfigError

from .conftest import SMALL, Command

SECRET = "hunter2-5f1d"


def write_coco(folder: Path) -> None:
    """One image with one box, for both splits, in COCO's own layout."""
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}],
        "categories": [{"id": 3, "name": "cup"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "bbox": [5, 6, 20, 30], "area": 600, "iscrowd": 0}
        ],
    }
    (folder / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (folder / split).mkdir()
        Image.new("RGB", (64, 48), "gray").save(folder / split / "a.png")
        (folder / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder; DATA names a data set beside it, whose path is the secret."""
    write_coco(tmp_path / SECRET / "coco")
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    monkeypatch.setenv("DATA", str(tmp_path / SECRET))
    return tmp_path / "home"


OPTIONS = ("dataset=coco", "recipe=faster_rcnn_shapes", "pipeline=fixed", *SMALL)


def where_it_shows(folder: Path, secret: str = SECRET) -> list[str]:
    """Names and contents below a folder that hold the secret."""
    paths = sorted(folder.rglob("*"))
    named = [str(p) for p in paths if secret in str(p.relative_to(folder))]
    return named + [str(p) for p in paths if p.is_file() and secret.encode() in p.read_bytes()]


def stored(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The configurations of config.yaml and of the checkpoint."""
    content = checkpoint.load(run / "checkpoints" / "last.pt")
    return yaml.safe_load((run / "config.yaml").read_text()), yaml.safe_load(content["config"])


def test_the_whole_life_of_a_run_leaves_the_text_and_never_the_value(
    home: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*OPTIONS, "dataset.root=${oc.env:DATA}/coco", "run_dir=run"]
    assert command("train", *words) == (0, "")
    for config in stored(home / "run"):
        assert config["dataset"]["root"] == "${oc.env:DATA}/coco"
    assert where_it_shows(home) == []

    assert command("eval", "run=run") == (0, "")
    assert command("eval", "checkpoint=run/checkpoints/best.pt", "run_dir=judged") == (0, "")
    assert yaml.safe_load(Path("judged/config.yaml").read_text())["dataset"]["root"] == "${oc.env:DATA}/coco"
    source = "source=${oc.env:DATA}/coco/val2017"
    assert command("predict", "run=run", source, "output=found", "score_threshold=0") == (0, "")
    [image] = json.loads(Path("found/predictions.json").read_text())["images"]
    assert image["file"] == "${oc.env:DATA}/coco/val2017/a.png"
    assert command("resume", "run", "engine.max_steps=3") == (0, "")
    assert stored(home / "run")[1]["dataset"]["root"] == "${oc.env:DATA}/coco"
    assert where_it_shows(home) == []

    # It is looked up anew: elsewhere the same data lies somewhere else.
    elsewhere = home.parent / "elsewhere"
    (home.parent / SECRET).rename(elsewhere)
    code, line = command("eval", "run=run")
    assert code == 2
    monkeypatch.setenv("DATA", str(elsewhere))
    assert command("eval", "run=run") == (0, "")
    monkeypatch.delenv("DATA")
    for words in (["eval", "run=run"], ["predict", "run=run", "source=x"], ["resume", "run"]):
        code, line = command(*words)
        assert code == 2
        assert re.fullmatch(
            r"cvtasks: .*dataset\.root=\$\{oc\.env:DATA\}/coco: .*DATA is not set; type DATA=.*\n", line
        )


def test_an_error_that_quotes_the_path_reaches_the_log_without_it(home: Path, command: Command) -> None:
    """The validation image is damaged in the middle of its data, which is noticed when it is read."""
    assert (
        command("train", *OPTIONS, "dataset.root=${oc.env:DATA}/coco", "run_dir=run", "engine.max_steps=1")[0]
        == 0
    )
    for split in ("train2017", "val2017"):
        (home.parent / SECRET / "coco" / split / "a.png").write_bytes(b"damaged")
    code, line = command("resume", "run", "engine.max_steps=2")
    assert code == 2
    assert SECRET in line  # for who typed it
    assert "${oc.env:DATA}" in Path("run/train.log").read_text()
    assert where_it_shows(home) == []


def test_weights_and_the_runs_own_folder_may_come_from_the_environment(
    home: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLACE", str(home / SECRET))
    root = "dataset.root=${oc.env:DATA}/coco"
    assert command("train", *OPTIONS, root, "run_dir=${oc.env:PLACE}/run") == (0, "")
    run = home / SECRET / "run"  # the folder that was asked for; nothing in it repeats its name
    assert stored(run)[0]["run_dir"] == "${oc.env:PLACE}/run"
    assert where_it_shows(run) == []
    assert command("train", *OPTIONS, root, "weights=${oc.env:PLACE}/run", "run_dir=new") == (0, "")
    assert stored(home / "new")[1]["weights"] == "${oc.env:PLACE}/run"
    assert where_it_shows(home / "new") == []


def test_a_sweep_names_its_folders_by_what_was_typed(
    home: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins.in_process(monkeypatch)
    words = ["dataset.root=${oc.env:DATA}/coco,${oc.env:DATA}/none", "run_dir=sweep"]
    code, line = command("train", "-m", *OPTIONS, *words)
    assert code == 1
    assert "${oc.env:DATA}/none" in line
    assert [p.name for p in Path("sweep").iterdir() if (p / "checkpoints").is_dir()] == [
        "0_dataset.root-_oc.env_DATA_coco"
    ]
    assert "${oc.env:DATA}/none" in Path("sweep/1_dataset.root-_oc.env_DATA_none.log").read_text()
    assert where_it_shows(home) == []


def test_a_sweeps_own_folder_may_come_from_the_environment(
    home: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_ins.in_process(monkeypatch)
    monkeypatch.setenv("PLACE", str(home / "place"))
    words = ["dataset.root=${oc.env:DATA}/coco", "run_dir=${oc.env:PLACE}/sweep", "seed=1,2"]
    assert command("train", "-m", *OPTIONS, *words, "engine.max_steps=1")[0] == 0
    runs = sorted(p.parent for p in Path("place/sweep").rglob("checkpoints"))
    assert [run.name for run in runs] == ["0_seed-1", "1_seed-2"]
    assert stored(runs[0])[0]["run_dir"] == "${oc.env:PLACE}/sweep/0_seed-1"


def written(*overrides: str) -> dict[str, Any]:
    from cvtasks.redaction import as_written

    return as_written(compose("train", ["task=faster_rcnn", "dataset=coco", *overrides]))


@pytest.mark.parametrize(
    ("text", "value", "kept"),
    [
        ("${oc.env:DATA}", "/secret", "${oc.env:DATA}"),
        ("${oc.env:DATA}/coco", "/secret/coco", "${oc.env:DATA}/coco"),
        ("/a/${oc.env:DATA}/${oc.env:DATA}", "/a//secret//secret", "/a/${oc.env:DATA}/${oc.env:DATA}"),
        ("${oc.env:DATA,x}", "/secret", "${oc.env:DATA,x}"),
        ("${oc.env:NONE,x}/y", "x/y", "${oc.env:NONE,x}/y"),
        ("${oc.env:NONE,'a b:c'}", "a b:c", "${oc.env:NONE,'a b:c'}"),
        ("${oc.env:NONE,'007'}", "007", "${oc.env:NONE,'007'}"),
        ("${oc.env:NONE,null}", None, "${oc.env:NONE,null}"),
        ("${oc.env:NONE,${oc.env:DATA}}/z", "/secret/z", "${oc.env:NONE,${oc.env:DATA}}/z"),
        ("${weights}/b", "/w/secret/b", "/w${oc.env:DATA}/b"),
        ("${weights}", "/w/secret", "/w${oc.env:DATA}"),
    ],
)
def test_the_text_is_kept_and_can_be_read_again(
    text: str, value: str | None, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA", "/secret")
    overrides = [f'dataset.root="{text}"', "weights=/w${oc.env:DATA}"]
    assert compose("train", ["task=faster_rcnn", "dataset=coco", *overrides])["dataset"]["root"] == value
    config = written(*overrides)
    assert config["dataset"]["root"] == kept
    assert config["weights"] == "/w${oc.env:DATA}"
    again = ["task=faster_rcnn", "dataset=coco", f'dataset.root="{kept}"']
    assert compose("train", again)["dataset"]["root"] == value


def test_lists_and_yaml_of_ones_own_keep_it_too(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "conf" / "experiment").mkdir(parents=True)
    (home / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndataset: {train: {images: '${oc.env:DATA}', annotations: a.json}}\n"
    )
    config = compose("train", ["task=faster_rcnn", "dataset=coco", "experiment=mine"], config_dir="conf")
    from cvtasks.redaction import as_written

    assert config["dataset"]["train"]["images"] == str(home.parent / SECRET)
    assert as_written(config)["dataset"]["train"] == {"images": "${oc.env:DATA}", "annotations": "a.json"}


def test_a_relative_path_stays_where_it_was(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cvtasks.assembly import absolute, as_yaml

    monkeypatch.setenv("DATA", "secret/data")
    cfg = absolute(compose("train", ["task=faster_rcnn", "dataset=coco", "dataset.root=${oc.env:DATA}/coco"]))
    assert cfg["dataset"]["root"] == str(home / "secret/data/coco")
    assert yaml.safe_load(as_yaml(cfg))["dataset"]["root"] == f"{home}/${{oc.env:DATA}}/coco"


@pytest.mark.parametrize(
    "override",
    [
        "dataset.classes=[${oc.env:DATA}]",
        "dataset.name=${oc.env:DATA}",
        "device=${oc.env:DATA}",
        "task.name=${oc.env:DATA}",
        "task.monitor=${oc.env:DATA}",
        "task.levels=[c2,${oc.env:DATA}]",
        "seed=${oc.decode:${oc.env:NUMBER}}",
        "optimizer.lr=${scale:${oc.decode:${oc.env:NUMBER}},8,16}",
        "dataset.root=${oc.decode:${oc.env:DATA}}",
        "task.name=${dataset.root}",
        "plugins=[${oc.env:PLUGIN}]",
        "dataset._target_=${oc.env:TARGET}",
    ],
)
def test_elsewhere_it_is_refused_in_one_line_without_the_value(
    override: str, home: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"NUMBER": "3", "PLUGIN": "json", "TARGET": "cvtasks.data.coco.CocoReader"}.items():
        monkeypatch.setenv(name, value)
    overrides = ["dataset.root=${oc.env:DATA}"] if "dataset.root=" not in override else []
    code, line = command("train", *OPTIONS, *overrides, override, "run_dir=run")
    assert code == 2
    assert line.count("\n") == 1
    assert override.split("=")[0].split("[")[0] in line
    assert not Path("run").exists()


@pytest.mark.parametrize(
    ("key", "text", "allowed"),
    [
        ("dataset.root", "${oc.env:DATA}/coco", True),
        ("dataset.train.images", "${oc.env:A}/${oc.env:B,${oc.env:C,'x y'}}", True),
        ("weights", "${oc.env:A,}", True),
        ("backbone.weights", "${oc.env:A}", True),
        ("run_dir", "${oc.env:A}", True),
        ("dataset.classes[0]", "${oc.env:A}", False),
        ("dataset.name", "${oc.env:A}", False),
        ("dataset._target_", "${oc.env:A}", False),
        ("device", "${oc.env:A}", False),
        ("optimizer.lr", "${oc.env:A}", False),
        ("dataset.root", "${weights}", False),
        ("dataset.root", "${oc.env:A}${seed}", False),
        ("dataset.root", "${oc.env:${seed}}", False),
        ("dataset.root", "${oc.decode:${oc.env:A}}", False),
        ("dataset.root", "${oc.env:A,${hydra:runtime.cwd}}", False),
        ("dataset.root", "${oc.environ:A}", False),
        ("dataset.root", "${oc.env:A", False),
    ],
)
def test_what_a_stored_configuration_may_ask_for(key: str, text: str, allowed: bool) -> None:
    assert may_hold(key, text) == allowed


def test_a_strangers_checkpoint_learns_nothing(
    home: Path, command: Command, monkeypatch: pytest.MonkeyPatch, finished: Path
) -> None:
    """It may ask for any variable as a path. The value meets an error on the terminal, and no file or name."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    content = checkpoint.load(finished / "checkpoints" / "best.pt")
    config = yaml.safe_load(content["config"])
    config["dataset"] = {
        **compose("train", ["task=faster_rcnn", "dataset=coco"])["dataset"],
        "root": "${oc.env:AWS_SECRET_ACCESS_KEY}",
    }
    for file in ("best.pt", "last.pt"):
        checkpoint.save(home / "run" / "checkpoints" / file, content | {"config": yaml.safe_dump(config)})
    (home / "run" / "config.yaml").write_text(yaml.safe_dump(config))
    for words in (["eval", "run=run"], ["resume", "run", "engine.max_steps=9"]):
        code, line = command(*words)
        assert code == 2
        assert line.count("\n") == 1
    assert where_it_shows(home) == []


def test_short_values_are_no_secrets() -> None:
    from cvtasks.redaction import Taken, hide, remember

    remember(Taken(variables={"A": "/", "B": "long-enough", "C": "long-enough-too"}))
    assert hide("a/b long-enough-too, long-enough") == "a/b ${oc.env:C}, ${oc.env:B}"
    remember(Taken())


def test_a_variable_that_is_not_set_says_what_to_type() -> None:
    with pytest.raises(
        ConfigError, match=r"dataset.root=\$\{oc.env:NOT_THERE\}: .*type NOT_THERE=VALUE in front"
    ):
        compose("train", ["task=faster_rcnn", "dataset=coco", "dataset.root=${oc.env:NOT_THERE}"])
