"""The terms of the objective for single images."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from yolov6_ignite.config import Config
from yolov6_ignite.losses.build import build_plain_loss
from yolov6_ignite.models import DetectorOutput

__all__ = ["ImageLosses"]


class ImageLosses:
    """Loss terms of every image of a batch, each normalised by its own target scores; for finding hard images.

    The loss of the branch that detects, by task alignment, without class weights and gradients. It is computed anew,
    image by image: use it on the batches that are of interest.

    Args:
        config: of the network's training.
        num_classes: number of classes.
    """

    def __init__(self, config: Config, num_classes: int) -> None:
        self._config = config
        self._num_classes = num_classes
        self._loss = functools.cache(self._build)

    @torch.no_grad()
    def __call__(self, prediction: DetectorOutput, targets: Tensor, image_size: tuple[int, int]) -> dict[str, Tensor]:
        """Computes the terms.

        Args:
            prediction: ``engine.state.prediction`` during ``BACKWARD_COMPLETED``, of b images.
            targets: (n, 6) on the host, as in :class:`yolov6_ignite.data.Batch`.
            image_size: (height, width) of the batch in pixels.

        Returns:
            (b,) by term, on the device of the prediction.
        """
        loss = self._loss(prediction.distances.shape[-1] // 4 - 1, prediction.logits.device)
        terms = []
        for image in range(len(prediction.logits)):
            own = targets[targets[:, 0] == image].clone()
            own[:, 0] = 0
            terms.append(loss(_of_image(prediction, image), own, epoch=0, max_epochs=1, image_size=image_size)[1])
        return {name: torch.stack([items[name] for items in terms]) for name in terms[0]}

    def _build(self, reg_max: int, device: torch.device) -> nn.Module:
        return build_plain_loss(self._config, self._num_classes, reg_max=reg_max).to(device)


def _of_image(prediction: DetectorOutput, image: int) -> DetectorOutput:
    one = slice(image, image + 1)
    return DetectorOutput(
        feature_maps=tuple(level[one] for level in prediction.feature_maps),
        logits=prediction.logits[one],
        distances=prediction.distances[one],
        ltrb=None if prediction.ltrb is None else prediction.ltrb[one],
    )
