"""The detector as an object: its outputs, attributes, copies and number formats."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from yolov6_ignite.config import ModelConfig
from yolov6_ignite.models import Detector, DetectorOutput, build_model

Randomise = Callable[[Detector], None]


def test_train_mode_returns_raw_predictions(small_model: Detector) -> None:
    output = small_model.train()(torch.rand(2, 3, 64, 96))
    assert output.logits.shape == (2, 8 * 12 + 4 * 6 + 2 * 3, 3)
    assert output.distances.shape == (2, 126, 4)
    assert [tuple(x.shape[-2:]) for x in output.feature_maps] == [(8, 12), (4, 6), (2, 3)]
    assert [x.shape for x in output.neck_maps] == [x.shape for x in output.feature_maps]
    assert (output.anchor_logits, output.anchor_boxes, output.ltrb) == (None, None, None)
    assert output.logits.max() < 0  # not probabilities: a fresh head predicts log(0.01 / 0.99)
    assert not any(torch.equal(a, b) for a, b in zip(output.neck_maps, output.feature_maps, strict=True))


@pytest.mark.parametrize(
    ("recipe", "head", "distances", "anchor_aided", "ltrb"),
    [
        ("yolov6n", "fuse_ab", 4, True, False),
        ("yolov6m", "fuse_ab", 68, True, False),
        ("yolov6n", "distill_ns", 68, False, True),
        ("yolov6m", "plain", 68, False, False),
    ],
)
def test_every_head_fills_its_fields(
    recipe: str, head: str, distances: int, anchor_aided: bool, ltrb: bool, build_recipe: Callable[..., Detector]
) -> None:
    model = build_recipe(recipe, head, num_classes=5, small=True)
    output = model(torch.rand(2, 3, 64, 96))
    assert output.logits.shape == (2, 126, 5)
    assert output.distances.shape == (2, 126, distances)
    assert (output.anchor_logits is not None, output.anchor_boxes is not None) == (anchor_aided, anchor_aided)
    if anchor_aided:
        assert output.anchor_logits.shape == (2, 3 * 126, 5)
        assert output.anchor_boxes.shape == (2, 3 * 126, 4)
    assert (output.ltrb is not None) == ltrb
    assert output.ltrb is None or output.ltrb.shape == (2, 126, 4)
    assert model.eval()(torch.rand(2, 3, 64, 96)).shape == (2, 126, 10)


def test_eval_mode_is_train_mode_decoded(small_model: Detector, fill_weights: Callable[[nn.Module], None]) -> None:
    fill_weights(small_model)
    small_model.eval()
    images = torch.rand(1, 3, 32, 64)
    with torch.no_grad():
        decoded = small_model(images)
        small_model.detect.training = True  # raw output, with the statistics of eval mode
        raw = small_model(images)
    # The second anchor point of stride 8 lies at (12, 4).
    left, top, right, bottom = (raw.distances[0, 1] * 8).tolist()
    expected = [12 + (right - left) / 2, 4 + (bottom - top) / 2, left + right, top + bottom, 1.0]
    torch.testing.assert_close(decoded[0, 1, :5], torch.tensor(expected), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(decoded[0, 1, 5:], raw.logits[0, 1].sigmoid())


def test_raw_output_beside_the_detections(small_network: Detector, randomise_predictors: Randomise) -> None:
    randomise_predictors(small_network)
    small_network.eval()
    images = torch.rand(2, 3, 64, 128)
    with torch.no_grad():
        expected = small_network(images)
        detections, output = small_network.detect_with_output(images)
    assert torch.equal(detections, expected)
    torch.testing.assert_close(output.logits.sigmoid(), detections[..., 5:])
    sizes = [(x.shape[-2], x.shape[-1]) for x in output.feature_maps]
    assert torch.equal(small_network.detect.decode(sizes, output.logits, output.distances), detections)
    # Nothing of what is there for training only: what is deployed has the same output.
    assert (output.anchor_logits, output.anchor_boxes, output.ltrb, output.neck_maps) == (None,) * 4
    with torch.no_grad():
        deployed = small_network.deploy().detect_with_output(images)[1]
    torch.testing.assert_close(deployed.distances, output.distances, rtol=1e-3, atol=1e-3)
    with pytest.raises(ValueError, match="must be multiples of"):
        small_network.detect_with_output(images[..., :-8])


def test_fresh_model_predicts_the_prior(yolov6n_config: ModelConfig) -> None:
    with torch.no_grad():
        predictions = build_model(yolov6n_config, 80).eval()(torch.rand(1, 3, 64, 64))
    assert predictions.shape == (1, 84, 85)
    torch.testing.assert_close(predictions[0, 0, :5], torch.tensor([4.0, 4.0, 16.0, 16.0, 1.0]))
    torch.testing.assert_close(predictions[0, -1, :5], torch.tensor([48.0, 48.0, 64.0, 64.0, 1.0]))
    torch.testing.assert_close(predictions[0, :, 5:], torch.full((84, 80), 0.01))


def test_attributes(small_model: Detector) -> None:
    assert small_model.stride == 32
    assert small_model.strides == [8, 16, 32]
    assert small_model.size_multiple == 32
    assert small_model.names == ["0", "1", "2"]
    assert small_model.num_classes == 3


@pytest.mark.parametrize(
    ("recipe", "multiple", "anchors"),
    [("yolov6n6", 64, 340), ("yolov6m6", 64, 340), ("yolov6_lite/yolov6_lite_s", 32, 340)],
)
def test_four_levels(recipe: str, multiple: int, anchors: int, build_recipe: Callable[..., Detector]) -> None:
    model = build_recipe(recipe, num_classes=3, small=True)
    assert (model.stride, model.strides, model.size_multiple) == (64, [8, 16, 32, 64], multiple)
    assert model.eval()(torch.rand(1, 3, 128, 128)).shape == (1, anchors, 8)


def test_coarsest_lite_level_rounds_up(build_recipe: Callable[..., Detector]) -> None:
    model = build_recipe("yolov6_lite/yolov6_lite_s", num_classes=3, small=True).eval()
    predictions = model(torch.rand(1, 3, 96, 32))
    assert predictions.shape == (1, 12 * 4 + 6 * 2 + 3 * 1 + 2 * 1, 8)
    # The second row of stride 64 is centred at 96, where the image ends.
    torch.testing.assert_close(predictions[0, -1, :4], torch.tensor([32.0, 96.0, 128.0, 128.0]))


@pytest.mark.parametrize(
    ("recipe", "size", "multiple"),
    [
        ("yolov6n", (64, 80), 32),
        ("yolov6n", (48, 64), 32),
        ("yolov6n6", (64, 96), 64),
        ("yolov6_lite/yolov6_lite_s", (80, 64), 32),
    ],
)
def test_size_that_does_not_fit_is_an_error(
    recipe: str, size: tuple[int, int], multiple: int, build_recipe: Callable[..., Detector]
) -> None:
    model = build_recipe(recipe, num_classes=3, small=True)
    with pytest.raises(ValueError, match=f"images of {size[0]} x {size[1]} pixels.*multiples of {multiple}"):
        model(torch.zeros(1, 3, *size))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_are_equal_and_independent(copied: Callable[[Detector], Detector], small_model: Detector) -> None:
    small_model.names = ["cat", "dog", "cow"]
    images = torch.rand(1, 3, 64, 64)
    expected = small_model.eval()(images)
    other = copied(small_model)
    assert other.names == ["cat", "dog", "cow"]
    assert torch.equal(other(images), expected)
    with torch.no_grad():
        other.detect.cls_preds[0].bias.add_(1)
    assert torch.equal(small_model(images), expected)


def test_every_network_can_be_pickled(small_network: Detector) -> None:
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(pickle.loads(pickle.dumps(small_network.eval()))(images), small_network(images))


def test_state_dict_carries_everything_that_counts(small_model: Detector, randomise_predictors: Randomise) -> None:
    randomise_predictors(small_model)
    small_model(torch.rand(2, 3, 64, 64))  # other batch-norm statistics
    other = copy.deepcopy(small_model)
    for tensor in other.state_dict().values():
        tensor.zero_()
    other.load_state_dict(small_model.state_dict())
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(other.eval()(images), small_model.eval()(images))


def test_predictions_are_float32_under_autocast(small_network: Detector, randomise_predictors: Randomise) -> None:
    randomise_predictors(small_network)
    images = torch.rand(2, 3, 64, 64)
    small_network.eval()
    with torch.no_grad():
        expected = small_network(images)
        with torch.autocast("cpu", torch.bfloat16):
            predictions = small_network(images)
    assert predictions.dtype == torch.float32
    assert not torch.equal(predictions, expected)  # it was computed in half precision
    assert (predictions[..., 5:] - expected[..., 5:]).abs().mean() <= 0.01
    assert (predictions - expected).abs().mean() <= 0.05 * expected.abs().mean()


def test_train_mode_under_autocast(small_network: Detector, randomise_predictors: Randomise) -> None:
    randomise_predictors(small_network)
    with torch.autocast("cpu", torch.bfloat16):
        output = small_network(torch.rand(2, 3, 64, 64))
    assert isinstance(output, DetectorOutput)
    assert output.logits.dtype == output.distances.dtype == torch.bfloat16
    assert output.neck_maps is not None
    assert {x.dtype for x in output.neck_maps} == {torch.bfloat16}
    total = sum(x.float().square().mean() for x in predicted(output))
    total.backward()
    for name, parameter in small_network.named_parameters():
        assert not parameter.requires_grad or parameter.grad.isfinite().all(), name


def test_every_weight_that_trains_gets_a_gradient(small_network: Detector, randomise_predictors: Randomise) -> None:
    randomise_predictors(small_network)
    sum(x.square().mean() for x in predicted(small_network(torch.rand(2, 3, 64, 64)))).backward()
    without = {name for name, parameter in small_network.named_parameters() if parameter.grad is None}
    frozen = {name for name, parameter in small_network.named_parameters() if not parameter.requires_grad}
    assert without == frozen
    assert {name.rsplit(".", 1)[-1] for name in frozen - {"detect.proj_conv.weight"}} <= {"proj", "alpha"}


@pytest.mark.parametrize(("weights", "result"), [("bfloat16", "float32"), ("float64", "float64")])
def test_predictions_have_at_least_float32(small_network: Detector, weights: str, result: str) -> None:
    model = small_network.to(getattr(torch, weights)).eval()
    assert model(torch.rand(1, 3, 64, 64, dtype=getattr(torch, weights))).dtype == getattr(torch, result)


def test_channels_last_gives_the_same_predictions(small_network: Detector, randomise_predictors: Randomise) -> None:
    randomise_predictors(small_network)
    images = torch.rand(2, 3, 64, 128)
    small_network.eval()
    with torch.no_grad():
        expected = small_network(images)
        small_network.to(memory_format=torch.channels_last)
        predictions = small_network(images.contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(predictions, expected, rtol=1e-3, atol=1e-3)


def predicted(output: DetectorOutput) -> list[Tensor]:
    """The predictions of every branch."""
    branches = (output.logits, output.distances, output.anchor_logits, output.anchor_boxes, output.ltrb)
    return [branch for branch in branches if branch is not None]
