from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov6_ignite.data import EpochBatchSampler, SampleKey

SIZES = {"n": st.integers(1, 40), "batch": st.integers(3, 12), "world": st.integers(1, 3), "epoch": st.integers(0, 5)}


def batches(sampler: EpochBatchSampler, epoch: int = 0, start_step: int = 0) -> list[list[SampleKey]]:
    sampler.set_epoch(epoch, start_step)
    return list(sampler)


@given(**SIZES)
def test_an_epoch_sees_every_image_once(n: int, batch: int, world: int, epoch: int) -> None:
    sampler = EpochBatchSampler(n, batch, 7)
    keys = [key for part in batches(sampler, epoch) for key in part]
    assert sorted(key.index for key in keys) == list(range(n))
    assert [key.position for key in keys] == list(range(n))
    assert {key.epoch for key in keys} == {epoch}
    assert len(sampler) == -(-n // batch) == len(batches(sampler, epoch))


@given(**SIZES)
def test_shares_of_the_ranks_make_up_the_global_batch(n: int, batch: int, world: int, epoch: int) -> None:
    whole = batches(EpochBatchSampler(n, batch, 7), epoch)
    shares = [batches(EpochBatchSampler(n, batch, 7, rank=r, world_size=world), epoch) for r in range(world)]
    assert {len(share) for share in shares} == {len(whole)}
    for step, expected in enumerate(whole):
        joined = [key for share in shares for key in share[step]]  # contiguous, in rank order
        assert joined[: len(expected)] == expected
        lengths = [len(share[step]) for share in shares]
        assert max(lengths) - min(lengths) <= 1
        assert min(lengths) >= 1
        if batch % world == 0:
            assert len(joined) == -(-len(expected) // world) * world
    filled = [key for share in shares for key in share[-1]][len(whole[-1]) :]
    assert [key.position for key in filled] == list(range(n, n + len(filled)))
    order = [key.index for part in whole for key in part]
    assert [key.index for key in filled] == [order[i % n] for i in range(len(filled))]


@given(**SIZES, start=st.integers(0, 15))
def test_starting_inside_an_epoch_gives_its_tail(n: int, batch: int, world: int, epoch: int, start: int) -> None:
    sampler = EpochBatchSampler(n, batch, 3, rank=world - 1, world_size=world)
    whole = batches(sampler, epoch)
    assert batches(sampler, epoch, start) == whole[start:]
    assert len(sampler) == len(whole)


def test_orders_depend_on_seed_and_epoch_only() -> None:
    first = EpochBatchSampler(50, 8, 1)
    orders = {(seed, epoch): str(batches(EpochBatchSampler(50, 8, seed), epoch)) for seed in (1, 2) for epoch in (0, 1)}
    assert len(set(orders.values())) == 4
    batches(first, 3)
    np.random.seed(99)
    assert str(batches(first, 1)) == orders[1, 1]


def test_without_shuffling_the_order_is_fixed() -> None:
    sampler = EpochBatchSampler(4, 3, 0, shuffle=False, order=[2, 0, 3, 1])
    assert [[key.index for key in part] for part in batches(sampler, 5)] == [[2, 0, 3], [1]]
    assert [key.index for part in batches(EpochBatchSampler(3, 3, 0, shuffle=False)) for key in part] == [0, 1, 2]


@pytest.mark.parametrize("arguments", [(0, 4, 0), (4, 1, 0)])
def test_impossible_sizes_are_refused(arguments: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"at least 1|less than world_size"):
        EpochBatchSampler(*arguments, world_size=2)
