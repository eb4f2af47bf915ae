"""Every objective against the reference's numbers, as they are and rounded to bf16."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
GOLDEN = sorted((REPOSITORY.parent / "shared/golden/losses").glob("*.npz"))
FIXTURES = sorted((REPOSITORY / "tests/data/losses").glob("*.npz"))


@pytest.mark.skipif(not GOLDEN, reason="needs the reference data beside the project")
@pytest.mark.parametrize("path", [path for path in GOLDEN if "_af_" not in path.name], ids=lambda path: path.stem)
def test_anchor_aided_and_distillation(path: Path, check_case: Callable[..., None]) -> None:
    check_case(path)


@pytest.mark.parametrize("path", GOLDEN or FIXTURES, ids=lambda path: path.stem)
def test_predictions_rounded_to_bf16(path: Path, check_case: Callable[..., None]) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        check_case(path, torch.bfloat16)
