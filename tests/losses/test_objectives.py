"""What every objective promises: no waiting, fp32, bounded memory, finite gradients, class weights, one sum."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import ignite.distributed as idist
import pytest
import torch
from torch import Tensor, nn

from yolov6_ignite.losses import AnchorAidedLoss, DetectionLoss, DistillationLoss, SumOfLosses

MakeScene = Callable[..., Any]


def detection(classes: int, **common: Any) -> nn.Module:
    return DetectionLoss(classes, reg_max=16, iou_type="siou", atss_warmup_epochs=2, **common)


def anchor_aided(classes: int, **common: Any) -> nn.Module:
    return AnchorAidedLoss(classes, iou_type="siou", **common)


def distillation(classes: int, **common: Any) -> nn.Module:
    return DistillationLoss(DetectionLoss(classes, reg_max=16, **common), features=True)


def combined(classes: int, **common: Any) -> nn.Module:
    return SumOfLosses(detection(classes, **common), anchor_aided(classes, **common))


OBJECTIVES = [detection, anchor_aided, distillation, combined]
every_objective = pytest.mark.parametrize("make_loss", OBJECTIVES, ids=lambda make: make.__name__)


def run(loss: nn.Module, scene: Any, targets: Tensor | None = None, epoch: int = 3) -> tuple[Tensor, dict[str, Tensor]]:
    teacher = {"teacher": scene.teacher} if isinstance(loss, DistillationLoss) else {}
    targets = scene.targets if targets is None else targets
    return loss(scene.output, targets, epoch=epoch, max_epochs=9, image_size=scene.size, **teacher)


@every_objective
def test_total_is_the_sum_of_its_terms(make_loss: Any, make_scene: MakeScene) -> None:
    total, items = run(make_loss(3), make_scene())
    assert total.item() == pytest.approx(sum(item.item() for item in items.values()), rel=1e-6)
    assert list(items) == ["iou", "dfl", "cls"] + ["cwd"] * (make_loss is distillation)
    assert not any(item.requires_grad for item in items.values())
    assert all(item.ndim == 0 and item.dtype == torch.float32 for item in items.values())


@every_objective
def test_nothing_waits_for_the_device(
    make_loss: Any, make_scene: MakeScene, no_synchronisation: AbstractContextManager[None]
) -> None:
    scene, weights = make_scene(), torch.ones(3)
    loss = make_loss(3, class_weights=weights)
    with no_synchronisation:
        run(loss, scene)[0].backward()


@every_objective
def test_memory_of_a_thousand_objects_an_image(make_loss: Any, make_scene: MakeScene, peak_memory: Any) -> None:
    scene = make_scene(4, 1000, 80, (640, 640))
    with peak_memory:
        run(make_loss(80), scene)[0].backward()
    predictions = sum(x.nbytes for x in scene.leaves.values())
    # One number for each pair of anchor and object takes 7 times the predictions in the anchor-aided branch.
    assert scene.output.logits.nbytes < peak_memory.peak < 5 * predictions
    assert all(x.grad is None or x.grad.isfinite().all() for x in scene.leaves.values())


@every_objective
@pytest.mark.parametrize("epoch", [0, 3], ids=["warmup", "after"])
@pytest.mark.parametrize(
    "targets",
    [
        torch.zeros(0, 6),
        torch.tensor([[1, 2, 0.5, 0.5, 1e-5, 1e-5]]),  # between anchor points
        torch.tensor([[1, 2, 0.0, 0.0, 0.0, 0.0]]),
    ],
    ids=["no objects", "no positives", "empty box"],
)
def test_no_positives(make_loss: Any, epoch: int, targets: Tensor, make_scene: MakeScene) -> None:
    scene = make_scene()
    total, items = run(make_loss(3), scene, targets, epoch)
    total.backward()
    assert total.isfinite()
    assert items["iou"] == 0
    assert items["dfl"] == 0
    ours = {"anchor_logits", "anchor_boxes"} if make_loss is anchor_aided else {"logits", "distances", "ltrb"}
    if make_loss is combined:
        ours |= {"anchor_logits", "anchor_boxes"}
    if make_loss is distillation:
        ours |= {"map 0", "map 1", "map 2"}
    got = {name: x.grad for name, x in scene.leaves.items() if x.grad is not None}
    assert got.keys() == ours
    assert all(gradient.isfinite().all() for gradient in got.values())
    assert not any(got[name].any() for name in ours & {"distances", "ltrb", "anchor_boxes"})


@every_objective
def test_autocast_changes_nothing(make_loss: Any, make_scene: MakeScene) -> None:
    scene, loss = make_scene(), make_loss(3)
    expected, _ = run(loss, scene)
    with torch.autocast("cpu", torch.bfloat16):
        got, _ = run(loss, scene)
    assert torch.equal(got, expected)


@every_objective
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_predictions(make_loss: Any, dtype: torch.dtype, make_scene: MakeScene) -> None:
    half, loss = make_scene(4, 9, dtype=dtype), make_loss(3)
    expected, _ = run(loss, make_scene(4, 9))
    got, _ = run(loss, half)
    got.backward()
    assert got.dtype == torch.float32
    assert got.item() == pytest.approx(expected.item(), rel=0.02)
    assert {x.grad.dtype for x in half.leaves.values() if x.grad is not None} == {dtype}


@every_objective
def test_class_weights_of_one_change_no_bit(make_loss: Any, make_scene: MakeScene) -> None:
    results = []
    for weights in (None, torch.ones(3)):
        scene = make_scene()
        total, items = run(make_loss(3, class_weights=weights), scene)
        total.backward()
        results.append((total, *items.values(), *(x.grad for x in scene.leaves.values() if x.grad is not None)))
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@every_objective
def test_class_weights_scale_positive_entries_only(make_loss: Any, make_scene: MakeScene) -> None:
    def gradient(weights: Tensor | None) -> Tensor:
        scene = make_scene()
        run(make_loss(3, class_weights=weights), scene)[0].backward()
        return (scene.output.anchor_logits if make_loss is anchor_aided else scene.output.logits).grad

    once, twice, thrice = (gradient(torch.tensor([1.0, weight, 1.0])) for weight in (1, 2, 3))
    changed = once != twice
    assert changed.any()
    assert not changed[..., [0, 2]].any()
    assert (changed[..., 1].sum(1) < changed.shape[1] / 2).all()  # the background is as it was
    torch.testing.assert_close(thrice - once, 2 * (twice - once), rtol=1e-3, atol=1e-6)


@every_objective
def test_class_weights_are_one_a_class(make_loss: Any) -> None:
    with pytest.raises(ValueError, match="one for each of 3 classes"):
        make_loss(3, class_weights=torch.ones(4))
    assert not make_loss(3, class_weights=torch.ones(3)).state_dict()


@pytest.mark.parametrize("make_loss", [detection, anchor_aided, combined], ids=lambda make: make.__name__)
def test_teacher_is_refused(make_loss: Any, make_scene: MakeScene) -> None:
    scene = make_scene()
    with pytest.raises(ValueError, match="does not distil"):
        make_loss(3)(scene.output, scene.targets, epoch=0, max_epochs=9, image_size=scene.size, teacher=scene.teacher)


def test_combined_is_the_sum(make_scene: MakeScene) -> None:
    scene = make_scene()
    one, two, both = (run(make(3), scene) for make in (detection, anchor_aided, combined))
    torch.testing.assert_close(both[0], one[0] + two[0])
    for name, item in both[1].items():
        torch.testing.assert_close(item, one[1][name] + two[1][name])


@pytest.mark.parametrize("make_loss", [anchor_aided, distillation], ids=lambda make: make.__name__)
def test_small_sums_of_scores_divide_too(make_loss: Any, make_scene: MakeScene) -> None:
    """So many devices that one of them saw a sum below 1."""
    one, many = (run(make_loss(3, reference_world_size=n), make_scene())[1] for n in (1, 10_000))
    for name in set(one) - {"cls"}:  # the divergence of classes is not normalised
        torch.testing.assert_close(many[name], 10_000 * one[name])


def test_distances_beside_the_distribution_learn_the_boxes_too(make_scene: MakeScene) -> None:
    scene, loss = make_scene(), DetectionLoss(3, reg_max=16)
    alone = scene._replace(output=scene.output._replace(ltrb=None))
    total, items = run(loss, scene)
    total.backward()
    assert items["iou"] > run(loss, alone)[1]["iou"] > 0
    assert scene.output.ltrb.grad.any()


@every_objective
def test_ranks_meet_once_a_loss_if_at_all(make_loss: Any, make_scene: MakeScene, monkeypatch: Any) -> None:
    collectives = []

    def all_reduce(x: Tensor) -> Tensor:
        collectives.append(x)
        return 2 * x

    alone = run(make_loss(3), make_scene())[0]
    monkeypatch.setattr(idist, "get_world_size", lambda: 2)
    monkeypatch.setattr(idist, "all_reduce", all_reduce)
    half = run(make_loss(3), make_scene())[0]
    assert len(collectives) == (2 if make_loss is combined else 1)
    if make_loss is not distillation:  # the divergence of classes is not normalised
        torch.testing.assert_close(2 * half, alone)
    assert torch.equal(run(make_loss(3, reduce_over_ranks=False), make_scene())[0], alone)
    assert len(collectives) == (2 if make_loss is combined else 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_objective
def test_cuda_agrees_and_does_not_wait(make_loss: Any, make_scene: MakeScene) -> None:
    expected, scene = make_scene(4, 30, 8, (320, 320)), make_scene(4, 30, 8, (320, 320), device="cuda")
    weights = torch.tensor([1.0, 2, 3, 1, 1, 1, 1, 0.5])
    reference, _ = run(make_loss(8, class_weights=weights), expected)
    reference.backward()
    loss = make_loss(8, class_weights=weights).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        total, _ = run(loss, scene)
        total.backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    # fp32 rounds the divergence of classes by some 1e-5 of it, and devices do so differently.
    torch.testing.assert_close(total.cpu(), reference, rtol=1e-4 if make_loss is distillation else 1e-5, atol=0)
    for name, x in scene.leaves.items():
        if x.grad is not None:
            torch.testing.assert_close(x.grad.cpu(), expected.leaves[name].grad, rtol=1e-3, atol=1e-5)
