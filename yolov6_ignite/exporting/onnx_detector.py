"""An exported ONNX file in the place of the model, for evaluation."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from yolov6_ignite.config import Config
from yolov6_ignite.config_file import apply_overrides
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.exporting.graphs import DetectionGraph
from yolov6_ignite.exporting.metadata import read_metadata
from yolov6_ignite.exporting.runtimes import OnnxSession

__all__ = ["OnnxDetector", "load_onnx_detector"]

logger = logging.getLogger(__name__)


class OnnxDetector(nn.Module):
    """Runs an ONNX file like a :class:`yolov6_ignite.models.Detector` in eval mode, on the CPU.

    Args:
        path: a file that ``yolov6-ignite export`` wrote.

    Attributes:
        config: what the model was trained with; of a file of one image size, evaluated on images of that size.
        names: class names.
        num_classes: their number.
        strides: of every level in pixels.
        stride: the largest.
        size_multiple: image sides must be multiples of this number of pixels.

    Raises:
        ConfigError: the file cannot be run, is not one of this project, or has other outputs than plain predictions.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._session = OnnxSession(path, path)
        values, config = read_metadata(str(path), self._session.metadata)
        if values["outputs"] != DetectionGraph.kind:
            raise ConfigError(
                f"{path}: gives {values['outputs']}, which cannot be evaluated; "
                "export without --end2end and --raw-levels"
            )
        self.config = self._fitted(config)
        self.names: list[str] = values["names"]
        self.num_classes = len(self.names)
        self.strides: list[int] = values["strides"]
        self.stride = max(self.strides)
        self.size_multiple: int = values["size_multiple"]

    def forward(self, images: Tensor) -> Tensor:
        """Detects objects in RGB images (batch, 3, height, width) in [0, 1].

        Returns:
            (batch, anchors, 5 + classes): centre x, centre y, width, height in pixels, 1, class probabilities.
        """
        dtype = self._session.input_type
        if dtype == torch.uint8:
            images = (images * 255).round().flip(1)
        images = images.to(dtype)
        fixed = self._session.image_shape[0]
        if fixed is None:
            return self._session(images.contiguous())[0].float()
        outputs = []
        for part in images.split(fixed):  # the last images of a data set do not fill a batch
            padded = F.pad(part, (0, 0, 0, 0, 0, 0, 0, fixed - len(part)))
            outputs.append(self._session(padded.contiguous())[0][: len(part)].float())
        return torch.cat(outputs)

    def device_for(self, config: Config, wanted: str) -> torch.device:
        """Where an evaluation has its tensors: on the CPU.

        Args:
            config: of the evaluation.
            wanted: ``auto``, or a device.

        Raises:
            ConfigError: the evaluation needs another device, other image sizes than the file's, or the loss.
        """
        if wanted not in ("auto", "cpu"):
            raise ConfigError(f"{self._path}: is evaluated on the CPU, not on {wanted}; leave --device away")
        self._require_evaluable(config)
        return torch.device("cpu")

    def _fitted(self, config: Config) -> Config:
        _, _, height, width = self._session.image_shape
        if height is None or width is None:
            return config
        logger.warning("%s: takes images of %d x %d px only: no rectangles fitted to them", self._path, height, width)
        square = height == width
        size = {"eval.image_size": height} if square else {"eval.image_size": None, "data.image_size": [height, width]}
        return apply_overrides(config, {"data.rect": False, "eval.rect": False, **size})

    def _require_evaluable(self, config: Config) -> None:
        if config.eval.loss:
            raise ConfigError(f"{self._path}: has no raw predictions for the loss; add eval.loss=false")
        _, _, height, width = self._session.image_shape
        if height is None or width is None:
            return
        given = config.eval.image_size
        size = config.data.height_width if given is None else (given, given)
        varies = config.eval.rect and size[0] == size[1]
        if varies or size != (height, width):
            raise ConfigError(
                f"{self._path}: takes images of {height} x {width} px only; leave eval.rect and sizes away, or export "
                "with --dynamic-size"
            )


def load_onnx_detector(path: str | Path) -> OnnxDetector:
    """Opens an exported ONNX file for evaluation; see :class:`OnnxDetector`."""
    return OnnxDetector(Path(path))
