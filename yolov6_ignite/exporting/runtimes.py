"""Running exported files."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from yolov6_ignite.errors import ConfigError
from yolov6_ignite.exporting.nms_operator import PLUGIN
from yolov6_ignite.exporting.packages import require_packages

__all__ = ["OnnxSession", "run_torchscript"]


class OnnxSession:
    """An ONNX model in onnxruntime on the CPU: images in, tensors out.

    Args:
        source: the file, or its content.
        name: of the file, for messages.
        optimized: let onnxruntime rewrite the graph into what it computes fastest.

    Attributes:
        image_shape: of the input, None where any number is taken: (batch, 3, height, width).
        output_names: in the order of the results.
        metadata: texts by key.

    Raises:
        ConfigError: the file is missing, or onnxruntime cannot run it.
    """

    def __init__(self, source: Path | bytes, name: str | Path, *, optimized: bool = True) -> None:
        require_packages(str(name), "onnxruntime")
        import onnxruntime

        if isinstance(source, Path) and not source.is_file():
            raise ConfigError(f"{name}: there is no such file")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if not optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # torch works between the calls
        try:
            self._session = onnxruntime.InferenceSession(
                source if isinstance(source, bytes) else str(source), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime has no common class of its errors
            reason = str(error).splitlines()[0]
            if PLUGIN in reason:
                reason = f"only TensorRT has {PLUGIN}; export without --end2end tensorrt"
            raise ConfigError(f"{name}: onnxruntime cannot run it ({reason})") from error
        self._input = self._session.get_inputs()[0]
        self.image_shape = tuple(side if isinstance(side, int) else None for side in self._input.shape)
        self.output_names = tuple(output.name for output in self._session.get_outputs())
        self.metadata: dict[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)

    @property
    def input_type(self) -> torch.dtype:
        """Of the images."""
        types = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16, "tensor(uint8)": torch.uint8}
        return types[self._input.type]

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Runs the model on (batch, 3, height, width) images of the type that it takes."""
        return [torch.from_numpy(output) for output in self._session.run(None, {self._input.name: images.numpy()})]


def run_torchscript(content: bytes, name: str | Path) -> Callable[[Tensor], list[Tensor]]:
    """A TorchScript file as a function from images to tensors.

    Args:
        content: of the file.
        name: of the file, for messages.

    Raises:
        ConfigError: torch cannot load it.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            module = torch.jit.load(io.BytesIO(content), map_location="cpu")
        except RuntimeError as error:
            raise ConfigError(f"{name}: torch cannot load it ({str(error).splitlines()[0]})") from error

    def run(images: Tensor) -> list[Tensor]:
        with torch.no_grad():
            return list(module(images))

    return run
