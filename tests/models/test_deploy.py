"""The deployed form computes what the training form does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from yolov6_ignite.config import ModelConfig
from yolov6_ignite.models import Detector, build_model, count_parameters
from yolov6_ignite.models.conv import ConvModule
from yolov6_ignite.models.deploy import deployed, fold_batch_norm

Randomise = Callable[[nn.Module], None]


@pytest.fixture(params=["repvgg", "conv_relu", "conv_silu"])
def model(
    request: pytest.FixtureRequest, model_config: Callable[..., ModelConfig], randomise_batch_norms: Randomise
) -> Detector:
    torch.manual_seed(0)
    head = {"use_dfl": True, "reg_max": 16} if request.param == "conv_silu" else {}
    model = build_model(model_config(training_mode=request.param, head=head), 5)
    randomise_batch_norms(model)
    for predictor in (*model.detect.cls_preds, *model.detect.reg_preds):
        nn.init.normal_(predictor.weight, std=0.5)
    return model.eval()


def test_predictions_stay_the_same(model: Detector) -> None:
    images = torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        expected, actual = model(images), model.deploy()(images)
    assert expected[..., 5:].std() > 1e-3  # the comparison is not one of constants
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().mean()
    torch.testing.assert_close(actual[..., 5:], expected[..., 5:], rtol=1e-4, atol=1e-4)


def test_training_model_is_left_alone(model: Detector) -> None:
    model.train()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    deployed_model = model.deploy()
    assert model.training
    assert not deployed_model.training
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert any(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in deployed_model.parameters())
    own = {parameter.data_ptr() for parameter in model.parameters()}
    assert not own & {parameter.data_ptr() for parameter in deployed_model.parameters()}


def test_nothing_of_the_training_form_remains(model: Detector) -> None:
    deployed_model = model.deploy()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in deployed_model.modules())
    keys = deployed_model.state_dict().keys()
    assert not any("rbr_dense" in key or "rbr_1x1" in key or "rbr_identity" in key for key in keys)
    assert count_parameters(deployed_model) < count_parameters(model)
    assert (deployed_model.stride, deployed_model.names) == (model.stride, model.names)


def test_deploying_twice_changes_nothing(model: Detector) -> None:
    once = model.deploy()
    twice = once.deploy()
    assert list(twice.state_dict()) == list(once.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(twice.parameters(), once.parameters(), strict=True))


def test_deploys_without_weights(yolov6n_config: ModelConfig) -> None:
    with torch.device("meta"):
        model = build_model(yolov6n_config, 80)
    assert count_parameters(model.deploy()) == 4_646_974


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_type_is_kept(dtype: torch.dtype) -> None:
    block = deployed(ConvModule(4, 8, 3).to(dtype))
    assert {parameter.dtype for parameter in block.parameters()} == {dtype}


def test_folding_is_done_in_float64(randomise_batch_norms: Randomise) -> None:
    block = ConvModule(4, 8, 3).eval()
    randomise_batch_norms(block)
    assert block.bn is not None
    kernel, bias = fold_batch_norm(block.conv, block.bn)
    assert kernel.dtype == bias.dtype == torch.float64
    block = block.double()
    x = torch.rand(1, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(nn.functional.conv2d(x, kernel, bias, padding=1), block(x), rtol=1e-12, atol=1e-12)


def test_folding_keeps_a_bias_of_the_convolution(randomise_batch_norms: Randomise) -> None:
    conv, bn = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6).eval()
    randomise_batch_norms(bn)
    kernel, bias = fold_batch_norm(conv, bn)
    x = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(nn.functional.conv2d(x, kernel.float(), bias.float()), bn(conv(x)))
