"""1 x B and 2 x B/2 have equal gradients by every objective: ten optimizer steps of a small network in fp32."""

from __future__ import annotations

import gc
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import ignite.distributed as idist
import pytest
import torch
from torch import Tensor, nn

from yolov6_ignite import build_loss, build_model, load_config
from yolov6_ignite.distributed import wrap_for_ranks

CLASSES, BATCH, SIZE, STEPS = 3, 4, 64, 10
TERMS = {"iou", "dfl", "cls", "cwd"}
DFL = ["model.head.use_dfl=true", "model.head.reg_max=16"]
PLAIN = ["train.fuse_ab=false", "model.head.iou_type=siou"]
DISTIL = [*DFL, "train.fuse_ab=false", "distill.teacher=teacher.pt", "distill.features=true"]
OBJECTIVES = {
    "siou": [*PLAIN, "model.type=tiny"],
    "giou, dfl, atss": [*DFL, "train.fuse_ab=false", "model.head.iou_type=giou", "model.head.atss_warmup_epoch=1"],
    "fuse_ab": ["train.fuse_ab=true", "model.type=tiny"],
    "distillation": [*DISTIL, "model.type=tiny", "model.head.atss_warmup_epoch=1"],
    "distillation of N": [*DISTIL, "model.type=YOLOv6n"],
}


def network(overrides: list[str], seed: int) -> nn.Module:
    """In train mode, with batch norm as in eval mode after one batch; its predictors know something already."""
    torch.manual_seed(seed)
    size = ["model.width_multiple=0.0625", "model.depth_multiple=0.1"]
    config = load_config("yolov6n", [*overrides, *size])
    model = build_model(config.model, CLASSES, fuse_ab=config.train.fuse_ab, distill_ns=config.distill_ns)
    for name, parameter in model.named_parameters():
        if "_pred" in name and parameter.requires_grad:
            nn.init.normal_(parameter, -1.0 if "cls" in name and name.endswith("bias") else 0.0, 0.3)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model(batch(99, slice(0, BATCH))[0])
    for norm in norms:
        norm.train(False)
    return model


def batch(step: int, images: slice) -> tuple[Tensor, Tensor]:
    """A rank's share of a batch: five objects in the first image, one in the second and fourth, none in the third."""
    generator = torch.Generator().manual_seed(step)
    pixels = torch.rand(BATCH, 3, SIZE, SIZE, generator=generator)
    image = torch.tensor([0.0, 0, 0, 0, 0, 1, 3])
    sides = 0.2 + 0.4 * torch.rand(7, 2, generator=generator)
    label = torch.randint(CLASSES, (7, 1), generator=generator)
    targets = torch.cat(
        (image[:, None], label, sides / 2 + torch.rand(7, 2, generator=generator) * (1 - sides), sides), 1
    )
    own = (image >= images.start) & (image < images.stop)
    return pixels[images], targets[own] - torch.tensor([images.start, 0, 0, 0, 0, 0])


Step = dict[str, Tensor]  # gradients and loss terms by name


def train(overrides: list[str], *, alone: bool = False, follow: list[Step] | None = None) -> list[Step]:
    """Gradients and loss terms of every step.

    Args:
        overrides: of the recipe.
        alone: train on whole batches on this rank, whatever the others do.
        follow: step by these gradients instead, so that rounding does not add up over the steps.
    """
    overrides = [*overrides, "solver.reference_world_size=3"]
    config = load_config("yolov6n", overrides)
    model, ranks = network(overrides, 0), 1 if alone else idist.get_world_size()
    wrapped = model if alone else wrap_for_ranks(model, torch.device("cpu"), sync_bn=False)
    teacher = network(overrides, 1) if config.distill.teacher else None
    loss = build_loss(config, CLASSES, class_weights=torch.tensor([1.0, 2.0, 0.5]), reduce_over_ranks=not alone)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.003, momentum=0.5)
    share = BATCH // ranks
    first = 0 if alone else idist.get_rank() * share
    steps: list[Step] = []
    for number in range(STEPS):
        pixels, targets = batch(number, slice(first, first + share))
        with torch.no_grad():
            taught = None if teacher is None else teacher(pixels)
        # Half of the steps are in the warm-up by ATSS, where there is one.
        epoch = number // (STEPS // 2)
        total, items = loss(
            wrapped(pixels), targets, epoch=epoch, max_epochs=4, image_size=(SIZE, SIZE), teacher=taught
        )
        optimizer.zero_grad()
        (total * ranks).backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        steps.append({name: x.clone() for name, x in (gradients | items).items()})
        for name, gradient in gradients.items():
            if follow is not None:
                gradient.copy_(follow[number][name])
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)  # batch norms that are frozen let them grow
        optimizer.step()
    return steps


def rank(local_rank: int, folder: str) -> None:
    for name, overrides in OBJECTIVES.items():
        torch.save(train(overrides), f"{folder}/{name}.{idist.get_rank()}.pt")
    if idist.get_rank() == 1:  # the other rank waits at the barrier: a collective would not be answered
        torch.save(train(OBJECTIVES["distillation"], alone=True), f"{folder}/alone.pt")
    gc.collect()  # the wrapped models' threads end before the process group
    idist.barrier()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where two ranks wrote what they got."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    with idist.Parallel("gloo", nproc_per_node=2, master_addr="127.0.0.1", master_port=port) as parallel:
        parallel.run(rank, str(folder))
    yield folder
    shutil.rmtree(folder)  # 80 MB of gradients


@pytest.mark.parametrize("name", OBJECTIVES)
def test_one_by_b_equals_two_by_half_b(name: str, ranks: Path) -> None:
    two, other = (torch.load(ranks / f"{name}.{r}.pt") for r in range(2))
    for step, (one, ours, theirs) in enumerate(zip(train(OBJECTIVES[name], follow=two), two, other, strict=True)):
        assert ours.keys() == one.keys()
        items = [key for key in one if key in TERMS]
        for key in items:
            torch.testing.assert_close(ours[key] + theirs[key], one[key], rtol=1e-4, atol=1e-6)
        for key in one.keys() - TERMS:
            assert torch.equal(ours[key], theirs[key])
            largest = float(one[key].abs().max())
            torch.testing.assert_close(ours[key], one[key], rtol=0, atol=1e-4 * largest, msg=f"step {step}, {key}")
        assert len(items) == (4 if "distil" in name else 3)
        assert all(one[key] > 0 for key in ("iou", "cls"))


def test_one_rank_alone_is_as_if_there_were_no_other(ranks: Path) -> None:
    expected, alone = train(OBJECTIVES["distillation"]), torch.load(ranks / "alone.pt")
    for ours, theirs in zip(expected, alone, strict=True):
        assert all(torch.equal(theirs[key], value) for key, value in ours.items())
