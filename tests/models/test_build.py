"""Names, shapes and sizes of the networks that configurations describe."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from yolov6_ignite.config import ModelConfig
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import Detector, build_model, count_parameters

MakeConfig = Callable[..., ModelConfig]

FIXTURE = Path(__file__).resolve().parents[1] / "data" / "models" / "key_sets.json"
KEY_SETS: dict[str, dict[str, Any]] = json.loads(FIXTURE.read_text())
"""By RECIPE__HEAD: numbers of parameters, and the hash of the ordered list of keys and shapes."""

TRAINING_ONLY = ("rbr_1x1", "rbr_identity", "conv_1x1", "scale_", ".bn", "proj")


def digest(items: list[Any]) -> str:
    return hashlib.sha256(json.dumps(items).encode()).hexdigest()


def published(name: str) -> list[Any]:
    """Keys and shapes of the reference, where they are at hand."""
    path = Path(__file__).resolve().parents[3] / "shared" / "spec" / "state_dicts" / f"{name}.json"
    return list(json.loads(path.read_text())["state_dict"].items()) if path.is_file() else []


def difference(name: str, own: list[Any]) -> str:
    expected = published(name)
    if not expected:
        return "the reference's list is not here to compare with"
    pairs = [f"{ours} instead of {theirs}" for ours, theirs in zip(own, expected, strict=False) if ours != theirs]
    return f"{len(own)} entries instead of {len(expected)}; " + "; ".join(pairs[:5])


@pytest.mark.parametrize("name", KEY_SETS)
def test_state_dict_is_the_published_one(name: str, build_recipe: Callable[..., Detector]) -> None:
    expected = KEY_SETS[name]
    recipe, head = name.rsplit("__", 1)
    with torch.device("meta"):
        model = build_recipe(recipe.replace("__", "/"), head)
    own = [(key, list(tensor.shape)) for key, tensor in model.state_dict().items()]
    assert digest(own) == expected["sha256"], difference(name, own)

    sizes = {key: parameter.numel() for key, parameter in model.named_parameters()}
    trainable = {key for key, parameter in model.named_parameters() if parameter.requires_grad}
    assert sum(sizes.values()) == expected["parameters"]
    # The reference leaves alpha out of the optimizer instead of freezing it.
    frozen = sum(key.endswith(".alpha") for key in sizes)
    assert sum(sizes[key] for key in trainable) == expected["trainable"] - frozen


@pytest.mark.parametrize("name", [name for name in KEY_SETS if name.endswith("__plain")])
def test_deployed_form_keeps_convolutions_only(name: str, build_recipe: Callable[..., Detector]) -> None:
    with torch.device("meta"):
        model = build_recipe(name.removesuffix("__plain").replace("__", "/"))
    deployed = count_parameters(model.deploy())
    constants = {key: tensor for key, tensor in model.named_parameters() if "proj" in key}
    kept = {key: tensor for key, tensor in model.named_parameters() if not any(part in key for part in TRAINING_ONLY)}
    biases = sum(len(kept[k]) for k in kept if kept[k].dim() == 4 and k.replace(".weight", ".bias") not in kept)
    assert deployed == sum(tensor.numel() for tensor in (*kept.values(), *constants.values())) + biases
    # The reference keeps the batch norms of the quantisable blocks and all of Lite's.
    if any(part in name for part in ("lite", "repopt", "qarepvgg")):
        assert deployed < KEY_SETS[name]["deploy_parameters"]
    else:
        assert deployed == KEY_SETS[name]["deploy_parameters"]


def test_hashes_are_those_of_the_published_lists(shared: Path) -> None:
    lists = {path.stem: digest(published(path.stem)) for path in (shared / "spec" / "state_dicts").glob("*.json")}
    assert lists == {name: numbers["sha256"] for name, numbers in KEY_SETS.items()}


@pytest.mark.parametrize("mode", ["repvgg", "conv_relu", "conv_silu", "qarepvgg", "repopt", "hyper_search"])
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


@pytest.mark.parametrize(
    ("recipe", "mode", "expected"),
    [
        ("yolov6n6", "conv_silu", nn.ReLU),  # unlike every other backbone of SiLU blocks
        ("yolov6l6", "conv_silu", nn.SiLU),
        ("yolov6m6", "repvgg", nn.ReLU),
    ],
)
def test_activation_of_the_pooling_at_stride_64(
    recipe: str, mode: str, expected: type[nn.Module], model_config: MakeConfig
) -> None:
    with torch.device("meta"):
        model = build_model(model_config(recipe, training_mode=mode), 4)
    assert {type(m) for m in model.backbone.ERBlock_6[2].modules() if isinstance(m, nn.ReLU | nn.SiLU)} == {expected}


def test_batch_norm_constants(small_network: Detector) -> None:
    norms = [m for m in small_network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {(m.eps, m.momentum) for m in norms} == {(1e-3, 0.03)}


@pytest.mark.parametrize("recipe", ["yolov6l", "mbla/yolov6s_mbla", "yolov6_lite/yolov6_lite_s"])
def test_activations_are_not_shared(recipe: str, model_config: MakeConfig) -> None:
    """An activation that stands in two places would be replaced, hooked or quantised in both."""
    with torch.device("meta"):
        model = build_model(model_config(recipe), 4)
    places = [module for _, module in model.named_modules(remove_duplicate=False)]
    activations = [module for module in places if isinstance(module, nn.ReLU | nn.SiLU | nn.Hardswish)]
    assert activations
    assert len(activations) == len(set(activations))


def test_backbone_and_neck_have_one_kind_of_stage(model_config: MakeConfig) -> None:
    with pytest.raises(ConfigError, match=r"model\.neck\.stage_block_type: BepC3, but .* is MBLABlock"):
        build_model(model_config("yolov6m", backbone={"stage_block_type": "MBLABlock"}), 4)


def test_a_detector_needs_a_class(yolov6n_config: ModelConfig) -> None:
    with pytest.raises(ConfigError, match="number of classes: 0"):
        build_model(yolov6n_config, 0)
