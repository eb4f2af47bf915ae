"""Weights that the export tests share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from yolov6_ignite.checkpoint import write_weights
from yolov6_ignite.config_file import apply_overrides, load_config
from yolov6_ignite.exporting import Thresholds
from yolov6_ignite.exporting.graphs import EndToEndGraph
from yolov6_ignite.exporting.nms_operator import translations
from yolov6_ignite.models import Detector, build_model
from yolov6_ignite.models.lite import SEBlock
from yolov6_ignite.quantization import QuantizationSpec, calibrate, quantized_model
from yolov6_ignite.weights import Weights


def randomise(model: Detector, gain: float) -> None:
    """Random weights and batch norms; a gain that is too high amplifies rounding from layer to layer."""
    torch.manual_seed(0)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.normal_(module.running_mean, std=0.3)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
        elif isinstance(module, nn.Conv2d) and "proj_conv" not in name:
            nn.init.normal_(module.weight, std=gain * module.weight[0].numel() ** -0.5)
            if "cls_preds" in name:
                nn.init.normal_(module.bias)
        if isinstance(module, SEBlock) and module.conv1.bias is not None:
            nn.init.ones_(module.conv1.bias)  # so few channels are all cut off otherwise


@pytest.fixture(scope="session")
def random_weights() -> Callable[..., Weights]:
    """Makes random weights of a recipe; keys of the configuration can be changed."""

    def make(
        recipe: str = "yolov6n", *, classes: int = 3, head: str = "plain", gain: float = 0.7, **changes: Any
    ) -> Weights:
        config = apply_overrides(load_config(recipe), changes)
        torch.manual_seed(0)
        model = build_model(config.model, classes, fuse_ab=head == "fuse_ab", distill_ns=head == "distill_ns")
        randomise(model, gain)
        names = [f"class {number}" for number in range(classes)]
        return Weights(Path(f"{recipe}.pt"), model.state_dict(), names, config, {}, 0)

    return make


@pytest.fixture(scope="session")
def tiny() -> dict[str, float]:
    """What makes YOLOv6-N very small."""
    return {"model.width_multiple": 0.0625, "model.depth_multiple": 0.1}


@pytest.fixture(scope="session")
def tiny_weights(random_weights: Callable[..., Weights], tiny: dict[str, float]) -> Weights:
    """Of a very small network with 3 classes, trained at 64 pixels."""
    return random_weights(**tiny, **{"data.image_size": 64})


@pytest.fixture(scope="session")
def tiny_weights_file(
    random_weights: Callable[..., Weights], tiny: dict[str, float], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A weight file of a very small network with 2 classes, as the tiny data set has."""
    weights = random_weights(**tiny, **{"data.image_size": 64}, classes=2)
    file = tmp_path_factory.mktemp("weights") / "tiny.pt"
    write_weights(
        file,
        state=weights.state,
        config=weights.config.model_dump(mode="json"),
        names=weights.names,
        metrics={},
        epoch=1,
    )
    return file


@pytest.fixture(scope="session")
def quantized() -> Callable[..., Weights]:
    """Calibrates weights on noise: the quantised weights, as they are read from a file."""

    def quantize(weights: Weights, spec: QuantizationSpec, size: tuple[int, int] = (64, 96)) -> Weights:
        model = quantized_model(weights.build(), spec)
        calibrate(model, [torch.rand(4, 3, *size, generator=torch.Generator().manual_seed(1))], spec)
        return replace(weights, state=model.state_dict(), quantization=spec)

    return quantize


@pytest.fixture
def suppression_of_ties() -> Callable[[float, int], tuple[Tensor, bytes]]:
    """Exports suppression alone, by an overlap and a room; with predictions where conventions could differ."""

    class Predictions(nn.Module):
        def forward(self, predictions: Tensor) -> Tensor:
            return predictions

    def make(iou: float, room: int) -> tuple[Tensor, bytes]:
        graph = EndToEndGraph(Predictions(), Thresholds(0.25, iou, room)).eval()  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(0)
        predictions = torch.randint(0, 5, (4, 60, 5 + 3), generator=generator).float() * 8
        predictions[..., 4] = 1
        predictions[..., 5:] = torch.randint(0, 9, (4, 60, 3), generator=generator) / 8  # many ties, and the threshold
        predictions[0, ::7, 0] = torch.nan
        predictions[1, ::5, 3] = torch.inf
        predictions[2, ::3, 2] *= -1
        predictions[3, :, 5:] = 0.25
        program = torch.onnx.export(
            graph,
            (predictions,),
            dynamo=True,
            opset_version=18,
            output_names=list(graph.output_names),
            custom_translation_table=translations(),
            verbose=False,
        )
        assert program is not None
        return predictions, program.model_proto.SerializeToString()

    return make
