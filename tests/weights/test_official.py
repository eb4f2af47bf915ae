from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from official_files import module_tree, read_official, save_official, tiny_state, yolov6_classes
from torch import Tensor

from yolov6_ignite.errors import ConfigError


def by_the_rule(key: str, like: Tensor) -> Tensor:
    """The weights that the reference files were filled with."""
    if not like.is_floating_point():
        return torch.zeros_like(like)
    n = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode()))).standard_normal(tuple(like.shape))
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "proj" or "proj_conv" in key:
        return torch.linspace(0, 16, 17).reshape(like.shape)
    if leaf == "running_mean" or leaf == "bias":
        n = 0.1 * n
    elif leaf == "running_var" or (like.dim() <= 1 and leaf == "weight"):
        n = 1 + 0.25 * np.tanh(n)
    elif like.dim() >= 2:
        n = n / np.sqrt(max(1, like[0].numel()))
    else:
        n = 1 + 0.1 * np.tanh(n)
    return torch.as_tensor(n, dtype=torch.float32)


@pytest.mark.parametrize(
    ("file", "network", "classes"),
    [
        ("yolov6n", "yolov6n__plain", {"": "Model", "backbone": "EfficientRep", "backbone.stem": "RepVGGBlock"}),
        (
            "yolov6_lite_s",
            "yolov6_lite__yolov6_lite_s__plain",
            {"": "Model", "neck": "Lite_EffiNeck", "neck.p6_conv_1": "DPBlock"},
        ),
    ],
)
def test_files_written_by_the_reference(shared: Path, file: str, network: str, classes: dict[str, str]) -> None:
    path = shared / f"golden/official/{file}.pt"
    expected = json.loads((shared / f"spec/state_dicts/{network}.json").read_text())["state_dict"]
    weights = read_official(path)
    assert {key: list(value.shape) for key, value in weights.state.items()} == expected
    assert list(weights.state) == list(expected)
    for key, value in weights.state.items():
        torch.testing.assert_close(value, by_the_rule(key, value), rtol=1e-3, atol=1e-4)
    assert weights.num_classes == 80
    assert weights.names == [f"class{index}" for index in range(80)]
    assert classes.items() <= weights.classes.items()


def test_weights_come_in_fp32_and_in_order(tmp_path: Path) -> None:
    counters = {"detect.stems.0.block.bn.num_batches_tracked": torch.tensor(3)}
    path = save_official(tmp_path / "w.pt", tiny_state() | counters, {"backbone.stem": "RepVGGBlock"})
    weights = read_official(path)
    assert sorted(weights.state) == sorted(tiny_state() | counters)
    assert [key for key in weights.state if key not in counters] == list(tiny_state())
    for key, value in tiny_state().items():
        assert torch.equal(weights.state[key], value)
        assert weights.state[key].dtype == torch.float32
        assert weights.state[key].is_contiguous()
    assert torch.equal(weights.state[next(iter(counters))], torch.tensor(3))
    assert weights.classes["backbone.stem"] == "RepVGGBlock"
    assert weights.classes["backbone.stem.rbr_dense.bn"] == "ConvModule"
    assert weights.num_classes == 2
    assert weights.names is None


def test_no_two_weights_share_memory_with_each_other_or_the_file(tmp_path: Path) -> None:
    state = tiny_state()
    whole = torch.zeros(4 * 4 + 100)
    state["detect.stems.0.block.conv.weight"] = whole[:16].reshape(4, 4, 1, 1)
    state["detect.reg_preds.0.weight"] = whole[8:24].reshape(4, 4, 1, 1)
    weights = read_official(save_official(tmp_path / "w.pt", state)).state
    pointers = {value.untyped_storage().data_ptr() for value in weights.values()}
    assert len(pointers) == len(weights)
    assert all(value.untyped_storage().nbytes() == 4 * value.numel() for value in weights.values())


def test_averaged_weights_win(tmp_path: Path) -> None:
    averaged = {key: value + 1 for key, value in tiny_state().items()}
    path = save_official(tmp_path / "w.pt", tiny_state(), names=["a", "b"], ema=averaged)
    weights = read_official(path)
    assert torch.equal(weights.state["detect.cls_preds.0.bias"], averaged["detect.cls_preds.0.bias"].half().float())
    assert weights.names == ["a", "b"]


@pytest.mark.parametrize("names", [["a", "b"], ("a", "b"), {0: "a", 1: "b"}, {1: "b", 0: "a"}])
def test_class_names(tmp_path: Path, names: Any) -> None:
    assert read_official(save_official(tmp_path / "w.pt", tiny_state(), names=names)).names == ["a", "b"]


@pytest.mark.parametrize("names", [["a"], {1: "a", 2: "b"}, "ab", [None, "b"], torch.zeros(2)])
def test_class_names_that_cannot_be_are_refused(tmp_path: Path, names: Any) -> None:
    path = save_official(tmp_path / "w.pt", tiny_state(), names=names)
    with pytest.raises(ConfigError, match="class names"):
        read_official(path)


