"""Which layers lose the most when they are quantised: AP with one of them at a time, and lists of those to skip."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import nn

from yolov6_ignite.config import QuantConfig
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.quantization.insertion import quantized_layers, quantizers, set_mode

__all__ = [
    "Accuracy",
    "Sensitivity",
    "measure_sensitivity",
    "read_skipped_layers",
    "skip_patterns",
]

logger = logging.getLogger(__name__)

COLUMNS = ("layer", "mAP@0.5", "mAP@0.50:0.95", "change")


class Accuracy(NamedTuple):
    """AP at IoU 0.5, and its mean over IoU 0.50:0.95, each in 0..1."""

    map50: float
    map50_95: float

    @classmethod
    def of(cls, metrics: Mapping[str, float]) -> Accuracy:
        """From what an evaluation gives: ``val/mAP@0.5`` and ``val/mAP@0.50:0.95``, with or without ``val/``."""
        plain = {name.removeprefix("val/"): value for name, value in metrics.items()}
        return cls(plain["mAP@0.5"], plain["mAP@0.50:0.95"])


class Sensitivity(NamedTuple):
    """Accuracies with nothing, everything and one layer quantised.

    Attributes:
        full_precision: all quantisers off.
        quantized: all on.
        layers: name and accuracy with that layer alone; lowest AP (0.50:0.95) first, equal ones as in the network.
    """

    full_precision: Accuracy
    quantized: Accuracy
    layers: list[tuple[str, Accuracy]]

    def table(self) -> str:
        """Aligned columns: rank, layer, both accuracies, change of AP (0.50:0.95) against full precision."""
        rows = [("", *COLUMNS), self._row("", "(nothing)", self.full_precision)]
        rows.append(self._row("", "(everything)", self.quantized))
        rows += [self._row(str(rank), name, accuracy) for rank, (name, accuracy) in enumerate(self.layers, start=1)]
        number, layer, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
        return "\n".join(
            f"{row[0]:>{number}}  {row[1]:<{layer}}"
            + "".join(f"  {text:>{width}}" for text, width in zip(row[2:], others, strict=True))
            for row in rows
        )

    def csv(self) -> str:
        """The layers as comma-separated lines below the names of the columns, as :func:`read_skipped_layers` reads."""
        lines = [",".join(COLUMNS)]
        for name, accuracy in self.layers:
            numbers = (*accuracy, accuracy.map50_95 - self.full_precision.map50_95)
            lines.append(",".join((name, *(f"{number:.6f}" for number in numbers))))
        return "\n".join(lines) + "\n"

    def _row(self, rank: str, name: str, accuracy: Accuracy) -> tuple[str, ...]:
        change = round(accuracy.map50_95 - self.full_precision.map50_95, 4) + 0.0  # no -0.0
        return rank, name, f"{accuracy.map50:.4f}", f"{accuracy.map50_95:.4f}", f"{change:+.4f}"


def measure_sensitivity(model: nn.Module, evaluate: Callable[[nn.Module], Mapping[str, float]]) -> Sensitivity:
    """Evaluates a calibrated model with one layer quantised at a time: two evaluations more than it has layers.

    A layer is quantised with all that belongs to it: what it reads, its weight and, where it has such a quantiser,
    what it gives. The modes of the quantisers are as before afterwards.

    Args:
        model: calibrated.
        evaluate: model to metrics by name, equal on every rank; see :meth:`Accuracy.of`.
    """
    before = [(quantizer, quantizer.mode) for _, quantizer in quantizers(model)]
    names = quantized_layers(model)
    layers = []
    try:
        set_mode(model, "quantize")
        quantized = Accuracy.of(evaluate(model))
        set_mode(model, "off")
        full_precision = Accuracy.of(evaluate(model))
        for number, name in enumerate(names, start=1):
            set_mode(model, "quantize", [name])
            layers.append((name, Accuracy.of(evaluate(model))))
            set_mode(model, "off", [name])
            logger.info(
                "sensitivity, layer %d of %d: %s: mAP@0.50:0.95 %.4f", number, len(names), name, layers[-1][1].map50_95
            )
    finally:
        for quantizer, mode in before:
            quantizer.mode = mode
    return Sensitivity(full_precision, quantized, sorted(layers, key=lambda layer: layer[1].map50_95))


def read_skipped_layers(path: str | Path, most_sensitive: int = 0) -> list[str]:
    """Names of layers, or patterns for them, from the first column of a ``sensitivity.csv`` or one a line.

    Blank lines, and what follows a ``#``, do not count.

    Args:
        path: the file, UTF-8.
        most_sensitive: take so many of the first names only; 0: all.

    Raises:
        ConfigError: the file is missing, cannot be read or names nothing.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(
            f"quant.skip: {path}: there is no such file; quant.sensitivity=true writes a sensitivity.csv, and a list "
            "of layers is written [name, ...]"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise ConfigError(f"quant.skip: {path}: cannot be read ({reason}); give a text file of layers") from error
    lines = [line.split("#", 1)[0].split(",", 1)[0].strip() for line in text.splitlines()]
    names = [line for line in lines if line]
    if names[:1] == [COLUMNS[0]]:
        names = names[1:]
    if not names:
        raise ConfigError(f"quant.skip: {path}: names no layer; write one name a line, or remove quant.skip")
    return names[: most_sensitive or None]


def skip_patterns(quant: QuantConfig) -> tuple[str, ...]:
    """What ``quant.skip`` and ``quant.most_sensitive`` leave in floating point, as names and patterns.

    Raises:
        ConfigError: ``quant.skip`` is a file that cannot be used.
    """
    return tuple(read_skipped_layers(quant.skip, quant.most_sensitive) if isinstance(quant.skip, str) else quant.skip)
