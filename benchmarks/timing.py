"""The stopwatch that benchmarks share."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def seconds(call: Callable[[], None], device: torch.device) -> float:
    """Time of one call, the device's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