def test_transient_buffers_and_missing_members_are_left_out(tmp_path: Path) -> None:
    def with_extras(module: torch.nn.Module) -> torch.nn.Module:
        module.register_buffer("grid", torch.zeros(3), persistent=False)
        module.register_parameter("gone", None)
        module._modules["absent"] = None
        return module

    with yolov6_classes() as make:
        torch.save({"model": with_extras(module_tree(make, tiny_state(), {})), "ema": None}, tmp_path / "w.pt")
    assert list(read_official(tmp_path / "w.pt").state) == list(tiny_state())


@pytest.mark.parametrize("missing", [["detect.proj"], ["detect.proj", "detect.proj_conv.weight"]])
def test_a_missing_projection_is_filled_in_at_its_place(tmp_path: Path, missing: list[str]) -> None:
    state = {key: value for key, value in tiny_state().items() if key not in missing}
    weights = read_official(save_official(tmp_path / "w.pt", state)).state
    assert list(weights) == list(tiny_state())
    for key in missing:
        assert torch.equal(weights[key].flatten(), torch.arange(17.0))
        assert weights[key].shape == tiny_state()[key].shape


def replaced(changes: Mapping[str, str]) -> dict[str, Tensor]:
    return {changes.get(key, key): value for key, value in tiny_state().items()}


