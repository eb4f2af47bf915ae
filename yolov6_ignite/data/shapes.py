"""A small drawn data set for trying things out: coloured circles, rectangles and triangles on textured backgrounds."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from yolov6_ignite.data.image import Image
from yolov6_ignite.data.random_stream import sample_generator
from yolov6_ignite.data.user_cache import user_cache_dir
from yolov6_ignite.errors import DatasetError

__all__ = ["draw_scene", "ensure_shapes_dataset"]

VERSION = 1  # raise it when the drawings change
SEED = 6
SPLITS = {"train": 200, "val": 50}
NAMES = ["circle", "rectangle", "triangle"]
MAX_OBJECTS = 5
RADIUS_PX = (20, 52)
MAX_COVERED = 0.3  # share of an object's box that later ones may cover
SUBPIXEL_BITS = 4

Polygon = NDArray[np.float64]


def ensure_shapes_dataset(cache_dir: Path | None = None) -> Path:
    """Draw the data set unless it is there already: 200 training and 50 validation images, always the same.

    Args:
        cache_dir: where its folder lies instead of the user's cache folder.

    Returns:
        Its data set YAML.

    Raises:
        DatasetError: the cache folder cannot be written to.
    """
    parent = cache_dir or user_cache_dir()
    folder = parent / f"shapes-v{VERSION}"
    file = folder / "shapes.yaml"
    if file.is_file():
        return file
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=parent, prefix=".shapes-", ignore_cleanup_errors=True) as temporary:
            drawn = Path(temporary) / "shapes"
            _write_dataset(drawn)
            if folder.exists() and not file.is_file():
                shutil.rmtree(folder)  # not ours: a whole data set gets its name at once
            try:
                os.rename(drawn, folder)
            except OSError:
                if not file.is_file():  # otherwise another process has been faster
                    raise
    except OSError as error:
        raise DatasetError(
            f"the data set 'shapes' cannot be drawn into {parent}: {error.strerror or error}. "
            "Name another folder in the environment variable YOLOV6_IGNITE_CACHE."
        ) from None
    return file


def _write_dataset(folder: Path) -> None:
    for split_number, (split, count) in enumerate(SPLITS.items()):
        images, labels = folder / "images" / split, folder / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for i in range(count):
            image, rows = draw_scene(sample_generator(SEED, split_number, i))
            encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
            (images / f"{i:03d}.jpg").write_bytes(encoded.tobytes())
            lines = [f"{int(row[0])} " + " ".join(f"{number:.6f}" for number in row[1:]) for row in rows]
            (labels / f"{i:03d}.txt").write_text("".join(f"{line}\n" for line in lines))
    (folder / "shapes.yaml").write_text(
        f"path: .\ntrain: images/train\nval: images/val\nnc: {len(NAMES)}\nnames: [{', '.join(NAMES)}]\n"
    )


def draw_scene(rng: np.random.Generator) -> tuple[Image, NDArray[np.float64]]:
    """Draw one image.

    Returns:
        BGR uint8 (height, width, 3) and rows (n, 5) class, cx, cy, w, h; normalised.
    """
    height, width = int(rng.integers(192, 241)), int(rng.integers(256, 321))
    image = _background(rng, height, width)
    boxes: list[tuple[float, float, float, float]] = []
    classes: list[int] = []
    for _ in range(int(rng.integers(1, MAX_OBJECTS + 1))):
        label = int(rng.integers(len(NAMES)))
        polygon = _polygon(rng, label, height, width)
        box = (*polygon.min(axis=0).tolist(), *polygon.max(axis=0).tolist())
        if any(_covered(other, box) > MAX_COVERED for other in boxes):
            continue
        _fill(image, polygon, rng)
        boxes.append(box)
        classes.append(label)
    noisy = image + rng.normal(0, 4, image.shape)
    corners = np.array(boxes)
    rows = np.column_stack([
        classes,
        (corners[:, 0] + corners[:, 2]) / 2 / width,
        (corners[:, 1] + corners[:, 3]) / 2 / height,
        (corners[:, 2] - corners[:, 0]) / width,
        (corners[:, 3] - corners[:, 1]) / height,
    ])  # fmt: skip
    return noisy.clip(0, 255).astype(np.uint8), rows


def _background(rng: np.random.Generator, height: int, width: int) -> Image:
    """Dull clouds of two scales with some lines."""
    image = np.full((height, width, 3), rng.uniform(60, 190, 3), dtype=np.float32)
    for cells, strength in ((4, 30), (24, 14)):
        clouds = rng.normal(0, strength, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(clouds, (width, height), interpolation=cv2.INTER_CUBIC)
    grey = image.mean(axis=2, keepdims=True)
    out: Image = (0.35 * image + 0.65 * grey).clip(0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(0, 6))):
        start, end = (rng.uniform(0, 1, 2) * (width, height) for _ in range(2))
        cv2.line(out, start.astype(int).tolist(), end.astype(int).tolist(), [int(rng.integers(60, 190))] * 3, 1)
    return out


def _polygon(rng: np.random.Generator, label: int, height: int, width: int) -> Polygon:
    """Outline of an object inside the image."""
    if label == 0:
        angles, stretch = np.arange(64) * (2 * math.pi / 64), (1.0, 1.0)
    elif label == 1:
        stretch = (1.0, float(rng.uniform(0.6, 1.0)))
        angles = np.array([1, 3, 5, 7]) * math.pi / 4
    else:
        stretch = (1.0, float(rng.uniform(0.8, 1.2)))
        angles = np.array([3, 7, 11]) * math.pi / 6
    points = np.column_stack([np.cos(angles), np.sin(angles)]) * stretch * rng.uniform(*RADIUS_PX)
    turn = rng.uniform(0, 2 * math.pi)
    points = points @ np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    points -= points.min(axis=0)
    room = np.array([width, height]) - points.max(axis=0)
    return points + rng.uniform(0, 1, 2) * room


def _covered(box: tuple[float, ...], by: tuple[float, ...]) -> float:
    w = min(box[2], by[2]) - max(box[0], by[0])
    h = min(box[3], by[3]) - max(box[1], by[1])
    return max(w, 0) * max(h, 0) / ((box[2] - box[0]) * (box[3] - box[1]))


def _fill(image: Image, polygon: Polygon, rng: np.random.Generator) -> None:
    """Fill with a strong colour, and draw a darker edge."""
    hsv = np.array([[[rng.integers(180), rng.integers(170, 256), rng.integers(150, 256)]]], dtype=np.uint8)
    colour = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0]
    # Coordinates are those of pixel edges, OpenCV's those of pixel centres.
    points = np.round((polygon - 0.5) * 2**SUBPIXEL_BITS).astype(np.int32)
    cv2.fillPoly(image, [points], colour.tolist(), cv2.LINE_AA, SUBPIXEL_BITS)
    cv2.polylines(image, [points], True, (colour * 0.6).tolist(), 1, cv2.LINE_AA, SUBPIXEL_BITS)
