"""The detection loss against the reference's numbers, and what it promises beyond them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import pytest
import torch
from torch import Tensor

from yolov6_ignite.config_file import load_config
from yolov6_ignite.errors import DatasetError
from yolov6_ignite.losses import DetectionLoss, build_loss
from yolov6_ignite.models import DetectorOutput

MakeOutput = Callable[..., DetectorOutput]

REPOSITORY = Path(__file__).resolve().parents[2]
FIXTURES = sorted((REPOSITORY / "tests/data/losses").glob("*.npz"))
GOLDEN = sorted((REPOSITORY.parent / "shared/golden/losses").glob("*_af_*.npz"))

SIZE = (128, 160)  # height, width: 420 anchors
TARGETS = torch.tensor(
    [
        [0, 1, 0.30, 0.40, 0.35, 0.50],
        [0, 2, 0.55, 0.50, 0.60, 0.45],
        [0, 0, 0.80, 0.20, 0.10, 0.12],
        [1, 0, 0.5, 0.5, 0.9, 0.9],
    ]
)
SECOND_IMAGE, NONE = TARGETS[3:], TARGETS[:0]


def pseudo_random(k: int, *shape: int) -> Tensor:
    """The numbers in [0, 1) that the published losses were computed from (specification, training 22.1)."""
    j = np.arange(1, np.prod(shape) + 1)
    t = 43758.5453 * np.sin(12.9898 * j + 78.233 * k)
    return torch.from_numpy((t - np.floor(t)).astype(np.float32).reshape(shape))


def predictions(reg_max: int) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities, their logits and box predictions; gradients are followed for the last two."""
    p = (0.9 * pseudo_random(1, 2, 420, 3) + 0.05).double()
    distances = 4 * pseudo_random(2, 2, 420, 68) - 2 if reg_max else 4 * pseudo_random(2, 2, 420, 4)
    return p, torch.logit(p).float().requires_grad_(), distances.requires_grad_()


