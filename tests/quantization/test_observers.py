from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yolov6_ignite.quantization import observers
from yolov6_ignite.quantization.observers import HistogramObserver, MaxObserver, Observation
from yolov6_ignite.quantization.spec import QuantizationSpec


def observed(*batches: torch.Tensor, kind: type[MaxObserver] = HistogramObserver) -> Observation:
    observer = kind()
    for batch in batches:
        observer.update(batch)
    return observer.observation()


@given(st.lists(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=20), min_size=1, max_size=4))
def test_every_value_is_counted_in_its_bin(batches: list[list[float]]) -> None:
    seen = observed(*(torch.tensor(batch) for batch in batches))
    values = np.abs(np.concatenate(batches))
    assert seen.largest == np.float32(values.max())
    assert seen.negative == any(value < 0 for batch in batches for value in batch)
    assert seen.counts.sum() + seen.zeros == len(values)
    if seen.width > 0:
        ends = (np.flatnonzero(seen.counts) + 1) * seen.width
        assert ends.max() >= values.max() * (1 - 1e-6)
        counts = np.histogram(values, len(seen.counts), (0, len(seen.counts) * seen.width))[0].astype(float)
        counts[0] -= seen.zeros
        assert np.abs(np.cumsum(counts) - np.cumsum(seen.counts)).max() <= len(values) / 2 + 1  # edges round
        filled = [np.flatnonzero(c).max(initial=0) for c in (counts, seen.counts)]
        assert abs(filled[0] - filled[1]) <= 1


def test_range_grows_by_bins_of_the_first_width() -> None:
    seen = observed(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([-3.0]))
    assert seen.width == 2 / 2048
    assert len(seen.counts) == 3072
    assert [seen.counts[index] for index in (0, 1024, 2047, 3071)] == [1, 1, 1, 1]


def test_memory_stays_bounded_when_the_first_values_are_tiny() -> None:
    seen = observed(torch.tensor([1e-8]), torch.tensor([1e6, 1.0]))
    assert len(seen.counts) <= 8 * 2048
    assert seen.counts.sum() == 3
    assert len(seen.counts) * seen.width >= 1e6


def test_zeros_before_the_first_other_value_count() -> None:
    spec = QuantizationSpec(method="percentile", percentile=50)
    seen = observed(torch.zeros(100), torch.ones(50))
    assert seen.amax(spec) == pytest.approx(1 / 2048)
    assert observed(torch.zeros(100)).amax(spec) == 0


def test_counts_beyond_what_float32_can_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert observers.CHUNK <= 2**24
    monkeypatch.setattr(observers, "CHUNK", 7)
    values = torch.arange(100.0)
    assert observed(values).counts.sum() == 100
    monkeypatch.undo()
    big = observed(torch.ones(2**24 + 5))
    assert big.counts[-1] == 2**24 + 5


@pytest.mark.parametrize("kind", [MaxObserver, HistogramObserver])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_show(kind: type[MaxObserver], bad: float) -> None:
    seen = observed(torch.tensor([1.0, 2.0]), torch.tensor([bad, 1.0]), torch.tensor([5.0]), kind=kind)
    assert not math.isfinite(Observation.merged([seen, observed(torch.ones(1), kind=kind)]).amax(QuantizationSpec()))


def test_half_precision_is_seen_exactly() -> None:
    assert observed(torch.tensor([65504.0, -1.0]).half()).largest == 65504


def test_ranks_merge_to_what_one_would_have_seen() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(5000), 3 * torch.randn(5000)
    both = Observation.merged([observed(first), observed(second)])
    alone = observed(torch.cat((first, second)))
    assert both.largest == alone.largest
    assert both.counts.sum() == 10000
    for method in ("percentile", "mse"):
        spec = QuantizationSpec(method=method, percentile=99)
        assert both.amax(spec) == pytest.approx(alone.amax(spec), rel=0.02)
    assert both.amax(QuantizationSpec(method="max")) == alone.largest


def test_a_rank_that_saw_nothing_changes_nothing() -> None:
    seen = observed(torch.linspace(-2, 1, 100))
    merged = Observation.merged([observed(), seen, observed()])
    assert merged.negative
    assert merged.largest == 2
    assert (merged.counts == seen.counts).all()
