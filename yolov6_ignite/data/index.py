"""The index of a data set: every usable image with its size and labels, checked once and kept in the user's cache.

Labels lie in flat arrays with offsets, so that loader workers share their memory.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from yolov6_ignite.config import DataConfig
from yolov6_ignite.data.discovery import find_images, label_path, require_images
from yolov6_ignite.data.image import BadImageError, read_image
from yolov6_ignite.data.index_cache import Check, FileStates, IndexCache, Scan, fingerprint
from yolov6_ignite.data.labels import Labels, parse_labels
from yolov6_ignite.errors import DatasetError

__all__ = ["DatasetIndex", "IndexCounts", "Problem", "build_index", "index_split"]

logger = logging.getLogger("yolov6_ignite")

MIN_SIDE_PX = 10
LISTED_PROBLEMS = 5
SCAN_CHUNK = 64
PROGRESS_INTERVAL_S = 10
Policy = Literal["skip", "error"]


class Problem(NamedTuple):
    """A line of a label file, or an image (``line`` is None), that cannot be used."""

    path: str
    line: int | None
    reason: str

    def __str__(self) -> str:
        return f"{self.path}{'' if self.line is None else f':{self.line}'}: {self.reason}"


class IndexCounts(NamedTuple):
    """What an index holds and what it left out.

    Attributes:
        images: usable images.
        boxes: usable boxes, without duplicates.
        background: usable images without a box.
        bad_images: images left out.
        bad_lines: lines of label files left out.
        duplicates: lines left out because they repeat another.
    """

    images: int
    boxes: int
    background: int
    bad_images: int
    bad_lines: int
    duplicates: int


@dataclass(frozen=True, eq=False)
class DatasetIndex:
    """Usable images of a data set, sorted by path.

    Attributes:
        paths: (n,) str, absolute.
        sizes: int32 (n, 2) height and width in pixels, after the EXIF orientation.
        boxes: float32 (m, 5) class, centre x, centre y, width, height of all images; normalised.
        offsets: int64 (n + 1); image i has rows ``offsets[i]`` to ``offsets[i + 1]`` of ``boxes``.
        fingerprint: hash of the images' relative names, sizes and labels, and the number of classes; the same wherever
            the data set lies.
        problems: everything that was left out, duplicates apart.
        counts: sums.
    """

    paths: NDArray[np.str_]
    sizes: NDArray[np.int32]
    boxes: NDArray[np.float32]
    offsets: NDArray[np.int64]
    fingerprint: str
    problems: tuple[Problem, ...]
    counts: IndexCounts

    def __len__(self) -> int:
        return len(self.paths)

    def labels(self, i: int) -> NDArray[np.float32]:
        """Rows (class, cx, cy, w, h) of image ``i``; a view."""
        return self.boxes[self.offsets[i] : self.offsets[i + 1]]

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> DatasetIndex:
        """The index of some of the images, each once and in the order of the paths, with a fingerprint of its own.

        Raises:
            IndexError: an image is not in 0..len - 1.
        """
        chosen = np.unique(np.asarray(indices, dtype=np.int64))
        if len(chosen) and not 0 <= chosen[0] <= chosen[-1] < len(self):
            raise IndexError(f"images {chosen[0]} to {chosen[-1]} of an index of {len(self)}")
        per_image = np.diff(self.offsets)
        boxes = self.boxes[np.repeat(np.isin(np.arange(len(self)), chosen), per_image)]
        counts = IndexCounts(
            images=len(chosen),
            boxes=len(boxes),
            background=int((per_image[chosen] == 0).sum()),
            bad_images=0,
            bad_lines=0,
            duplicates=0,
        )
        return DatasetIndex(
            paths=self.paths[chosen],
            sizes=self.sizes[chosen],
            boxes=boxes,
            offsets=np.concatenate([[0], np.cumsum(per_image[chosen])]).astype(np.int64),
            fingerprint=hashlib.sha256(self.fingerprint.encode() + chosen.tobytes()).hexdigest(),
            problems=(),
            counts=counts,
        )


def build_index(
    directories: Sequence[Path],
    names: Sequence[str],
    *,
    on_bad_label: Policy = "skip",
    on_bad_image: Policy = "skip",
    recheck: bool = False,
    cache_dir: Path | None = None,
) -> DatasetIndex:
    """Find, read and check all images and labels below some folders.

    The result is kept in the user's cache folder and used again while no image or label file has changed in name,
    size or time. Nothing is written beside the data.

    Args:
        directories: folders of images; labels lie where :func:`~yolov6_ignite.data.discovery.label_path` says.
        names: class names; labels must be below their number.
        on_bad_label: leave out lines that cannot be used, or refuse the data set.
        on_bad_image: the same for images.
        recheck: read every file again.
        cache_dir: where to keep the result instead of the user's cache folder.

    Raises:
        DatasetError: a folder is missing or has no image, no image can be used, or something is bad that the
            policies refuse.
    """
    for directory in directories:
        require_images(directory, "data set")
    roots = [str(directory.absolute()) for directory in directories]
    relative = {path: os.path.relpath(path, root) for root in reversed(roots) for path in find_images(Path(root))}
    paths = sorted(relative)
    states = FileStates.of(paths, [label_path(path) for path in paths])
    cache = IndexCache(roots, len(names), cache_dir)
    scan = None if recheck else cache.load(paths, states)
    if scan is None:
        logger.info("checking %d images and their labels in %s", len(paths), ", ".join(roots))
        scan = _scan(paths, len(names))
        cache.save(paths, states, scan)
    index = _to_index(paths, [relative[path] for path in paths], len(names), states, scan)
    _refuse(index, roots, on_bad_label, on_bad_image)
    _report(index, roots, states)
    return index


def index_split(directories: Sequence[Path], names: Sequence[str], data: DataConfig) -> DatasetIndex:
    """:func:`build_index` with the policies of a configuration."""
    return build_index(
        directories, names, on_bad_label=data.on_bad_label, on_bad_image=data.on_bad_image, recheck=data.recheck
    )


def _scan(paths: list[str], num_classes: int) -> Scan:
    """Read every image and label file."""
    chunks = [paths[start : start + SCAN_CHUNK] for start in range(0, len(paths), SCAN_CHUNK)]
    checks: list[Check] = []
    reported_s = time.monotonic()
    with _quiet_decoders(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for chunk in pool.map(lambda chunk: [_check(path, num_classes) for path in chunk], chunks):
            checks += chunk
            if time.monotonic() - reported_s > PROGRESS_INTERVAL_S:
                reported_s = time.monotonic()
                logger.info("checked %d of %d images", len(checks), len(paths))
    return Scan.collect(checks)


def _check(path: str, num_classes: int) -> Check:
    """Size and labels of an image, or why it cannot be used."""
    try:
        height, width = read_image(path).shape[:2]
    except BadImageError as bad:
        return str(bad)
    if min(height, width) < MIN_SIDE_PX:
        return f"{width} x {height} px; both sides must be at least {MIN_SIDE_PX} px"
    try:
        text = Path(label_path(path)).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        text = ""
    except UnicodeDecodeError:
        return (height, width), Labels(np.zeros((0, 5), np.float32), [(1, "the file is not UTF-8 text")], 0)
    except OSError as error:
        return (height, width), Labels(np.zeros((0, 5), np.float32), [(1, f"cannot be read: {error.strerror}")], 0)
    return (height, width), parse_labels(text, num_classes, height, width)


@contextmanager
def _quiet_decoders() -> Iterator[None]:
    """Bad files are reported by us, once, with their names."""
    opencv_log: Any = getattr(cv2.utils, "logging", cv2)  # before OpenCV 5 the functions were in cv2 itself
    level = opencv_log.setLogLevel(0)
    try:
        yield
    finally:
        opencv_log.setLogLevel(level)


def _to_index(paths: list[str], relative: list[str], num_classes: int, states: FileStates, scan: Scan) -> DatasetIndex:
    """The usable part of a scan."""
    usable = np.flatnonzero(scan.sizes[:, 0] > 0)
    problems = tuple(
        Problem(paths[i], None, reason) if line == 0 else Problem(label_path(paths[i]), line, reason)
        for i, line, reason in scan.problems()
    )
    per_image = np.diff(scan.offsets)[usable]  # images that cannot be used have no boxes
    counts = IndexCounts(
        images=len(usable),
        boxes=len(scan.boxes),
        background=int((per_image == 0).sum()),
        bad_images=len(paths) - len(usable),
        bad_lines=sum(problem.line is not None for problem in problems),
        duplicates=scan.duplicates,
    )
    sizes, offsets = scan.sizes[usable], np.concatenate([[0], np.cumsum(per_image)]).astype(np.int64)
    contents = (states.image_bytes[usable], sizes, offsets, scan.boxes)
    return DatasetIndex(
        paths=np.array([paths[i] for i in usable], dtype=np.str_),
        sizes=sizes,
        boxes=scan.boxes,
        offsets=offsets,
        fingerprint=fingerprint([relative[i] for i in usable], num_classes, contents),
        problems=problems,
        counts=counts,
    )


def _report(index: DatasetIndex, roots: list[str], states: FileStates) -> None:
    counts = index.counts
    logger.info(
        "%s: %d images, %d boxes, %d images without a box, %d repeated boxes removed",
        ", ".join(roots), counts.images, counts.boxes, counts.background, counts.duplicates,
    )  # fmt: skip
    if index.problems:
        logger.warning(
            "%s: %d bad images and %d bad label lines are left out: %s",
            ", ".join(roots), counts.bad_images, counts.bad_lines, _listed(index.problems),
        )  # fmt: skip
    if len(index) and not states.any_label_file:
        logger.warning(
            "%s: no image has a label file; expected for example %s", roots[0], label_path(str(index.paths[0]))
        )


def _refuse(index: DatasetIndex, roots: list[str], on_bad_label: Policy, on_bad_image: Policy) -> None:
    images = [problem for problem in index.problems if problem.line is None]
    lines = [problem for problem in index.problems if problem.line is not None]
    for policy, kind, problems in (("on_bad_image", "images", images), ("on_bad_label", "label lines", lines)):
        if problems and (on_bad_image if kind == "images" else on_bad_label) == "error":
            raise DatasetError(
                f"{len(problems)} bad {kind} in {', '.join(roots)} (data.{policy}: error): {_listed(problems)}\n"
                f"Correct them, or set data.{policy}: skip to go on without them."
            )
    if not len(index):
        raise DatasetError(f"no usable image in {', '.join(roots)}: {_listed(images)}")


def _listed(problems: Sequence[Problem]) -> str:
    lines = [str(problem) for problem in problems[:LISTED_PROBLEMS]]
    if len(problems) > LISTED_PROBLEMS:
        lines.append(f"and {len(problems) - LISTED_PROBLEMS} more")
    return "".join(f"\n  {line}" for line in lines)
