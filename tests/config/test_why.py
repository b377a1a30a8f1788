from pathlib import Path

import pytest

from cvtasks.config.why import why
from cvtasks.errors import ConfigError

from .toy import RECIPES, write_yaml


def explain(key: str, *overrides: str) -> list[str]:
    return why("train", ["task=toy", *overrides], key, config_dir="conf").splitlines()


def line_of(text: str, key: str) -> int:
    return next(i for i, line in enumerate(text.splitlines(), 1) if line.strip().startswith(key))


def test_every_file_that_sets_a_key_is_named_with_its_line_newest_first(home: Path) -> None:
    value, newest, before = explain("optimizer.lr", "dataset=voc", "loader.batch_size=4")
    assert value == "optimizer.lr: 0.005"
    number = line_of(RECIPES["toy_voc"], "lr:")
    assert newest.strip() == f"conf/recipe/toy_voc.yaml:{number}: ${{scale:0.02,${{loader.batch_size}},16}}"
    assert before.strip().startswith("replaces conf/optimizer/sgd.yaml:")


def test_the_command_line_comes_before_an_experiment_and_an_experiment_before_the_recipe(home: Path) -> None:
    write_yaml(home, "experiment/mine", "# @package _global_\noptimizer:\n  lr: 0.4\n")
    lines = explain("optimizer.lr", "experiment=mine", "optimizer.lr=0.5")
    assert [line.split(":")[0].strip() for line in lines] == [
        "optimizer.lr",
        "command line optimizer.lr=0.5",
        "replaces conf/experiment/mine.yaml",
        "replaces conf/recipe/toy_shapes.yaml",
        "replaces conf/optimizer/sgd.yaml",
    ]


def test_what_was_dropped_is_told(home: Path) -> None:
    lines = explain("optimizer.lr", "optimizer=adamw")
    assert lines[1].strip().startswith("conf/optimizer/adamw.yaml")
    assert lines[2].strip().startswith("not used conf/recipe/toy_shapes.yaml")
    assert lines[2].endswith("(only with optimizer=sgd)")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "backbone=tiny  chosen by conf/recipe/toy_shapes.yaml"),
        (["backbone=vgg16"], "backbone=vgg16  chosen by command line"),
        (["recipe=none"], "backbone=resnet18  chosen by conf/train.yaml"),
    ],
)
def test_a_group_tells_who_chose_it(home: Path, overrides: list[str], said: str) -> None:
    assert explain("backbone", *overrides)[0] == said


def test_the_recipe_itself_is_explained(home: Path) -> None:
    assert explain("recipe") == ["recipe=toy_shapes  chosen by the pair of task and dataset"]


def test_a_misspelt_key_gets_a_suggestion(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"did you mean optimizer\.lr\?"):
        explain("optimzer.lr")
