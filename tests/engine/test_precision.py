import pytest
import torch
from torch import nn

from cvtasks.engine import precision as module
from cvtasks.engine.precision import Precision, choose_device, choose_precision, place
from cvtasks.errors import ConfigError

CPU = torch.device("cpu")


@pytest.mark.parametrize("has", [True, False])
def test_auto_is_bf16_where_the_hardware_multiplies_in_it(monkeypatch: pytest.MonkeyPatch, has: bool) -> None:
    monkeypatch.setattr(module, "_has_bf16", lambda device: has)
    assert choose_precision("auto", CPU).name == ("bf16" if has else "fp32")
    assert choose_precision("fp32", CPU).name == "fp32"
    assert choose_precision("bf16", CPU).name == "bf16"


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_context_multiplies_in_the_named_format_and_can_be_entered_again(
    name: str, dtype: torch.dtype
) -> None:
    precision = Precision(name, CPU)
    for _ in range(2):
        with precision.autocast():
            assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == dtype
    assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32


def test_a_device_that_is_not_there_is_one_line() -> None:
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in ("cpu", "cuda")
    for name in ("cuda:99", "gpu"):
        with pytest.raises(ConfigError, match=f"device={name} cannot be used here") as caught:
            choose_device(name)
        assert "\n" not in str(caught.value)


def test_channels_last_weights_give_channels_last_maps_from_ordinary_images() -> None:
    model = place(nn.Conv2d(3, 4, 3), CPU, channels_last=True)
    assert model(torch.rand(2, 3, 8, 8)).is_contiguous(memory_format=torch.channels_last)
    plain = place(nn.Conv2d(3, 4, 3), CPU, channels_last=False)
    assert plain(torch.rand(2, 3, 8, 8)).is_contiguous()
