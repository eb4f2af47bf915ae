"""Distillation against published numbers, its decay, and what it asks of a teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from yolov6_ignite.losses import DetectionLoss, DistillationLoss
from yolov6_ignite.losses.distillation import cosine_decay
from yolov6_ignite.models import DetectorOutput

SIZE = (128, 160)
TARGETS = torch.tensor(
    [
        [0, 1, 0.30, 0.40, 0.35, 0.50],
        [0, 2, 0.55, 0.50, 0.60, 0.45],
        [0, 0, 0.80, 0.20, 0.10, 0.12],
        [1, 0, 0.5, 0.5, 0.9, 0.9],
    ]
)
GIOU = {"iou_type": "giou", "class_weight": 2.0, "dfl_weight": 1.0}
SIOU = {"iou_type": "siou", "class_weight": 1.0, "dfl_weight": 1.0}


@pytest.mark.parametrize(
    ("settings", "features", "epoch", "targets", "total", "items", "gradients"),
    [
        (GIOU, False, 0, TARGETS, 172.5342872572, (1.02140196, 2.32449416, 169.18839114, 0), (886.481689, 2.531579)),
        (GIOU, False, 7, TARGETS, 151.3970475015, (1.02140196, 2.15160987, 148.22403567, 0), (790.540344, 2.419025)),
        (
            GIOU,
            True,
            0,
            TARGETS,
            174.8240912390,
            (1.02140196, 2.32449416, 169.18839114, 2.28980398),
            (886.481689, 2.531579, 3.288233, 3.211923, 3.060429),
        ),
        (
            GIOU,
            True,
            7,
            TARGETS,
            153.0679753837,
            (1.02140196, 2.15160987, 148.22403567, 1.67092788),
            (790.540344, 2.419025, 2.399507, 2.343822, 2.233272),
        ),
        # With distances beside the distribution.
        (SIOU, False, 7, TARGETS, 125.5810814141, (3.5066787, 2.15160987, 119.92279284, 0), (669.995422, 2.352557)),
        (SIOU, False, 7, TARGETS[:0], 946.4865112305, (0, 0, 946.4865112305, 0), None),
    ],
)
def test_published_numbers(
    settings: dict[str, Any],
    features: bool,
    epoch: int,
    targets: Tensor,
    total: float,
    items: tuple[float, ...],
    gradients: tuple[float, ...] | None,
    pseudo_random: Callable[..., Tensor],
    make_output: Callable[..., DetectorOutput],
) -> None:
    def maps(first: int) -> tuple[Tensor, ...]:
        return tuple(pseudo_random(first + m, 2, 4, SIZE[0] // s, SIZE[1] // s) for m, s in enumerate((8, 16, 32)))

    p = (0.9 * pseudo_random(1, 2, 420, 3) + 0.05).double()
    logits = torch.logit(p).float().requires_grad_()
    distances = (4 * pseudo_random(2, 2, 420, 68) - 2).requires_grad_()
    student_maps = tuple(x.requires_grad_() for x in maps(20))
    ltrb = (4 * pseudo_random(8, 2, 420, 4)).requires_grad_() if settings is SIOU else None
    output = make_output(logits, distances, SIZE)._replace(neck_maps=student_maps, ltrb=ltrb)
    teacher_logits = torch.logit((0.9 * pseudo_random(6, 2, 420, 3) + 0.05).double()).float()
    teacher = make_output(teacher_logits, 4 * pseudo_random(7, 2, 420, 68) - 2, SIZE)._replace(neck_maps=maps(30))

    detection = DetectionLoss(3, reg_max=16, iou_type=settings["iou_type"])
    loss = DistillationLoss(
        detection,
        temperature=20,
        class_weight=settings["class_weight"],
        dfl_weight=settings["dfl_weight"],
        features=features,
    )
    got, terms = loss(output, targets, epoch=epoch, max_epochs=20, image_size=SIZE, teacher=teacher)
    got.backward()
    assert got.item() == pytest.approx(total, rel=1e-5)
    assert [terms[name].item() for name in ("iou", "dfl", "cls", "cwd")] == pytest.approx(items, rel=1e-5)
    assert not any(term.requires_grad for term in terms.values())
    if gradients is not None:
        leaves = (distances, *(student_maps if features else ()))
        by_probability = (logits.grad / (p * (1 - p))).abs().sum().item()
        assert (by_probability, *(x.grad.abs().sum().item() for x in leaves)) == pytest.approx(gradients, rel=1e-4)
    if ltrb is not None:
        assert ltrb.grad.abs().sum().item() == pytest.approx(0.342488 if len(targets) else 0, rel=1e-4)


def test_decay_at_its_ends() -> None:
    assert cosine_decay(0, 300) == 1
    assert cosine_decay(150, 300) == pytest.approx(0.505)
    assert cosine_decay(300, 300) == pytest.approx(0.01)


@given(epochs=st.integers(1, 1000), data=st.data())
def test_decay_never_rises(epochs: int, data: st.DataObject) -> None:
    epoch = data.draw(st.integers(1, epochs))
    assert 0.01 - 1e-12 <= cosine_decay(epoch, epochs) < cosine_decay(epoch - 1, epochs) <= 1


def make_loss(**settings: Any) -> DistillationLoss:
    return DistillationLoss(DetectionLoss(3, reg_max=16), **settings)


def test_an_equal_teacher_adds_nothing(make_scene: Callable[..., Any]) -> None:
    scene = make_scene()
    arguments = {"targets": scene.targets, "epoch": 0, "max_epochs": 9, "image_size": scene.size}
    expected, expected_items = DetectionLoss(3, reg_max=16)(scene.output, **arguments)
    expected.backward()
    gradients = {name: x.grad.clone() for name, x in scene.leaves.items() if x.grad is not None}
    for x in scene.leaves.values():
        x.grad = None
    total, items = make_loss(features=True)(scene.output, **arguments, teacher=scene.output)
    total.backward()
    assert items["cwd"] == 0
    for name, item in expected_items.items():
        # The divergence of classes is rounded by some 1e-9 an anchor, times the squared temperature.
        assert items[name].item() == pytest.approx(item.item(), rel=1e-6, abs=2e-3 if name == "cls" else 1e-6)
    for name, gradient in gradients.items():
        torch.testing.assert_close(scene.leaves[name].grad, gradient, rtol=1e-5, atol=1e-7)
    assert all(x.grad.abs().max() < 1e-7 for name, x in scene.leaves.items() if "map" in name)


def test_teacher_gets_no_gradient(make_scene: Callable[..., Any]) -> None:
    scene, other = make_scene(), make_scene(seed=1)
    total, _ = make_loss(features=True)(
        scene.output, scene.targets, epoch=0, max_epochs=9, image_size=scene.size, teacher=other.output
    )
    total.backward()
    assert all(x.grad is None for x in other.leaves.values())
    assert scene.output.logits.grad is not None


@pytest.mark.parametrize("term", ["class", "dfl"])
def test_weights(term: str, make_scene: Callable[..., Any]) -> None:
    scene = make_scene()
    name = {"class": "cls", "dfl": "dfl"}[term]

    def items(weight: float) -> dict[str, Tensor]:
        loss = make_loss(**{f"{term}_weight": weight})
        arguments = {"epoch": 2, "max_epochs": 9, "image_size": scene.size, "teacher": scene.teacher}
        return loss(scene.output, scene.targets, **arguments)[1]

    none, one, three = items(0), items(1), items(3)
    torch.testing.assert_close(three[name] - none[name], 3 * (one[name] - none[name]), rtol=1e-4, atol=1e-4)
    assert one[name] > none[name]
    assert all(three[other] == none[other] for other in ("iou", "dfl", "cls", "cwd") if other != name)


def test_temperature_is_used(make_scene: Callable[..., Any]) -> None:
    scene = make_scene()
    cold, warm = (
        make_loss(temperature=t)(
            scene.output, scene.targets, epoch=0, max_epochs=9, image_size=scene.size, teacher=scene.teacher
        )[1]
        for t in (1.0, 20.0)
    )
    assert cold["dfl"] != warm["dfl"]
    assert cold["cls"] != warm["cls"]
    assert cold["iou"] == warm["iou"]


def test_fourth_map_is_not_compared(make_scene: Callable[..., Any]) -> None:
    scene = make_scene()
    extra = torch.rand(2, 4, 2, 2)

    def cwd(extra_map: Tensor) -> Tensor:
        student, teacher = (
            x._replace(neck_maps=(*x.neck_maps, y)) for x, y in ((scene.output, extra), (scene.teacher, extra_map))
        )
        arguments = {"epoch": 0, "max_epochs": 9, "image_size": scene.size, "teacher": teacher}
        return make_loss(features=True)(student, scene.targets, **arguments)[1]["cwd"]

    assert cwd(extra) == cwd(1 - extra)


def test_what_a_teacher_must_be_like(make_scene: Callable[..., Any]) -> None:
    scene = make_scene()
    arguments = {"targets": scene.targets, "epoch": 0, "max_epochs": 9, "image_size": scene.size}
    loss = make_loss(features=True)
    with pytest.raises(ValueError, match="needs the predictions of a teacher"):
        loss(scene.output, **arguments)
    teacher = scene.teacher
    for change, message in (
        ({"distances": teacher.ltrb}, "teacher's distances are"),
        ({"logits": teacher.logits[..., :1]}, "teacher's logits are"),
        ({"neck_maps": tuple(x[:, :1] for x in teacher.neck_maps)}, "teacher's neck_maps are"),
        ({"neck_maps": None}, "no maps of the neck"),
    ):
        with pytest.raises(ValueError, match=message):
            loss(scene.output, **arguments, teacher=teacher._replace(**change))


def test_direct_distances_have_no_distribution_to_learn(make_scene: Callable[..., Any]) -> None:
    scene = make_scene()
    student, teacher = (output._replace(distances=output.ltrb, ltrb=None) for output in (scene.output, scene.teacher))
    arguments = {"targets": scene.targets, "epoch": 0, "max_epochs": 9, "image_size": scene.size}
    alone = DetectionLoss(3)(student, **arguments)[1]
    total, items = DistillationLoss(DetectionLoss(3), features=True)(student, **arguments, teacher=teacher)
    assert items["dfl"] == 0
    assert items["cwd"] > 0
    assert items["cls"] > alone["cls"]
    assert items["iou"] == alone["iou"]
    total.backward()
