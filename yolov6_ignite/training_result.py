"""What a finished run has to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["TrainingResult"]

MAP = "val/mAP@0.50:0.95"


@dataclass(frozen=True)
class TrainingResult:
    """Numbers and files of a run.

    Attributes:
        best: the row of metrics.csv with the highest ``val/mAP@0.50:0.95`` (the later of equal ones); empty where
            nothing was evaluated.
        last: the last row.
        run_dir: the run's folder.
        best_weights: weights of that best epoch; None where there is no such file.
        final_weights: weights of the last epoch; None where there is no such file.
        metrics_csv: one row an epoch; None where there is no such file.
    """

    best: Mapping[str, float]
    last: Mapping[str, float]
    run_dir: Path
    best_weights: Path | None
    final_weights: Path | None
    metrics_csv: Path | None

    @classmethod
    def of(cls, history: Sequence[Mapping[str, float]], run_dir: Path) -> TrainingResult:
        """Reads the result of a run off its rows and files."""

        def existing(name: str) -> Path | None:
            return run_dir / name if (run_dir / name).exists() else None

        best: Mapping[str, float] = max(
            (row for row in history if MAP in row), key=lambda row: (row[MAP], row["epoch"]), default={}
        )
        return cls(
            best=dict(best),
            last=dict(history[-1]) if history else {},
            run_dir=run_dir,
            best_weights=existing("weights/best_ckpt.pt"),
            final_weights=existing("weights/final.pt"),
            metrics_csv=existing("metrics.csv"),
        )
