import inspect
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Unpack, get_origin, get_type_hints

import pytest
import yaml
from hydra.types import RunMode

from cvtasks.config.build import build, locate, use_plugins
from cvtasks.config.compose import Loader, compose, scaled
from cvtasks.config.locate import conf_dir, conf_dirs, options
from cvtasks.errors import ConfigError

from .toy import write_run, write_yaml


def toy(*overrides: str, verb: str = "train") -> dict[str, Any]:
    return compose(verb, overrides, config_dir="conf")


@cache
def own_configuration() -> dict[str, Any]:
    return toy("task=toy")


def test_the_recipe_of_task_and_dataset_chooses_groups_and_values(home: Path) -> None:
    shapes, voc = toy("task=toy"), toy("task=toy", "dataset=voc")
    assert (shapes["backbone"]["name"], shapes["optimizer"]["lr"], shapes["loader"]["batch_size"]) == (
        "tiny",
        0.03,
        4,
    )
    assert (voc["backbone"]["name"], voc["scheduler"]["milestones"]) == ("resnet50", [0.25])
    assert (
        toy("task=toy", "dataset=coco")["backbone"]["name"] == "resnet18"
    )  # there is no recipe for this pair
    assert toy("task=toy", "recipe=none")["optimizer"]["lr"] != 0.03
    assert toy("task=toy", "recipe=toy_voc")["dataset"]["name"] == "shapes"


def test_a_recipe_is_scaled_to_the_batch_size_and_says_so(home: Path) -> None:
    # 0.02 for 16 images at once; 90,000 batches of 16 are 1,440,000 images: 205,714.3 batches of 7.
    config = toy("task=toy", "dataset=voc", "loader.batch_size=7")
    assert config["optimizer"]["lr"] == pytest.approx(0.02 * 7 / 16)
    assert config["engine"]["max_steps"] == 205_715
    loader = Loader("train", config_dir="conf")
    raw = loader.load_configuration("train", ["task=toy", "dataset=voc", "optimizer.lr=1"], RunMode.RUN)
    assert scaled(raw) == {"engine.max_steps": "90000 x 16 / 6"}


def test_a_recipe_has_a_length_for_each_way_of_training() -> None:
    joint, alternating, typed = (
        compose("train", ["task=faster_rcnn", *more])["engine"]["max_steps"]
        for more in ([], ["task.training=alternating"], ["task.training=alternating", "engine.max_steps=9"])
    )
    assert joint < alternating  # which are four trainings
    assert typed == 9


def test_the_command_line_wins_over_the_recipe(home: Path) -> None:
    config = toy("task=toy", "backbone=resnet34", "optimizer.lr=0.5", "loader.batch_size=2")
    assert (config["backbone"]["name"], config["optimizer"]["lr"], config["loader"]["batch_size"]) == (
        "resnet34",
        0.5,
        2,
    )
    assert config["optimizer"]["momentum"] == 0.8


def test_an_experiment_wins_over_the_recipe_of_its_own_pair(home: Path) -> None:
    write_yaml(
        home,
        "experiment/mine",
        "# @package _global_\ndefaults:\n  - override /task: toy\n  - override /dataset: voc\n"
        "  - override /backbone: vgg16\nengine: {max_steps: 7}\n",
    )
    config = toy("experiment=mine")
    assert config["task"]["name"] == "toy"
    assert config["backbone"]["name"] == "vgg16"
    assert config["engine"]["max_steps"] == 7
    assert config["scheduler"]["milestones"] == [0.25]  # of toy_voc
    assert toy("experiment=mine", "backbone=tiny")["backbone"]["name"] == "tiny"


def test_values_for_an_option_that_is_not_chosen_are_dropped(home: Path) -> None:
    # The recipes' learning rates are for SGD, the milestones for multi_step; nobody else has such a key.
    plain = yaml.safe_load((conf_dir() / "optimizer" / "adamw.yaml").read_text())
    config = toy("task=toy", "dataset=voc", "optimizer=adamw", "scheduler=cosine")
    assert "milestones" not in config["scheduler"]
    assert toy("task=toy", "optimizer=adamw")["optimizer"] == plain
    assert toy("task=toy", "optimizer=adamw", "optimizer.lr=0.7")["optimizer"]["lr"] == 0.7
    write_yaml(home, "experiment/cosine", "# @package _global_\ndefaults:\n  - override /scheduler: cosine\n")
    assert "milestones" not in toy("task=toy", "dataset=voc", "experiment=cosine")["scheduler"]


