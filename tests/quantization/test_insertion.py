from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import Detector
from yolov6_ignite.quantization import (
    QuantizationSpec,
    insert_quantizers,
    quantized_layers,
    quantized_model,
    quantizers,
    set_mode,
)
from yolov6_ignite.quantization.layers import QUANTIZED, QuantConv2d, QuantConvTranspose2d

Build = Callable[[str], Detector]
Images = Callable[[Detector], Tensor]


def test_every_layer_of_every_kind_of_network(family_member: tuple[Detector, bool], images_of: Images) -> None:
    model, keep_batch_norm = family_member
    form = copy.deepcopy(model) if keep_batch_norm else model.deploy()
    images = images_of(model)
    with torch.no_grad():
        expected = form(images)
    before = dict(form.named_parameters())
    buffers = {key for key, _ in form.named_buffers()}
    settings = {
        name: (m.groups, m.dilation, m.padding, m.padding_mode, m.stride)
        for name, m in form.named_modules()
        if isinstance(m, (nn.Conv2d, nn.ConvTranspose2d))
    }
    form.train()
    insert_quantizers(form, QuantizationSpec(keep_batch_norm=keep_batch_norm))
    assert form.backbone.training
    form.eval()

    after = dict(form.named_parameters())
    assert list(after) == list(before)
    assert all(after[name] is parameter for name, parameter in before.items())
    added = {key for key, _ in form.named_buffers()} - buffers
    assert {key.split("_quantizer.")[-1] for key in added} == {"amax", "negative"}
    left = {name for name, module in form.named_modules() if type(module) in QUANTIZED}
    assert left <= {"detect.proj_conv"}
    for name, module in form.named_modules():
        if isinstance(module, (QuantConv2d, QuantConvTranspose2d)):
            assert settings[name] == (
                module.groups,
                module.dilation,
                module.padding,
                module.padding_mode,
                module.stride,
            )
            assert len(module.weight_quantizer.amax) == module.out_channels // (
                module.groups if module.transposed else 1
            )
    with torch.no_grad():
        assert torch.equal(form(images), expected)


def test_quantized_model_leaves_the_float_model_alone_and_can_train(build_small: Build, images_of: Images) -> None:
    model = build_small("yolov6m").train()
    keys = list(model.state_dict())
    copied = quantized_model(model, QuantizationSpec())
    assert model.training
    assert not copied.training
    assert list(model.state_dict()) == keys
    assert not list(quantizers(model))
    for name, parameter in copied.named_parameters():
        assert parameter.requires_grad != name.endswith((".proj", "proj_conv.weight", ".alpha")), name


def names_by_group(model: nn.Module) -> list[set[str]]:
    groups: dict[int, set[str]] = {}
    for name, quantizer in quantizers(model):
        if quantizer.kind != "weight":
            groups.setdefault(quantizer.group, set()).add(name)
    return list(groups.values())


def shares(model: nn.Module, *names: str) -> bool:
    return any(set(names) <= group for group in names_by_group(model))


def test_groups_of_the_plain_neck_are_the_published_ones(build_small: Build) -> None:
    model = quantized_model(build_small("repopt/yolov6n_opt"), QuantizationSpec(keep_batch_norm=True))
    for names in (
        ("backbone.ERBlock_5.2.sppf.m.input", "backbone.ERBlock_5.2.sppf.cv2.block.conv.input"),
        (
            "backbone.ERBlock_5.0.conv.input",
            "neck.Rep_p4.conv1.conv.input",
            "neck.upsample0.upsample_transpose.output",
        ),
        (
            "backbone.ERBlock_4.0.conv.input",
            "neck.Rep_p3.conv1.conv.input",
            "neck.upsample1.upsample_transpose.output",
        ),
        ("neck.upsample1.upsample_transpose.input", "neck.Rep_n3.conv1.conv.input"),
        ("neck.upsample0.upsample_transpose.input", "neck.Rep_n4.conv1.conv.input"),
        *((f"detect.reg_convs.{i}.block.conv.input", f"detect.cls_convs.{i}.block.conv.input") for i in range(3)),
    ):
        assert shares(model, *(f"{name}_quantizer" for name in names)), names
    assert not shares(model, "backbone.ERBlock_5.0.conv.input_quantizer", "backbone.ERBlock_4.0.conv.input_quantizer")


def test_groups_of_other_necks_and_blocks(build_small: Build) -> None:
    deployed = QuantizationSpec()
    model = quantized_model(build_small("yolov6n"), deployed)
    fusion = "neck.Bifusion0."
    joined = (f"{fusion}cv3.block.conv.input", f"{fusion}upsample.upsample_transpose.output")
    parts = (f"{fusion}cv1.block.act.output", f"{fusion}downsample.block.act.output")
    assert shares(model, *(f"{name}_quantizer" for name in (*joined, *parts)))

    model = quantized_model(build_small("mbla/yolov6s_mbla"), deployed)
    stage = "backbone.ERBlock_3.1."
    bottlenecks = [
        name for name, module in model.named_modules() if name.startswith(stage) and hasattr(module, "alpha")
    ]
    assert len(bottlenecks) >= 1
    names = (f"{stage}cv1.act.output", f"{stage}cv2.conv.input", *(f"{name}.output" for name in bottlenecks))
    assert shares(model, *(f"{name}_quantizer" for name in names))

    model = quantized_model(build_small("yolov6_lite/yolov6_lite_s"), deployed)
    names = ("neck.reduce_layer0.block.act.output", "neck.Csp_p4.conv_1.block.conv.input")  # upsampled and joined
    assert shares(model, *(f"{name}_quantizer" for name in names))


