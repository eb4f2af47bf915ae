"""What is to be exported, and the combinations that cannot be."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from yolov6_ignite.config import EvalConfig
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.exporting.packages import require_packages
from yolov6_ignite.quantization import QuantizationSpec
from yolov6_ignite.quantization.spec import Target

__all__ = ["OPSETS", "ExportSettings", "Thresholds"]

OPSETS = range(18, 23)  # the exporter makes 18; older ones lose operators, newer ones need another file version
QUANTIZED_HALF = 19  # before it, QuantizeLinear takes fp32 only
SIGNED_OPSETS = range(18, 21)  # onnxruntime 1.32 makes unsigned zero points of signed ones, which later sets refuse
INTEGER_BITS = 8  # of every runtime


@dataclass(frozen=True)
class Thresholds:
    """Of non-maximum suppression, as in :func:`yolov6_ignite.metrics.non_max_suppression`.

    Attributes:
        conf: lowest score, exclusive.
        iou: largest overlap of two detections of a class, inclusive.
        max_detections: most detections an image, the best ones.
    """

    conf: float
    iou: float
    max_detections: int


@dataclass(frozen=True)
class ExportSettings:
    """What to export.

    Attributes:
        format: of the file.
        image_size: (height, width) in pixels; None is the size that the model is evaluated at.
        batch_size: fixed number of images, None for any; not of TorchScript, which takes any.
        dynamic_size: take images of any size whose sides are multiples of the model's, too; TorchScript always does.
        half: weights, input and inner values in half precision; of OpenVINO the weights only.
        simplify: fold and fuse nodes with onnxslim.
        preprocess: take BGR images in uint8, 0 to 255, and convert them in the graph.
        end2end: the runtime whose non-maximum suppression becomes part of the graph.
        conf_threshold: of that suppression; None is what the model is evaluated with, as for the next two.
        iou_threshold: likewise.
        max_detections: likewise.
        raw_levels: give one tensor a level instead of decoded boxes.
        opset: ONNX operator set.
        target: the runtime that a quantised model is for; None is the one that it was quantised for.
    """

    format: Literal["onnx", "torchscript", "openvino"] = "onnx"
    image_size: tuple[int, int] | None = None
    batch_size: int | None = None
    dynamic_size: bool = False
    half: bool = False
    simplify: bool = False
    preprocess: bool = False
    end2end: Literal["onnxruntime", "tensorrt"] | None = None
    conf_threshold: float | None = None
    iou_threshold: float | None = None
    max_detections: int | None = None
    raw_levels: bool = False
    opset: int | None = None
    target: Target | None = None

    @property
    def any_size(self) -> bool:
        """Whether the file takes images of any size."""
        return self.dynamic_size or self.format == "torchscript"

    def require_possible(self) -> None:
        """Refuses combinations that no file can be made of, and missing packages.

        Raises:
            ConfigError: says which option does not go with which.
        """
        if self.format != "onnx":
            for option, given in (
                ("--opset", self.opset is not None),
                ("--simplify", self.simplify),
                ("--end2end tensorrt", self.end2end == "tensorrt"),
                ("--end2end", self.end2end is not None and self.format != "openvino"),
                ("--target", self.target is not None and self.format != "openvino"),
                ("--batch-size", self.batch_size is not None and self.format != "openvino"),
            ):
                if given:
                    raise ConfigError(f"{option}: is of --format onnx, not of {self.format}; leave it away")
        if self.opset is not None and self.opset not in OPSETS:
            raise ConfigError(f"--opset: {self.opset} is not supported; choose {OPSETS[0]} to {OPSETS[-1]}")
        if self.end2end is not None and self.raw_levels:
            raise ConfigError("--raw-levels: has no boxes that --end2end could select from; choose one of them")
        if self.end2end is not None and self.dynamic_size:
            raise ConfigError("--dynamic-size: does not go with --end2end; export one file for each image size")
        self._require_thresholds()
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(f"--batch-size: {self.batch_size} is no number of images; give 1 or more")
        if self.format == "onnx":
            require_packages("--format onnx", "onnx", "onnxscript", "onnxruntime")
        elif self.format == "openvino":
            require_packages("--format openvino", "onnx", "onnxscript", "openvino", extra="openvino")
        if self.simplify:
            require_packages("--simplify", "onnxslim")

    def require_image_size(self, size_multiple: int) -> tuple[int, int]:
        """The size in pixels, once known.

        Raises:
            ConfigError: the model does not take it.
        """
        assert self.image_size is not None
        height, width = self.image_size
        if min(height, width) < 1 or height % size_multiple or width % size_multiple:
            raise ConfigError(
                f"--image-size: {height} x {width} px: this model needs multiples of {size_multiple} for both sides"
            )
        return height, width

    def quantization_of(self, spec: QuantizationSpec | None) -> QuantizationSpec | None:
        """What the weights were quantised with -> what the file is to be quantised with.

        Raises:
            ConfigError: the settings do not go with weights that are quantised, or that are not.
        """
        if spec is None:
            if self.target is not None:
                raise ConfigError("--target: is of quantised weights; calibrate these first (quant.mode=ptq)")
            return None
        if self.format == "torchscript":
            raise ConfigError(f"--format {self.format}: has no quantised form; choose --format onnx")
        if spec.bits != INTEGER_BITS:
            raise ConfigError(
                f"quantised weights of {spec.bits} bits: no runtime computes with them; quantise to {INTEGER_BITS} bits"
            )
        if self.target is not None and self.target != spec.target:
            spec = replace(spec, target=self.target, placement=None)
        if self.format == "openvino":
            if spec.target != "onnxruntime":
                raise ConfigError(
                    f"--format openvino: computes something else with the integers of {spec.target}; "
                    "choose --target onnxruntime"
                )
            if self.half:
                raise ConfigError("--half: OpenVINO keeps what a quantised model has in floats as it is; leave it away")
        if self.half and spec.target != "tensorrt":
            raise ConfigError(f"--half: the float part of a file for {spec.target} is fp32; choose --target tensorrt")
        if spec.target == "tensorrt" and self.opset is not None and self.opset not in SIGNED_OPSETS:
            raise ConfigError(
                f"--opset: {self.opset} with signed integers, as tensorrt needs, cannot be checked: onnxruntime does "
                f"not run it; choose {SIGNED_OPSETS[0]} to {SIGNED_OPSETS[-1]}"
            )
        if self.half and self.opset is not None and self.opset < QUANTIZED_HALF:
            raise ConfigError(f"--half: quantised models need --opset {QUANTIZED_HALF} or later, not {self.opset}")
        return spec

    def opset_for(self, spec: QuantizationSpec | None) -> int:
        """The operator set of a file that is quantised so."""
        return self.opset or (QUANTIZED_HALF if self.half and spec is not None else OPSETS[0])

    def thresholds(self, evaluation: EvalConfig) -> Thresholds:
        """Those that are given, and the model's own for the others."""
        conf, iou, most = self.conf_threshold, self.iou_threshold, self.max_detections
        return Thresholds(
            evaluation.conf_threshold if conf is None else conf,
            evaluation.iou_threshold if iou is None else iou,
            evaluation.max_detections if most is None else most,
        )

    def _require_thresholds(self) -> None:
        for option, value in (("--conf-threshold", self.conf_threshold), ("--iou-threshold", self.iou_threshold)):
            if value is not None and not 0 <= value <= 1:
                raise ConfigError(f"{option}: {value} is not from 0 to 1")
        if self.max_detections is not None and self.max_detections < 1:
            raise ConfigError(f"--max-detections: {self.max_detections} is no number of detections; give 1 or more")
        given = (self.conf_threshold, self.iou_threshold, self.max_detections)
        if self.end2end is None and given != (None, None, None):
            raise ConfigError("--conf-threshold, --iou-threshold, --max-detections: only have a meaning with --end2end")
