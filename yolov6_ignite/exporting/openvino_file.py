"""ONNX models as OpenVINO's pair of files, ``model.xml`` and ``model.bin``, and running these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from yolov6_ignite.errors import ConfigError
from yolov6_ignite.exporting.packages import require_packages

if TYPE_CHECKING:
    import openvino

__all__ = ["OpenVINOSession", "openvino_weights", "write_openvino"]

SECTION = "yolov6_ignite"  # of the runtime information, where the metadata is


def openvino_weights(path: Path) -> Path:
    """The file of the weights, beside the graph's.

    Raises:
        ConfigError: the graph's has another suffix than OpenVINO finds the weights by.
    """
    if path.suffix != ".xml":
        raise ConfigError(f"{path}: OpenVINO needs the suffix .xml, and .bin for the weights; choose a name with .xml")
    return path.with_suffix(".bin")


def write_openvino(
    path: Path, onnx_content: bytes, metadata: Mapping[str, str], *, name: Path | None = None, half: bool = False
) -> None:
    """Converts an ONNX model.

    Args:
        path: of the graph, ``x.xml``; the weights go to ``x.bin``.
        onnx_content: the model.
        metadata: put into the runtime information.
        name: of the graph's file in messages, when it is not `path`.
        half: keep floating-point weights in fp16; what is computed with them stays in fp32.

    Raises:
        ConfigError: OpenVINO cannot convert the model, or the file system refuses.
    """
    import openvino

    try:
        model = openvino.Core().read_model(onnx_content)
    except RuntimeError as error:
        raise ConfigError(f"--format openvino: this model cannot be converted ({_reason(error)})") from error
    _suppress_as_onnx_does(model)
    for key, value in metadata.items():
        model.set_rt_info(value, [SECTION, key])
    try:
        openvino.save_model(model, path, compress_to_fp16=half)
    except (OSError, RuntimeError) as error:
        raise ConfigError(
            f"{name or path}: cannot be written ({_reason(error)}); free some space or choose another folder"
        ) from error


class OpenVINOSession:
    """An OpenVINO model on the CPU, computing in fp32: images in, tensors out.

    Args:
        path: of the graph; the weights are beside it.
        inner_outputs: names of inner values that the model is to give as well, behind its own outputs.

    Attributes:
        image_shape: of the input, None where any number is taken: (batch, 3, height, width).
        input_type: of the images.
        output_names: in the order of the results.
        metadata: texts by key.

    Raises:
        ConfigError: OpenVINO cannot run it.
    """

    def __init__(self, path: Path, *, inner_outputs: Sequence[str] = ()) -> None:
        require_packages(str(path), "openvino", extra="openvino")
        import openvino

        core = openvino.Core()
        # Without the hint OpenVINO computes in half precision on processors that are faster with it.
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": str(torch.get_num_threads())}
        try:
            model = core.read_model(path)
            if inner_outputs:
                model.add_outputs(list(inner_outputs))
            self._compiled = core.compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise ConfigError(f"{path}: OpenVINO cannot run it ({_reason(error)})") from error
        (images,) = model.inputs
        self.image_shape = tuple(side.get_length() if side.is_static else None for side in images.partial_shape)
        self.input_type: torch.dtype = torch.from_numpy(np.empty(0, images.element_type.to_dtype())).dtype
        self.output_names = tuple(output.any_name for output in model.outputs)
        self.metadata: dict[str, str] = {}
        if model.has_rt_info([SECTION]):
            self.metadata = dict(model.get_rt_info([SECTION]).value)

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Runs the model on (batch, 3, height, width) images of the type that it takes."""
        try:
            results = self._compiled(images.numpy())
        except RuntimeError as error:
            raise RuntimeError(_reason(error)) from error
        return [torch.from_numpy(results[number]) for number in range(len(self.output_names))]


def _suppress_as_onnx_does(model: openvino.Model) -> None:
    """Removes two differences of convention, which only equal numbers show.

    OpenVINO suppresses a box at the threshold too, where ONNX (and the library) keep it. Its top-k has equal scores in
    any order unless it is told to keep them in theirs.
    """
    from openvino import opset1

    for node in model.get_ops():
        if node.get_type_name() == "TopK":
            node.set_attribute("stable", True)
        elif node.get_type_name() == "NonMaxSuppression":
            threshold: Any = node.input(3)
            given = np.asarray(threshold.get_source_output().get_node().get_data(), np.float32)
            above = np.maximum(np.nextafter(given, np.float32(np.inf)), np.finfo(np.float32).tiny)
            threshold.replace_source_output(opset1.constant(above).output(0))


def _reason(error: Exception) -> str:
    """What OpenVINO says in one line, without the places in its source."""
    lines = [line.strip() for line in str(error).splitlines()]
    told = [line for line in lines if line and not line.startswith(("Exception from ", "Check '"))]
    return " ".join(told) or type(error).__name__
