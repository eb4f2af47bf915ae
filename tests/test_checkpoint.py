from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from yolov6_ignite.checkpoint import (
    averaged_weights,
    previous_generation,
    read_checkpoint,
    read_newest,
    strip_checkpoint,
    write_atomically,
    write_checkpoint,
    write_weights,
)
from yolov6_ignite.errors import ConfigError


def training_content(value: float = 1.0) -> dict[str, Any]:
    return {
        "kind": "training",
        "config": {"a": 1},
        "names": ["x"],
        "metrics": {"val/mAP@0.5": 0.5},
        "epoch": 3,
        "model": {"w": torch.full((2000,), -1.0)},
        "ema": {"w": torch.full((2000,), value), "n": torch.tensor(7)},
        "optimizer": {"state": {}},
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "last_ckpt.pt"


def test_round_trip_and_plain_torch_can_read_it(path: Path) -> None:
    write_checkpoint(path, training_content())
    assert torch.equal(read_checkpoint(path)["ema"]["w"], torch.ones(2000))
    assert torch.load(path, weights_only=True)["format"] == "yolov6-ignite"


def test_a_flipped_byte_anywhere_in_the_data_is_noticed(path: Path) -> None:
    write_checkpoint(path, training_content())
    whole = path.read_bytes()
    weights = whole.index(torch.full((4,), -1.0).numpy().tobytes())
    for position in (weights, weights + 5000):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(ConfigError, match=r"checksum|damaged"):
            read_checkpoint(path)


@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_file_is_noticed(path: Path, keep: float) -> None:
    write_checkpoint(path, training_content())
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep if keep >= 1 else keep * len(whole))])
    with pytest.raises(ConfigError, match="damaged"):
        read_checkpoint(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "missing.pt")
    with pytest.raises(ConfigError, match="no such checkpoint"):
        read_checkpoint(tmp_path)
    torch.save({"state_dict": {}}, tmp_path / "foreign.pt")
    with pytest.raises(ConfigError, match="not a checkpoint of this project"):
        read_checkpoint(tmp_path / "foreign.pt")
    torch.save({"format": "yolov6-ignite", "version": 99}, tmp_path / "newer.pt")
    with pytest.raises(ConfigError, match="newer version"):
        read_checkpoint(tmp_path / "newer.pt")


@pytest.mark.parametrize("key", ["version", "kind", "config", "names", "metrics", "epoch", "model", "ema"])
def test_every_key_must_be_there(path: Path, key: str) -> None:
    content = {"format": "yolov6-ignite", "version": 1, **training_content()}
    del content[key]
    torch.save(content, path)
    with pytest.raises(ConfigError, match=rf"last_ckpt\.pt: {key}: missing, or not .* an earlier checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("version", value) for value in ("1", 0, True, None)),
        *(("kind", value) for value in ([], "model", None)),
        *(("config", value) for value in (None, [], {"a": torch.zeros(1)}, {"a": {"b"}})),
        *(("names", value) for value in (None, "abc", [1, 2, 3], [], {0: "a"}, ("a",))),
        *(("metrics", value) for value in (None, 0.5)),
        *(("epoch", value) for value in ("x", -1, 1.5, None)),
        *(("model", value) for value in (None, [1], {"a": 1}, {1: torch.zeros(1)}, torch.zeros(1))),
        *(("ema", value) for value in (None, {"a": [torch.zeros(1)]})),
    ],
)
def test_every_key_must_hold_what_it_should(path: Path, key: str, value: Any) -> None:
    torch.save({"format": "yolov6-ignite", "version": 1, **training_content(), key: value}, path)
    with pytest.raises(ConfigError, match=f"pt: {key}: missing, or not"):
        read_checkpoint(path)


class _Canary:
    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.file),)


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_nothing_in_a_file_runs(tmp_path: Path, how: str) -> None:
    canary, path = tmp_path / "canary", tmp_path / "evil.pt"
    if how == "torch":
        torch.save({"format": "yolov6-ignite", "version": 1, "x": _Canary(canary)}, path)
    else:
        path.write_bytes(pickle.dumps(_Canary(canary)))
    with pytest.raises(ConfigError):
        read_checkpoint(path)
    assert not canary.exists()


def test_the_previous_generation_serves_when_the_last_is_damaged(path: Path) -> None:
    warnings: list[str] = []
    assert read_newest(path, warnings.append) is None
    write_checkpoint(path, training_content(1.0), keep_previous=True)
    write_checkpoint(path, training_content(2.0), keep_previous=True)
    newest = read_newest(path, warnings.append)
    assert newest is not None
    assert newest["ema"]["w"][0] == 2
    assert not warnings
    path.write_bytes(b"half a file")
    newest = read_newest(path, warnings.append)
    assert newest is not None
    assert newest["ema"]["w"][0] == 1
    assert len(warnings) == 1
    path.unlink()  # a crash between the two renames
    newest = read_newest(path, warnings.append)
    assert newest is not None
    assert newest["ema"]["w"][0] == 1
    previous_generation(path).write_bytes(b"")
    with pytest.raises(ConfigError, match="damaged"):
        read_newest(path, warnings.append)


