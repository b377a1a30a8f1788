import importlib
import inspect
import pkgutil
import re
import sys
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cvtasks.config.build import OPTIMIZERS, ROOMS, SCHEDULERS, build, locate, use_plugins
from cvtasks.errors import ConfigError


@pytest.fixture(autouse=True)
def _no_plugins_are_left() -> None:
    use_plugins([])


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "torch.load",
        "torch.hub.load",
        "torch.optim.os.system",
        "torch.optim.Optimizer",  # not on the list
        "hydra.utils.instantiate",
        "cvtasks.cli.main",
        "cvtasks.app.train",
        "cvtasks.config.build.build",
        "cvtasks.engine.checkpoint.save",
        "cvtasks.data.shapes.np.load",  # a module that one of ours imports
        "cvtasks.data.shapes.torch",
        "cvtasks.data.shapes.paint",  # defined elsewhere among ours is fine, see below
        "cvtasks.data.shapes._boxes",
        "cvtasks.data.shapes.difflib.get_close_matches",
        "cvtasks.data.shapes.Sequence",
        "cvtasks.data.shapes.VAL",
        "cvtasks.databases.Reader",
        "cvtasks.data",
        "shapes",
        "cvtasks.nn.\0.x",
        "cvtasks.nn.\udcff.x",
        "cvtasks.nn..x",
        f"cvtasks.nn.{'x' * 5000}.y",
        "cvtasks.nn.zoo.load_weights",  # fetches files
        "cvtasks.nn.zoo.load_detector_weights",
        "",
        ".",
    ],
)
def test_nothing_but_what_is_listed_can_be_named(target: str) -> None:
    if target == "cvtasks.data.shapes.paint":
        assert locate(target).__module__ == "cvtasks.data.painting"
        return
    with pytest.raises(ConfigError):
        locate(target)


def test_a_refused_module_is_not_even_imported(home: Path) -> None:
    (home / "trap.py").write_text("raise SystemExit('imported')")
    for target in ("trap.Model", "trap"):
        with pytest.raises(ConfigError):
            locate(target)
    with pytest.raises(ConfigError, match=r"add plugins=\[trap\]"):
        build({"_target_": "trap.Model"})
    assert "trap" not in sys.modules


def test_a_plugin_is_found_in_the_current_folder_and_only_while_it_is_named(home: Path) -> None:
    use_plugins(["toy_model"])
    assert locate("toy_model.Toy").__name__ == "Toy"
    with pytest.raises(ConfigError):  # imported there, not defined there
        locate("toy_model.Range")
    use_plugins([])
    with pytest.raises(ConfigError):
        locate("toy_model.Toy")


@pytest.mark.parametrize("name", ["no_such_module_here", "a b", "", "..", "os/path"])
def test_a_plugin_that_does_not_exist_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match="plugins: there is no module"):
        use_plugins([name])


def test_nodes_inside_are_built_first_and_only_asked_for_extras_are_handed_over(home: Path) -> None:
    use_plugins(["toy_model"])
    reader = {
        "_target_": "cvtasks.data.shapes.ShapesReader",
        "name": "shapes",
        "split": "val",
        "val": {"count": 3},
    }
    node = {"_target_": "toy_model.Toy", "name": "toy", "options": {"a": [reader, 1]}, "channels": 4}
    toy = build(node, backbone="b", classes="c", split="val", unknown=1)
    assert toy.arguments["backbone"] == "b"
    assert toy.arguments["channels"] == 4
    built, one = toy.arguments["options"]["a"]
    assert len(built) == 3
    assert one == 1


def test_torchs_optimizers_get_the_parameters_of_the_model() -> None:
    model = torch.nn.Linear(2, 2)
    optimizer = build({"_target_": "torch.optim.AdamW", "name": "adamw", "lr": 0.1}, model=model)
    assert optimizer.param_groups[0]["lr"] == 0.1
    assert len(optimizer.param_groups[0]["params"]) == 2
    step = {"_target_": "torch.optim.lr_scheduler.StepLR", "step_size": 3}
    assert build(step, optimizer=optimizer, max_steps=10).step_size == 3


