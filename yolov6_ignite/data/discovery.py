"""Which files a data set consists of (specification, training 12.2)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from yolov6_ignite.errors import DatasetError

__all__ = ["IMAGE_SUFFIXES", "find_images", "label_path", "missing_path_message", "require_images"]

IMAGE_SUFFIXES = frozenset({".bmp", ".jpg", ".jpeg", ".png", ".tif", ".tiff", ".dng", ".webp", ".mpo"})


def find_images(directory: Path) -> Iterator[str]:
    """Paths of the image files below a folder, in no particular order; hidden files and folders are skipped.

    Links to folders are followed, each real folder once. A link that leads nowhere is listed: reading it fails, and
    so it is reported.

    Raises:
        DatasetError: a folder cannot be read.
    """
    visited = set()
    for folder, subfolders, files in os.walk(directory, followlinks=True, onerror=_refuse):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in files:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES:
                path = os.path.join(folder, name)
                if os.path.isfile(path) or not os.path.exists(path):
                    yield path


def _refuse(error: OSError) -> None:
    raise DatasetError(f"{error.filename} cannot be read: {error.strerror}; check its permissions.") from None


def label_path(image_path: str) -> str:
    """Label file of an image: the last folder called ``images`` becomes ``labels``, the suffix ``.txt``."""
    folder, name = os.path.split(image_path)
    parts = folder.split(os.sep)
    for i in reversed(range(len(parts))):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return os.path.join(os.sep.join(parts), os.path.splitext(name)[0] + ".txt")


def missing_path_message(path: Path) -> str:
    """Say that a path does not exist, and how far it does."""
    parent = next((folder for folder in path.parents if folder.exists()), None)
    return f"{path} does not exist" + (f" (the nearest folder that does is {parent})" if parent else "")


def require_images(directory: Path, where: str) -> None:
    """Check that a folder exists and has an image in it.

    Args:
        directory: the folder.
        where: what named it, for the message: a data set file and a key.

    Raises:
        DatasetError: the folder is missing, is a file, cannot be read, or has no image.
    """
    if not directory.exists():
        raise DatasetError(f"{where}: {missing_path_message(directory)}; correct the path or put the images there.")
    if not directory.is_dir():
        raise DatasetError(f"{where}: {directory} is a file; give the folder that holds the images.")
    if not os.access(directory, os.R_OK | os.X_OK):
        raise DatasetError(f"{where}: {directory} cannot be read; check its permissions.")
    if next(find_images(directory), None) is None:
        suffixes = " ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
        raise DatasetError(f"{where}: no image in {directory} or below it; expected files ending in {suffixes}.")
