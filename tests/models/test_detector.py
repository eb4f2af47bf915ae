"""The whole network against reference numbers, and its behaviour as an object."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from yolov6_ignite.config import ModelConfig
from yolov6_ignite.models import Detector, DetectorOutput, build_model

MakeConfig = Callable[..., ModelConfig]


class Golden:
    """A network with the golden weights, and its reference numbers."""

    def __init__(self, model: Detector, numbers: dict[str, Any], images: Tensor) -> None:
        self.model = model
        self.numbers = numbers
        self.images = images


@pytest.fixture(scope="module", params=["yolov6n", "base__yolov6n_base"])
def golden(
    request: pytest.FixtureRequest,
    published_configs: dict[str, ModelConfig],
    fill_weights: Callable[[nn.Module], None],
    read_fixture: Callable[[str], dict[str, Any]],
    golden_images: Tensor,
) -> Golden:
    model = build_model(published_configs[request.param], 80)
    fill_weights(model)
    return Golden(model, read_fixture(f"{request.param}__plain.golden"), golden_images)


@pytest.fixture
def small_model(model_config: MakeConfig) -> Detector:
    torch.manual_seed(0)
    return build_model(model_config(width_multiple=0.125), 3)


def assert_agrees(actual: Tensor, expected: dict[str, Any], mean_error: float = 1e-4, max_error: float = 1e-4) -> None:
    """Compares with stored samples and statistics; errors are relative to the mean absolute value."""
    assert list(actual.shape) == expected["shape"]
    flat = actual.detach().double().flatten()
    samples = flat[torch.from_numpy(np.linspace(0, flat.numel() - 1, 64).astype(int))]
    errors = (samples - torch.tensor(expected["samples"], dtype=torch.float64)).abs() / expected["abs_mean"]
    assert errors.mean() <= mean_error
    assert errors.max() <= max_error
    for name, statistic in (("mean", flat.mean()), ("abs_mean", flat.abs().mean()), ("std", flat.std())):
        assert abs(statistic.item() - expected[name]) <= mean_error * expected["abs_mean"], name


def test_eval_mode_agrees_with_the_reference(golden: Golden) -> None:
    with torch.no_grad():
        predictions = golden.model.eval()(golden.images)
    (expected,) = golden.numbers["eval"]
    assert_agrees(predictions, expected)
    # Large boxes dominate the mean absolute value: the scores are compared on their own scale too.
    samples = predictions.flatten()[torch.from_numpy(np.linspace(0, predictions.numel() - 1, 64).astype(int))]
    torch.testing.assert_close(samples, torch.tensor(expected["samples"]), rtol=1e-4, atol=1e-4)


def test_deployed_form_agrees_with_the_reference(golden: Golden) -> None:
    with torch.no_grad():
        assert_agrees(golden.model.deploy()(golden.images), golden.numbers["deploy_eval"][0])


def test_train_mode_agrees_with_the_reference(golden: Golden) -> None:
    model = copy.deepcopy(golden.model).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0
    with torch.no_grad():
        output = model(golden.images)
    assert isinstance(output, DetectorOutput)
    assert output.neck_maps is not None
    actual = [*output.feature_maps, output.logits.sigmoid(), output.distances, *output.neck_maps]
    for tensor, expected in zip(actual, golden.numbers["train"] + golden.numbers["train_featmaps"], strict=True):
        # Batch statistics over few pixels amplify rounding: float64 differs from the stored float32 numbers by
        # up to 1.5e-4 in the mean and 1.3e-3 at the most, and other processors round differently.
        assert_agrees(tensor, expected, mean_error=2e-4, max_error=3e-3)


def test_train_mode_returns_raw_predictions(small_model: Detector) -> None:
    output = small_model.train()(torch.rand(2, 3, 64, 96))
    assert output.logits.shape == (2, 8 * 12 + 4 * 6 + 2 * 3, 3)
    assert output.distances.shape == (2, 126, 4)
    assert [tuple(x.shape[-2:]) for x in output.feature_maps] == [(8, 12), (4, 6), (2, 3)]
    assert [x.shape for x in output.neck_maps] == [x.shape for x in output.feature_maps]
    assert (output.anchor_logits, output.anchor_boxes, output.ltrb) == (None, None, None)
    assert output.logits.max() < 0  # not probabilities: a fresh head predicts log(0.01 / 0.99)
    assert not any(torch.equal(a, b) for a, b in zip(output.neck_maps, output.feature_maps, strict=True))


def test_eval_mode_is_train_mode_decoded(model_config: MakeConfig, fill_weights: Callable[[nn.Module], None]) -> None:
    model = build_model(model_config(width_multiple=0.125), 3)
    fill_weights(model)
    model.eval()
    images = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        decoded = model(images)
        model.detect.train()  # raw output, statistics as in eval mode
        for module in model.detect.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        raw = model(images)
    # The second anchor point of stride 8 lies at (12, 4).
    left, top, right, bottom = (raw.distances[0, 1] * 8).tolist()
    expected = [12 + (right - left) / 2, 4 + (bottom - top) / 2, left + right, top + bottom, 1.0]
    torch.testing.assert_close(decoded[0, 1, :5], torch.tensor(expected), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(decoded[0, 1, 5:], raw.logits[0, 1].sigmoid())


def test_fresh_model_predicts_the_prior(yolov6n_config: ModelConfig) -> None:
    with torch.no_grad():
        predictions = build_model(yolov6n_config, 80).eval()(torch.rand(1, 3, 64, 64))
    assert predictions.shape == (1, 84, 85)
    torch.testing.assert_close(predictions[0, 0, :5], torch.tensor([4.0, 4.0, 16.0, 16.0, 1.0]))
    torch.testing.assert_close(predictions[0, -1, :5], torch.tensor([48.0, 48.0, 64.0, 64.0, 1.0]))
    torch.testing.assert_close(predictions[0, :, 5:], torch.full((84, 80), 0.01))


def test_every_weight_that_trains_gets_a_gradient(small_model: Detector) -> None:
    # A fresh predictor passes no gradient on, its weights are zero.
    for predictor in (*small_model.detect.cls_preds, *small_model.detect.reg_preds):
        nn.init.normal_(predictor.weight)
    output = small_model.train()(torch.rand(2, 3, 64, 64))
    (output.logits.square().mean() + output.distances.square().mean()).backward()
    without = {name for name, parameter in small_model.named_parameters() if parameter.grad is None}
    assert without == {"detect.proj", "detect.proj_conv.weight"}


def test_attributes(small_model: Detector) -> None:
    assert small_model.stride == 32
    assert small_model.strides == [8, 16, 32]
    assert small_model.names == ["0", "1", "2"]
    assert small_model.num_classes == 3


@pytest.mark.parametrize("size", [(64, 80), (48, 64)])
def test_size_that_does_not_fit_is_an_error(small_model: Detector, size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        small_model(torch.zeros(1, 3, *size))


def test_copies_and_pickles_are_equal_and_independent(small_model: Detector) -> None:
    small_model.names = ["cat", "dog", "cow"]
    images = torch.rand(1, 3, 64, 64)
    expected = small_model.eval()(images)
    for copied in (copy.deepcopy(small_model), pickle.loads(pickle.dumps(small_model))):
        assert copied.names == ["cat", "dog", "cow"]
        torch.testing.assert_close(copied(images), expected, rtol=0, atol=0)
        with torch.no_grad():
            copied.detect.cls_preds[0].bias.add_(1)
    torch.testing.assert_close(small_model(images), expected, rtol=0, atol=0)


def test_predictions_are_float32_under_autocast(small_model: Detector) -> None:
    images = torch.rand(1, 3, 64, 64)
    small_model.eval()
    with torch.no_grad():
        expected = small_model(images)
        with torch.autocast("cpu", torch.bfloat16):
            predictions = small_model(images)
    assert predictions.dtype == torch.float32
    torch.testing.assert_close(predictions, expected, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("weights", "result"), [("bfloat16", "float32"), ("float64", "float64")])
def test_predictions_have_at_least_float32(small_model: Detector, weights: str, result: str) -> None:
    model = small_model.to(getattr(torch, weights)).eval()
    assert model(torch.rand(1, 3, 64, 64, dtype=getattr(torch, weights))).dtype == getattr(torch, result)


def test_channels_last_gives_the_same_predictions(small_model: Detector) -> None:
    images = torch.rand(2, 3, 64, 96)
    small_model.eval()
    with torch.no_grad():
        expected = small_model(images)
        small_model.to(memory_format=torch.channels_last)
        predictions = small_model(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(predictions, expected, rtol=1e-4, atol=1e-4)
