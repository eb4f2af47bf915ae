from __future__ import annotations

import pytest
import torch

from yolov6_ignite import load_config
from yolov6_ignite.distributed import autocast_dtype, from_rank_zero, memory_format, resolve_device, resolve_precision
from yolov6_ignite.errors import ConfigError, DatasetError


def test_precision_is_a_function_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("yolov6n")
    assert resolve_precision(config, torch.device("cpu")) == "fp32"
    assert resolve_precision(config, torch.device("mps")) == "fp32"
    for capability, expected in (((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, value=capability: value)
        assert resolve_precision(config, torch.device("cuda", 0)) == expected
    asked = load_config("yolov6n", ["train.precision=bf16"])
    assert resolve_precision(asked, torch.device("cpu")) == "bf16"
    assert autocast_dtype("fp32") is None
    assert autocast_dtype("fp16") is torch.float16


def test_devices_that_are_not_there_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto") == torch.device("cpu")
    with pytest.raises(ConfigError, match=r"no CUDA device; use train\.device=cpu"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no MPS device"):
        resolve_device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match="cuda:5, but there are 2"):
        resolve_device("cuda:5")


def test_memory_format() -> None:
    assert memory_format(torch.device("cpu")) is torch.channels_last
    assert memory_format(torch.device("mps")) is torch.contiguous_format


def test_one_process_needs_no_group() -> None:
    assert from_rank_zero(lambda: 3) == 3

    def fail() -> None:
        raise DatasetError("broken")

    with pytest.raises(DatasetError, match="broken"):
        from_rank_zero(fail)
