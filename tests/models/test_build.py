"""Names, shapes and sizes of the networks that configurations describe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from yolov6_ignite.config import ModelConfig
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import build_model, count_parameters
from yolov6_ignite.models.build import scale_channels, scale_repeats

MakeConfig = Callable[..., ModelConfig]

REPEATS = [1, 6, 12, 18, 6, 12, 12, 12, 12]
CHANNELS = [64, 128, 256, 512, 1024, 256, 128, 128, 256, 256, 512]


def shapes(model: nn.Module) -> list[tuple[str, list[int]]]:
    return [(key, list(tensor.shape)) for key, tensor in model.state_dict().items()]


@pytest.mark.parametrize("name", ["yolov6n", "base__yolov6n_base"])
def test_state_dict_is_the_published_one(
    name: str, published_configs: dict[str, ModelConfig], read_fixture: Callable[[str], dict[str, Any]]
) -> None:
    expected = read_fixture(f"{name}__plain.state_dict")
    model = build_model(published_configs[name], 80)
    assert shapes(model) == list(expected["state_dict"].items())
    assert count_parameters(model) == expected["parameters"]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected["trainable"]
    assert count_parameters(model.deploy()) == expected["deploy_parameters"]


def test_state_dict_of_the_small_model_is_the_published_one(shared: Path, model_config: MakeConfig) -> None:
    expected = json.loads((shared / "spec" / "state_dicts" / "yolov6s__plain.json").read_text())
    with torch.device("meta"):
        model = build_model(model_config(type="YOLOv6s", width_multiple=0.5), 80)
    assert shapes(model) == list(expected["state_dict"].items())


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (0.25, [16, 32, 64, 128, 256, 64, 32, 32, 64, 64, 128]),
        (0.375, [24, 48, 96, 192, 384, 96, 48, 48, 96, 96, 192]),
        (0.5, [32, 64, 128, 256, 512, 128, 64, 64, 128, 128, 256]),
        (0.75, [48, 96, 192, 384, 768, 192, 96, 96, 192, 192, 384]),
        (1.0, CHANNELS),
    ],
)
def test_width(width: float, expected: list[int], model_config: MakeConfig) -> None:
    assert [scale_channels(c, width) for c in CHANNELS] == expected
    with torch.device("meta"):
        built = dict(shapes(build_model(model_config(width_multiple=width, training_mode="conv_relu"), 4)))
    assert built["backbone.stem.block.conv.weight"][0] == expected[0]
    assert [built[f"backbone.ERBlock_{i}.0.block.conv.weight"][0] for i in (2, 3, 4, 5)] == expected[1:5]
    layers = ("reduce_layer0", "reduce_layer1", "downsample2", "Rep_n3.conv1", "downsample1", "Rep_n4.conv1")
    assert [built[f"neck.{layer}.block.conv.weight"][0] for layer in layers] == expected[5:]
    assert [built[f"detect.cls_preds.{i}.weight"][1] for i in range(3)] == [expected[i] for i in (6, 8, 10)]


@pytest.mark.parametrize(
    ("depth", "expected"),
    [
        (0.33, [1, 2, 4, 6, 2, 4, 4, 4, 4]),
        (0.6, [1, 4, 7, 11, 4, 7, 7, 7, 7]),
        (0.7, [1, 4, 8, 13, 4, 8, 8, 8, 8]),
        (0.8, [1, 5, 10, 14, 5, 10, 10, 10, 10]),
        (1.0, REPEATS),
    ],
)
def test_depth(depth: float, expected: list[int], model_config: MakeConfig) -> None:
    assert [scale_repeats(r, depth) for r in REPEATS] == expected
    with torch.device("meta"):
        model = build_model(model_config(depth_multiple=depth), 4)
    stages = [f"backbone.ERBlock_{level}.1" for level in (2, 3, 4, 5)]
    stages += [f"neck.Rep_{name}" for name in ("p4", "p3", "n3", "n4")]
    assert [1 + len(model.get_submodule(f"{stage}.block")) for stage in stages] == expected[1:]


def test_stage_of_one_block_is_never_scaled_away() -> None:
    assert scale_repeats(1, 0.01) == 1
    assert scale_repeats(6, 0.01) == 1


@pytest.mark.parametrize("mode", ["repvgg", "conv_relu", "conv_silu"])
@pytest.mark.parametrize("cspsppf", [True, False])
def test_every_variant_trains_and_predicts(mode: str, cspsppf: bool, model_config: MakeConfig) -> None:
    config = model_config(
        training_mode=mode, width_multiple=0.125, backbone={"cspsppf": cspsppf}, head={"use_dfl": True, "reg_max": 16}
    )
    model = build_model(config, 2)
    output = model(torch.rand(2, 3, 64, 64))
    assert output.distances.shape == (2, 84, 68)
    assert model.eval()(torch.rand(1, 3, 32, 64)).shape == (1, 42, 7)
    pool = model.backbone.ERBlock_5[2]
    assert hasattr(pool, "cspsppf" if cspsppf else "sppf")
    activations = {type(m) for m in pool.modules() if isinstance(m, nn.ReLU | nn.SiLU)}
    assert activations == {nn.SiLU if mode == "conv_silu" else nn.ReLU}
    head_activations = {type(m) for m in model.detect.modules() if isinstance(m, nn.ReLU | nn.SiLU)}
    assert head_activations == {nn.SiLU}
    neck_activation = model.neck.reduce_layer0.block.act
    assert isinstance(neck_activation, nn.ReLU)


def test_batch_norm_constants(yolov6n_config: ModelConfig) -> None:
    with torch.device("meta"):
        model = build_model(yolov6n_config, 4)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 128
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.03)}


def test_activations_are_not_shared(model_config: MakeConfig) -> None:
    with torch.device("meta"):
        model = build_model(model_config(training_mode="conv_silu"), 4)
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.bias is None and m.out_channels > 1]
    activations = [m for m in model.modules() if isinstance(m, nn.ReLU | nn.SiLU)]  # modules() lists each once
    assert len(activations) == len(convs)


@pytest.mark.parametrize("option", ["fuse_ab", "distill_ns"])
def test_heads_that_are_not_available_are_refused(option: str, yolov6n_config: ModelConfig) -> None:
    with pytest.raises(ConfigError, match=option):
        build_model(yolov6n_config, 80, **{option: True})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": {"fuse_P2": False}}, r"model\.backbone\.fuse_P2"),
        ({"backbone": {"num_repeats": [1, 6, 12, 18]}}, r"model\.backbone\.num_repeats: 4 values.*needs 5"),
        ({"neck": {"out_channels": [256, 128]}}, r"model\.neck\.out_channels: 2 values.*needs 6"),
        ({"head": {"strides": [4, 8, 16]}}, r"model\.head\.strides"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str, model_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model(model_config(**changes), 80)


def test_a_detector_needs_a_class(yolov6n_config: ModelConfig) -> None:
    with pytest.raises(ConfigError, match="number of classes: 0"):
        build_model(yolov6n_config, 0)
