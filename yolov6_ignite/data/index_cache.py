"""What checking a data set found, as flat arrays in one file of the user's cache folder.

The file is named by the folders and the number of classes, and used only while the names, sizes and times of all
image and label files are those it was made from. A damaged or outdated file is written anew.
"""

from __future__ import annotations

import hashlib
import logging
import os
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from yolov6_ignite.data.labels import Labels
from yolov6_ignite.data.user_cache import atomic_write, user_cache_dir

__all__ = ["Check", "FileStates", "IndexCache", "Scan", "fingerprint"]

logger = logging.getLogger("yolov6_ignite")

Check = tuple[tuple[int, int], Labels] | str  # height and width, labels; or why the image cannot be used
SCHEMA = 1  # raise it when the meaning of the arrays or the rules for labels and images change


class FileStates(NamedTuple):
    """Size in bytes and time in ns of every image and label file, int64 (n, 4); -1 where there is no file."""

    rows: NDArray[np.int64]

    @classmethod
    def of(cls, images: Sequence[str], labels: Sequence[str]) -> FileStates:
        rows = [(*_state(image), *_state(label)) for image, label in zip(images, labels, strict=True)]
        return cls(np.array(rows, dtype=np.int64).reshape(-1, 4))

    @property
    def image_bytes(self) -> NDArray[np.int64]:
        return self.rows[:, 0]

    @property
    def any_label_file(self) -> bool:
        return bool((self.rows[:, 2] >= 0).any())


def _state(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


class Scan(NamedTuple):
    """What was found, independent of the policies for bad files.

    Attributes:
        sizes: int32 (n, 2) height and width; 0 where the image cannot be used.
        boxes: float32 (m, 5).
        offsets: int64 (n + 1) into ``boxes``.
        problem_places: int64 (p, 2) image and line; line 0 stands for the image itself.
        problem_reasons: (p,) str.
        duplicates: lines removed because they repeat another.
    """

    sizes: NDArray[np.int32]
    boxes: NDArray[np.float32]
    offsets: NDArray[np.int64]
    problem_places: NDArray[np.int64]
    problem_reasons: NDArray[np.str_]
    duplicates: int

    @classmethod
    def collect(cls, checks: Sequence[Check]) -> Scan:
        """Join (size, labels) of every image, or the reason why there are none."""
        sizes = np.zeros((len(checks), 2), dtype=np.int32)
        rows = [np.zeros((0, 5), dtype=np.float32)]
        lengths = np.zeros(len(checks) + 1, dtype=np.int64)
        places, reasons, duplicates = [], [], 0
        for i, check in enumerate(checks):
            if isinstance(check, str):
                places.append((i, 0))
                reasons.append(check)
                continue
            sizes[i], labels = check
            rows.append(labels.rows)
            lengths[i + 1] = len(labels.rows)
            duplicates += labels.duplicates
            places += [(i, line) for line, _ in labels.problems]
            reasons += [reason for _, reason in labels.problems]
        return cls(
            sizes,
            np.concatenate(rows),
            np.cumsum(lengths),
            np.array(places, dtype=np.int64).reshape(-1, 2),
            np.array(reasons, dtype=np.str_),
            duplicates,
        )

    def problems(self) -> Iterator[tuple[int, int, str]]:
        """(image, line, reason) of everything that cannot be used."""
        for (image, line), reason in zip(self.problem_places, self.problem_reasons, strict=True):
            yield int(image), int(line), str(reason)


class IndexCache:
    """The cache file of some folders.

    Args:
        roots: absolute folders.
        num_classes: number of classes that labels were checked against.
        cache_dir: where the file lies instead of the user's cache folder.
    """

    def __init__(self, roots: Sequence[str], num_classes: int, cache_dir: Path | None) -> None:
        name = hashlib.sha256("\0".join([str(num_classes), *roots]).encode(errors="surrogateescape")).hexdigest()[:24]
        self.path = (cache_dir or user_cache_dir() / "index") / f"{name}.npz"

    def load(self, paths: Sequence[str], states: FileStates) -> Scan | None:
        """The kept scan, or None where there is none of exactly these files."""
        if not self.path.is_file():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as content:
                if str(content["key"]) != _key(paths, states):
                    return None
                arrays = {name: content[name] for name in Scan._fields}
            scan = Scan(**{**arrays, "duplicates": int(arrays["duplicates"])})
            if len(scan.sizes) != len(paths) or scan.offsets[-1] != len(scan.boxes):
                raise ValueError("arrays do not fit together")
        except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            logger.warning("%s: not a usable index (%s); the data set is checked again", self.path, error)
            return None
        return scan

    def save(self, paths: Sequence[str], states: FileStates, scan: Scan) -> None:
        """Keep a scan; a cache folder that cannot be written to costs time in the next run, nothing else."""
        try:
            with atomic_write(self.path) as stream:
                np.savez(stream, **{"key": np.array(_key(paths, states)), **scan._asdict()})
        except OSError as error:
            logger.warning(
                "%s: the index cannot be kept (%s); the data set is checked again next time. "
                "YOLOV6_IGNITE_CACHE names another cache folder",
                self.path, error.strerror or error,
            )  # fmt: skip


def _key(paths: Sequence[str], states: FileStates) -> str:
    """Hash of everything that a scan depends on."""
    digest = hashlib.sha256(f"{SCHEMA} {cv2.__version__}".encode())  # versions of OpenCV differ in EXIF support
    digest.update("\0".join(paths).encode(errors="surrogateescape"))
    digest.update(states.rows.tobytes())
    return digest.hexdigest()


def fingerprint(
    names: Sequence[str],
    num_classes: int,
    contents: Sequence[NDArray[np.generic]],
) -> str:
    """Hash of usable images and labels that does not depend on where and when the files were written."""
    digest = hashlib.sha256(f"{num_classes} {len(names)}".encode())
    digest.update("\0".join(name.replace(os.sep, "/") for name in names).encode(errors="surrogateescape"))
    for array in contents:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
