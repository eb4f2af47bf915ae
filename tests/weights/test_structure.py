"""Networks from the names and shapes of their weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from yolov6_ignite.config import ModelConfig
from yolov6_ignite.config_file import load_config
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import build_model
from yolov6_ignite.models.consistency import check_model
from yolov6_ignite.models.scaling import scaled
from yolov6_ignite.weights.recognise import recognise
from yolov6_ignite.weights.structure import structure_of
from yolov6_ignite.weights.structure_head import PUBLISHED_ANCHORS

State = dict[str, Tensor]
FIXTURES = Path(__file__).parents[1] / "data" / "models"


def state_of(model: ModelConfig, num_classes: int = 3, **head: bool) -> State:
    with torch.device("meta"):
        return build_model(model, num_classes, **head).state_dict()


def shapes(state: State) -> list[tuple[str, list[int]]]:
    return [(key, list(tensor.shape)) for key, tensor in state.items()]


def on_meta(state_dict: dict[str, list[int]]) -> State:
    return {key: torch.empty(shape, device="meta") for key, shape in state_dict.items()}


@pytest.fixture(scope="module")
def nano() -> State:
    return on_meta(json.loads((FIXTURES / "yolov6n__plain.state_dict.json").read_text())["state_dict"])


def test_every_number_of_the_published_nano_network(nano: State) -> None:
    modes, backbone, neck, head = structure_of(nano)
    assert modes == ("repvgg",)
    assert (backbone.type, backbone.fuse_P2, backbone.cspsppf) == ("EfficientRep", True, True)
    assert backbone.num_repeats == [1, 2, 4, 6, 2]
    assert backbone.out_channels == [16, 32, 64, 128, 256]
    assert (neck.type, neck.num_repeats) == ("RepBiFPANNeck", [4, 4, 4, 4])
    assert neck.out_channels == [64, 32, 32, 64, 64, 128]
    assert (head.config.num_layers, head.config.strides, head.config.reg_max) == (3, [8, 16, 32], 0)
    assert (head.num_classes, head.fuse_ab, head.distill_ns, head.config.anchors_init) == (80, False, False, None)


def test_every_number_of_a_network_with_csp_stages() -> None:
    state = state_of(load_config("yolov6m").model, 7, fuse_ab=True)
    modes, backbone, neck, head = structure_of(state)
    assert modes == ("repvgg",)
    assert (backbone.type, backbone.stage_block_type, backbone.csp_e) == ("CSPBepBackbone", "BepC3", 2 / 3)
    assert backbone.num_repeats == [1, 4, 6, 10, 4]  # of 1, 4, 7, 11, 4: a bottleneck stands for two blocks
    assert (neck.type, neck.num_repeats, neck.csp_e) == ("CSPRepBiFPANNeck", [6, 6, 6, 6], 2 / 3)
    assert neck.out_channels == [192, 96, 96, 192, 192, 384]
    assert (head.config.use_dfl, head.config.reg_max, head.num_classes) == (True, 16, 7)
    assert head.fuse_ab
    assert head.config.anchors_init == PUBLISHED_ANCHORS


def test_the_head_for_distillation(nano: State) -> None:
    head = {f"detect.reg_preds_dist.{i}.weight": torch.empty(68, c, 1, 1) for i, c in enumerate((32, 64, 128))}
    found = structure_of({**nano, **head}).head
    assert (found.distill_ns, found.fuse_ab) == (True, False)
    assert (found.config.use_dfl, found.config.reg_max) == (True, 16)


@st.composite
def networks(draw: st.DrawFn) -> tuple[ModelConfig, dict[str, bool]]:
    """Networks of every family, most of them of no recipe, and the branches of their heads."""
    if draw(st.integers(0, 8)) == 0:
        model = load_config("yolov6_lite/yolov6_lite_s").model
        repeats = draw(st.lists(st.integers(1, 3), min_size=4, max_size=4))
        update = {"num_repeats": repeats}
        width = draw(st.sampled_from([0.5, 0.7, 1.3]))
        return model.model_copy(
            update={"width_multiple": width, "backbone": model.backbone.model_copy(update=update)}
        ), {}
    p6, csp, bifusion = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    size = 6 if p6 else 5

    def numbers(count: int, least: int, most: int, factor: int = 1) -> list[int]:
        values = st.integers(least, most).map(lambda value: value * factor)
        return draw(st.lists(values, min_size=count, max_size=count))

    kind = draw(st.sampled_from(["BepC3", "MBLABlock"]))

    def csp_keys() -> dict[str, Any]:
        return {"csp_e": draw(st.floats(0.2, 1)), "stage_block_type": kind} if csp else {}

    dfl = draw(st.booleans())
    model = ModelConfig.model_validate(
        {
            "type": "drawn",
            "training_mode": draw(
                st.sampled_from(["repvgg", "qarepvggv2", "hyper_search", "repopt", "conv_relu", "conv_silu"])
            ),
            "backbone": {
                "type": ("CSPBepBackbone" if csp else "EfficientRep") + ("" if not p6 else "_P6" if csp else "6"),
                "num_repeats": [1, *numbers(size - 1, 1, 11)],
                "out_channels": numbers(size, 1, 9, 8),
                "fuse_P2": bifusion,
                "cspsppf": draw(st.booleans()),
                **csp_keys(),
            },
            "neck": {
                "type": f"{'CSP' if csp else ''}Rep{'BiFPAN' if bifusion else 'PAN'}Neck"
                + ("" if not p6 else "_P6" if csp else "6"),
                "num_repeats": numbers(2 * size - 6, 1, 7),
                "out_channels": numbers(6, 1, 9, 8),
                **csp_keys(),
            },
            "head": {
                "num_layers": size - 2,
                "strides": [8, 16, 32, 64][: size - 2],
                "use_dfl": dfl,
                "reg_max": 16 if dfl else 0,
                "anchors_init": None if p6 else PUBLISHED_ANCHORS,
            },
        }
    )
    branches = [{}] if p6 else [{}, {"fuse_ab": True}, {"distill_ns": True}]
    return model, draw(st.sampled_from(branches))


@settings(max_examples=40)
@given(networks())
def test_what_is_recognised_is_built_with_the_same_weights(network: tuple[ModelConfig, dict[str, bool]]) -> None:
    model, head = network
    state = state_of(model, **head)
    found = recognise(state)
    assert (found.fuse_ab, found.distill_ns) == (head.get("fuse_ab", False), head.get("distill_ns", False))
    again = state_of(found.model, found.num_classes, fuse_ab=found.fuse_ab, distill_ns=found.distill_ns)
    assert shapes(again) == shapes(state)
    assert found.recipe is not None or scaled(found.model) == found.model


@settings(max_examples=150)
@given(data=st.data())
def test_damaged_names_and_shapes_are_refused_or_still_describe_a_network(data: st.DataObject, nano: State) -> None:
    state = dict(nano)
    for _ in range(data.draw(st.integers(1, 3))):
        parts = data.draw(st.sampled_from(sorted(state))).split(".")
        prefix = ".".join(parts[: data.draw(st.integers(1, len(parts)))])
        hit = [key for key in state if f"{key}.".startswith(f"{prefix}.")]
        kind = data.draw(st.sampled_from(["remove", "rename", "reshape"]))
        new_name = data.draw(st.sampled_from(["backbone", "neck.Rep_p3", "detect.reg_preds_dist", "x", "", "a..b"]))
        new_shape = data.draw(st.lists(st.integers(0, 300), max_size=4))
        for key in hit:
            value = state.pop(key)
            if kind == "rename":
                state[new_name + key.removeprefix(prefix)] = value
            elif kind == "reshape":
                state[key] = torch.empty(new_shape, device="meta")
        if not state:
            break
    try:
        found = recognise(state)
    except ConfigError:
        return
    check_model(found.model, fuse_ab=found.fuse_ab, distill_ns=found.distill_ns)
    assert ModelConfig.model_validate(found.model.model_dump()) == found.model


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        ("neck.", "neck: is missing"),
        ("detect.cls_preds.1.", "detect.cls_preds: its parts are not numbered"),
        ("detect.cls_preds.2.", "detect.cls_preds: has 2 levels, the neck 3"),
        ("backbone.ERBlock_4.", "backbone.ERBlock_4: is missing"),
        ("backbone.ERBlock_3.1.block.1.", "backbone.ERBlock_3.1.block: its parts are not numbered"),
        ("backbone.stem.rbr_", "backbone.stem: is none of the known blocks"),
        ("backbone.ERBlock_5.2.cspsppf.", "backbone.ERBlock_5.2: is missing"),
        ("neck.Rep_n4.conv1.rbr_dense.", "neck.Rep_n4.conv1.rbr_dense.conv: is missing"),
    ],
)
def test_the_message_names_the_missing_part(nano: State, remove: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        structure_of({key: value for key, value in nano.items() if not key.startswith(remove)})


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("classifier.weight", [10, 8], "classifier: is no part of a known network"),
        ("neck.attention.weight", [8, 8, 1, 1], "neck.attention: is no part"),
        ("detect.reg_preds.0.weight", [36, 32, 1, 1], "predicts 36 values"),
        ("detect.cls_preds.1.weight", [80, 65, 1, 1], "detect.cls_preds.1: has 65 channels where 64 are expected"),
        ("neck.reduce_layer0.block.conv.weight", [64, 256], "neck.reduce_layer0.block.conv: is no convolution"),
        ("backbone.ERBlock_3.1.conv1.rbr_dense.conv.weight", [64, 32, 3, 3], "ERBlock_3.1: has 32 channels where 64"),
    ],
)
def test_the_message_names_what_does_not_fit(nano: State, key: str, shape: list[int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        structure_of({**nano, **on_meta({key: shape})})


def test_other_weights_and_the_deploy_form_are_refused(yolov6n_deployed: State) -> None:
    with pytest.raises(ConfigError, match="backbone: is missing"):
        structure_of({})
    with pytest.raises(ConfigError, match="fused for deployment"):
        structure_of(yolov6n_deployed)


@pytest.fixture(scope="module")
def yolov6n_deployed() -> State:
    model = load_config("yolov6n").model.model_copy(update={"width_multiple": 0.0625, "depth_multiple": 0.1})
    return build_model(model, 3).deploy().state_dict()


def test_channels_of_no_width_are_refused() -> None:
    model = load_config("yolov6n").model.model_copy(update={"width_multiple": 0.125})
    odd = {8: 6, 16: 12, 24: 18, 32: 24, 64: 48, 128: 96, 40: 30, 80: 60, 96: 72, 48: 36}
    state = {
        key: torch.empty([odd.get(n, n) if key.split(".")[-1] == "weight" else n for n in tensor.shape], device="meta")
        for key, tensor in state_of(model).items()
    }
    with pytest.raises(ConfigError, match="no width_multiple gives"):
        recognise(state)


def test_all_published_networks(shared: Path) -> None:
    facts = json.loads((shared / "spec" / "configs.json").read_text())
    files = sorted((shared / "spec" / "state_dicts").glob("*.json"))
    assert len(files) == 54
    for file in files:
        published = json.loads(file.read_text())
        fact = facts[published["config"]]
        keys = {key: value for key, value in fact["model"].items() if key in {"depth_multiple", "width_multiple"}}
        expected = scaled(
            ModelConfig.model_validate(
                {
                    "type": fact["model"]["type"],
                    "training_mode": fact.get("training_mode", "repvgg"),
                    **keys,
                    "backbone": fact["model"]["backbone"],
                    "neck": {k: v for k, v in fact["model"]["neck"].items() if k != "in_channels"},
                    "head": {k: v for k, v in fact["model"]["head"].items() if k in HEAD_KEYS},
                }
            )
        )
        modes, backbone, neck, head = structure_of(on_meta(published["state_dict"]))
        where = file.stem
        assert expected.training_mode in modes, where
        for found, wanted in ((backbone, expected.backbone), (neck, expected.neck)):
            csp = wanted.csp_e is not None
            # A stage of bottlenecks shows only half of its blocks, and the stem's number is never used.
            repeats = [2 * max(n // 2, 1) if csp else n for n in wanted.num_repeats]
            if wanted is expected.backbone and csp:
                repeats[0] = 1
            assert found == wanted.model_copy(update={"num_repeats": repeats}), where
        distill, fuse_ab = published["variant"] == "distill_ns", published["variant"] == "fuse_ab"
        assert (head.distill_ns, head.fuse_ab, head.num_classes) == (distill, fuse_ab, 80), where
        assert head.config.reg_max == (16 if distill else expected.head.reg_max), where
        assert (head.config.type, head.config.strides) == (expected.head.type, expected.head.strides), where
        if fuse_ab:
            assert head.config.anchors_init == expected.head.anchors_init, where


HEAD_KEYS = {"type", "num_layers", "anchors_init", "strides", "use_dfl", "reg_max"}
