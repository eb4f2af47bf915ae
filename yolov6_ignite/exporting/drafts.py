"""Files that get their names when they are known to be good."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from yolov6_ignite.errors import ConfigError

__all__ = ["Drafts", "drafts_of"]


@dataclass(frozen=True)
class Drafts:
    """Files on trial, in a folder of their own beside the names that they are to have.

    Attributes:
        files: the names.
        paths: where the files are made meanwhile, in the same order and with the same last parts.
    """

    files: tuple[Path, ...]
    paths: tuple[Path, ...]

    def write(self, content: bytes) -> None:
        """Writes the first file.

        Raises:
            ConfigError: the file system refuses.
        """
        try:
            self.paths[0].write_bytes(content)
        except OSError as error:
            raise _refused(self.files[0], error) from error

    def publish(self) -> None:
        """Gives the files their names, the first file's last; all of them, or none.

        Raises:
            ConfigError: there is a file of that name by now, which stays, or the file system refuses.
        """
        reserved: list[Path] = []
        file = self.files[0]
        try:
            for path in self.paths:
                with path.open("r+b") as made:
                    os.fsync(made.fileno())
            for file in self.files:
                file.open("xb").close()  # a rename alone would replace what somebody else has written
                reserved.append(file)
            for path, file in reversed(list(zip(self.paths, self.files, strict=True))):
                os.replace(path, file)
        except BaseException as error:
            for own in reserved:
                own.unlink(missing_ok=True)
            if isinstance(error, FileExistsError):
                raise ConfigError(f"{file}: has appeared meanwhile, and stays; export to another name") from error
            if isinstance(error, OSError):
                raise _refused(file, error) from error
            raise

    def keep_failed(self) -> tuple[Path, ...]:
        """Keeps files that are no good as ``NAME.failed``, in the place of older ones; returns these names.

        Raises:
            ConfigError: the file system refuses.
        """
        kept = tuple(file.with_name(f"{file.name}.failed") for file in self.files)
        for path, file in zip(self.paths, kept, strict=True):
            try:
                os.replace(path, file)
            except OSError as error:
                raise _refused(file, error) from error
        return kept


@contextlib.contextmanager
def drafts_of(files: Sequence[Path]) -> Iterator[Drafts]:
    """A place for files that are to be made; whatever is left in it at the end is removed.

    Args:
        files: the names that they are to have, all in one folder.

    Raises:
        ConfigError: one of them is there already, or the folder cannot be written.
    """
    for file in files:
        if os.path.lexists(file):
            raise ConfigError(f"{file}: is there already; choose another name or remove it")
    first = files[0]
    if not first.parent.is_dir():
        raise ConfigError(f"{first}: there is no folder {first.parent}; make it first")
    try:
        folder = tempfile.TemporaryDirectory(
            prefix=f".{first.stem}.", dir=first.parent.resolve(), ignore_cleanup_errors=True
        )
    except OSError as error:
        raise _refused(first, error) from error
    with folder as name:
        yield Drafts(tuple(files), tuple(Path(name) / file.name for file in files))


def _refused(file: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{file}: cannot be written ({error.strerror or error}); free some space or choose another folder"
    )
