from __future__ import annotations

import pickle
import subprocess
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile_files import HOSTILE, HostileFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from official_files import read_official, save_official, tiny_state, unzip, write_zip, yolov6_classes

from yolov6_ignite.checkpoint import read_checkpoint
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.restricted_pickle import StandIn, is_readable, read_archive
from yolov6_ignite.weights import load_model

READERS: list[Callable[[Path], object]] = [read_archive, read_checkpoint, load_model]

each_hostile_file = pytest.mark.parametrize("file", HOSTILE, ids=lambda file: file.name)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
@each_hostile_file
def test_nothing_in_a_hostile_file_runs(
    read: Callable[[Path], object], file: HostileFile, tmp_path: Path, canary: Path
) -> None:
    file.write(tmp_path / "weights.pt", canary)
    with suppress(ConfigError):
        read(tmp_path / "weights.pt")
    assert not canary.exists()


@each_hostile_file
def test_a_refusal_says_what_and_where(file: HostileFile, tmp_path: Path, canary: Path) -> None:
    path = tmp_path / "weights.pt"
    file.write(path, canary)
    if file.message is None:
        read_archive(path)
    with pytest.raises(ConfigError, match=file.message) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("file", [file for file in HOSTILE if file.runs], ids=lambda file: file.name)
def test_the_canary_dies_where_the_file_is_trusted(file: HostileFile, tmp_path: Path, canary: Path) -> None:
    path = tmp_path / "weights.pt"
    file.write(path, canary)
    with yolov6_classes() as make, suppress(TypeError, AttributeError):  # what comes after the harm may fail
        make.make("ConvModule", object, __setstate__=lambda self, state: canary.touch())
        make.make("Detect", object, __init__=lambda self, command: canary.touch())
        content = pickle.loads(unzip(path.read_bytes())["data.pkl"])
        for value in content.values() if isinstance(content, dict) else ():
            if isinstance(value, subprocess.Popen):
                value.wait()
    assert canary.exists()


@pytest.fixture(scope="module")
def official_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_official(tmp_path_factory.mktemp("official") / "tiny.pt", tiny_state(), names=["a", "b"])


def read_or_refuse(path: Path) -> None:
    with suppress(ConfigError):
        read_official(path)


EDITS = st.tuples(
    st.sampled_from(["flip", "insert", "delete", "cut"]), st.floats(0, 1), st.binary(min_size=1, max_size=4)
)


def edited(data: bytes, edits: list[tuple[str, float, bytes]]) -> bytes:
    for kind, where, value in edits:
        at = int(where * (len(data) - 1)) if data else 0
        if kind == "flip":
            data = data[:at] + value + data[at + len(value) :]
        elif kind == "insert":
            data = data[:at] + value + data[at:]
        else:
            data = data[:at] + (data[at + len(value) :] if kind == "delete" else b"")
    return data


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(EDITS, min_size=1, max_size=3))
def test_a_damaged_file_is_read_or_refused(official_file: Path, tmp_path: Path, edits: Any) -> None:
    path = tmp_path / "damaged.pt"
    path.write_bytes(edited(official_file.read_bytes(), edits))
    read_or_refuse(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(EDITS, min_size=1, max_size=3))
def test_a_damaged_pickle_under_a_right_checksum_is_read_or_refused(
    official_file: Path, tmp_path: Path, edits: Any
) -> None:
    records = unzip(official_file.read_bytes())
    pickled = edited(records.pop("data.pkl"), edits)
    read_or_refuse(write_zip(tmp_path / "damaged.pt", pickled, records))


def test_what_torch_saves_is_read(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    base = torch.arange(24, dtype=torch.float64)
    content: dict[str, Any] = {
        "view": base.reshape(4, 6).t()[1:4, ::2],
        "parameter": torch.nn.Parameter(torch.ones(2, 2, dtype=torch.bfloat16)),
        "scalar": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "empty": torch.empty(0, 3),
        "plain": [1, -1, 2**40, 0.5, None, True, "ä", (1, 2, 3, 4), {3: "x"}, {"set"}],
    }
    torch.save(content, path)
    read = read_archive(path)
    assert list(read) == list(content)
    for key in ("view", "parameter", "scalar", "mask", "empty"):
        assert torch.equal(read[key], content[key].detach())
        assert read[key].dtype == content[key].dtype
    assert read["plain"] == content["plain"]


def test_shared_storages_stay_shared(tmp_path: Path) -> None:
    weight = torch.zeros(6)
    torch.save({"a": weight, "b": weight[3:]}, tmp_path / "weights.pt")
    read = read_archive(tmp_path / "weights.pt")
    read["a"][3] = 1
    assert read["b"][0] == 1


def test_objects_of_classes_are_inert(official_file: Path) -> None:
    model = read_archive(official_file)["model"]
    assert type(model) is StandIn
    assert model.class_name == "yolov6.layers.common.ConvModule"
    assert model.state["names"] == ["a", "b"]


def test_numpy_results_of_a_training_checkpoint_are_inert(tmp_path: Path) -> None:
    torch.save(
        {"results": (np.float64(0.5), 1), "device": torch.device("cpu"), "shape": torch.Size([2])}, tmp_path / "w.pt"
    )
    read = read_archive(tmp_path / "w.pt")
    assert read["results"][0].class_name.endswith("multiarray.scalar")
    assert type(read["device"]) is type(read["shape"]) is StandIn


def test_the_versions_in_a_state_dict_are_left_out(tmp_path: Path) -> None:
    state = torch.nn.BatchNorm2d(3).state_dict()
    assert state._metadata  # type: ignore[attr-defined]
    torch.save(state, tmp_path / "w.pt")
    read = read_archive(tmp_path / "w.pt")
    assert type(read) is dict
    torch.nn.BatchNorm2d(3).load_state_dict(read)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6)[::2],
        torch.tensor(7),
        torch.empty(0, 3),
        torch.ones(2, 3, 4, 4).to(memory_format=torch.channels_last),
        torch.zeros(1).expand(5),
        torch.zeros(2, dtype=torch.complex64),
        torch.zeros(2).to_sparse(),
        torch.zeros(2, device="meta"),
    ],
    ids=lambda tensor: f"{tensor.dtype}{list(tensor.shape)}{tensor.layout}{tensor.device}",
)
def test_what_is_readable_is_what_is_read(tmp_path: Path, tensor: torch.Tensor) -> None:
    torch.save({"t": tensor}, tmp_path / "w.pt")
    if is_readable(tensor):
        read = read_archive(tmp_path / "w.pt")["t"]
        assert torch.equal(read, tensor)
        assert read.stride() == tensor.stride()
    else:
        with pytest.raises(ConfigError):
            read_archive(tmp_path / "w.pt")


def test_a_compressed_copy_is_refused_though_its_content_is_harmless(official_file: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in unzip(official_file.read_bytes()).items():
            archive.writestr(f"archive/{name}", data)
    with pytest.raises(ConfigError, match="compressed"):
        read_archive(tmp_path / "w.pt")
