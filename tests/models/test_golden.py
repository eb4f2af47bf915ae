"""Whole networks against the numbers of the reference implementation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from yolov6_ignite.models import Detector, DetectorOutput

NAMES = sorted(
    path.name.removesuffix(".golden.json")
    for path in (Path(__file__).resolve().parents[1] / "data" / "models").glob("*.golden.json")
)


class Golden(NamedTuple):
    """A network with the golden weights, and its reference numbers."""

    model: Detector
    numbers: dict[str, Any]


@pytest.fixture(scope="module", params=NAMES)
def golden(
    request: pytest.FixtureRequest,
    build_recipe: Callable[..., Detector],
    fill_weights: Callable[[nn.Module], None],
    read_fixture: Callable[[str], dict[str, Any]],
) -> Golden:
    recipe, head = request.param.rsplit("__", 1)
    model = build_recipe(recipe.replace("__", "/"), head)
    fill_weights(model)
    return Golden(model, read_fixture(f"{request.param}.golden"))


def samples_of(tensor: Tensor) -> Tensor:
    flat = tensor.detach().double().flatten()
    return flat[torch.from_numpy(np.linspace(0, flat.numel() - 1, 64).astype(int))]


def assert_agrees(actual: Tensor, expected: dict[str, Any], mean_error: float = 1e-4, max_error: float = 1e-4) -> None:
    """Compares with stored samples and statistics; errors are relative to the mean absolute value."""
    assert list(actual.shape) == expected["shape"]
    flat = actual.detach().double().flatten()
    errors = (samples_of(actual) - torch.tensor(expected["samples"], dtype=torch.float64)).abs() / expected["abs_mean"]
    assert errors.mean() <= mean_error
    assert errors.max() <= max_error
    for name, statistic in (("mean", flat.mean()), ("abs_mean", flat.abs().mean()), ("std", flat.std())):
        assert abs(statistic.item() - expected[name]) <= mean_error * expected["abs_mean"], name


def assert_scores_agree(actual: Tensor, expected: dict[str, Any]) -> None:
    """Large boxes dominate the mean absolute value: the scores are compared on their own scale too."""
    theirs = torch.tensor(expected["samples"], dtype=torch.float64)
    is_score = samples_of((torch.arange(actual.shape[-1]) > 4).expand_as(actual)).bool()
    assert is_score.sum() > 50
    torch.testing.assert_close(samples_of(actual)[is_score], theirs[is_score], rtol=0, atol=1e-4)


def test_every_kind_of_network_is_here() -> None:
    assert len(NAMES) == 15


def test_eval_mode_agrees_with_the_reference(golden: Golden, golden_images: Tensor) -> None:
    with torch.no_grad():
        predictions = golden.model.eval()(golden_images)
    (expected,) = golden.numbers["eval"]
    assert_agrees(predictions, expected)
    assert_scores_agree(predictions, expected)


def test_deployed_form_agrees_with_the_reference(golden: Golden, golden_images: Tensor) -> None:
    with torch.no_grad():
        predictions = golden.model.deploy()(golden_images)
    (expected,) = golden.numbers["deploy_eval"]
    assert_agrees(predictions, expected)
    assert_scores_agree(predictions, expected)


def test_train_mode_agrees_with_the_reference(golden: Golden, golden_images: Tensor) -> None:
    model = golden.model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0  # the statistics stay those of the golden weights
    with torch.no_grad():
        output = model(golden_images)
    assert isinstance(output, DetectorOutput)
    assert output.neck_maps is not None
    actual = list(output.feature_maps)
    if output.anchor_logits is not None and output.anchor_boxes is not None:
        actual += [output.anchor_logits.sigmoid(), output.anchor_boxes]
    actual += [output.logits.sigmoid(), output.distances]
    if output.ltrb is not None:
        actual.append(output.ltrb)
    actual += output.neck_maps
    for tensor, expected in zip(actual, golden.numbers["train"] + golden.numbers["train_featmaps"], strict=True):
        # Batch statistics over few pixels amplify rounding: float64 differs from the stored float32 numbers by
        # up to 1.5e-4 in the mean and 1.5e-3 at the most, and other processors round differently.
        assert_agrees(tensor, expected, mean_error=3e-4, max_error=3e-3)
