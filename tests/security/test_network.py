"""Nothing reaches for the network: not training, judging, predicting, drawing, nor help. Only the zoo does, by name."""

import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch
from PIL import Image
from sweeps import stand_ins

import cvtasks
from cvtasks.cli import main
from cvtasks.usage import VERBS

from .conftest import NETWORK, SHAPES, SMALL, Command, forbidden


def test_the_watch_sees_every_way_out() -> None:
    """Otherwise an empty list of events would prove nothing."""
    with forbidden(*NETWORK) as found:
        for attempt in (
            lambda: socket.socket(),
            lambda: socket.create_connection(("127.0.0.1", 9)),
            lambda: socket.getaddrinfo("localhost", 80),
            lambda: socket.gethostbyname("localhost"),
            lambda: urllib.request.urlopen("http://127.0.0.1:9"),
        ):
            with pytest.raises(PermissionError):
                attempt()
    assert len(found) == 5


def test_a_whole_life_without_a_socket(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 48)).save("photo.png")
    assert command("train", *SMALL, *SHAPES, "run_dir=run", "engine.eval_every=1") == (0, "")
    assert command("eval")[0] == 2  # there is none below runs/
    assert command("eval", "run=run") == (0, "")
    assert command("predict", "run=run", "source=photo.png", "score_threshold=0") == (0, "")
    assert command("resume", "run", "engine.max_steps=3") == (0, "")
    stand_ins.in_process(monkeypatch)  # what a job does is seen here, too
    assert command("train", "-m", *SMALL, *SHAPES, "run_dir=sweep", "seed=1", "engine.max_steps=1") == (0, "")
    assert any("events.out" in path.name for path in (tmp_path / "run").iterdir())
    assert (tmp_path / "run" / "plots" / "precision_recall.png").is_file()


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--help"],
        ["--version"],
        *([verb, "--help"] for verb in VERBS),
        ["list"],
        ["list", "tasks"],
        ["list", "experiments"],
        ["config", "task=faster_rcnn"],
        ["config", "task=faster_rcnn", "--why", "optimizer.lr"],
        ["completion", "bash"],
        ["complete", "cvtasks train datas"],
        ["train", "task=faster_rcnn", "--cfg", "job"],
    ],
    ids=" ".join,
)
def test_help_lists_and_configurations_without_a_socket(words: list[str], command: Command) -> None:
    assert command(*words)[0] == 0


def test_a_process_of_its_own_imports_everything_without_a_socket(tmp_path: Path) -> None:
    """In this process TensorBoard, matplotlib and Hydra have been imported before anybody watched."""
    code = f"""
import sys
found = []
sys.addaudithook(lambda event, _: event.startswith({NETWORK!r}) and found.append(event))
from cvtasks.cli import main
code = main({["train", *SMALL, *SHAPES, "engine.max_steps=1", "run_dir=run"]!r})
assert (code, found) == (0, []), (code, found)
code = main(["train", "task=faster_rcnn", "--info", "all"])  # it leaves Hydra's logging switched on
assert (code, found) == (0, []), (code, found)
"""
    environment = {"PYTHONPATH": str(Path(cvtasks.__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("option", "file"),
    [
        ("weights=fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"),
        ("backbone.weights=imagenet", "resnet18-f37072fd.pth"),
    ],
)
def test_the_zoo_asks_when_it_is_named_and_says_what_to_do_without_a_network(
    option: str,
    file: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    small = [word for word in SMALL if not word.startswith("backbone")]
    with forbidden(*NETWORK) as found:
        code = main(["train", *small, *SHAPES, "backbone=resnet18", option, "run_dir=run"])
    line = capsys.readouterr().err
    assert found  # it did ask
    assert code == 2
    assert line.count("\n") == 1
    assert f"https://download.pytorch.org/models/{file}" in line
    assert f"save it as {tmp_path / 'hub' / 'checkpoints' / file}" in line
    assert not (tmp_path / "run").exists()
    assert list((tmp_path / "hub").rglob("*.pth")) == []


def test_judging_a_model_that_began_with_the_zoos_weights_asks_for_none(
    finished: Path, tmp_path: Path, command: Command
) -> None:
    """Its configuration names them; the checkpoint has replaced them."""
    import yaml

    from cvtasks.engine import checkpoint

    content = checkpoint.load(finished / "checkpoints" / "best.pt")
    config = yaml.safe_load(content["config"])
    config["weights"] = "fasterrcnn_resnet50_fpn"
    checkpoint.save(tmp_path / "a.pt", content | {"config": yaml.safe_dump(config)})
    assert command("eval", f"checkpoint={tmp_path / 'a.pt'}", f"run_dir={tmp_path / 'out'}") == (0, "")
