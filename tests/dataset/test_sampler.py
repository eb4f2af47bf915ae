from __future__ import annotations

from typing import Any

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


REPEATS = st.lists(st.floats(1, 4), min_size=1, max_size=30).map(np.array)


@given(repeats=REPEATS, batch=SIZES["batch"], world=SIZES["world"], epoch=SIZES["epoch"])
def test_repeated_images_fill_epochs_of_one_length(repeats: np.ndarray, batch: int, world: int, epoch: int) -> None:
    n, total = len(repeats), round(float(repeats.sum()))
    whole = batches(EpochBatchSampler(n, batch, 7, repeats=repeats), epoch)
    keys = [key for part in whole for key in part]
    assert [key.position for key in keys] == list(range(total))  # no two have the same augmentation
    times = np.bincount([key.index for key in keys], minlength=n)
    assert (times >= np.floor(repeats)).all()
    shares = [EpochBatchSampler(n, batch, 7, repeats=repeats, rank=rank, world_size=world) for rank in range(world)]
    assert {len(share) for share in shares} == {len(whole)} == {-(-total // batch)}
    for step, parts in enumerate(zip(*(batches(share, epoch) for share in shares), strict=True)):
        assert [key for part in parts for key in part][: len(whole[step])] == whole[step]
    assert batches(shares[0], epoch, 1) == batches(shares[0], epoch)[1:]


def test_epochs_repeat_other_images() -> None:
    sampler = EpochBatchSampler(40, 8, 1, repeats=np.full(40, 1.5))
    times = [np.bincount([key.index for part in batches(sampler, epoch) for key in part]) for epoch in range(60)]
    assert len({tuple(t) for t in times}) > 50
    assert {t.sum() for t in times} == {60}
    np.testing.assert_allclose(np.mean(times, axis=0), 1.5, atol=0.3)
    assert batches(sampler, 3) == batches(EpochBatchSampler(40, 8, 1, repeats=np.full(40, 1.5)), 3)


def test_repeats_of_one_show_every_image_once() -> None:
    drawn = [key for part in batches(EpochBatchSampler(9, 4, 2, repeats=np.ones(9))) for key in part]
    assert sorted(key.index for key in drawn) == list(range(9))


@pytest.mark.parametrize(
    "options", [{"shuffle": False, "repeats": np.ones(4)}, {"repeats": np.ones(3)}, {"repeats": np.full(4, 0.5)}]
)
def test_impossible_repeats_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="repeats need shuffle and 4 numbers of at least 1"):
        EpochBatchSampler(4, 2, 0, **options)
