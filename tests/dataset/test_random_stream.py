from __future__ import annotations

import itertools

from yolov6_ignite.data.random_stream import epoch_generator, sample_generator


def test_streams_differ_in_every_part_of_their_key() -> None:
    keys = list(itertools.product((0, 1, 2**40), (0, 1, 300), (0, 1, 10**7)))
    first = [sample_generator(*key).random(4).tolist() for key in keys]
    first += [epoch_generator(seed, epoch).random(4).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(numbers) for numbers in first}) == len(first)


def test_a_stream_is_a_function_of_its_key() -> None:
    assert sample_generator(3, 4, 5).random(7).tolist() == sample_generator(3, 4, 5).random(7).tolist()


def test_neighbours_are_independent() -> None:
    means = [sample_generator(0, 0, position).random() for position in range(2000)]
    assert abs(sum(means) / len(means) - 0.5) < 0.02
