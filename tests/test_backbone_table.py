"""What `docs/backbones.md` says of a backbone and a task is what happens: it runs, or there is one clear ConfigError."""

import importlib.util
from itertools import product
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "scripts" / "backbone_table.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("backbone_table", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


pairs = load()
SAMPLE = [
    *product(pairs.tasks(), ["tiny"]),
    *product(["faster_rcnn", "retinanet", "ssd"], ["lenet", "cifar_resnet20", "mobilenet_v3_small"]),
    *product(["localization", "unet"], ["googlenet", "mobilenet_v2", "alexnet", "torchvision"]),
]


def try_pair(task: str, backbone: str) -> None:
    if backbone == "timm":
        pytest.importorskip("timm")
    why = pairs.reason(task, backbone)
    assert "\n" not in why
    assert why == pairs.read()[task, backbone], "type python scripts/backbone_table.py"


def test_the_table_has_every_task_and_every_backbone_and_nothing_else() -> None:
    assert set(pairs.read()) == set(product(pairs.tasks(), pairs.backbones())), (
        "type python scripts/backbone_table.py"
    )


def test_the_table_reads_back_as_it_was_written(tmp_path: Path) -> None:
    found = {
        ("ssd", "a"): "",
        ("ssd", "b"): "task.level=c4: not there: see",
        ("unet", "a"): "",
        ("unet", "b"): "",
    }
    (tmp_path / "table.md").write_text(pairs.table(found))
    assert pairs.read(tmp_path / "table.md") == found
    assert pairs.FILE.read_text() == pairs.table(pairs.read())


@pytest.mark.parametrize(("task", "backbone"), SAMPLE)
def test_a_pair_of_the_sample_does_what_the_table_says(task: str, backbone: str) -> None:
    try_pair(task, backbone)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "backbone"), sorted(set(product(pairs.tasks(), pairs.backbones())) - set(SAMPLE))
)
def test_a_pair_does_what_the_table_says(task: str, backbone: str) -> None:
    try_pair(task, backbone)