def test_a_failed_write_leaves_everything_as_it_was(path: Path) -> None:
    write_checkpoint(path, training_content(1.0))

    def fail(file: Any) -> None:
        file.write(b"something")
        raise OSError(28, "No space left on device")

    with pytest.raises(ConfigError, match=r"last_ckpt\.pt: cannot be written .*No space left"):
        write_atomically(path, fail, keep_previous=True)
    assert read_checkpoint(path)["ema"]["w"][0] == 1
    assert list(path.parent.iterdir()) == [path]


def test_what_could_not_be_read_back_is_not_written(path: Path) -> None:
    content = {**training_content(), "handlers": {"mine": {"score": np.zeros(2)}}}
    with pytest.raises(TypeError, match=r"handlers\.mine\.score: a checkpoint cannot hold a ndarray"):
        write_checkpoint(path, content)
    assert not path.exists()


@pytest.mark.parametrize(
    "value",
    [torch.zeros(1).expand(9), torch.zeros(2, dtype=torch.complex64), torch.zeros(2).to_sparse(), {(1, 2): 3}],
    ids=["expanded", "complex", "sparse", "key"],
)
def test_tensors_and_keys_that_could_not_be_read_back_are_not_written(path: Path, value: Any) -> None:
    with pytest.raises(TypeError, match=r"handlers\.mine: a checkpoint cannot hold"):
        write_checkpoint(path, {**training_content(), "handlers": {"mine": value}})
    assert not path.exists()


def test_what_an_optimizer_and_modules_keep_is_read_back(path: Path) -> None:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(2, 3, 8, 8)).square().sum().backward()
    optimizer.step()
    history = [{"epoch": epoch, "loss": 1 / (epoch + 1)} for epoch in range(300)]
    state = {"optimizer": optimizer.state_dict(), "model": model.state_dict(), "history": history}
    write_checkpoint(path, {**training_content(), **state, "random": torch.get_rng_state(), "big": 2**40})
    content = read_checkpoint(path)
    assert content["history"] == history
    assert content["big"] == 2**40
    assert torch.equal(content["random"], torch.get_rng_state())
    for key, value in model.state_dict().items():
        assert torch.equal(content["model"][key], value)
        assert content["model"][key].stride() == value.stride()
    for index, kept in optimizer.state_dict()["state"].items():
        assert torch.equal(content["optimizer"]["state"][index]["momentum_buffer"], kept["momentum_buffer"])


def test_numbers_beyond_half_precision_stay(path: Path) -> None:
    state = {
        "running_var": torch.tensor([1.0, 65519.0, 65521.0, 1e30]),
        "fits": torch.tensor([65504.0, -65504.0, 1e-9]),
        "already": torch.tensor([float("inf"), float("-inf"), float("nan")]),
        "double": torch.tensor([1e5], dtype=torch.float64),
    }
    write_weights(path, state=state, config={}, names=["x"], metrics={}, epoch=1)
    model = read_checkpoint(path)["model"]
    assert [value.dtype for value in model.values()] == [torch.float32, torch.float16, torch.float16, torch.float32]
    weights = averaged_weights(read_checkpoint(path))
    assert torch.equal(weights["running_var"], state["running_var"])
    assert torch.equal(weights["fits"], state["fits"].half().float())
    assert torch.equal(weights["already"].isnan(), state["already"].isnan())


def test_strip_keeps_the_average_in_half_precision_and_what_it_needs(path: Path) -> None:
    write_checkpoint(path, training_content(0.25))
    strip_checkpoint(path)
    content = read_checkpoint(path)
    assert content["kind"] == "weights"
    assert content["model"]["w"].dtype == torch.float16
    assert content["model"]["n"] == 7
    assert {"config", "names", "metrics", "epoch"} <= content.keys()
    assert "optimizer" not in content
    weights = averaged_weights(content)
    assert weights["w"].dtype == torch.float32
    assert weights["w"][0] == 0.25
    before = path.read_bytes()
    strip_checkpoint(path)  # a repeated strip changes nothing
    assert path.read_bytes() == before


def test_scalars_of_numpy_are_stored_as_pythons(path: Path) -> None:
    content = {**training_content(0.25), "handlers": {"mine": {"n": np.int64(3), "best": [np.float32(0.5), np.True_]}}}
    write_checkpoint(path, content)
    stored = read_checkpoint(path)["handlers"]["mine"]
    assert stored == {"n": 3, "best": [0.5, True]}
    assert [type(value) for value in (stored["n"], *stored["best"])] == [int, float, bool]
