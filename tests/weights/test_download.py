"""Finding weight files, with a server on this machine in place of the real one."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from yolov6_ignite.data.user_cache import user_cache_dir
from yolov6_ignite.errors import ConfigError
from yolov6_ignite.weights import download
from yolov6_ignite.weights.download import RELEASED, find_weights

CONTENT = bytes(range(256)) * 9000  # more than one chunk
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Answers every request with CONTENT.

    Attributes:
        status: HTTP status of the answers.
        announced: what Content-Length says; None leaves it out.
        sent: bytes that are sent before the connection ends.
        requests: paths that were asked for.
        everyone: passed before an answer, once as many requests are there as it waits for.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.status = 200
        self.announced: int | None = len(CONTENT)
        self.sent = len(CONTENT)
        self.requests: list[str] = []
        self.everyone = threading.Barrier(1)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up early is no error here."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        self.server.everyone.wait()
        self.send_response(self.server.status)
        if self.server.announced is not None:
            self.send_header("Content-Length", str(self.server.announced))
        self.end_headers()
        self.wfile.write(CONTENT[: self.server.sent])

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    here = f"http://127.0.0.1:{server.server_port}"

    def open_here(url: str) -> Any:
        assert url.startswith("https://github.com/")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(url.replace("https://github.com", here), timeout=10)

    monkeypatch.setattr(download, "_open", open_here)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("YOLOV6_IGNITE_CACHE", str(tmp_path / "cache"))
    assert user_cache_dir() == tmp_path / "cache"
    return tmp_path / "cache" / "weights"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_file_is_itself(tmp_path: Path) -> None:
    path = tmp_path / "yolov6n.pt"
    path.write_bytes(b"mine")
    assert find_weights(path) == path
    assert find_weights(str(path)) == path


def test_an_official_file_is_downloaded_once(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = find_weights("yolov6n.pt")
    assert path == cache / "yolov6n.pt"
    assert path.read_bytes() == CONTENT
    assert (cache / "yolov6n.pt.sha256").read_text() == f"{DIGEST}  yolov6n.pt\n"
    assert names_in(cache) == ["yolov6n.pt", "yolov6n.pt.sha256"]
    assert server.requests == ["/meituan/YOLOv6/releases/download/0.4.0/yolov6n.pt"]

    def offline(url: str) -> Any:
        raise AssertionError(url)

    monkeypatch.setattr(download, "_open", offline)
    assert find_weights("yolov6n.pt") == path


@pytest.mark.parametrize(
    ("name", "release"),
    [
        ("yolov6l6.pt", "0.4.0"),
        ("yolov6x_mbla.pt", "0.4.0"),
        ("yolov6lite_s.pt", "0.4.0"),
        ("yolov6s_base.pt", "0.3.0"),
    ],
)
def test_every_file_has_its_release(server: Server, name: str, release: str) -> None:
    find_weights(name)
    assert server.requests == [f"/meituan/YOLOv6/releases/download/{release}/{name}"]


def test_there_are_as_many_as_were_released() -> None:
    assert len(RELEASED) == 8 + 4 + 3 + 4 + 1


def test_a_path_to_nothing_means_the_official_file(
    server: Server, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = tmp_path / "weights" / "yolov6n.pt"
    assert find_weights(missing) == cache / "yolov6n.pt"
    assert f"{missing}: there is no such file" in caplog.text
    assert not missing.parent.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("yolov6n", "did you mean .*yolov6n.pt"),
        ("yolov6-n.pt", "did you mean .*yolov6n.pt"),
        ("weights/yolov6lite_x.pt", "did you mean .*yolov6lite_s.pt"),
        ("runs/exp/best_ckpt.pt", "no such weight file; there is no folder runs/exp"),
        ("foo.pt", "no such weight file; official files"),
        ("model.pt", "no such weight file; official files"),
    ],
)
def test_unknown_names_are_refused_with_what_was_meant(server: Server, name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_weights(name)
    assert server.requests == []


def test_what_is_beside_a_missing_file_is_told(tmp_path: Path) -> None:
    for name in ("best_ckpt_calib_max.pt", "other.pt"):
        (tmp_path / name).write_bytes(b"mine")
    with pytest.raises(ConfigError, match=r"did you mean .*best_ckpt_calib_max\.pt\?"):
        find_weights(tmp_path / "best_ckpt_calib.pt")
    with pytest.raises(ConfigError, match=r"there are best_ckpt_calib_max\.pt, other\.pt"):
        find_weights(tmp_path / "zzz.pt")


def test_the_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "mine.pt").write_bytes(b"mine")
    assert find_weights("~/mine.pt") == tmp_path / "mine.pt"
    with pytest.raises(ConfigError, match="no such weight file"):
        find_weights("~nobody-of-that-name/mine.pt")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "yolov6n.pt"
    folder.mkdir()
    with pytest.raises(ConfigError, match="is not a file"):
        find_weights(folder)


@pytest.mark.parametrize("sent", [0, 1000, len(CONTENT) - 1])
def test_a_partial_download_leaves_nothing(server: Server, cache: Path, sent: int) -> None:
    server.sent = sent
    with pytest.raises(ConfigError) as caught:
        find_weights("yolov6n.pt")
    assert f"put the file at {cache / 'yolov6n.pt'} by hand" in str(caught.value)
    assert "or give the path of your own file" in str(caught.value)
    assert names_in(cache) == []
    server.sent = len(CONTENT)
    assert find_weights("yolov6n.pt").read_bytes() == CONTENT


def test_a_length_that_is_not_kept_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Response(BytesIO):
        headers = Message()

    Response.headers["Content-Length"] = str(len(CONTENT) - 5)  # http.client would stop there
    monkeypatch.setattr(download, "_open", lambda url: Response(CONTENT))
    with pytest.raises(ConfigError, match=f"ended after {len(CONTENT)} of {len(CONTENT) - 5} bytes"):
        find_weights("yolov6n.pt")
    assert names_in(cache) == []


def test_an_answer_without_length_is_taken(server: Server) -> None:
    server.announced = None
    assert find_weights("yolov6n.pt").read_bytes() == CONTENT


@pytest.mark.parametrize("announced", [None, len(CONTENT)])
def test_an_answer_without_end_is_cut_off(
    server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, announced: int | None
) -> None:
    monkeypatch.setattr(download, "MAX_BYTES", len(CONTENT) - 1)
    server.announced = announced
    with pytest.raises(ConfigError, match=r"yolov6n\.pt: is larger than"):
        find_weights("yolov6n.pt")
    assert names_in(cache) == []
    monkeypatch.setattr(download, "MAX_BYTES", len(CONTENT))
    assert find_weights("yolov6n.pt").read_bytes() == CONTENT


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
@pytest.mark.parametrize(("folder", "file"), [(0o755, 0o644), (0o750, 0o640), (0o700, 0o600), (0o777, 0o644)])
def test_who_may_read_the_folder_may_read_the_file(server: Server, cache: Path, folder: int, file: int) -> None:
    cache.mkdir(parents=True)
    cache.chmod(folder)
    path = find_weights("yolov6n.pt")
    assert [stat.S_IMODE((cache / name).stat().st_mode) for name in names_in(cache)] == [file, file]
    assert path.parent == cache


def test_a_missing_file_on_the_server(server: Server, cache: Path) -> None:
    server.status = 404
    with pytest.raises(ConfigError, match=r"0\.4\.0/yolov6n\.pt: cannot be downloaded \(HTTP 404"):
        find_weights("yolov6n.pt")
    assert names_in(cache) == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (urllib.error.URLError("Name or service not known"), "Name or service not known"),
        (TimeoutError("timed out"), "timed out"),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
    ],
)
def test_network_and_disk_errors_say_where_to_put_the_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch, error: OSError, reason: str
) -> None:
    def fail(url: str) -> Any:
        raise error

    monkeypatch.setattr(download, "_open", fail)
    with pytest.raises(ConfigError, match=reason) as caught:
        find_weights("yolov6n.pt")
    assert f"put the file at {cache / 'yolov6n.pt'} by hand" in str(caught.value)
    assert names_in(cache) == []


def test_a_cache_that_cannot_be_written_to(server: Server, cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file where the folder belongs")
    with pytest.raises(ConfigError, match="cannot be downloaded to"):
        find_weights("yolov6n.pt")


def test_a_known_hash_is_demanded(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(download.SHA256, "yolov6n.pt", "0" * 64)
    with pytest.raises(ConfigError, match=f"its SHA-256 is {DIGEST}, expected 0000"):
        find_weights("yolov6n.pt")
    assert names_in(cache) == []
    monkeypatch.setitem(download.SHA256, "yolov6n.pt", DIGEST)
    assert find_weights("yolov6n.pt").read_bytes() == CONTENT
    monkeypatch.setitem(download.SHA256, "yolov6n.pt", "0" * 64)
    with pytest.raises(ConfigError, match="delete it and"):
        find_weights("yolov6n.pt")


@pytest.mark.parametrize("changed", ["yolov6n.pt", "yolov6n.pt.sha256"])
@pytest.mark.parametrize("content", [b"", b"\xff other"])
def test_a_cached_file_must_be_what_it_was(server: Server, cache: Path, changed: str, content: bytes) -> None:
    path = find_weights("yolov6n.pt")
    (cache / changed).write_bytes(content)
    with pytest.raises(ConfigError, match=r"is not the file that was downloaded .* delete it and yolov6n\.pt\.sha256"):
        find_weights("yolov6n.pt")
    path.unlink()
    assert find_weights("yolov6n.pt").read_bytes() == CONTENT


def test_a_file_put_there_by_hand_is_taken_and_remembered(server: Server, cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "yolov6s.pt").write_bytes(b"by hand")
    assert find_weights("yolov6s.pt") == cache / "yolov6s.pt"
    assert server.requests == []
    (cache / "yolov6s.pt").write_bytes(b"changed")
    with pytest.raises(ConfigError, match="is not the file"):
        find_weights("yolov6s.pt")


def test_several_at_once(server: Server, cache: Path) -> None:
    server.everyone = threading.Barrier(4)  # nobody is answered before all have asked
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(find_weights, ["yolov6n.pt"] * 4))
    assert found == [cache / "yolov6n.pt"] * 4
    assert found[0].read_bytes() == CONTENT
    assert names_in(cache) == ["yolov6n.pt", "yolov6n.pt.sha256"]
    assert find_weights("yolov6n.pt") == found[0]
    assert len(server.requests) == 4


@pytest.mark.parametrize("target", ["http://example.com/yolov6n.pt", "ftp://example.com/yolov6n.pt", "file:///x.pt"])
def test_redirects_lead_to_https_alone(target: str) -> None:
    request = urllib.request.Request("https://github.com/x")
    redirects = download._HttpsRedirects()
    with pytest.raises(urllib.error.URLError, match="not https"):
        redirects.redirect_request(request, BytesIO(), 302, "Found", Message(), target)
    followed = redirects.redirect_request(request, BytesIO(), 302, "Found", Message(), "https://example.com/x")
    assert followed is not None
    assert followed.full_url == "https://example.com/x"


def test_certificates_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers: list[Any] = []

    def build_opener(*given: Any) -> Any:
        handlers.extend(given)
        raise urllib.error.URLError("stop here")

    monkeypatch.setattr(urllib.request, "build_opener", build_opener)
    with pytest.raises(ConfigError, match="stop here"):
        find_weights("yolov6n.pt")
    (https,) = [h for h in handlers if isinstance(h, urllib.request.HTTPSHandler)]
    context = https._context  # type: ignore[attr-defined]
    assert context.check_hostname
    assert context.verify_mode.name == "CERT_REQUIRED"
    assert download._HttpsRedirects in handlers


def test_a_slow_download_shows_how_far_it_is(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(download, "PROGRESS_INTERVAL_S", -1.0)
    with caplog.at_level("WARNING"):  # the least that a command shows, and Python where nothing is configured
        find_weights("yolov6n.pt")
    assert "downloading https://github.com/meituan/YOLOv6/releases/download/0.4.0/yolov6n.pt to" in caplog.text
    assert "yolov6n.pt: 2.3 of 2.3 MB" in caplog.text
    assert f"SHA-256 {DIGEST}" in caplog.text
