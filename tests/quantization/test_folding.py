from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import Detector
from yolov6_ignite.models.conv import ConvModule
from yolov6_ignite.models.lite import DPBlock
from yolov6_ignite.quantization import (
    QuantizationSpec,
    calibrate,
    fold_batch_norms,
    insert_quantizers,
    quantized_layers,
    quantized_model,
    quantizers,
)

Build = Callable[[str], Detector]
Images = Callable[..., Tensor]


def calibrated_block(block: nn.Module, bits: int, *, target: str = "tensorrt") -> tuple[nn.Module, Tensor]:
    for module in block.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight)  # of both signs
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.running_var, 0.2, 3)  # type: ignore[arg-type]
            nn.init.normal_(module.running_mean)  # type: ignore[arg-type]
    images = torch.randn(4, 16, 12, 12)
    spec = QuantizationSpec(bits=bits, method="max", target=target, keep_batch_norm=True)  # type: ignore[arg-type]
    insert_quantizers(block, spec, images)
    calibrate(block, [images], spec)
    with torch.no_grad():
        for parameter in block.parameters():
            if parameter.dim() == 4:
                parameter.mul_(1.5)  # as training would, beyond the ranges on both sides
    return block.eval(), images


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(
    "make",
    [lambda: ConvModule(16, 24, 3, 2), lambda: ConvModule(16, 16, 3, 1, nn.ReLU(), groups=16), lambda: DPBlock(16)],
)
def test_fold_is_exact_for_gammas_of_both_signs(make: Callable[[], nn.Module], bits: int) -> None:
    torch.manual_seed(0)
    block, images = calibrated_block(make(), bits)
    folded = fold_batch_norms(block)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, nn.BatchNorm2d) for module in block.modules())
    assert quantized_layers(folded) == quantized_layers(block)
    with torch.no_grad():
        expected, actual = block(images), folded(images)
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_quantiser_behind_a_batch_norm_moves_to_the_convolution() -> None:
    torch.manual_seed(0)
    pair = nn.Sequential(ConvModule(16, 16, 3, 1, nn.SiLU()), ConvModule(16, 8, 1))
    block, images = calibrated_block(pair, 8, target="onnxruntime")
    assert "0.bn.output_quantizer" in dict(quantizers(block))
    folded = fold_batch_norms(block)
    ranges = {name: quantizer.amax for name, quantizer in quantizers(folded) if quantizer.kind == "activation"}
    assert ranges["0.conv.output_quantizer"] == block.get_submodule("0.bn.output_quantizer").amax
    with torch.no_grad():
        expected, actual = block(images), folded(images)
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("skip", [(), ("neck.reduce_layer0.*", "detect.*", "backbone.ERBlock_3.*")])
def test_fold_of_a_whole_network(build_small: Build, images_of: Images, skip: tuple[str, ...]) -> None:
    model = build_small("repopt/yolov6n_opt")
    spec = QuantizationSpec(skip=skip, target="onnxruntime", method="max", keep_batch_norm=True)
    quantized = quantized_model(model, spec)
    calibrate(quantized, [images_of(model)], spec)
    folded = fold_batch_norms(quantized)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    images = images_of(model, 3)
    with torch.no_grad():
        expected, actual = quantized(images), folded(images)
    # Rounding errors of fp32 move an integer by one now and then: one is 3e-4 here, and most numbers are equal.
    assert (actual - expected).norm() <= 1e-3 * expected.norm()
    assert (actual - expected).abs().median() <= 1e-6 * expected.abs().mean()
    deployed = quantized_model(model, QuantizationSpec(skip=skip, target="onnxruntime", method="max"))
    assert set(dict(deployed.named_parameters())) == set(dict(folded.named_parameters()))
    assert quantized_layers(deployed) == quantized_layers(folded)


def test_weights_are_on_their_grid_after_folding() -> None:
    torch.manual_seed(0)
    block, _ = calibrated_block(ConvModule(16, 8, 3), 8)
    folded = fold_batch_norms(block)
    layer = folded.get_submodule("conv")
    assert isinstance(layer.weight, Tensor)
    torch.testing.assert_close(layer.weight_quantizer(layer.weight), layer.weight, rtol=1e-5, atol=1e-7)  # type: ignore[operator]
    assert (layer.weight.abs().amax(dim=(1, 2, 3)) <= layer.weight_quantizer.amax * 1.00001).all()  # type: ignore[operator]


def test_an_uncalibrated_model_is_not_folded(build_small: Build) -> None:
    quantized = quantized_model(build_small("repopt/yolov6n_opt"), QuantizationSpec(keep_batch_norm=True))
    with pytest.raises(ConfigError, match="calibration"):
        fold_batch_norms(quantized)
