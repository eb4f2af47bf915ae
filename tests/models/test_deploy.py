"""The deployed form: folding batch norms, and a copy that computes what the training form does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from yolov6_ignite.models import Detector, count_parameters
from yolov6_ignite.models.conv import ConvBNHS, ConvModule
from yolov6_ignite.models.deploy import Fusable, deployed, fold_batch_norm, fused_conv

Randomise = Callable[[nn.Module], None]


@pytest.fixture
def network(small_network: Detector, randomise_scales: Randomise, randomise_predictors: Randomise) -> Detector:
    """A network of every kind, far from its fresh state."""
    randomise_scales(small_network)
    randomise_predictors(small_network)
    return small_network


def test_predictions_stay_the_same_in_float32(network: Detector) -> None:
    images = torch.rand(2, 3, 64, 128)
    with torch.no_grad():
        expected, actual = network.eval()(images), network.deploy()(images)
    assert expected[..., 5:].std() > 1e-3  # the comparison is not one of constants
    # A few 1e-6, but up to 1e-4 with QARepVGG, whose identities let random activations grow from block to block;
    # equality in float64 is what every recipe is tested for.
    assert (actual - expected).abs().max() <= 5e-4 * expected.abs().mean()
    torch.testing.assert_close(actual[..., 5:], expected[..., 5:], rtol=0, atol=5e-4)


def test_training_model_is_left_alone(network: Detector) -> None:
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    trainable = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    deployed_model = network.deploy()
    assert network.training
    assert not deployed_model.training
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], tensor) for key, tensor in before.items())
    assert [name for name, parameter in network.named_parameters() if parameter.requires_grad] == trainable
    assert not any(parameter.requires_grad for parameter in deployed_model.parameters())
    own = {parameter.data_ptr() for parameter in network.parameters()}
    assert not own & {parameter.data_ptr() for parameter in deployed_model.parameters()}


def test_attributes_are_kept(small_model: Detector) -> None:
    small_model.names = ["cat", "dog", "cow"]
    deployed_model = small_model.deploy()
    for name in ("names", "strides", "stride", "size_multiple", "num_classes"):
        assert getattr(deployed_model, name) == getattr(small_model, name)


def test_deploying_twice_changes_nothing(network: Detector) -> None:
    once = network.deploy()
    twice = once.deploy()
    assert list(twice.state_dict()) == list(once.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(twice.parameters(), once.parameters(), strict=True))


def test_a_network_without_weights_can_be_deployed(small_model: Detector) -> None:
    assert count_parameters(small_model.to("meta").deploy()) == count_parameters(small_model.deploy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_type_is_kept(dtype: torch.dtype) -> None:
    block = deployed(ConvModule(4, 8, 3).to(dtype))
    assert {parameter.dtype for parameter in block.parameters()} == {dtype}


def test_every_fusable_block_says_how() -> None:
    with pytest.raises(NotImplementedError):
        deployed(nn.Sequential(Fusable()))


def test_folding_is_done_in_float64(randomise_scales: Randomise) -> None:
    block = ConvModule(4, 8, 3).eval()
    randomise_scales(block)
    assert block.bn is not None
    kernel, bias = fold_batch_norm(block.conv, block.bn)
    assert kernel.dtype == bias.dtype == torch.float64
    block = block.double()
    x = torch.rand(1, 4, 5, 5, dtype=torch.float64)
    torch.testing.assert_close(nn.functional.conv2d(x, kernel, bias, padding=1), block(x), rtol=1e-12, atol=1e-12)


def test_folding_keeps_a_bias_of_the_convolution(randomise_scales: Randomise) -> None:
    conv, bn = nn.Conv2d(3, 6, 1), nn.BatchNorm2d(6).eval()
    randomise_scales(bn)
    kernel, bias = fold_batch_norm(conv, bn)
    x = torch.rand(1, 3, 4, 4)
    torch.testing.assert_close(nn.functional.conv2d(x, kernel.float(), bias.float()), bn(conv(x)))


def test_folded_convolution_keeps_its_geometry(randomise_scales: Randomise) -> None:
    conv, bn = nn.Conv2d(4, 8, (3, 5), (2, 1), (1, 2), (1, 2), groups=2), nn.BatchNorm2d(8).eval()
    randomise_scales(bn)
    x = torch.rand(1, 4, 9, 16)
    torch.testing.assert_close(fused_conv(conv, *fold_batch_norm(conv, bn))(x), bn(conv(x)), rtol=1e-4, atol=1e-5)


def test_groups_and_activation_survive(randomise_scales: Randomise) -> None:
    block = ConvBNHS(6, 6, 3, stride=2, groups=6).double().eval()
    randomise_scales(block)
    merged = deployed(block)
    assert list(merged.state_dict()) == ["block.conv.weight", "block.conv.bias"]
    x = torch.randn(2, 6, 7, 8, dtype=torch.float64)
    torch.testing.assert_close(merged(x), block(x), rtol=1e-12, atol=1e-12)
