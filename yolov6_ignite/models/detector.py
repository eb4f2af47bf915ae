"""The detector: backbone, neck and head under the names of the published weights."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from yolov6_ignite.models.deploy import deployed
from yolov6_ignite.models.head import EffiDeHead
from yolov6_ignite.models.output import DetectorOutput

__all__ = ["Detector"]


class Detector(nn.Module):
    """A one-stage detector.

    Attributes:
        num_classes: number of classes.
        names: their names, "0", "1", ... until set.
        strides: stride of every level in pixels, the finest first.
        stride: the largest of them.
        size_multiple: image sides must be multiples of this number of pixels.
    """

    def __init__(
        self,
        backbone: nn.Module,
        neck: nn.Module,
        head: EffiDeHead,
        *,
        strides: Sequence[int],
        size_multiple: int,
        num_classes: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.detect = head
        self.num_classes = num_classes
        self.names: list[str] = [str(index) for index in range(num_classes)]
        self.strides: list[int] = list(strides)
        self.stride: int = max(strides)
        self.size_multiple = size_multiple

    def forward(self, images: Tensor) -> DetectorOutput | Tensor:
        """Detects objects in a batch of RGB images (batch, 3, height, width) in [0, 1].

        Returns:
            In train mode a :class:`DetectorOutput`. In eval mode (batch, anchors, 5 + classes): centre x,
            centre y, width, height in pixels, 1, class probabilities.

        Raises:
            ValueError: a side of the images is not a multiple of `size_multiple`.
        """
        neck_maps = self._neck_maps(images)
        output = self.detect(neck_maps)
        if isinstance(output, DetectorOutput):
            return output._replace(neck_maps=tuple(neck_maps))
        return output

    def detect_with_output(self, images: Tensor) -> tuple[Tensor, DetectorOutput]:
        """Detects, and gives the raw predictions that the detections were decoded from, for a loss on them.

        Args:
            images: as in :meth:`forward`.

        Returns:
            What :meth:`forward` returns in eval mode, and a :class:`DetectorOutput` of the branches that detection
            uses; the branches that are there for training only are neither computed nor in it.

        Raises:
            ValueError: as in :meth:`forward`.
        """
        return self.detect.detect_with_output(self._neck_maps(images))

    def deploy(self) -> Detector:
        """A fused copy in eval mode: batch norms folded and branches merged, outputs as before."""
        return deployed(self)

    def _neck_maps(self, images: Tensor) -> Sequence[Tensor]:
        height, width = images.shape[-2:]
        multiple = self.size_multiple
        if height % multiple or width % multiple:
            raise ValueError(f"images of {height} x {width} pixels: both sides must be multiples of {multiple}")
        return self.neck(self.backbone(images))
