"""Devices, precision and what ranks do together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import ignite.distributed as idist
import torch
import torch.distributed as dist
from torch import nn

from yolov6_ignite.config import Config
from yolov6_ignite.errors import ConfigError, UserError

__all__ = [
    "autocast_dtype",
    "from_rank_zero",
    "memory_format",
    "require_ranks",
    "resolve_device",
    "resolve_precision",
    "same_on_all_ranks",
    "wrap_for_ranks",
]

T = TypeVar("T")


def require_ranks(config: Config) -> None:
    """Verifies that this process group has the ranks that ``train.devices`` asks for.

    Raises:
        ConfigError: it has another number.
    """
    if config.train.devices not in (1, idist.get_world_size()):
        raise ConfigError(
            f"train.devices: {config.train.devices}, but this process group has {idist.get_world_size()} rank(s); "
            "start with `python -m yolov6_ignite.train` or `torchrun --nproc_per_node`"
        )


def resolve_device(name: str) -> torch.device:
    """The device of this rank: ``auto`` is CUDA where there is one, else the CPU.

    Raises:
        ConfigError: the machine has no such device.
    """
    kind, _, index = name.partition(":")
    if kind == "auto":
        kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError("train.device: cuda, but torch finds no CUDA device; use train.device=cpu or auto")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("train.device: mps, but torch finds no MPS device; use train.device=cpu or auto")
    if kind != "cuda":
        return torch.device(kind)
    number = int(index) if index else idist.get_local_rank()
    if number >= torch.cuda.device_count():
        raise ConfigError(f"train.device: cuda:{number}, but there are {torch.cuda.device_count()} CUDA devices")
    device = torch.device("cuda", number)
    torch.cuda.set_device(device)
    return device


def resolve_precision(config: Config, device: torch.device) -> str:
    """``train.precision``, ``auto`` by device: bf16 on CUDA that has it, fp16 on older CUDA, fp32 elsewhere."""
    if config.train.precision != "auto":
        return config.train.precision
    if device.type != "cuda":
        return "fp32"
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"


def autocast_dtype(precision: str) -> torch.dtype | None:
    """The lower precision of autocast, None for fp32."""
    return {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last where it was measured to be faster: CUDA and CPU (YOLOv6-N trains 1.4 times faster on a CPU)."""
    return torch.channels_last if device.type in {"cuda", "cpu"} else torch.contiguous_format


def wrap_for_ranks(model: nn.Module, device: torch.device, *, sync_bn: bool) -> nn.Module:
    """The model as it is on one rank; with averaged gradients on several."""
    if idist.get_world_size() == 1:
        return model
    if sync_bn:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    ids = [device.index] if device.type == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=False)


@contextmanager
def same_on_all_ranks() -> Iterator[None]:
    """Marks errors inside as ones that every rank has, since they depend on configuration and files alone."""
    try:
        yield
    except UserError as error:
        error.on_all_ranks = True
        raise


def from_rank_zero(function: Callable[[], T]) -> T:
    """Calls a function on rank 0 and gives every rank its value, or its error.

    Raises:
        UserError: whatever the function raised, on every rank, so that none waits for ever.
    """
    if idist.get_world_size() == 1:
        return function()
    box: list[object] = [None]
    if idist.get_rank() == 0:
        try:
            box[0] = function()
        except UserError as error:
            box[0] = error
    dist.broadcast_object_list(box, src=0)
    if isinstance(box[0], UserError):
        box[0].on_all_ranks = True
        idist.barrier()  # all ranks have the error before the first one leaves
        raise box[0]
    return box[0]  # type: ignore[return-value]
