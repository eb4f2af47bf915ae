from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from yolov6_ignite.quantization import TensorQuantizer
from yolov6_ignite.quantization.observers import MaxObserver


def quantizer(amax: float, *, bits: int = 8, unsigned: bool = False, negative: bool = True) -> TensorQuantizer:
    made = TensorQuantizer("input")
    made.amax.fill_(amax)
    made.negative.fill_(negative)
    made.num_bits, made.unsigned, made.mode = bits, unsigned, "quantize"
    return made


grids = {
    "amax": st.floats(1e-3, 1e3),
    "bits": st.integers(2, 8),
    "unsigned": st.booleans(),
    "negative": st.booleans(),
}


@given(**grids, seed=st.integers(0, 1000))
def test_error_is_half_a_step_inside_and_clips_outside(
    amax: float, bits: int, unsigned: bool, negative: bool, seed: int
) -> None:
    q = quantizer(amax, bits=bits, unsigned=unsigned, negative=negative)
    low = 0.0 if unsigned and not negative else -amax
    x = torch.rand(500, generator=torch.Generator().manual_seed(seed)) * (amax - low) + low
    scale = float(q.grid().scale)
    y = q(x)
    assert (y - x).abs().max() <= scale / 2 * 1.001
    torch.testing.assert_close(q(y), y, rtol=0, atol=0)  # idempotent
    assert len(y.unique()) <= 2**bits
    top = q(torch.tensor([amax, 3 * amax, 100 * amax]))
    torch.testing.assert_close(top, torch.full((3,), amax), rtol=1e-5, atol=0)
    bottom = float(q(torch.tensor(-3 * amax)))
    assert bottom == 0 if unsigned and not negative else bottom == pytest.approx(-amax - scale, rel=1e-5)
    assert q(torch.zeros(1)) == 0


@given(**grids)
def test_gradient_passes_inside_the_range_alone(amax: float, bits: int, unsigned: bool, negative: bool) -> None:
    q = quantizer(amax, bits=bits, unsigned=unsigned, negative=negative)
    step = float(q.grid().scale)
    low = 0.0 if unsigned and not negative else -amax - step
    x = torch.tensor(
        [low * 0.99 + 0.01 * step, amax * 0.5, amax * 0.999, amax + step, 9 * amax, low - step, -9 * amax],
        requires_grad=True,
    )
    q(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("unsigned", "negative", "scale", "zero_point", "low", "high"),
    [
        (False, True, 1 / 127, 0, -128, 127),
        (False, False, 1 / 127, 0, -128, 127),
        (True, True, 1 / 127, 128, 0, 255),
        (True, False, 1 / 255, 0, 0, 255),
    ],
)
def test_grids_of_the_targets(
    unsigned: bool, negative: bool, scale: float, zero_point: int, low: int, high: int
) -> None:
    grid = quantizer(1.0, unsigned=unsigned, negative=negative).grid()
    assert float(grid.scale) == pytest.approx(scale)
    assert (int(grid.zero_point), grid.quant_min, grid.quant_max) == (zero_point, low, high)
    assert grid.zero_point.dtype == torch.int32


def weight_quantizer(weight: Tensor) -> TensorQuantizer:
    made = TensorQuantizer("weight", channels=len(weight))
    made.amax.copy_(weight.abs().flatten(1).amax(1))
    made.mode = "quantize"
    return made


def test_weights_by_channel() -> None:
    weight = torch.randn(5, 3, 2, 2) * torch.tensor([1e-4, 1, 10, 0, 1e3]).reshape(-1, 1, 1, 1)
    made = weight_quantizer(weight)
    quantized = made(weight)
    error = (quantized - weight).abs().amax(dim=(1, 2, 3))
    assert (error <= made.amax / 127 / 2 * 1.001).all()
    assert (quantized[3] == 0).all()  # a dead channel
    assert made(torch.ones(5, 3, 2, 2))[3].abs().max() == 0


def test_weights_by_channel_of_the_second_dimension() -> None:
    weight = torch.randn(3, 5, 2, 2) * torch.tensor([1e-4, 1, 10, 0, 1e3]).reshape(-1, 1, 1)
    made = TensorQuantizer("weight", channels=5, axis=1)
    made.amax.copy_(weight.abs().amax(dim=(0, 2, 3)))
    made.mode = "quantize"
    torch.testing.assert_close(
        made(weight).transpose(0, 1), weight_quantizer(weight.transpose(0, 1))(weight.transpose(0, 1))
    )
    # Clipped by channel, too; 127 times a 127th is a rounding error more.
    assert (made(2 * weight).abs().amax(dim=(0, 2, 3)) <= made.amax * (1 + 1e-6)).all()


def test_weights_are_as_large_below_zero_as_above() -> None:
    made = weight_quantizer(torch.ones(1, 1, 1, 1))
    weight = torch.tensor([[[[-1.5, 1.5, -0.999, 0.5]]]], requires_grad=True)
    quantized = made(weight)
    assert quantized.flatten()[:2].tolist() == pytest.approx([-1, 1])
    quantized.sum().backward()
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_computes_in_fp32_and_returns_the_type_it_was_given(dtype: torch.dtype) -> None:
    q = quantizer(3.0)
    x = torch.linspace(-4, 4, 101).to(dtype)
    assert q(x).dtype == dtype
    torch.testing.assert_close(q(x), q(x.float()).to(dtype), rtol=0, atol=0)


def test_modes() -> None:
    q = quantizer(1.0)
    x = torch.tensor([0.3, 5.0])
    q.mode = "off"
    assert q(x) is x
    q.mode = "calibrate"
    assert q(x) is x
    q.observer = MaxObserver()
    assert q(x) is x
    assert q.observer.observation().largest == 5
    q.mode = "quantize"
    assert q(x)[1] == 1
    q.enabled = False
    assert q(x) is x


def test_state_is_the_range_alone_and_copies_keep_the_rest() -> None:
    q = quantizer(2.0, bits=4, unsigned=True)
    q.group = 7
    assert set(q.state_dict()) == {"amax", "negative"}
    assert q.amax.dtype == torch.float32
    other = copy.deepcopy(q)
    assert (other.num_bits, other.unsigned, other.mode, other.group) == (4, True, "quantize", 7)
    x = torch.linspace(-3, 3, 50)
    torch.testing.assert_close(other(x), q(x), rtol=0, atol=0)


def test_weights_are_quantised_without_waiting_for_the_device() -> None:
    quantizer, weight = weight_quantizer(torch.ones(4, 3, 3, 3)), torch.randn(4, 3, 3, 3)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        quantizer(weight)
    names = {event.key for event in profile.key_averages()}
    assert any("fake_quantize_per_channel" in name for name in names)
    assert not names & {"aten::item", "aten::_local_scalar_dense"}