def test_what_torch_refuses_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"torch.optim.SGD: Nesterov"):
        build({"_target_": "torch.optim.SGD", "lr": 0.1, "nesterov": True}, model=torch.nn.Linear(2, 2))


def test_everything_on_the_lists_exists() -> None:
    for name in OPTIMIZERS:
        assert issubclass(locate(f"torch.optim.{name}"), torch.optim.Optimizer)  # type: ignore[arg-type]
    for name in SCHEDULERS:
        locate(f"torch.optim.lr_scheduler.{name}")


def names_of(module: str) -> list[str]:
    return [name for name in dir(importlib.import_module(module)) if name.isidentifier()]


ROOTS = [f"cvtasks.{room}" for room in ROOMS]
MODULES = sorted(
    module.name
    for room in ROOTS[:5]
    for module in pkgutil.walk_packages(importlib.import_module(room).__path__, f"{room}.")
)
# Once: a package's names grow as its modules are imported, and what is drawn from them must not.
NAMES = {module: names_of(module) for module in MODULES}
IN_MEMORY = {"cvtasks.metrics.label_folder.encode"}
"""Functions that save pictures, but to no file"""
WORDS = """
cvtasks torch optim os system sys modules builtins eval nn data models zoo shapes __init__ __class__ __globals__
__builtins__ __subclasses__ np json io Path load open functools partial
"""
words = st.sampled_from(WORDS.split())


@given(
    st.one_of(
        st.builds(".".join, st.lists(words, min_size=1, max_size=6)),
        st.builds(
            lambda module, names: ".".join([module, *names]),
            st.sampled_from([*MODULES, *ROOTS, "torch.optim", "torch.optim.lr_scheduler", "torch", "os", ""]),
            st.lists(words, max_size=3),
        ),
        st.sampled_from(MODULES).flatmap(
            lambda module: st.builds(
                lambda names: ".".join([module, *names]),
                st.lists(st.one_of(st.sampled_from(NAMES[module]), words), min_size=1, max_size=3),
            )
        ),
        st.text(alphabet="abcdeos.:_ /\\0", max_size=20),
        st.none() | st.integers() | st.lists(st.text(max_size=3), max_size=2),
    )
)
@settings(max_examples=500)
def test_no_name_whatsoever_leads_outside_the_lists(target: Any) -> None:
    """Whatever is found is public, and written in one of our rooms or on torch's list; all else is refused."""
    try:
        found: Any = locate(target)
    except ConfigError:
        return
    if target.startswith("torch."):
        assert target.split(".")[-1] in (*OPTIMIZERS, *SCHEDULERS)
        return
    assert found.__module__.startswith(tuple(ROOTS))
    assert not found.__module__.startswith("cvtasks.nn.zoo")
    assert inspect.isfunction(found) or inspect.isclass(found)
    assert not found.__name__.startswith("_")


def test_no_public_function_in_the_rooms_writes_files_or_fetches_any() -> None:
    """What a configuration may name is all of it, so none of it may do harm when it is called with a stranger's values."""
    harmful = re.compile(
        r"write_text|write_bytes|open\(.*[\"']w|mkdir|unlink|rmtree|urlretrieve|download|urlopen|\.save\("
    )
    for module in MODULES:
        for name in NAMES[module]:
            try:
                found: Any = locate(f"{module}.{name}")
            except ConfigError:
                continue
            made_by = (
                vars(found).get("__init__") if inspect.isclass(found) and not is_dataclass(found) else found
            )
            if inspect.isfunction(made_by) and f"{found.__module__}.{found.__name__}" not in IN_MEMORY:
                assert not harmful.search(inspect.getsource(made_by)), f"{module}.{name}"
