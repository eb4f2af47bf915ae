"""Configurations, weights and inputs that the model tests share."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from yolov6_ignite.config import ModelConfig

FIXTURES = Path(__file__).resolve().parents[1] / "data" / "models"


@pytest.fixture(scope="session")
def model_config() -> Callable[..., ModelConfig]:
    """Makes the model section of YOLOv6-N with the given keys changed; `head`, `neck`, `backbone` are merged."""

    def make(**changes: Any) -> ModelConfig:
        section: dict[str, Any] = {
            "type": "YOLOv6n",
            "depth_multiple": 0.33,
            "width_multiple": 0.25,
            "backbone": {
                "type": "EfficientRep",
                "num_repeats": [1, 6, 12, 18, 6],
                "out_channels": [64, 128, 256, 512, 1024],
                "fuse_P2": True,
                "cspsppf": True,
            },
            "neck": {
                "type": "RepBiFPANNeck",
                "num_repeats": [12, 12, 12, 12],
                "out_channels": [256, 128, 128, 256, 256, 512],
            },
            "head": {"iou_type": "siou", "use_dfl": False, "reg_max": 0},
        }
        for key, value in changes.items():
            section[key] = {**section[key], **value} if isinstance(value, dict) else value
        return ModelConfig(**section)

    return make


@pytest.fixture(scope="session")
def yolov6n_config(model_config: Callable[..., ModelConfig]) -> ModelConfig:
    return model_config()


@pytest.fixture(scope="session")
def published_configs(model_config: Callable[..., ModelConfig]) -> dict[str, ModelConfig]:
    """The models that fixtures hold reference numbers of."""
    return {
        "yolov6n": model_config(),
        "base__yolov6n_base": model_config(
            type="YOLOv6n_base", training_mode="conv_relu", head={"use_dfl": True, "reg_max": 16}
        ),
    }


@pytest.fixture(scope="session")
def read_fixture() -> Callable[[str], dict[str, Any]]:
    return lambda name: json.loads((FIXTURES / f"{name}.json").read_text())


@pytest.fixture(scope="session")
def golden_images() -> Tensor:
    generator = np.random.Generator(np.random.PCG64(20260101))
    return torch.from_numpy(generator.random((2, 3, 128, 192), dtype=np.float32))


@pytest.fixture(scope="session")
def fill_weights() -> Callable[[nn.Module], None]:
    """Fills a model by the rule that the reference numbers were made with: names alone decide the values."""

    def fill(model: nn.Module) -> None:
        for key, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                tensor.zero_()
                continue
            leaf = key.rsplit(".", 1)[-1]
            if leaf == "proj" or "proj_conv" in key:
                continue
            generator = np.random.Generator(np.random.PCG64(zlib.crc32(key.encode())))
            noise = generator.standard_normal(tuple(tensor.shape))
            if leaf == "running_var" or (leaf == "weight" and tensor.dim() <= 1):
                values = 1 + 0.25 * np.tanh(noise)
            elif leaf in {"running_mean", "bias"}:
                values = 0.1 * noise
            elif tensor.dim() >= 2:
                values = noise / np.sqrt(max(1, tensor[0].numel()))
            else:
                values = 1 + 0.1 * np.tanh(noise)
            tensor.copy_(torch.from_numpy(np.asarray(values)))

    return fill


@pytest.fixture(scope="session")
def randomise_batch_norms() -> Callable[[nn.Module], None]:
    """Gives every batch norm statistics and an affine map that are far from the identity."""

    def randomise(module: nn.Module) -> None:
        for child in module.modules():
            if isinstance(child, nn.BatchNorm2d):
                assert child.running_mean is not None
                assert child.running_var is not None
                nn.init.normal_(child.running_mean, std=0.3)
                nn.init.uniform_(child.running_var, 0.5, 2.0)
                nn.init.uniform_(child.weight, 0.5, 1.5)
                nn.init.normal_(child.bias, std=0.3)

    return randomise
