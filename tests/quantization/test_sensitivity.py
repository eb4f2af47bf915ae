from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from yolov6_ignite.config import QuantConfig
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import Detector
from yolov6_ignite.quantization import (
    Accuracy,
    QuantizationSpec,
    Sensitivity,
    calibrate,
    measure_sensitivity,
    quantized_layers,
    quantized_model,
    quantizers,
    read_skipped_layers,
    skip_patterns,
)

SMALL = Sensitivity(
    Accuracy(0.6, 0.4), Accuracy(0.55, 0.35), [("neck.conv", Accuracy(0.5, 0.3)), ("stem", Accuracy(0.6, 0.4001))]
)


@pytest.fixture
def calibrated(build_small: Callable[[str], Detector], images_of: Callable[..., Tensor]) -> Detector:
    model = build_small("yolov6n")
    spec = QuantizationSpec(method="max", target="onnxruntime")
    quantized = quantized_model(model, spec)
    calibrate(quantized, [images_of(model)], spec)
    return quantized


def layers_on(model: nn.Module) -> list[str]:
    """Quantised layers whose every quantiser rounds; the others' must not."""
    found = []
    for name in quantized_layers(model):
        modes = {quantizer.mode for _, quantizer in quantizers(model.get_submodule(name))}
        assert len(modes) == 1
        if modes == {"quantize"}:
            found.append(name)
    return found


def test_each_layer_is_quantised_alone_and_the_lowest_accuracy_comes_first(calibrated: Detector) -> None:
    names = quantized_layers(calibrated)
    seen: list[list[str]] = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        on = layers_on(model)
        seen.append(on)
        others = [name for name, q in quantizers(model) if q.mode == "quantize" and name.rsplit(".", 1)[0] not in on]
        assert bool(others) == (len(on) == len(names))  # those that belong to no layer: with everything only
        loss = sum({names[3]: 0.25, names[5]: 0.5}.get(name, 0.0625) for name in on)
        return {"val/mAP@0.5": 0.9 - loss, "val/mAP@0.50:0.95": 0.75 - loss}

    sensitivity = measure_sensitivity(calibrated, evaluate)
    assert sorted(map(len, seen)) == [0, *[1] * len(names), len(names)]
    assert [on[0] for on in seen if len(on) == 1] == names
    assert sensitivity.full_precision == Accuracy(0.9, 0.75)
    assert sensitivity.quantized.map50_95 == pytest.approx(0.75 - 0.75 - 0.0625 * (len(names) - 2))
    first, second, *rest = sensitivity.layers
    assert first == (names[5], Accuracy(0.4, 0.25))
    assert second[0] == names[3]
    assert [name for name, _ in rest] == [name for name in names if name not in {names[3], names[5]}]


def test_a_layer_alone_loses_less_than_all_together(calibrated: Detector, images_of: Callable[..., Tensor]) -> None:
    images = images_of(calibrated, 9)
    outputs: list[Tensor] = []

    @torch.no_grad()
    def evaluate(model: nn.Module) -> dict[str, float]:
        outputs.append(model(images)[..., :4])
        ap = -float((outputs[-1] - outputs[0]).square().mean())
        return {"mAP@0.5": ap, "mAP@0.50:0.95": ap}

    sensitivity = measure_sensitivity(calibrated, evaluate)
    distances = [float((output - outputs[1]).square().mean()) for output in outputs]
    assert distances[1] == 0
    assert 0 < max(distances[2:]) < distances[0]
    assert sensitivity.layers[0][1].map50_95 <= sensitivity.layers[-1][1].map50_95


def test_modes_are_restored_also_after_an_error(calibrated: Detector) -> None:
    skipped = next(quantizer for _, quantizer in quantizers(calibrated))
    skipped.mode = "off"
    before = {name: quantizer.mode for name, quantizer in quantizers(calibrated)}
    calls = []

    def evaluate(model: nn.Module) -> dict[str, float]:
        calls.append(1)
        if len(calls) == 5:
            raise OSError("the disk is gone")
        return {"mAP@0.5": 0.5, "mAP@0.50:0.95": 0.5}

    with pytest.raises(OSError, match="gone"):
        measure_sensitivity(calibrated, evaluate)
    assert {name: quantizer.mode for name, quantizer in quantizers(calibrated)} == before


def test_the_table_is_aligned() -> None:
    lines = SMALL.table().splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split() for line in lines] == [
        ["layer", "mAP@0.5", "mAP@0.50:0.95", "change"],
        ["(nothing)", "0.6000", "0.4000", "+0.0000"],
        ["(everything)", "0.5500", "0.3500", "-0.0500"],
        ["1", "neck.conv", "0.5000", "0.3000", "-0.1000"],
        ["2", "stem", "0.6000", "0.4001", "+0.0001"],
    ]


def test_the_file_is_read_back(tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(SMALL.csv())))
    assert rows[0] == {"layer": "neck.conv", "mAP@0.5": "0.500000", "mAP@0.50:0.95": "0.300000", "change": "-0.100000"}
    path = tmp_path / "sensitivity.csv"
    path.write_text(SMALL.csv())
    assert read_skipped_layers(path) == ["neck.conv", "stem"]
    assert read_skipped_layers(path, 1) == ["neck.conv"]
    assert read_skipped_layers(path, 9) == ["neck.conv", "stem"]


def test_a_plain_list_has_comments_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "skip.txt"
    path.write_bytes("\ufeff# the worst\r\n\r\n  neck.* # all of it\r\ndetect.cls_preds.0\n".encode())
    assert read_skipped_layers(path) == ["neck.*", "detect.cls_preds.0"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no such file; quant.sensitivity=true writes"),
        (b"", "names no layer"),
        (b"\n# nothing\n", "names no layer"),
        (b"layer,mAP@0.5,mAP@0.50:0.95,change\n", "names no layer"),
        (b"\xff\xfe\x00", "cannot be read .not UTF-8 text."),
    ],
)
def test_files_that_say_nothing_are_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "skip.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"quant\.skip: .*skip\.csv: {message}"):
        read_skipped_layers(path)
    with pytest.raises(ConfigError, match=r"cannot be read \(Is a directory"):
        read_skipped_layers(tmp_path)


def test_the_key_is_a_list_or_a_file(tmp_path: Path) -> None:
    path = tmp_path / "sensitivity.csv"
    path.write_text(SMALL.csv())
    assert skip_patterns(QuantConfig(mode="ptq", skip=["a", "b.*"])) == ("a", "b.*")
    assert skip_patterns(QuantConfig(mode="ptq", skip=str(path), most_sensitive=1)) == ("neck.conv",)
    assert skip_patterns(QuantConfig()) == ()
