"""Losses of single images: those of the batch that consists of the image alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from yolov6_ignite import build_loss, build_model, load_config
from yolov6_ignite.losses import ImageLosses


@pytest.mark.parametrize(
    "overrides", [[], ["model.head.use_dfl=true", "model.head.reg_max=16"], ["train.fuse_ab=true"]]
)
def test_an_image_of_a_batch_has_the_loss_that_it_has_alone(tiny_recipe: Path, overrides: list[str]) -> None:
    config = load_config(tiny_recipe, overrides)
    torch.manual_seed(0)
    model = build_model(config.model, 2, fuse_ab=config.train.fuse_ab).train()
    plain = build_loss(load_config(tiny_recipe, [*overrides, "train.fuse_ab=false"]), 2)
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.4, 0.6], [2, 0, 0.3, 0.4, 0.3, 0.3], [2, 1, 0.6, 0.6, 0.5, 0.4]])
    with torch.no_grad():
        output = model(torch.rand(3, 3, 64, 64))
    terms = ImageLosses(config, 2)(output, targets, (64, 64))
    for image in range(3):
        one = slice(image, image + 1)
        alone = output._replace(
            feature_maps=tuple(level[one] for level in output.feature_maps),
            logits=output.logits[one],
            distances=output.distances[one],
        )
        own = targets[targets[:, 0] == image] * torch.tensor([0, 1, 1, 1, 1, 1])
        epoch = config.model.head.atss_warmup_epoch  # assigned by task alignment from then on
        expected = plain(alone, own, epoch=epoch, max_epochs=epoch + 1, image_size=(64, 64))[1]
        for name, value in expected.items():
            assert terms[name][image] == pytest.approx(float(value), rel=1e-5)
    assert terms["iou"][1] == 0  # no object
    assert not terms["cls"].requires_grad