def random_batch(
    batch: int, boxes: int, classes: int, size: tuple[int, int], reg_max: int, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, box predictions and targets."""
    generator = torch.Generator().manual_seed(seed)
    anchors = sum((size[0] // s) * (size[1] // s) for s in (8, 16, 32))
    logits = torch.randn(batch, anchors, classes, generator=generator) - 3
    distances = 4 * torch.rand(batch, anchors, 4 * (reg_max + 1), generator=generator)
    sides = 0.05 + 0.5 * torch.rand(batch * boxes, 2, generator=generator)
    centres = sides / 2 + torch.rand(batch * boxes, 2, generator=generator) * (1 - sides)
    image = torch.arange(batch).repeat_interleave(boxes)[:, None]
    label = torch.randint(classes, (batch * boxes, 1), generator=generator)
    return logits.requires_grad_(), distances.requires_grad_(), torch.cat((image, label, centres, sides), 1)


@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.stem)
def test_reference_case(path: Path, check_case: Callable[[Path], None]) -> None:
    check_case(path)


@pytest.mark.skipif(not GOLDEN, reason="needs the reference data beside the project")
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_every_reference_case(path: Path, check_case: Callable[[Path], None]) -> None:
    check_case(path)


@pytest.mark.parametrize(
    ("iou_type", "reg_max", "warmup", "targets", "total", "items", "gradients"),
    [
        ("giou", 0, 0, TARGETS, 204.8859250790, (1.31921215, 0, 203.56671293), (1297.505859, 1.258641)),
        ("giou", 16, 0, TARGETS, 94.3277847600, (1.02140196, 1.68483279, 91.62155001), (582.727234, 2.201902)),
        ("siou", 0, 0, TARGETS, 204.8767843814, (1.31007146, 0, 203.56671293), (1297.505859, 1.150675)),
        ("siou", 16, 0, TARGETS, 94.3485443442, (1.04216154, 1.68483279, 91.62155001), (582.727234, 2.130473)),
        ("ciou", 0, 0, TARGETS, 204.8551300119, (1.28841709, 0, 203.56671293), (1297.505859, 1.130242)),
        ("diou", 0, 0, TARGETS, 204.8515493464, (1.28483642, 0, 203.56671293), (1297.505859, 1.127663)),
        ("giou", 0, 4, TARGETS, 224.2724286876, (1.69378489, 0, 222.5786438), (1420.709717, 1.277275)),
        # The target scores sum to less than 1: the sums are not divided.
        ("giou", 16, 4, TARGETS, 912.5772074372, (2.19686376, 1.70376897, 908.67657471), (5810.023926, 0.89547)),
        ("giou", 0, 0, SECOND_IMAGE, 680.6098304246, (1.39512134, 0, 679.21470908), (4340.304199, 1.449775)),
        ("giou", 0, 0, NONE, 918.1852416992, (0, 0, 918.1852417), (5878.669922, 0)),
        ("giou", 0, 4, NONE, 918.1852416992, (0, 0, 918.1852417), (5878.669922, 0)),
        ("giou", 16, 0, NONE, 918.1852416992, (0, 0, 918.1852417), (5878.669922, 0)),
    ],
)
def test_published_numbers(
    iou_type: Any,
    reg_max: int,
    warmup: int,
    targets: Tensor,
    total: float,
    items: tuple[float, ...],
    gradients: tuple[float, float],
    make_output: MakeOutput,
) -> None:
    p, logits, distances = predictions(reg_max)
    loss = DetectionLoss(3, iou_type=iou_type, reg_max=reg_max, atss_warmup_epochs=warmup)
    got, terms = loss(make_output(logits, distances, SIZE), targets, epoch=3, max_epochs=20, image_size=SIZE)
    got.backward()
    assert got.item() == pytest.approx(total, rel=1e-5)
    assert [terms[name].item() for name in ("iou", "dfl", "cls")] == pytest.approx(items, rel=1e-5)
    assert not any(term.requires_grad for term in terms.values())
    by_probability = (logits.grad / (p * (1 - p))).abs().sum().item()
    assert (by_probability, distances.grad.abs().sum().item()) == pytest.approx(gradients, rel=1e-4)


def test_warmup_ends(make_output: MakeOutput) -> None:
    _, logits, distances = predictions(0)
    loss = DetectionLoss(3, atss_warmup_epochs=4)

    def run(epoch: int) -> float:
        output = make_output(logits, distances, SIZE)
        return loss(output, TARGETS, epoch=epoch, max_epochs=20, image_size=SIZE)[0].item()

    assert run(3) == pytest.approx(224.2724286876, rel=1e-5)
    assert run(4) == pytest.approx(204.8859250790, rel=1e-5)


def test_build_loss_reads_the_recipe() -> None:
    overrides = ["model.head.use_dfl=true", "model.head.reg_max=16", "model.head.atss_warmup_epoch=4"]
    loss = build_loss(load_config(REPOSITORY / "configs/yolov6n.yaml", overrides), 7)
    settings = (loss.num_classes, loss.strides, loss.iou_type, loss.reg_max, loss.atss_warmup_epochs)
    assert settings == (7, (8, 16, 32), "siou", 16, 4)
    assert loss.reference_world_size == 8
    assert not list(loss.parameters())


@pytest.mark.parametrize("warmup", [0, 4], ids=["tal", "atss"])
@pytest.mark.parametrize("reg_max", [0, 16])
def test_nothing_waits_for_the_device(
    warmup: int, reg_max: int, make_output: MakeOutput, no_synchronisation: AbstractContextManager[None]
) -> None:
    logits, distances, targets = random_batch(2, 7, 3, SIZE, reg_max)
    loss = DetectionLoss(3, iou_type="siou", reg_max=reg_max, atss_warmup_epochs=warmup)
    with no_synchronisation:
        total, _ = loss(make_output(logits, distances, SIZE), targets, epoch=0, max_epochs=9, image_size=SIZE)
        total.backward()


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: bool(x[0] > 0),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.repeat_interleave((x > 0).long()),
        lambda x: x.masked_select(x > 0),
    ],
)
def test_waiting_would_be_noticed(
    wait: Callable[[Tensor], object], no_synchronisation: AbstractContextManager[None]
) -> None:
    with no_synchronisation, pytest.raises(AssertionError, match="waits for the device"):
        wait(torch.ones(3))


@pytest.mark.parametrize("warmup", [0, 4], ids=["tal", "atss"])
def test_memory_of_a_thousand_objects_an_image(warmup: int, make_output: MakeOutput, peak_memory: Any) -> None:
    logits, distances, targets = random_batch(8, 1000, 80, (640, 640), 16)
    loss = DetectionLoss(80, iou_type="siou", reg_max=16, atss_warmup_epochs=warmup)
    output = make_output(logits, distances, (640, 640))
    with peak_memory:
        total, _ = loss(output, targets, epoch=0, max_epochs=9, image_size=(640, 640))
        total.backward()
    scores_alone = logits.numel() * logits.element_size()
    assert scores_alone < peak_memory.peak < 2**30  # the predictions themselves are counted in it
    assert logits.grad.isfinite().all()


def test_autocast_changes_nothing(make_output: MakeOutput) -> None:
    logits, distances, targets = random_batch(2, 7, 3, SIZE, 16)
    loss = DetectionLoss(3, iou_type="siou", reg_max=16)
    output = make_output(logits, distances, SIZE)
    expected, _ = loss(output, targets, epoch=0, max_epochs=9, image_size=SIZE)
    with torch.autocast("cpu", torch.bfloat16):
        got, _ = loss(output, targets, epoch=0, max_epochs=9, image_size=SIZE)
    assert got.dtype == torch.float32
    assert torch.equal(got, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reg_max", [0, 16])
def test_half_precision_predictions(dtype: torch.dtype, reg_max: int, make_output: MakeOutput) -> None:
    logits, distances, targets = random_batch(4, 9, 3, SIZE, reg_max)
    loss = DetectionLoss(3, reg_max=reg_max)
    half = [x.detach().to(dtype).requires_grad_() for x in (logits, distances)]
    expected, expected_items = loss(
        make_output(logits, distances, SIZE), targets, epoch=0, max_epochs=9, image_size=SIZE
    )
    got, items = loss(make_output(*half, SIZE), targets, epoch=0, max_epochs=9, image_size=SIZE)
    got.backward()
    assert got.item() == pytest.approx(expected.item(), rel=0.02)
    for name, item in items.items():
        assert item.item() == pytest.approx(expected_items[name].item(), rel=0.02, abs=1e-6)
    assert [x.grad.dtype for x in half] == [dtype, dtype]


def test_images_may_come_in_any_order(make_output: MakeOutput) -> None:
    logits, distances, targets = random_batch(3, 5, 3, SIZE, 16)
    order = torch.tensor([2, 0, 1])
    moved = targets.clone()
    moved[:, 0] = order.argsort()[targets[:, 0].long()]
    loss = DetectionLoss(3, reg_max=16)
    first, _ = loss(make_output(logits, distances, SIZE), targets, epoch=0, max_epochs=9, image_size=SIZE)
    second, _ = loss(make_output(logits[order], distances[order], SIZE), moved, epoch=0, max_epochs=9, image_size=SIZE)
    torch.testing.assert_close(first, second)


def test_image_size_may_change_from_batch_to_batch(make_output: MakeOutput) -> None:
    loss = DetectionLoss(3)
    for size in (SIZE, (96, 96), SIZE):
        logits, distances, targets = random_batch(2, 5, 3, size, 0)
        output = make_output(logits, distances, size)
        got, _ = loss(output, targets, epoch=0, max_epochs=9, image_size=size)
        expected, _ = DetectionLoss(3)(output, targets, epoch=0, max_epochs=9, image_size=size)
        assert torch.equal(got, expected)


def test_box_predictions_without_objects_get_gradients_of_zero(make_output: MakeOutput) -> None:
    _, logits, distances = predictions(16)
    loss = DetectionLoss(3, reg_max=16)
    total, _ = loss(make_output(logits, distances, SIZE), NONE, epoch=0, max_epochs=9, image_size=SIZE)
    total.backward()
    assert distances.grad is not None
    assert not distances.grad.any()


def test_normaliser_is_what_one_reference_device_saw(make_output: MakeOutput) -> None:
    logits, distances, targets = random_batch(4, 9, 3, SIZE, 16)
    arguments = {"epoch": 0, "max_epochs": 9, "image_size": SIZE}
    one, two, many = (
        DetectionLoss(3, reg_max=16, reference_world_size=n)(make_output(logits, distances, SIZE), targets, **arguments)
        for n in (1, 2, 10_000)
    )
    torch.testing.assert_close(two[0], 2 * one[0])
    # So many devices that one of them saw a sum below 1: not divided.
    alone = DetectionLoss(3, reg_max=16)._normaliser(torch.tensor([0.25, 0.5]))
    assert alone == 1
    assert many[0] < 10_000 * one[0]


def _share(rank: int, folder: str) -> None:
    logits, distances, targets = random_batch(4, 9, 3, SIZE, 16)
    targets = targets[targets[:, 0] != 3]  # the second rank's last image is empty
    mine = slice(2 * rank, 2 * rank + 2)
    own = targets[(targets[:, 0] >= mine.start) & (targets[:, 0] < mine.stop)]
    own[:, 0] -= mine.start
    logits, distances = (x.detach()[mine].requires_grad_() for x in (logits, distances))
    maps = tuple(torch.empty(1, 0, SIZE[0] // s, SIZE[1] // s) for s in (8, 16, 32))
    loss = DetectionLoss(3, reg_max=16, reference_world_size=8)
    total, _ = loss(DetectorOutput(maps, logits, distances), own, epoch=0, max_epochs=9, image_size=SIZE)
    total.backward()
    torch.save((total.detach(), logits.grad, distances.grad), f"{folder}/{rank}.pt")


def test_two_processes_have_the_gradients_of_one(tmp_path: Path, make_output: MakeOutput, free_port: int) -> None:
    with idist.Parallel("gloo", nproc_per_node=2, master_addr="127.0.0.1", master_port=free_port) as parallel:
        parallel.run(_share, str(tmp_path))
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]

    logits, distances, targets = random_batch(4, 9, 3, SIZE, 16)
    loss = DetectionLoss(3, reg_max=16, reference_world_size=8)
    output = make_output(logits, distances, SIZE)
    total, _ = loss(output, targets[targets[:, 0] != 3], epoch=0, max_epochs=9, image_size=SIZE)
    total.backward()
    torch.testing.assert_close(parts[0][0] + parts[1][0], total.detach())
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), logits.grad)
    torch.testing.assert_close(torch.cat([part[2] for part in parts]), distances.grad)


def test_teacher_is_refused(make_output: MakeOutput) -> None:
    _, logits, distances = predictions(16)
    output = make_output(logits, distances, SIZE)
    with pytest.raises(ValueError, match="does not distil"):
        DetectionLoss(3, reg_max=16)(output, TARGETS, epoch=0, max_epochs=9, image_size=SIZE, teacher=output)


def test_unknown_class_is_named(make_output: MakeOutput) -> None:
    _, logits, distances = predictions(0)
    with pytest.raises(DatasetError, match="class 2"):
        DetectionLoss(2)(make_output(logits[..., :2], distances, SIZE), TARGETS, epoch=0, max_epochs=9, image_size=SIZE)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("warmup", [0, 4], ids=["tal", "atss"])
def test_cuda_agrees_and_does_not_wait(warmup: int, make_output: MakeOutput) -> None:
    logits, distances, targets = random_batch(4, 30, 8, (320, 320), 16)
    loss = DetectionLoss(8, iou_type="siou", reg_max=16, atss_warmup_epochs=warmup)
    arguments = {"epoch": 0, "max_epochs": 9, "image_size": (320, 320)}
    expected, _ = loss(make_output(logits, distances, (320, 320)), targets, **arguments)
    expected.backward()

    on_device = [x.detach().cuda().requires_grad_() for x in (logits, distances)]
    output = make_output(*on_device, (320, 320))
    torch.cuda.set_sync_debug_mode("error")
    try:
        total, _ = loss(output, targets, **arguments)
        total.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(total.cpu(), expected, rtol=1e-5, atol=0)
    for got, reference in zip(on_device, (logits, distances), strict=True):
        torch.testing.assert_close(got.grad.cpu(), reference.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("warmup", [0, 4], ids=["tal", "atss"])
def test_cuda_repeats_itself(warmup: int, make_output: MakeOutput) -> None:
    results = []
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(2):
            logits, distances, targets = random_batch(4, 30, 8, (320, 320), 16)
            on_device = [x.detach().cuda().requires_grad_() for x in (logits, distances)]
            loss = DetectionLoss(8, iou_type="siou", reg_max=16, atss_warmup_epochs=warmup)
            total, _ = loss(make_output(*on_device, (320, 320)), targets, epoch=0, max_epochs=9, image_size=(320, 320))
            total.backward()
            results.append((total.detach(), *(x.grad for x in on_device)))
    finally:
        torch.use_deterministic_algorithms(False)
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)