def test_the_users_folder_adds_options_but_does_not_replace_ours(home: Path) -> None:
    write_yaml(
        home,
        "dataset/mine",
        "# Mine\nname: mine\n_target_: cvtasks.data.shapes.ShapesReader\nmax_objects: 2\n",
    )
    write_yaml(home, "dataset/shapes", "name: other\n_target_: os.system\n")
    assert toy("task=toy", "dataset=mine")["dataset"]["max_objects"] == 2
    assert toy("task=toy")["dataset"]["name"] == "shapes"
    assert "mine" in options("dataset", conf_dirs("conf"))
    with pytest.raises(ConfigError, match="there is no such folder"):
        compose("train", ["task=toy"], config_dir="nowhere")


def test_a_sweep_is_composed_as_its_first_job_but_keeps_what_was_typed(home: Path) -> None:
    # `task` has no default, so Hydra alone would refuse task.channels; milestones exist with one scheduler only.
    loader = Loader("train", config_dir="conf")
    typed = ["task=toy", "scheduler=multi_step,cosine", "scheduler.milestones=[0.5]", "hydra.job.name=x"]
    config = loader.load_configuration("train", typed, RunMode.MULTIRUN)
    assert list(config.hydra.overrides.task) == typed[:3]
    swept = loader.load_configuration("train", ["task=toy,toy", "task.channels=3"], RunMode.MULTIRUN)
    assert swept.task.channels == 3


def test_eval_replaces_nodes_of_the_stored_configuration_or_single_values(home: Path) -> None:
    own = toy(
        "task=toy", "dataset=voc", "dataset.root=/d", "seed=5", "run_dir=old", "backbone.weights=imagenet"
    )
    write_run(home / "run", yaml.safe_dump(own | {"weights": "zoo"}))
    config = toy("run=run", "plugins=[toy_model]", verb="eval")
    assert config["dataset"] == own["dataset"]
    assert (config["seed"], config["engine"]["max_steps"]) == (5, own["engine"]["max_steps"])
    assert (config["run"], config["checkpoint"]) == ("run", "run/checkpoints/best.pt")
    assert (config["run_dir"], config["weights"]) == (None, None)
    assert config["backbone"]["weights"] == "imagenet"  # what `norm: auto` is depends on it
    changed = toy("run=run", "plugins=[toy_model]", "dataset=shapes", "loader.batch_size=3", verb="eval")
    assert changed["dataset"] == toy("task=toy")["dataset"]
    assert changed["loader"]["batch_size"] == 3
    assert changed["task"] == own["task"]
    assert toy("run=run", "plugins=[toy_model]", "source=a.jpg", verb="predict")["score_threshold"] == 0.5


def test_eval_alone_takes_the_run_that_was_started_last_and_has_a_checkpoint(home: Path) -> None:
    text = yaml.safe_dump(toy("task=toy"))
    for name in ("toy/shapes/first", "sweeps/s/0_lr-1", "zz"):
        write_run(home / "runs" / name, text)
        time.sleep(0.01)
    (home / "runs" / "zz" / "checkpoints" / "best.pt").unlink()
    assert toy("plugins=[toy_model]", verb="eval")["run"] == "runs/sweeps/s/0_lr-1"


def test_results_of_another_tool_are_judged_without_a_model(home: Path) -> None:
    config = toy("predictions=R.json", "dataset=coco", "dataset.val.annotations=A.json", verb="eval")
    assert (config["task"], config["predictions"]) == (None, "R.json")
    assert config["dataset"]["val"]["annotations"] == "A.json"
    with pytest.raises(ConfigError, match=r"did you mean dataset.val.annotations"):
        toy("predictions=R.json", "dataset=coco", "dataset.val.anotations=A.json", verb="eval")


def test_resume_keeps_the_configuration_and_writes_where_the_run_is_now(home: Path) -> None:
    own = toy("task=toy", "run_dir=elsewhere", "backbone.weights=imagenet")
    write_run(home / "moved", yaml.safe_dump(own))
    (home / "moved" / "checkpoints" / "last.pt").touch()
    config = toy("run=moved", "plugins=[toy_model]", "engine.max_steps=9", verb="resume")
    assert config["run_dir"] == config["run"] == "moved"
    assert config["checkpoint"] == "moved/checkpoints/last.pt"
    assert config["engine"]["max_steps"] == 9


@pytest.mark.parametrize(
    ("hostile", "message"),
    [
        ("hydra: {launcher: {_target_: trap.run}}", "has a key 'hydra'"),
        ("hydra: {callbacks: {x: {_target_: trap.run}}}", "has a key 'hydra'"),
        ("task: {_target_: trap.run}", "trap.run is not allowed"),
        ("optimizer: {name: a, _target_: os.system, command: 'touch trapped'}", "os.system is not allowed"),
        (
            "dataset: {name: a, _target_: cvtasks.data.shapes.ShapesReader, scene: {_target_: os.getcwd}}",
            "os.getcwd",
        ),
        ("plugins: [trap]", "toy_model.Toy is not allowed"),
        ("device: ${oc.env:HOME}", "interpolation"),
        ("- 1", "not a mapping"),
        ("{", "damaged"),
        ("a: !!python/object/apply:os.system ['touch trapped']", "damaged"),
    ],
)
def test_a_stored_configuration_can_run_nothing(home: Path, hostile: str, message: str) -> None:
    (home / "trap.py").write_text("open('trapped', 'w')\ndef run(**_): open('trapped', 'w')\n")
    with suppress(yaml.YAMLError, TypeError):  # the last ones are damaged, or no mapping
        hostile = yaml.safe_dump(own_configuration() | yaml.safe_load(hostile))
    write_run(home / "run", hostile)
    with pytest.raises(ConfigError) as error:
        toy("run=run", verb="eval")
    assert message in str(error.value)
    assert not (home / "trapped").exists()
    assert "trap" not in sys.modules


