"""The zip file that ``torch.save`` writes, opened with suspicion: every size is checked before anything is read.

A file ``NAME.pt`` is a zip archive of uncompressed records: ``NAME/data.pkl``, the pickle, and ``NAME/data/0``,
``NAME/data/1``, ... with the bytes of one tensor storage each.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from yolov6_ignite.errors import ConfigError

__all__ = ["TorchArchive", "open_torch_archive", "refuse"]

# What the standard library and torch raise on bytes that are not what they should be.
GARBAGE = (
    OSError,
    EOFError,
    zipfile.BadZipFile,
    zipfile.LargeZipFile,
    struct.error,
    ValueError,
    LookupError,
    TypeError,
    ArithmeticError,
    RuntimeError,
)
BEFORE_1_6 = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"  # the magic number as torch pickled it
MAX_DIRECTORY_BYTES = 8 << 20  # a released file's directory has under 0.5 MB; each byte of it becomes 15 in memory
MAX_PICKLE_BYTES = 16 << 20  # a released file's pickle has under 1 MB, a checkpoint's after 5,000 epochs 4 MB


class TorchArchive:
    """The records of a torch zip file.

    Attributes:
        path: the file.
        pickle: the bytes of ``data.pkl``.
    """

    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.path = path
        self._archive = archive
        self._records = _checked_records(archive, path.stat().st_size)
        pickles = [name for name in self._records if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise zipfile.BadZipFile(f"it has {len(pickles)} records data.pkl instead of one")
        self._prefix = pickles[0][: -len("data.pkl")]
        if self._records[pickles[0]].file_size > MAX_PICKLE_BYTES:
            raise zipfile.BadZipFile(f"its data.pkl is larger than {MAX_PICKLE_BYTES >> 20} MiB")
        byte_order = self._records.get(self._prefix + "byteorder")
        if byte_order is not None and (byte_order.file_size > 6 or archive.read(byte_order) != b"little"):
            raise zipfile.BadZipFile("its byte order is not 'little'; save it again on a little-endian machine")
        self.pickle = archive.read(pickles[0])

    def storage(self, key: str, size: int) -> bytearray:
        """The bytes of one storage, their checksum verified.

        Args:
            key: its number, as the pickle gives it.
            size: how many bytes the pickle says that it has.

        Raises:
            zipfile.BadZipFile: there is no such record, its size is another, or it is damaged.
        """
        record = self._records.get(f"{self._prefix}data/{key}") if key.isascii() and key.isdecimal() else None
        if record is None:
            raise zipfile.BadZipFile(f"its pickle asks for the storage {key[:40]!r}, which is not in it")
        if record.file_size != size:
            raise zipfile.BadZipFile(f"storage {key} has {record.file_size} bytes where its pickle says {size}")
        return bytearray(self._archive.read(record))


@contextmanager
def open_torch_archive(path: Path) -> Iterator[TorchArchive]:
    """Opens a torch zip file; whatever goes wrong with its bytes inside the block becomes a ConfigError.

    Raises:
        ConfigError: it does not exist, cannot be read, is damaged or is no torch zip file.
    """
    if not path.is_file():
        what = "is not a regular file" if path.exists() else "there is no such file"
        raise ConfigError(f"{path}: {what}; give the path of a weight file (.pt)")
    try:
        with _Bounded(io.FileIO(path)) as file:
            if file.read(len(BEFORE_1_6)) == BEFORE_1_6:
                raise ConfigError(
                    f"{path}: is in the format of torch before 1.6, which is not read here; load it with the "
                    "program that wrote it and save it again with a newer torch"
                )
            with zipfile.ZipFile(file) as archive:
                file.limit = max(path.stat().st_size, MAX_DIRECTORY_BYTES)
                yield TorchArchive(path, archive)
    except GARBAGE as error:
        raise ConfigError(
            f"{path}: is not a weight file that torch wrote, or it is damaged ({str(error)[:200]}); "
            "nothing in it was run; copy or download it again, or use an earlier checkpoint"
        ) from error


def refuse(path: Path, what: str) -> NoReturn:
    """Raises the ConfigError for a file that can be read, but holds what weight files do not."""
    raise ConfigError(f"{path}: {what}; nothing in it was run; take the file from where it was made or released")


class _Bounded(io.BufferedReader):
    """A file that refuses to read more at once than ``limit``, so that a forged directory cannot fill the memory."""

    limit = MAX_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        wanted = self.limit + 1 if size is None or size < 0 else size
        data = super().read(min(wanted, self.limit + 1))
        if len(data) > self.limit:
            raise zipfile.BadZipFile("its directory is too large")
        return data


def _checked_records(archive: zipfile.ZipFile, size: int) -> dict[str, zipfile.ZipInfo]:
    """The records by name.

    Raises:
        zipfile.BadZipFile: one is compressed or encrypted, two have one name, or they overlap.
    """
    records: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size or info.flag_bits & 1:
            raise zipfile.BadZipFile(f"{info.filename[:80]} is compressed or encrypted, which torch never does")
        if info.filename in records:
            raise zipfile.BadZipFile(f"{info.filename[:80]} is in it twice")
        records[info.filename] = info
    if sum(info.file_size for info in records.values()) > size:
        raise zipfile.BadZipFile("its records claim more bytes than the file has")
    return records