STEM = "detect.stems.0.block"


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a.b": torch.zeros(1)}, "no detection head"),
        (replaced({f"{STEM}.bn.weight": f"{STEM}.conv.bias", f"{STEM}.bn.running_mean": f"{STEM}.x"}), "was fused"),
        (
            replaced({"backbone.stem.rbr_dense.conv.weight": "backbone.stem.rbr_reparam.weight"}),
            "converted for deployment",
        ),
    ],
    ids=["no head", "fused", "deployed"],
)
def test_other_networks_are_refused(tmp_path: Path, state: dict[str, Tensor], message: str) -> None:
    path = save_official(tmp_path / "w.pt", state)
    with pytest.raises(ConfigError, match=message) as caught:
        read_official(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("content", [{"model": None}, {"model": {"a": 1}}, {"model": torch.zeros(1)}, {"ema": "text"}])
def test_files_without_a_network_are_refused(tmp_path: Path, content: dict[str, Any]) -> None:
    path = save_official(tmp_path / "w.pt", tiny_state(), **content)
    with pytest.raises(ConfigError, match=r"holds no network|'ema' or 'model'"):
        read_official(path)


# Files of releases 0.2.0 and 0.3.0: today's names are changed back, and have to be found again.

UNIT = re.compile(
    r"(neck\.(?:reduce_layer|downsample)\d|neck\.Bifusion\d\.(?:cv\d|downsample)"
    r"|detect\.(?:stems|cls_convs|reg_convs)\.\d|.*\.cv\d)\.block\."
)


def legacy_form(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What release 0.3.0 would have stored for weights of release 0.4; head names apart."""
    legacy: dict[str, Tensor] = {}
    for key, value in state.items():
        old = UNIT.sub(r"\1.", re.sub(r"(ERBlock_[56]\.2)\.(?:sppf|cspsppf)\.", r"\1.", key))
        legacy[old] = value
        if ".block.conv." in old:
            legacy[old.replace(".weight", ".bias")] = torch.full((len(value),), 0.25)
            mean = old.replace(".conv.weight", ".bn.running_mean")
            legacy[mean] = state[mean] + 0.25
        elif ".block.bn.running_mean" in old:
            legacy[old] = value + 0.25
    return legacy


def legacy_fuse_ab(key: str) -> str:
    return re.sub(r"\.(cls|reg)_preds\.", r".\1_preds_af.", key)


def legacy_distill_ns(key: str) -> str:
    return key.replace("reg_preds.", "reg_preds_lrtb.").replace("reg_preds_dist.", "reg_preds.")


def unchanged(key: str) -> str:
    return key


def check_legacy(tmp_path: Path, state: Mapping[str, Tensor], head: Callable[[str], str]) -> None:
    legacy = {head(key): value for key, value in legacy_form(state).items()}
    assert legacy.keys() != state.keys()
    classes = {"detect.stems.0": "Conv", "detect.stems.0.act": "SiLU"}
    read = read_official(save_official(tmp_path / "w.pt", legacy, classes)).state
    assert list(read) == list(state)
    for key, value in state.items():
        torch.testing.assert_close(read[key], value, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("network", "head"),
    [
        ("yolov6n__plain", unchanged),
        ("yolov6l__plain", unchanged),
        ("yolov6m__plain", unchanged),
        ("yolov6n6__plain", unchanged),
        ("yolov6n__fuse_ab", legacy_fuse_ab),
        ("yolov6s__distill_ns", legacy_distill_ns),
    ],
)
def test_every_name_of_release_03_is_found_again(
    shared: Path, tmp_path: Path, network: str, head: Callable[[str], str]
) -> None:
    shapes = json.loads((shared / f"spec/state_dicts/{network}.json").read_text())["state_dict"]
    state = {}
    for key, shape in shapes.items():
        small = shape if "proj" in key else [min(size, 2 if size > 3 else size) for size in shape]
        state[key] = by_the_rule(key, torch.empty(small)).half().float()
        if "num_batches_tracked" in key:
            state[key] = torch.tensor(7)
    check_legacy(tmp_path, state, head)


def small_network(last: str, kinds: list[str]) -> dict[str, Tensor]:
    """One of every part whose name has changed; `last` is the pooling pyramid, `kinds` the predictors."""
    units = [
        *(f"backbone.ERBlock_5.2.{last}.cv{number}" for number in range(1, 8 if last == "cspsppf" else 3)),
        "neck.reduce_layer0",
        *(f"neck.Bifusion0.{part}" for part in ("cv1", "cv2", "cv3", "downsample")),
        "neck.Rep_p4.cv1",
        "neck.downsample2",
        *(f"detect.{part}.0" for part in ("stems", "cls_convs", "reg_convs")),
    ]
    state = {"backbone.stem.block.conv.weight": torch.ones(2, 3, 3, 3), "backbone.stem.block.bn.weight": torch.ones(2)}
    state["backbone.stem.block.bn.running_mean"] = torch.ones(2)
    for unit in units:
        if unit == "detect.stems.0":
            state |= {
                "detect.proj": torch.arange(17.0),
                "detect.proj_conv.weight": torch.arange(17.0).reshape(1, 17, 1, 1),
            }
        state |= {f"{unit}.block.conv.weight": torch.ones(2, 2, 1, 1), f"{unit}.block.bn.weight": torch.ones(2)}
    for number, kind in enumerate(kinds):
        state[f"detect.{kind}.0.weight"] = torch.full((2, 2, 1, 1), float(number))
    return state


@pytest.mark.parametrize("last", ["sppf", "cspsppf"])
@pytest.mark.parametrize(
    ("kinds", "head"),
    [
        (["cls_preds", "reg_preds"], unchanged),
        (["cls_preds", "reg_preds", "cls_preds_ab", "reg_preds_ab"], legacy_fuse_ab),
        (["cls_preds", "reg_preds_dist", "reg_preds"], legacy_distill_ns),
    ],
    ids=["plain", "fuse_ab", "distill_ns"],
)
def test_names_of_release_03(tmp_path: Path, last: str, kinds: list[str], head: Callable[[str], str]) -> None:
    check_legacy(tmp_path, small_network(last, kinds), head)


def test_predictors_come_in_the_order_of_release_04(tmp_path: Path) -> None:
    state = small_network("sppf", ["cls_preds", "reg_preds_dist", "reg_preds"])
    legacy = {legacy_distill_ns(key): value for key, value in legacy_form(state).items()}
    predictors = [key for key in legacy if "_preds" in key]
    shuffled = {key: legacy[key] for key in [key for key in legacy if key not in predictors] + predictors[::-1]}
    assert list(read_official(save_official(tmp_path / "w.pt", shuffled)).state) == list(state)


def test_classes_of_release_03_get_the_names_of_today(tmp_path: Path) -> None:
    legacy = legacy_form(small_network("sppf", ["cls_preds", "reg_preds"]))
    classes = {"detect.stems.0": "Conv", "neck.reduce_layer0": "SimConv", "backbone.stem": "ConvWrapper"}
    classes |= {"backbone.stem.block": "Conv", "backbone.ERBlock_5.2": "SimSPPF", "backbone.ERBlock_5.2.cv1": "SimConv"}
    activations = {"detect.stems.0.act": "SiLU", "neck.reduce_layer0.act": "ReLU", "backbone.stem.block.act": "SiLU"}
    activations["backbone.ERBlock_5.2.cv1.act"] = "ReLU"
    activations["backbone.ERBlock_5.2.m"] = "MaxPool2d"
    # a weight makes the tree builder put the activation in
    legacy |= {f"{path}.mark": torch.zeros(1) for path in activations}
    read = read_official(save_official(tmp_path / "w.pt", legacy, classes | activations)).classes
    expected = {
        "detect.stems.0": "ConvBNSiLU",
        "detect.stems.0.block": "ConvModule",
        "detect.stems.0.block.act": "SiLU",
        "neck.reduce_layer0": "ConvBNReLU",
        "backbone.stem": "ConvBNSiLU",
        "backbone.stem.block": "ConvModule",
        "backbone.ERBlock_5.2": "SimSPPF",
        "backbone.ERBlock_5.2.sppf": "SPPFModule",
        "backbone.ERBlock_5.2.sppf.cv1": "ConvBNReLU",
    }
    assert expected.items() <= read.items()


def test_bare_units_of_mbla_keep_their_names(tmp_path: Path) -> None:
    key = "backbone.ERBlock_2.1.cv1.conv.weight"
    state = {key: torch.ones(2, 2, 1, 1)} | tiny_state()
    assert key in read_official(save_official(tmp_path / "w.pt", state)).state
