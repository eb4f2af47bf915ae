"""Inputs and guards that several tests of the losses use."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from yolov6_ignite.losses import DetectionLoss
from yolov6_ignite.models import DetectorOutput


class GoldenCase(NamedTuple):
    """One case of the reference, with a function that runs a loss on it."""

    settings: dict[str, Any]
    arrays: dict[str, np.ndarray]


def detector_output(
    logits: Tensor, distances: Tensor, image_size: tuple[int, int], strides: tuple[int, ...] = (8, 16, 32)
) -> DetectorOutput:
    """Predictions with feature maps of the right sizes and nothing in them."""
    maps = tuple(logits.new_empty(1, 0, image_size[0] // s, image_size[1] // s) for s in strides)
    return DetectorOutput(maps, logits, distances)


@pytest.fixture(scope="session")
def make_output() -> Callable[..., DetectorOutput]:
    return detector_output


def read_case(path: Path) -> GoldenCase:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    return GoldenCase(json.loads(str(arrays.pop("case"))), arrays)


@pytest.fixture(scope="session")
def check_case() -> Callable[[Path], None]:
    """Runs the loss on a file of golden numbers and compares values and gradients."""

    def check(path: Path) -> None:
        settings, arrays = read_case(path)
        loss = DetectionLoss(
            settings["num_classes"],
            strides=settings["strides"],
            iou_type=settings["iou"],
            reg_max=settings["reg_max"],
            atss_warmup_epochs=settings["warm"],
        )
        p = torch.from_numpy(arrays["pred_scores"]).double()
        logits = torch.logit(p).float().requires_grad_()
        distances = torch.from_numpy(arrays["pred_distri"]).requires_grad_()
        size = tuple(settings["hw"])
        total, items = loss(
            detector_output(logits, distances, size, settings["strides"]),
            torch.from_numpy(arrays["targets"]),
            epoch=settings["epoch"],
            max_epochs=settings["max_epoch"],
            image_size=size,
        )
        total.backward()
        assert total.item() == pytest.approx(float(arrays["loss"]), rel=1e-5)
        assert [items[name].item() for name in ("iou", "dfl", "cls")] == pytest.approx(arrays["items"], rel=1e-5)
        by_logit = torch.from_numpy(arrays["grad_scores"]) * p * (1 - p)
        for got, expected in ((logits.grad, by_logit), (distances.grad, torch.from_numpy(arrays["grad_distri"]))):
            torch.testing.assert_close(
                got.double(), expected.double(), rtol=1e-4, atol=1e-4 * float(expected.abs().max())
            )

    return check


class NoSynchronisation(TorchDispatchMode):
    """Fails on operations that make the host wait for a device, whatever the device of this run."""

    FORBIDDEN = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "_unique2", "unique_dim", "equal")

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        boolean_index = name in {"index", "index_put", "index_put_"} and any(
            x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]
        )
        # Without output_size the length of the result is read from the device.
        unknown_length = name == "repeat_interleave" and (kwargs or {}).get("output_size") is None
        if name in self.FORBIDDEN or boolean_index or unknown_length:
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


class PeakMemory(TorchDispatchMode):
    """Follows the bytes of all tensors made while it is active."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, Tensor):
                self._follow(tensor.untyped_storage())
        return result

    def _follow(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.known:
            return
        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


@pytest.fixture
def no_synchronisation() -> NoSynchronisation:
    return NoSynchronisation()


@pytest.fixture
def peak_memory() -> PeakMemory:
    return PeakMemory()
