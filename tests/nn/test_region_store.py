"""Features on disk: they come back as they were, and only where they are of the same boxes and weights."""

from pathlib import Path

import pytest
import torch

from cvtasks.nn.region_store import RegionStore, checksum


def tensors(seed: int = 0, regions: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "boxes": torch.rand(regions, 4, generator=generator),
        "features": torch.rand(regions, 7, generator=generator).half(),
        "near": torch.arange(regions),
        "ignored": torch.zeros(regions, dtype=torch.bool),
    }


def test_images_come_back_in_their_order_with_every_type_as_often_as_asked(tmp_path: Path) -> None:
    with RegionStore(tmp_path, lambda: "a") as store:
        for n, image in enumerate([7, "../7", "b", 3]):  # an id is no path
            store.add(image, tensors(n, regions=n))
        for _ in range(2):
            for n, found in enumerate(store):
                expected = tensors(n, regions=n)
                assert set(found) == set(expected)
                assert all(
                    torch.equal(found[k], v) and found[k].dtype == v.dtype for k, v in expected.items()
                )
    assert len(list((tmp_path / "a").iterdir())) == 4


def test_what_is_there_is_found_again_but_not_for_other_boxes(tmp_path: Path) -> None:
    with RegionStore(tmp_path, lambda: "a") as store:
        store.add(1, tensors())
    with RegionStore(tmp_path, lambda: "a") as store:
        assert store.find(2, tensors()["boxes"]) is None
        assert store.find(1, tensors(seed=1)["boxes"]) is None
        found = store.find(1, tensors()["boxes"])
        assert found is not None
        assert torch.equal(found["features"], tensors()["features"])
        assert list(store) == []  # what was not added by this one is no part of it


def test_files_of_other_weights_are_not_used_and_go(tmp_path: Path) -> None:
    with RegionStore(tmp_path, lambda: "a") as store:
        store.add(1, tensors())
    with RegionStore(tmp_path, lambda: "b") as store:
        assert store.find(1, tensors()["boxes"]) is None
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("kept", [0, 10, 0.5, 0.99])
def test_half_a_file_is_none(tmp_path: Path, kept: float) -> None:
    with RegionStore(tmp_path, lambda: "a") as store:
        store.add(1, tensors())
        (file,) = (tmp_path / "a").iterdir()
        data = file.read_bytes()
        file.write_bytes(data[: int(kept * len(data)) if kept < 1 else int(kept)])
        assert store.find(1, tensors()["boxes"]) is None
        store.add(1, tensors())
        assert file.read_bytes() == data


def test_without_a_folder_nothing_is_left() -> None:
    with RegionStore(None, lambda: "a") as store:
        store.add(1, tensors())
        assert len(list(store)) == 1
        place = store._parent
        assert place.exists()
    assert not place.exists()


def test_a_checksum_knows_each_weight_its_name_and_each_setting() -> None:
    weights = {"a": torch.zeros(3), "b": torch.ones(2, dtype=torch.int64)}
    same = checksum(weights, "x", 1)
    assert checksum({k: v.clone() for k, v in weights.items()}, "x", 1) == same
    others = [
        checksum(weights | {"a": torch.tensor([0.0, 0.0, 1e-30])}, "x", 1),
        checksum({"c": weights["a"], "b": weights["b"]}, "x", 1),
        checksum(weights, "x", 2),
    ]
    assert len({same, *others}) == 4
