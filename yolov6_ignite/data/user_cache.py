"""The user's cache folder: the only place that reading a data set may write to."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

__all__ = ["atomic_write", "user_cache_dir"]


def user_cache_dir() -> Path:
    """Folder for what can be made again: ``$YOLOV6_IGNITE_CACHE``, or ``yolov6_ignite`` in the system cache."""
    override = os.environ.get("YOLOV6_IGNITE_CACHE")
    if override:
        return Path(override).expanduser().absolute()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        parent = Path(base) if base else Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        parent = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME")
        parent = Path(base) if base and os.path.isabs(base) else Path.home() / ".cache"
    return parent / "yolov6_ignite"


@contextmanager
def atomic_write(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside ``path`` that replaces it when the block ends without an error.

    Raises:
        OSError: the folder cannot be made or written to, or the disk is full. ``path`` is then as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stream = NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False)  # noqa: SIM115
    try:
        with stream:
            yield stream
        os.replace(stream.name, path)
    except BaseException:
        Path(stream.name).unlink(missing_ok=True)
        raise