def test_outputs_are_quantised_where_integers_flow_on(build_small: Build) -> None:
    model = quantized_model(build_small("yolov6n"), QuantizationSpec())
    names = {name.removesuffix(".output_quantizer") for name, _ in quantizers(model) if "output" in name}
    assert "backbone.stem" in names  # its ReLU is a function
    assert not any(name.endswith("rbr_reparam") for name in names)  # the ReLU is part of the convolution
    assert {"detect.stems.0.block.conv", "detect.stems.0.block.act"} <= names  # SiLU is not
    assert not any("_preds" in name for name in names)  # detections are real numbers
    model = quantized_model(build_small("repopt/yolov6n_opt"), QuantizationSpec(keep_batch_norm=True))
    names = {name.removesuffix(".output_quantizer") for name, _ in quantizers(model) if "output" in name}
    assert "detect.stems.0.block.bn" in names
    assert "detect.stems.0.block.conv" not in names
    assert "backbone.stem.act" in names
    assert "backbone.stem.bn" not in names


def test_targets_enable_and_shape_what_they_need(build_small: Build) -> None:
    model = build_small("yolov6n")
    tensorrt = quantized_model(model, QuantizationSpec(target="tensorrt"))
    assert {q.kind for _, q in quantizers(tensorrt) if q.enabled} == {"weight", "input", "upsample"}
    assert not any(q.unsigned for _, q in quantizers(tensorrt))
    onnxruntime = quantized_model(model, QuantizationSpec(target="onnxruntime"))
    assert all(q.enabled for _, q in quantizers(onnxruntime))
    assert all(q.unsigned == (q.kind != "weight") for _, q in quantizers(onnxruntime))
    assert list(onnxruntime.state_dict()) == list(tensorrt.state_dict())  # one calibration for both


def test_skipped_layers_stay_float(build_small: Build) -> None:
    model = build_small("yolov6n")
    every = quantized_layers(quantized_model(model, QuantizationSpec()))
    skip = ("backbone.stem.rbr_reparam", "detect.*_preds.?", "neck.Bifusion0.upsample*", "detect.stems.0.*")
    some = quantized_model(model, QuantizationSpec(skip=skip))
    left = set(every) - set(quantized_layers(some))
    assert left == {
        "backbone.stem.rbr_reparam",
        *(f"detect.{branch}_preds.{level}" for branch in ("cls", "reg") for level in range(3)),
        "neck.Bifusion0.upsample.upsample_transpose",
        "detect.stems.0.block.conv",
    }
    assert not any(name.startswith(f"{layer}.") for name, _ in quantizers(some) for layer in left)


@pytest.mark.parametrize(
    "pattern", ["neck.upsample0.upsample_transpos", "detect.stems.0.conv", "detect.proj_conv", "zz*"]
)
def test_a_pattern_that_matches_nothing_is_refused(build_small: Build, pattern: str) -> None:
    with pytest.raises(ConfigError, match="matches no layer"):
        quantized_model(build_small("yolov6n"), QuantizationSpec(skip=(pattern,)))


def test_nothing_left_is_refused(build_small: Build) -> None:
    with pytest.raises(ConfigError, match="no layer is left"):
        quantized_model(build_small("yolov6n"), QuantizationSpec(skip=("*",)))


@pytest.mark.parametrize("recipe", ["yolov6n", "qarepvgg/yolov6n_qa", "repopt/yolov6n_hs"])
def test_parallel_branches_are_refused_by_name(build_small: Build, recipe: str) -> None:
    with pytest.raises(ConfigError, match=r"backbone\.stem \(.*keep_batch_norm"):
        quantized_model(build_small(recipe), QuantizationSpec(keep_batch_norm=True))
    assert quantized_layers(quantized_model(build_small(recipe), QuantizationSpec()))


def test_quantisers_are_inserted_once(build_small: Build) -> None:
    model = quantized_model(build_small("yolov6n"), QuantizationSpec())
    with pytest.raises(ValueError, match="already"):
        insert_quantizers(model, QuantizationSpec())


def test_modes_of_one_layer(build_small: Build) -> None:
    model = quantized_model(build_small("yolov6n"), QuantizationSpec())
    set_mode(model, "quantize", ["detect.cls_preds.1"])
    on = {name for name, q in quantizers(model) if q.mode == "quantize"}
    assert on == {f"detect.cls_preds.1.{kind}_quantizer" for kind in ("input", "weight")}


class Odd(nn.Module):
    """One activation module at three places, and convolutions with settings of every kind."""

    def __init__(self) -> None:
        super().__init__()
        act = nn.SiLU()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=2, dilation=2, padding_mode="reflect"), act)
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding="same", groups=4, bias=False), act)
        self.up = nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.act = act
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.act(self.up(self.second(self.first(x)))))


def test_shared_activations_and_every_setting_of_a_layer() -> None:
    model = Odd().eval()
    x = torch.randn(2, 3, 16, 16)
    expected = model(x)
    insert_quantizers(model, QuantizationSpec(), x)
    assert torch.equal(model(x), expected)
    outputs = {name for name, _ in quantizers(model) if "output" in name}
    assert outputs == {
        f"{name}.output_quantizer" for name in ("first.0", "first.1", "second.0", "second.1", "up", "act")
    }
    assert len({id(module) for module in (model.first[1], model.second[1], model.act)}) == 3


class Reused(nn.Module):
    """One convolution that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)
        self.unused = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.sigmoid(self.conv(x)))


def test_a_layer_called_twice_has_one_range_and_an_unused_one_none() -> None:
    model = Reused()
    insert_quantizers(model, QuantizationSpec(), torch.randn(1, 4, 8, 8))
    assert [name for name, _ in quantizers(model)] == ["conv.input_quantizer", "conv.weight_quantizer"]
