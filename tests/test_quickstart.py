"""The quick start as a newcomer runs it."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_quick_start_ends_with_what_it_promises(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "yolov6_ignite.train", "quickstart", f"train.output_dir={tmp_path}"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    run = tmp_path / "quickstart"
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    evaluated = [float(row["val/mAP@0.5"]) for row in rows if row["val/mAP@0.5"]]
    # How accurate it is differs between processors; that it learns does not.
    assert max(evaluated) > 2 * evaluated[0] + 0.05
    assert float(rows[-1]["train/cls_loss"]) < 0.8 * float(rows[0]["train/cls_loss"])
    best_weights = "weights/best_ckpt.pt"  # to evaluate and to export, too
    last = result.stderr.splitlines()[-5:]
    for line, path in zip(last, (best_weights, "plots", "", best_weights, best_weights), strict=True):
        assert line.endswith(str(run / path))
