from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov6_ignite.quantization.amax import amax_by

GOLDEN = json.loads((Path(__file__).resolve().parents[1] / "data" / "calibration.json").read_text())["amax"]
BINS = np.arange(2048.0)
WIDTH = 10 / 2048


def golden_counts(name: str) -> np.ndarray:
    def gauss(sigma: float) -> np.ndarray:
        return np.rint(1e6 * np.exp(-((BINS / sigma) ** 2) / 2))

    counts = {
        "gauss s=400": gauss(400),
        "laplace s=150": np.rint(1e6 * np.exp(-BINS / 150)),
        "relu+gauss": gauss(400),
        "uniform": np.full(2048, 1000.0),
        "power 2.5": np.rint(1e8 / (1 + BINS) ** 2.5),
        "gauss+outlier": gauss(60),
    }[name]
    counts[0] += 5e7 if name == "relu+gauss" else 0
    counts[2047] += 3 if name == "gauss+outlier" else 0
    return counts


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_ranges(name: str) -> None:
    counts, golden = golden_counts(name), GOLDEN[name]
    assert amax_by("entropy", counts, WIDTH) == golden["entropy"]
    assert abs(amax_by("percentile", counts, WIDTH, percentile=99.99) - golden["percentile_99.99"]) <= WIDTH * 1.0001
    assert amax_by("mse", counts, WIDTH) == pytest.approx(golden["mine"]["mse"], rel=0.02)


def divergence_of(counts: np.ndarray, kept: int, levels: int) -> float:
    """Straight from the definition, for one candidate."""
    level = np.arange(kept) * levels // kept
    pooled = np.zeros(kept)
    for number in range(levels):
        inside = (level == number) & (counts[:kept] > 0)
        if inside.any():
            pooled[inside] = counts[:kept][inside].mean()
    clipped = counts[:kept].copy()
    clipped[-1] += counts[kept:].sum()
    p, q = clipped / clipped.sum(), pooled / pooled.sum()
    if (q[p > 0] == 0).any():
        return float("inf")
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


@given(
    counts=st.lists(st.integers(0, 50), min_size=9, max_size=60).filter(lambda c: sum(c[1:]) > 0),
)
def test_entropy_is_the_least_divergence_by_its_definition(counts: list[int]) -> None:
    values, levels = np.array(counts, dtype=np.float64), 8
    kept = round(amax_by("entropy", values, 1.0, num_bits=4))
    values[0] = values[1]
    candidates = [
        (divergence_of(values, number, levels), number)
        for number in range(levels, len(values) + 1)
        if values[number:].sum() <= 0.1 * values.sum()
    ]
    least = min(candidates)[0]
    assert kept == max(number for divergence, number in candidates if divergence <= least + 1e-11)


def test_entropy_never_clips_nearly_everything() -> None:
    counts = np.zeros(2048)
    counts[130] = 5  # alone in its range, so nothing diverges there
    counts[1500:1700] = np.arange(200) + 1
    assert amax_by("entropy", counts, 1.0) > 1600


@given(
    scale=st.floats(0.01, 100), exponent=st.floats(0.5, 3), seed=st.integers(0, 100), bits=st.sampled_from([3, 4, 8])
)
def test_mse_has_the_least_error_of_many_ranges(scale: float, exponent: float, seed: int, bits: int) -> None:
    values = np.abs(np.random.default_rng(seed).standard_normal(2000)) ** exponent * scale
    counts, edges = np.histogram(values, 512, (0, values.max()))
    centres, steps = (edges[1:] + edges[:-1]) / 2, 2 ** (bits - 1) - 1

    def error(amax: float) -> float:
        quantized = np.minimum(np.rint(centres * steps / amax), steps) * amax / steps
        return float(np.square(quantized - centres) @ counts)

    found = amax_by("mse", counts.astype(np.float64), float(edges[1]), num_bits=bits)
    assert error(found) <= min(map(error, centres)) * (1 + 1e-9)


def test_percentile_keeps_that_share_and_max_everything() -> None:
    counts = np.array([50.0, 30, 0, 15, 5, 0])
    assert amax_by("percentile", counts, 2.0, percentile=80) == 4
    assert amax_by("percentile", counts, 2.0, percentile=81) == 8
    assert amax_by("percentile", counts, 2.0, percentile=100) == 10
    assert amax_by("max", counts, 2.0) == 10


def test_many_bins_are_merged_before_errors_are_compared() -> None:
    counts = np.exp(-(((np.arange(16000) / 3000) ** 2) / 2)) * 1e6
    few = amax_by("mse", counts.reshape(-1, 8).sum(axis=1), 8.0)
    assert amax_by("mse", counts, 1.0) == pytest.approx(few, rel=0.02)


@pytest.mark.parametrize("method", ["max", "entropy", "percentile", "mse"])
def test_no_counts_no_range(method: str) -> None:
    assert amax_by(method, np.zeros(2048), 1.0) == 0  # type: ignore[arg-type]
