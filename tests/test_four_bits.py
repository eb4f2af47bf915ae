"""Quantisation to 4 bits, where much is lost: what training and leaving layers out regain on the toy data set."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from yolov6_ignite import train
from yolov6_ignite.checkpoint import read_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

AP = "val/mAP@0.50:0.95"


def run(folder: Path, name: str, *overrides: str) -> Path:
    """A run of the quick start's recipe; returns its folder."""
    given = ["data.workers=0", "logging.train_batch_images=false", f"train.output_dir={folder}", f"train.name={name}"]
    assert train.main(["quickstart", *given, *overrides]) == 0
    return folder / name


def accuracy(run_dir: Path, pattern: str = "best_ckpt.pt") -> float:
    """AP in percent."""
    (file,) = (run_dir / "weights").glob(pattern)
    return 100 * read_checkpoint(file)["metrics"][AP]


def test_what_is_regained(tmp_path: Path) -> None:
    trained = run(tmp_path, "float", "train.epochs=30", "augment.stop_last_n_epochs=5", "eval.interval=30")
    in_float = accuracy(trained)
    ptq = [f"train.weights={trained / 'weights' / 'best_ckpt.pt'}", "quant.mode=ptq", "quant.bits=4"]
    calibrated = run(tmp_path, "ptq", *ptq, "quant.sensitivity=true")
    lost = in_float - accuracy(calibrated, "*_calib_max.pt")
    assert lost > in_float / 4  # how much differs between processors, as all numbers of a short training do

    with (calibrated / "sensitivity.csv").open() as file:
        alone = [100 * float(row["mAP@0.50:0.95"]) for row in csv.DictReader(file)]
    assert alone == sorted(alone)
    assert alone[0] < alone[-1]
    skip = [f"quant.skip={calibrated / 'sensitivity.csv'}", "quant.most_sensitive=30"]
    partial = accuracy(run(tmp_path, "without30", *ptq, *skip), "*_calib_max_partial.pt")
    assert partial > in_float - 3 * lost / 4

    file = calibrated / "weights" / "best_ckpt_calib_max.pt"
    qat = ["quant.mode=qat", f"quant.calibrated={file}", "train.epochs=15", "solver.lr0=0.008", "eval.interval=1"]
    taught = accuracy(run(tmp_path, "qat", *qat, "augment.mosaic=0"))
    assert taught > in_float - 3 * lost / 4
