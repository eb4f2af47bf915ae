from __future__ import annotations

from typing import Any

import pytest

from yolov6_ignite.errors import ConfigError
from yolov6_ignite.quantization import QuantizationSpec


def test_round_trip_of_plain_values() -> None:
    spec = QuantizationSpec(bits=4, method="mse", skip=("a", "b.*"), target="onnxruntime", keep_batch_norm=True)
    values = spec.to_dict()
    assert {type(value) for value in values.values()} <= {int, float, str, bool, list, type(None)}
    assert QuantizationSpec.from_dict(values) == spec
    assert QuantizationSpec.from_dict({}) == QuantizationSpec()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("bits", bits) for bits in (1, 9, 8.0, True, "8")),
        ("method", "median"),
        *(("percentile", percentile) for percentile in (0, 100.1, float("nan"), "99", None)),
        *(("skip", skip) for skip in ("detect.*", [1], None)),
        ("target", "openvino"),
        ("placement", "everywhere"),
        ("keep_batch_norm", 1),
    ],
)
def test_wrong_values_are_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=key):
        QuantizationSpec.from_dict({key: value})


@pytest.mark.parametrize("values", [{"colour": 1}, {1: 2}, [], "bits", None])
def test_what_is_no_specification_is_refused(values: Any) -> None:
    with pytest.raises(ConfigError, match="quantisation"):
        QuantizationSpec.from_dict(values)


def test_placement_is_what_the_target_needs_unless_said() -> None:
    assert not QuantizationSpec(target="tensorrt").quantizes_activations
    assert QuantizationSpec(target="onnxruntime").quantizes_activations
    assert QuantizationSpec(target="tensorrt", placement="activations").quantizes_activations
    assert not QuantizationSpec(target="onnxruntime", placement="inputs").quantizes_activations
