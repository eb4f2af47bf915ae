"""Width and depth multiples, against the tables of the specification (models 2)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov6_ignite.config import ModelConfig
from yolov6_ignite.config_file import load_config, recipe_names
from yolov6_ignite.models.scaling import round_channels, scale_channels, scale_repeats, scaled

REPEATS = [1, 6, 12, 18, 6, 12, 12, 12, 12]
CHANNELS = [64, 128, 256, 512, 1024, 256, 128, 128, 256, 256, 512]
REPEATS_P6 = [1, 6, 12, 18, 6, 6, 12, 12, 12, 12, 12, 12]
CHANNELS_P6 = [64, 128, 256, 512, 768, 1024, 512, 256, 128, 256, 512, 1024]


def numbers(config: ModelConfig) -> tuple[list[int], list[int]]:
    """Repeats and channels of backbone and neck."""
    backbone, neck = config.backbone, config.neck
    return backbone.num_repeats + neck.num_repeats, backbone.out_channels + neck.out_channels


@pytest.mark.parametrize(
    ("recipe", "width", "expected"),
    [
        ("yolov6n", 0.25, [16, 32, 64, 128, 256, 64, 32, 32, 64, 64, 128]),
        ("yolov6n", 0.375, [24, 48, 96, 192, 384, 96, 48, 48, 96, 96, 192]),
        ("yolov6n", 0.5, [32, 64, 128, 256, 512, 128, 64, 64, 128, 128, 256]),
        ("yolov6n", 0.75, [48, 96, 192, 384, 768, 192, 96, 96, 192, 192, 384]),
        ("yolov6n", 1.0, CHANNELS),
        ("yolov6n6", 0.25, [16, 32, 64, 128, 192, 256, 128, 64, 32, 64, 128, 256]),
        ("yolov6n6", 0.5, [32, 64, 128, 256, 384, 512, 256, 128, 64, 128, 256, 512]),
        ("yolov6n6", 0.75, [48, 96, 192, 384, 576, 768, 384, 192, 96, 192, 384, 768]),
        ("yolov6n6", 1.0, CHANNELS_P6),
    ],
)
def test_width(recipe: str, width: float, expected: list[int], model_config: Callable[..., ModelConfig]) -> None:
    assert numbers(scaled(model_config(recipe, width_multiple=width)))[1] == expected


@pytest.mark.parametrize(
    ("recipe", "depth", "expected"),
    [
        ("yolov6n", 0.33, [1, 2, 4, 6, 2, 4, 4, 4, 4]),
        ("yolov6n", 0.6, [1, 4, 7, 11, 4, 7, 7, 7, 7]),
        ("yolov6n", 0.7, [1, 4, 8, 13, 4, 8, 8, 8, 8]),
        ("yolov6n", 0.8, [1, 5, 10, 14, 5, 10, 10, 10, 10]),
        ("yolov6n", 1.0, REPEATS),
        ("yolov6n6", 0.33, [1, 2, 4, 6, 2, 2, 4, 4, 4, 4, 4, 4]),
        ("yolov6n6", 0.6, [1, 4, 7, 11, 4, 4, 7, 7, 7, 7, 7, 7]),
        ("yolov6n6", 1.0, REPEATS_P6),
        ("mbla/yolov6s_mbla", 0.5, [1, 2, 4, 4, 2, 4, 4, 4, 4]),
        ("mbla/yolov6s_mbla", 1.0, [1, 4, 8, 8, 4, 8, 8, 8, 8]),
    ],
)
def test_depth(recipe: str, depth: float, expected: list[int], model_config: Callable[..., ModelConfig]) -> None:
    assert numbers(scaled(model_config(recipe, depth_multiple=depth)))[0] == expected


def test_stage_of_one_block_is_never_scaled_away() -> None:
    assert scale_repeats(1, 0.01) == 1
    assert scale_repeats(6, 0.01) == 1


@pytest.mark.parametrize(
    ("size", "expected"),
    [("s", [24, 32, 48, 96, 176]), ("m", [24, 32, 64, 144, 288]), ("l", [24, 48, 96, 192, 384])],
)
def test_lite_models_round_in_their_own_way(size: str, expected: list[int]) -> None:
    config = load_config(f"yolov6_lite/yolov6_lite_{size}").model
    repeats, channels = numbers(scaled(config))
    assert channels == expected
    assert repeats == config.backbone.num_repeats == [1, 3, 7, 3]


@pytest.mark.parametrize(
    ("channels", "divisor", "expected"),
    [
        (16, 8, 16),
        (17, 8, 16),
        (19, 8, 24),
        (20, 8, 24),
        (22.4, 16, 32),
        (3, 8, 8),
        (70, 100, 100),
        (44.8, 16, 48),
        (88, 8, 88),
    ],
)
def test_rounding_of_the_lite_models(channels: float, divisor: int, expected: int) -> None:
    assert round_channels(channels, divisor) == expected


@given(st.floats(1, 4096), st.sampled_from([8, 16]))
def test_lite_rounding_never_takes_more_than_a_tenth(channels: float, divisor: int) -> None:
    rounded = round_channels(channels, divisor)
    assert rounded % divisor == 0
    assert 0.9 * channels <= rounded < max(channels, divisor / 2) + 2 * divisor


@given(st.integers(1, 4096), st.floats(0.01, 2))
def test_channels_are_rounded_up_to_a_multiple_of_8(channels: int, width: float) -> None:
    rounded = scale_channels(channels, width)
    assert rounded % 8 == 0
    assert channels * width <= rounded < channels * width + 8


@pytest.mark.parametrize("recipe", recipe_names())
def test_scaling_again_changes_nothing(recipe: str) -> None:
    config = load_config(recipe).model
    once = scaled(config)
    assert once.width_multiple == 1
    assert scaled(once) == once
    assert once.head == config.head
