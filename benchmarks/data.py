"""Speed of the training pipeline: images a second by number of workers, and mosaics with and without the canvas.

    python benchmarks/data.py DATASET.yaml [--image-size 640] [--batch-size 16] [--workers 0 2 4]

The canvas version does what the specification describes: load four images, fill a canvas of twice the size, warp it.
The package's skips images that the crop does not show, and the canvas where nothing is rotated. Both render the same
draws in turns, so their ratio hardly depends on what else the machine does.
"""

from __future__ import annotations

import argparse
import statistics
import time

import cv2
import numpy as np
from numpy.typing import NDArray

from yolov6_ignite.config import AugmentConfig, DataConfig
from yolov6_ignite.data import DatasetIndex, RamCache, build_index, build_train_loader, load_dataset_file
from yolov6_ignite.data.affine import affine_matrix, transform_boxes
from yolov6_ignite.data.boxes import clip_boxes, to_pixels
from yolov6_ignite.data.mosaic import MosaicDraw, draw_mosaic, place_tiles, render_mosaic
from yolov6_ignite.data.random_stream import sample_generator
from yolov6_ignite.data.source import ImageSource

ROUNDS = 5


def render_mosaic_on_canvas(
    source: ImageSource, draw: MosaicDraw, target: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The same as :func:`render_mosaic`, by way of the canvas (specification, training 12.8)."""
    height, width = 2 * target[0], 2 * target[1]
    canvas = np.full((height, width, 3), 114, dtype=np.uint8)
    images = [source.image(i) for i in draw.indices]
    boxes = []
    sizes = [source.size(i) for i in draw.indices]
    for i, image, (h, w), tile in zip(draw.indices, images, sizes, place_tiles(sizes, draw, target), strict=True):
        x1, y1, x2, y2 = tile.rect
        assert image is not None
        canvas[y1:y2, x1:x2] = image[y1 - tile.top : y2 - tile.top, x1 - tile.left : x2 - tile.left]
        boxes.append(to_pixels(source.labels(i), w, h, tile.left, tile.top))
    rows = np.concatenate(boxes)
    clip_boxes(rows, width, height)
    matrix = affine_matrix(draw.affine, (height, width), target)
    out = cv2.warpAffine(canvas, matrix[:2], target[::-1], flags=cv2.INTER_LINEAR, borderValue=(114, 114, 114))
    return out, transform_boxes(rows, matrix, draw.affine.scale, target)  # type: ignore[return-value]


def compare_mosaics(
    index: DatasetIndex, image_size: int, count: int, augment: AugmentConfig, *, in_memory: bool
) -> None:
    """Print milliseconds a mosaic of both versions."""
    target = (image_size, image_size)
    cache = RamCache(index, target) if in_memory else None
    source = ImageSource(index, target, cache=cache)
    draws = [draw_mosaic(sample_generator(0, 0, i), i % len(index), source, target, augment) for i in range(count)]
    direct_ms: list[float] = []
    canvas_ms: list[float] = []
    for _ in range(ROUNDS):
        for render, results in ((render_mosaic, direct_ms), (render_mosaic_on_canvas, canvas_ms)):
            start = time.perf_counter()
            for draw in draws:
                render(source, draw, target)
            results.append((time.perf_counter() - start) / count * 1e3)
    ratio = statistics.median(canvas / direct for canvas, direct in zip(canvas_ms, direct_ms, strict=True))
    what = f"{'memory' if in_memory else 'files'}, degrees {augment.degrees:g}"
    print(
        f"mosaic from {what}: direct {statistics.median(direct_ms):.2f} ms, "
        f"canvas {statistics.median(canvas_ms):.2f} ms, {ratio:.2f} times as long"
    )


def measure_loader(index: DatasetIndex, image_size: int, batch_size: int, batches: int, workers: int) -> None:
    """Print images a second of the default augmentation; starting the workers is not counted."""
    data = DataConfig(image_size=image_size, batch_size=batch_size, workers=workers)
    loader = build_train_loader(index, data, AugmentConfig(), seed=0, strong=True)
    seen, epoch = -1, 0
    start = time.perf_counter()
    while seen < batches:
        loader.batch_sampler.set_epoch(epoch)  # type: ignore[union-attr]
        for _ in loader:
            seen += 1
            if seen == 0:  # the first batch includes the start of the workers
                start = time.perf_counter()
            if seen == batches:
                break
        epoch += 1
    seconds = time.perf_counter() - start
    print(f"loader with {loader.num_workers} workers: {batches * batch_size / seconds:.0f} images/s")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the training pipeline.")
    parser.add_argument("dataset", help="data set YAML, or 'shapes'")
    parser.add_argument("--image-size", type=int, default=640)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--batches", type=int, default=30)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    arguments = parser.parse_args()

    dataset = load_dataset_file(arguments.dataset)
    index = build_index(dataset.train, dataset.names)
    cv2.setNumThreads(0)  # as in a worker
    print(f"{len(index)} images, {index.counts.boxes} boxes, {arguments.image_size} px")
    for degrees in (0.0, 10.0):
        for in_memory in (False, True):
            augment = AugmentConfig(degrees=degrees)
            compare_mosaics(index, arguments.image_size, 100, augment, in_memory=in_memory)
    for workers in arguments.workers:
        measure_loader(index, arguments.image_size, arguments.batch_size, arguments.batches, workers)


if __name__ == "__main__":
    main()
