"""The teacher of a distillation (specification, training 2.1 and 11.8)."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace

import torch
from torch import Tensor, nn

from yolov6_ignite.config import Config
from yolov6_ignite.distributed import from_rank_zero, memory_format
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.models import Detector, DetectorOutput
from yolov6_ignite.weights import Weights, find_weights, read_weights

__all__ = ["Teacher", "build_teacher"]

logger = logging.getLogger(__name__)


class Teacher:
    """A trained network whose raw predictions a student learns from.

    It runs in train mode: its batch norms use the batch's statistics, as the student's do, and keep their own.

    Args:
        model: the trained network; it is this object's from now on.
        batch_statistics: False for a student without batch norms, whose statistics are fixed: then the teacher's are.

    Attributes:
        fingerprint: tells its weights from others.
    """

    def __init__(self, model: Detector, *, batch_statistics: bool = True) -> None:
        digest = hashlib.sha256()
        for tensor in model.state_dict().values():
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        self.fingerprint = digest.hexdigest()
        self.model = model.requires_grad_(False).train()
        for module in self.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                if batch_statistics:
                    module.track_running_stats = False
                else:
                    module.eval()

    @torch.no_grad()
    def __call__(self, images: Tensor) -> DetectorOutput:
        """Predictions for a batch (batch, 3, height, width)."""
        output: DetectorOutput = self.model(images)
        return output


def build_teacher(config: Config, student: Detector, device: torch.device) -> Teacher | None:
    """The teacher of a run, on the device; None when nothing is distilled.

    Its recipe is its own: it may be of another size than the student.

    Args:
        config: the student's configuration.
        student: knows the class names of the data set.
        device: where the student trains.

    Raises:
        ConfigError: the file cannot be used, or its network cannot teach this student.
    """
    if config.distill.teacher is None:
        return None
    path = from_rank_zero(lambda: find_weights(str(config.distill.teacher)))
    read = read_weights(path)
    where = f"distill.teacher: {path} ({read.config.model.type})"
    if len(read.names) != student.num_classes:
        raise ConfigError(
            f"{where} detects {len(read.names)} classes, but the data set has {student.num_classes}; "
            "train a teacher on this data set"
        )
    if read.names != student.names:
        logger.warning("%s names its classes %s, the data set %s", where, read.names, student.names)
    if read.quantization is not None:
        raise ConfigError(f"{where} is quantised; take the float network that it was made from")
    if not config.model.head.use_dfl and any("_preds_dist." in key for key in read.state):
        read = _with_direct_distances(read)
    head = read.config.model.head
    if not config.model.head.use_dfl and head.use_dfl:
        raise ConfigError(
            f"{where} predicts distributions, which this network does not; take a teacher with "
            "model.head.use_dfl: false"
        )
    if config.model.head.use_dfl and not head.use_dfl:
        raise ConfigError(
            f"{where} predicts no distributions to learn from; train one with model.head.use_dfl: true and "
            "model.head.reg_max: 16"
        )
    if head.strides != student.strides:
        raise ConfigError(
            f"{where} has the strides {head.strides}, the student {student.strides}; take one with as many levels"
        )
    # The anchor-aided branch teaches nothing.
    read = replace(read, state={key: value for key, value in read.state.items() if "_preds_ab." not in key})
    model = read.build()
    widths, own_widths = model.detect.channels, student.detect.channels
    if config.distill.features and widths != own_widths:
        raise ConfigError(
            f"distill.features: the maps of {where} have {widths} channels, the student's {own_widths}; "
            "set it to false, or take a teacher of the student's width"
        )
    model.to(device, memory_format=memory_format(device))  # type: ignore[call-overload]
    return Teacher(model, batch_statistics=any(isinstance(module, nn.BatchNorm2d) for module in student.modules()))


def _with_direct_distances(read: Weights) -> Weights:
    """A network that predicts distances and their distribution, without the distribution."""
    head = read.config.model.head.model_copy(update={"use_dfl": False, "reg_max": 0})
    model = read.config.model.model_copy(update={"head": head})
    state = {key: value for key, value in read.state.items() if "_preds_dist." not in key}
    return replace(read, state=state, config=read.config.model_copy(update={"model": model}))
