"""The train-mode output."""

from __future__ import annotations

import torch

from yolov6_ignite.models import DetectorOutput


def test_fields_and_their_order() -> None:
    output = DetectorOutput((), torch.zeros(1), torch.ones(1))
    assert output._fields == (
        "feature_maps",
        "logits",
        "distances",
        "anchor_logits",
        "anchor_boxes",
        "ltrb",
        "neck_maps",
    )
    assert output[3:] == (None, None, None, None)
