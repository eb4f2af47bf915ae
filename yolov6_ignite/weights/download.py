"""Finding a weight file: on disk, in the user's cache folder, or among the officially released ones."""

from __future__ import annotations

import difflib
import hashlib
import http.client
import logging
import os
import ssl
import time
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import IO, Any

from yolov6_ignite.data.user_cache import atomic_write, user_cache_dir
from yolov6_ignite.errors import ConfigError

__all__ = ["RELEASED", "SHA256", "find_weights"]

logger = logging.getLogger(__name__)

RELEASED = {
    **{f"yolov6{size}.pt": "0.4.0" for size in ("n", "s", "m", "l", "n6", "s6", "m6", "l6")},
    **{f"yolov6{size}_mbla.pt": "0.4.0" for size in "smlx"},
    **{f"yolov6lite_{size}.pt": "0.4.0" for size in "sml"},
    **{f"yolov6{size}_base.pt": "0.3.0" for size in "nsml"},
    "yolov6t.pt": "0.2.0",  # an assumption: the specification names no release for it
}
"""The official weight files and the release that holds each (specification, models 9.5)."""

SHA256: dict[str, str] = {}
"""Hashes of released files, for those whose file somebody has had in hand and computed it from. None so far."""

RELEASE_FOLDER = "https://github.com/meituan/YOLOv6/releases/download"
TIMEOUT_S = 30.0  # without a byte
PROGRESS_INTERVAL_S = 5.0
CHUNK_BYTES = 1 << 20
MAX_BYTES = 1 << 30  # the largest network has 0.28 GB in half precision
ALIKE = 0.75  # names that share less are not suggested


def find_weights(name: str | Path) -> Path:
    """The weight file of a name: a file as it is, or an official one, downloaded on first use.

    What was downloaded stays below ``weights/`` in the user's cache folder, with its SHA-256 beside it, and is
    compared with that hash whenever it is used. Ranks that share a cache folder should leave this to one of them;
    several at once only download several times.

    Args:
        name: a path (``~`` is the home folder), or the name of an official file (``yolov6n.pt``). A path to nothing
            whose last part is such a name means the official file.

    Raises:
        ConfigError: there is no such file, it cannot be downloaded, or it is not what it was.
    """
    path = Path(os.path.expanduser(name))
    if path.is_file():
        return path
    if path.exists():
        raise ConfigError(f"{path}: is not a file; give a weight file")
    if path.name not in RELEASED:
        near = difflib.get_close_matches(path.name, RELEASED, n=3, cutoff=ALIKE)
        hint = f"did you mean {', '.join(near)}?" if near else f"official files: {', '.join(sorted(RELEASED))}"
        if not near and len(path.parts) > 1:
            hint = _beside(path)
        raise ConfigError(f"{path}: there is no such weight file; {hint}")
    cached = user_cache_dir() / "weights" / path.name
    if len(path.parts) > 1:
        logger.warning("%s: there is no such file; the official one is used: %s", path, cached)
    if cached.is_file():
        _check(cached)
    else:
        _download(f"{RELEASE_FOLDER}/{RELEASED[path.name]}/{path.name}", cached)
    return cached


def _beside(path: Path) -> str:
    """What is in the folder that a file is not in."""
    there = sorted(other.name for other in path.parent.glob("*.pt"))
    if not there:
        return f"there is no .pt in {path.parent}" if path.parent.is_dir() else f"there is no folder {path.parent}"
    near = difflib.get_close_matches(path.name, there, n=1)
    return f"did you mean {path.with_name(near[0])}?" if near else f"there are {', '.join(there)}"


def _check(path: Path) -> None:
    """Compares a cached file with the hash of the table, else with that of its download.

    Raises:
        ConfigError: it is another one, or cannot be read.
    """
    record = _record_path(path)
    try:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
        if path.name not in SHA256 and not record.exists():  # put there by hand
            _write_record(path, digest.hexdigest())
            return
        expected = SHA256.get(path.name) or record.read_text(encoding="ascii", errors="replace").split(" ")[0]
    except OSError as error:
        raise ConfigError(f"{path}: cannot be checked ({error})") from error
    if digest.hexdigest() != expected:
        raise ConfigError(
            f"{path}: is not the file that was downloaded (its SHA-256 is {digest.hexdigest()}, "
            f"expected {expected}); delete it and {record.name} to download it again"
        )


def _download(url: str, path: Path) -> None:
    """Downloads a file; afterwards it is there whole, or not at all.

    Raises:
        ConfigError: the network, the server or the disk refuses, or the file is not the expected one.
    """
    by_hand = f"put the file at {path} by hand, or give the path of your own file"
    logger.warning("downloading %s to %s", url, path)
    try:
        with atomic_write(path) as file, _open(url) as response:
            length = response.headers.get("Content-Length")
            total = int(length) if length and length.isdigit() else None
            digest, received = _copy(response, file, url, total)
            if total is not None and received != total:
                raise ConfigError(f"{url}: ended after {received} of {total} bytes; try again, or {by_hand}")
            expected = SHA256.get(path.name, digest)
            if digest != expected:
                raise ConfigError(f"{url}: its SHA-256 is {digest}, expected {expected}: not kept; {by_hand}")
            _share(file, path.parent)
            _write_record(path, digest)  # before the file gets its name, so that it never lacks its hash
    except urllib.error.HTTPError as error:
        raise ConfigError(f"{url}: cannot be downloaded (HTTP {error.code} {error.reason}); {by_hand}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        raise ConfigError(f"{url}: cannot be downloaded to {path.parent} ({reason}); {by_hand}") from error
    logger.warning("%s: SHA-256 %s", path, digest)


def _copy(source: Any, destination: IO[bytes], url: str, total: int | None) -> tuple[str, int]:
    """Copies a response, with a progress line now and then: the SHA-256 and the number of bytes.

    Raises:
        ConfigError: there are more than MAX_BYTES.
    """
    name = url.rpartition("/")[2]
    digest, received = hashlib.sha256(), 0
    reported = time.monotonic()
    while chunk := source.read(CHUNK_BYTES):
        if received + len(chunk) > MAX_BYTES:
            raise ConfigError(
                f"{url}: is larger than {MAX_BYTES >> 20} MiB, so it is no weight file; give the path of your own"
            )
        destination.write(chunk)
        digest.update(chunk)
        received += len(chunk)
        if time.monotonic() - reported > PROGRESS_INTERVAL_S:
            reported = time.monotonic()
            logger.warning("%s: %.1f of %s MB", name, received / 1e6, "?" if total is None else f"{total / 1e6:.1f}")
    return digest.hexdigest(), received


def _write_record(path: Path, digest: str) -> None:
    with atomic_write(_record_path(path)) as file:
        file.write(f"{digest}  {path.name}\n".encode())  # as sha256sum writes it
        _share(file, path.parent)


def _share(file: IO[bytes], folder: Path) -> None:
    """Makes a temporary file, which is its owner's alone, readable to those who may read the folder."""
    os.chmod(file.name, 0o600 | folder.stat().st_mode & 0o044)


def _record_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


class _HttpsRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https alone."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        if not newurl.lower().startswith("https://"):
            raise urllib.error.URLError(f"the server leads to {newurl}, which is not https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _open(url: str) -> Any:
    """The response to a request over https, with certificates checked."""
    https = urllib.request.HTTPSHandler(context=ssl.create_default_context())
    return urllib.request.build_opener(https, _HttpsRedirects).open(url, timeout=TIMEOUT_S)
