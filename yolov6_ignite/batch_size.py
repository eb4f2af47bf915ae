"""``data.batch_size: auto``: as many images as fit into a part of a device's memory, found by training on noise."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch

from yolov6_ignite.config import Config
from yolov6_ignite.data import Batch, load_dataset_file
from yolov6_ignite.data.discovery import find_images
from yolov6_ignite.distillation import Teacher, build_teacher
from yolov6_ignite.distributed import autocast_dtype, from_rank_zero, memory_format, resolve_precision
from yolov6_ignite.engine import create_trainer, no_teacher
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.handlers import GradientAccumulation, ModelEMA
from yolov6_ignite.losses import build_loss
from yolov6_ignite.models import build_model
from yolov6_ignite.optim import build_optimizer
from yolov6_ignite.random_state import random_state, seed_everything, set_random_state

__all__ = ["find_batch_size", "largest_batch_size", "train_on_noise", "with_batch_size"]

logger = logging.getLogger(__name__)
silent = logging.getLogger(f"{__name__}.trial")  # running out of memory is a result here, which Ignite would announce
silent.setLevel(logging.CRITICAL + 1)

UNMEASURED_IMAGES = 16  # a device that is not a CUDA one: its memory is the machine's, and others use it too
STEP_IMAGES = 8  # sizes are multiples of it, which half-precision kernels are fastest with, or 4, 2, 1
MOST_IMAGES = 1024
SECANT_TRIALS = 3
BOXES_PER_IMAGE, CROWDED_BOXES = 24, 128  # of a mosaic; one image has many: boxes are padded to the most of a batch
GIB = 2**30


def find_batch_size(config: Config, names: Sequence[str], device: torch.device) -> int:
    """Images that one device trains on at a time within ``data.memory_fraction`` of its memory; every rank calls it.

    Measured in whole training steps of throw-away networks; what others hold of the memory counts too. The smallest
    number of all ranks. Weights, random state and memory are afterwards as before.

    Args:
        config: of the run; ``data.batch_size`` is not used.
        names: of the data set's classes.
        device: of this rank, with an index.

    Returns:
        A multiple of 8, or 4, 2 or 1; at most 1024. 16 where the device is not a CUDA one. ``data.batch_size`` is this
        number times the number of devices.

    Raises:
        ConfigError: one image is too many, or the teacher cannot be used; on every rank.
    """
    if device.type != "cuda":
        logger.info("data.batch_size: auto is %d images where there is no CUDA device", UNMEASURED_IMAGES)
        return UNMEASURED_IMAGES
    total = torch.cuda.mem_get_info(device)[1]
    fraction = config.data.memory_fraction
    try:
        found = _search(config, names, device, int(fraction * total))
    finally:
        _return_memory()
    if idist.get_world_size() > 1:
        found = int(idist.all_reduce(found, "MIN"))
    if found == 0:
        height, width = config.data.height_width
        error = ConfigError(
            f"data.batch_size: auto: training on one image of {height} x {width} px takes more than "
            f"data.memory_fraction: {fraction} of the {total / GIB:.1f} GiB of {device}; raise it, free memory that "
            "others hold, or lower data.image_size"
        )
        error.on_all_ranks = True
        raise error
    logger.info(
        "data.batch_size: auto is %d images a device, within %.1f of the %.1f GiB of %s",
        found, fraction * total / GIB, total / GIB, device,
    )  # fmt: skip
    return found


def with_batch_size(config: Config, resumed: Mapping[str, Any] | None, device: torch.device) -> Config:
    """``data.batch_size: auto`` as a number: what fits, or what the resumed run has.

    Args:
        config: of the run.
        resumed: the checkpoint that it goes on from.
        device: of this rank, with an index.

    Raises:
        ConfigError: as :func:`find_batch_size`.
        DatasetError: the data set cannot be used.
    """
    if resumed is not None:
        images = resumed["config"]["data"]["batch_size"]
    else:
        dataset = from_rank_zero(lambda: load_dataset_file(str(config.data.dataset)))
        images = find_batch_size(config, dataset.names, device) * idist.get_world_size()
        shown = from_rank_zero(lambda: sum(1 for folder in dataset.train for _ in find_images(folder)))
        if images > shown:
            images = max(shown, idist.get_world_size())
            logger.warning("data.batch_size: auto is %d, all training images; fewer would mean more steps", images)
    return config.model_copy(update={"data": config.data.model_copy(update={"batch_size": images})})


def largest_batch_size(measure: Callable[[int], int], budget_bytes: int) -> int:
    """The largest batch whose memory is within a budget, in few trials.

    The first guesses follow the line through the last two sizes that were measured, the others halve what is left
    between a size that fits and one that does not; so they do at once after running out of memory.

    Args:
        measure: number of images to bytes, rising; may raise ``torch.OutOfMemoryError``. Other errors are passed on.
        budget_bytes: what may be used.

    Returns:
        A multiple of 8 up to 1024 of which the next multiple does not fit; else 4, 2 or 1; 0 if none fits. It has been
        measured to fit.
    """
    used: dict[int, int] = {}

    def fits(images: int) -> bool:
        try:
            used[images] = measure(images)
        except torch.OutOfMemoryError:
            return False
        return used[images] <= budget_bytes

    if not fits(STEP_IMAGES):
        return next((images for images in (4, 2, 1) if fits(images)), 0)
    low, high = STEP_IMAGES, MOST_IMAGES + STEP_IMAGES  # low fits, high does not or is never tried
    guess = 2 * STEP_IMAGES
    while high - low > STEP_IMAGES:
        if fits(guess):
            low = guess
        else:
            high = guess
        follow_line = len(used) <= SECANT_TRIALS and (guess in used)
        guess = _on_line(used, budget_bytes) if follow_line else (low + high) // 2
        guess = min(max(guess // STEP_IMAGES * STEP_IMAGES, low + STEP_IMAGES), high - STEP_IMAGES)
    return low


def train_on_noise(
    config: Config, names: Sequence[str], device: torch.device, images: int, *, teacher: Teacher | None = None
) -> None:
    """Trains a throw-away network for two optimizer steps of two batches: all memory that training needs is in use.

    There are gradients from before, the optimizer's state and the average; both assigners come up. The random state
    is restored; kernels are chosen as the run does.
    """
    head = config.model.head
    head = head.model_copy(update={"atss_warmup_epoch": min(head.atss_warmup_epoch, 1)})
    data = config.data.model_copy(update={"batch_size": images * idist.get_world_size()})
    config = config.model_copy(update={"data": data, "model": config.model.model_copy(update={"head": head})})
    before = random_state()
    seed_everything(config.train.seed, deterministic=config.train.deterministic)
    try:
        model = build_model(config.model, len(names), fuse_ab=config.train.fuse_ab, distill_ns=config.distill_ns)
        model.to(device).train()
        model.to(memory_format=memory_format(device))  # type: ignore[call-overload]
        optimizer = build_optimizer(config, model)
        precision = resolve_precision(config, device)
        # With the usual scale the first steps would not be taken.
        scaler = torch.amp.GradScaler(device.type, init_scale=1.0, enabled=precision == "fp16")
        engine = create_trainer(
            model,
            build_loss(config, len(names), reduce_over_ranks=False),
            scaler,
            device=device,
            autocast_dtype=autocast_dtype(precision),
            teacher=teacher or no_teacher,
        )
        engine.logger = silent
        GradientAccumulation(optimizer, scaler, lambda iteration: 2).attach(engine)
        ModelEMA(model).attach(engine)
        several = idist.get_world_size() > 1
        buckets = [torch.empty_like(p) for p in model.parameters()] if several else []  # what averaging over ranks adds
        engine.run([_noise(images, config.data.height_width, len(names))] * 2, max_epochs=2)
        del buckets
    finally:
        set_random_state(before)


def _search(config: Config, names: Sequence[str], device: torch.device, budget_bytes: int) -> int:
    with torch.device("meta"):  # a teacher asks for shapes only
        student = build_model(config.model, len(names), distill_ns=config.distill_ns)
    student.names = list(names)
    teacher = build_teacher(config, student, device)

    def measure(images: int) -> int:
        _return_memory()
        train_on_noise(config, names, device, images, teacher=teacher)
        torch.cuda.synchronize(device)
        free, total = torch.cuda.mem_get_info(device)
        return total - free

    return largest_batch_size(measure, budget_bytes)


def _on_line(used: dict[int, int], budget_bytes: int) -> int:
    """Where the line through the two largest sizes that were measured reaches the budget."""
    first, second = sorted(used)[-2:]
    per_image = max((used[second] - used[first]) / (second - first), 1.0)
    return int(first + (budget_bytes - used[first]) / per_image)


def _noise(images: int, height_width: tuple[int, int], num_classes: int) -> Batch:
    """A batch of random pixels and boxes."""
    rng = np.random.default_rng(0)
    counts = np.full(images, BOXES_PER_IMAGE)
    counts[0] = CROWDED_BOXES
    n = counts.sum()
    size = rng.uniform(0.02, 0.4, (n, 2))
    centre = rng.uniform(size / 2, 1 - size / 2)
    label = rng.integers(num_classes, size=(n, 1))
    rows = np.concatenate([np.repeat(np.arange(images), counts)[:, None], label, centre, size], axis=1)
    return Batch(
        images=torch.from_numpy(rng.integers(0, 256, (images, 3, *height_width), dtype=np.uint8)),
        targets=torch.from_numpy(rows.astype(np.float32)),
        paths=[""] * images,
        indices=torch.zeros(images, dtype=torch.int64),
        letterbox=torch.zeros(images, 6),
    )


def _return_memory() -> None:
    """Gives all memory that nothing holds any more back to the device."""
    gc.collect()  # an engine and its handlers refer to each other
    torch.cuda.empty_cache()