TARGETS = sorted(
    {
        line.split("_target_:")[1].split("#")[0].strip()
        for file in conf_dir().rglob("*.yaml")
        for line in file.read_text().splitlines()
        if line.strip().startswith("_target_:")
    }
)


@pytest.mark.parametrize("target", TARGETS)
def test_every_constructor_of_ours_can_be_checked_by_its_signature(target: str) -> None:
    use_plugins([], studies=True)
    found = locate(target)
    use_plugins([])
    parameters = inspect.signature(found).parameters.values()
    hints = get_type_hints(found.__init__ if isinstance(found, type) else found)
    assert [p.name for p in parameters if p.name not in hints] == []
    further = [hints[p.name] for p in parameters if p.kind is p.VAR_KEYWORD]
    assert all(get_origin(hint) is Unpack for hint in further)


@cache
def needs() -> dict[frozenset[str], list[str]]:
    """The tasks by what they need of a data set. Each passes the check, with its recipe for shapes."""
    found: dict[frozenset[str], list[str]] = {}
    for task in options("task", conf_dirs()):
        requires = compose("train", [f"task={task}"])["task"]["requires"]
        found.setdefault(frozenset(requires) - {"proposals"}, []).append(task)  # no data set has these
    return found


@pytest.mark.parametrize(("number", "dataset"), list(enumerate(options("dataset", conf_dirs()))))
def test_a_data_set_composes_with_the_tasks_whose_labels_it_has(number: int, dataset: str) -> None:
    """With one task of those that need the same, another one for each data set."""
    node = yaml.safe_load((conf_dirs()[0] / "dataset" / f"{dataset}.yaml").read_text())
    base = node.get("defaults", [dataset])[0]  # it may build on another one's file
    has = locate(
        yaml.safe_load((conf_dirs()[0] / "dataset" / f"{base}.yaml").read_text())["_target_"]
    ).provides
    for fields, tasks in needs().items():
        task = tasks[number % len(tasks)]
        if not fields <= has:
            with pytest.raises(ConfigError, match=f"dataset={dataset} has only"):
                compose("train", [f"task={task}", f"dataset={dataset}"])
            continue
        config = compose("train", [f"task={task}", f"dataset={dataset}"])
        assert (config["task"]["name"], config["dataset"]["name"]) == (task, dataset)


OTHER_RECIPES = [n for n in options("recipe", conf_dirs()) if "_" in n and not n.endswith("_shapes")]


@pytest.mark.parametrize("recipe", OTHER_RECIPES)
def test_every_recipe_passes_the_check(recipe: str) -> None:
    task, _, dataset = recipe.rpartition("_")
    config = compose("train", [f"task={task}", f"dataset={dataset}"])
    assert (config["task"]["name"], config["dataset"]["name"]) == (task, dataset)


GROUPS = ("backbone", "pipeline", "optimizer", "scheduler")


@pytest.mark.parametrize("number", range(max(len(options(group, conf_dirs())) for group in GROUPS)))
def test_every_option_of_every_group_passes_the_check(number: int) -> None:
    """All groups at once: the first options, the second ones, ..., each group starting over at its end."""
    found = {group: list(options(group, conf_dirs())) for group in ("task", *GROUPS)}
    compose("train", [f"{group}={names[number % len(names)]}" for group, names in found.items()])


@pytest.mark.parametrize("experiment", options("experiment", conf_dirs()))
def test_every_experiment_chooses_its_task_and_passes_the_check(experiment: str) -> None:
    compose("train", [f"experiment={experiment}"])


@pytest.mark.parametrize("debug", options("debug", conf_dirs()))
def test_every_way_of_debugging_passes_the_check(debug: str) -> None:
    compose("train", [f"task={next(iter(options('task', conf_dirs())))}", f"debug={debug}"])


def test_a_group_node_builds_from_its_defaults() -> None:
    config = compose("train", [f"task={next(iter(options('task', conf_dirs())))}"])
    reader = build(config["dataset"], split="val", fields=frozenset(config["task"]["requires"]))
    assert len(reader) == config["dataset"]["val"]["count"]
