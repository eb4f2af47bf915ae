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
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from yolov6_ignite.losses import AnchorAidedLoss, DetectionLoss, DistillationLoss
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


def golden_loss(settings: dict[str, Any]) -> nn.Module:
    """The objective of a case."""
    common = {"strides": settings["strides"], "iou_type": settings["iou"]}
    if settings["kind"] == "ab":
        return AnchorAidedLoss(settings["num_classes"], **common)
    loss = DetectionLoss(
        settings["num_classes"], reg_max=settings["reg_max"], atss_warmup_epochs=settings["warm"], **common
    )
    if settings["kind"] == "af":
        return loss
    return DistillationLoss(loss, temperature=settings["temperature"], features=settings["feat"])


def golden_predictions(
    case: GoldenCase, dtype: torch.dtype
) -> tuple[DetectorOutput, DetectorOutput | None, dict[str, Tensor]]:
    """Predictions of student and teacher, and the leaves that get gradients under the names of the case's arrays."""
    settings, arrays = case

    def values(name: str) -> Tensor:
        array = torch.from_numpy(arrays[name])
        return torch.logit(array.double()).to(dtype) if name.endswith("_scores") else array.to(dtype)

    names = {"grad_scores": "pred_scores", "grad_distri": "pred_distri", "grad_ltrb": "pred_ltrb"}
    names |= {f"grad_feat{level}": f"student_feat{level}" for level in range(3)}
    leaves = {grad: values(name).requires_grad_() for grad, name in names.items() if name in arrays}
    logits, distances = leaves["grad_scores"], leaves["grad_distri"]
    maps = tuple(leaves[name] for name in leaves if "feat" in name)
    size, strides = tuple(settings["hw"]), settings["strides"]
    if settings["kind"] == "ab":
        anchors = logits.shape[1] // 3
        output = detector_output(logits.detach()[:, :anchors], distances.detach()[:, :anchors], size, strides)
        return output._replace(anchor_logits=logits, anchor_boxes=distances), None, leaves
    output = detector_output(logits, distances, size, strides)
    output = output._replace(neck_maps=maps or None, ltrb=leaves.get("grad_ltrb"))
    if settings["kind"] == "af":
        return output, None, leaves
    teacher = detector_output(values("teacher_scores"), values("teacher_distri"), size, strides)
    return output, teacher._replace(neck_maps=tuple(values(f"teacher_feat{level}") for level in range(3))), leaves


@pytest.fixture(scope="session")
def check_case() -> Callable[..., None]:
    """Runs the loss on a file of golden numbers and compares values and gradients.

    In another type than fp32, values only, to 2 %: what is rounded may be assigned otherwise.
    """

    def check(path: Path, dtype: torch.dtype = torch.float32) -> None:
        case = read_case(path)
        settings, arrays = case
        output, teacher, leaves = golden_predictions(case, dtype)
        total, items = golden_loss(settings)(
            output,
            torch.from_numpy(arrays["targets"]),
            epoch=settings["epoch"],
            max_epochs=settings["max_epoch"],
            image_size=tuple(settings["hw"]),
            teacher=teacher,
        )
        total.backward()
        tolerance = 1e-5 if dtype == torch.float32 else 0.02
        assert list(items) == ["iou", "dfl", "cls", "cwd"][: len(arrays["items"])]
        assert total.item() == pytest.approx(float(arrays["loss"]), rel=tolerance)
        assert [items[name].item() for name in items] == pytest.approx(arrays["items"], rel=tolerance)
        for name, leaf in leaves.items():
            if name not in arrays:
                continue
            assert leaf.grad.dtype == dtype
            expected = torch.from_numpy(arrays[name]).double()
            if name == "grad_scores":
                p = torch.from_numpy(arrays["pred_scores"]).double()
                expected = expected * p * (1 - p)
            if dtype == torch.float32:
                largest = float(expected.abs().max())
                torch.testing.assert_close(leaf.grad.double(), expected, rtol=1e-4, atol=1e-4 * largest)

    return check


class Scene(NamedTuple):
    """What an objective is called with: predictions of student and teacher, and objects."""

    output: DetectorOutput
    teacher: DetectorOutput
    targets: Tensor
    size: tuple[int, int]

    @property
    def leaves(self) -> dict[str, Tensor]:
        """All predictions of the student that can get a gradient."""
        named = {name: value for name, value in self.output._asdict().items() if isinstance(value, Tensor)}
        return named | {f"map {level}": x for level, x in enumerate(self.output.neck_maps or ())}


@pytest.fixture(scope="session")
def make_scene() -> Callable[..., Scene]:
    """Random predictions of every branch there is, and `boxes` objects in each image."""

    def make(
        batch: int = 2,
        boxes: int = 5,
        classes: int = 3,
        size: tuple[int, int] = (128, 160),
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
    ) -> Scene:
        generator = torch.Generator().manual_seed(seed)
        cells = [(size[0] // stride, size[1] // stride) for stride in (8, 16, 32)]
        anchors = sum(height * width for height, width in cells)

        def random(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator)

        def network(teaches: bool) -> DetectorOutput:
            def ready(x: Tensor) -> Tensor:
                return x.to(device, dtype).requires_grad_(not teaches)

            return DetectorOutput(
                feature_maps=tuple(torch.empty(batch, 0, *level) for level in cells),
                logits=ready(3 * random(batch, anchors, classes) - 4),
                distances=ready(4 * random(batch, anchors, 68)),
                anchor_logits=ready(3 * random(batch, 3 * anchors, classes) - 4),
                anchor_boxes=ready(
                    torch.cat((random(batch, 3 * anchors, 2), 0.5 + 6 * random(batch, 3 * anchors, 2)), -1)
                ),
                ltrb=ready(4 * random(batch, anchors, 4)),
                neck_maps=tuple(ready(random(batch, 4, *level)) for level in cells),
            )

        sides = 0.05 + 0.5 * random(batch * boxes, 2)
        centres = sides / 2 + random(batch * boxes, 2) * (1 - sides)
        image = torch.arange(batch).repeat_interleave(boxes)[:, None]
        label = torch.randint(classes, (batch * boxes, 1), generator=generator)
        targets = torch.cat((image, label, centres, sides), 1)
        return Scene(network(False), network(True), targets, size)

    return make


@pytest.fixture(scope="session")
def pseudo_random() -> Callable[..., Tensor]:
    """The numbers in [0, 1) that the published losses were computed from (specification, training 22.1)."""

    def make(k: int, *shape: int) -> Tensor:
        j = np.arange(1, np.prod(shape) + 1)
        t = 43758.5453 * np.sin(12.9898 * j + 78.233 * k)
        return torch.from_numpy((t - np.floor(t)).astype(np.float32).reshape(shape))

    return make


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
