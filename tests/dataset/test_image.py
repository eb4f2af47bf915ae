from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from yolov6_ignite.data.image import BadImageError, jpeg_is_complete, read_image, resize_to_fit, size_to_fit

PICTURE = np.random.default_rng(0).integers(0, 255, (30, 40, 3), dtype=np.uint8)
JPEG = cv2.imencode(".jpg", PICTURE)[1].tobytes()


def exif_orientation(jpeg: bytes, orientation: int) -> bytes:
    tiff = (
        b"MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01" + bytes([0, orientation, 0, 0]) + bytes(4)
    )
    body = b"Exif\x00\x00" + tiff
    return jpeg[:2] + b"\xff\xe1" + (len(body) + 2).to_bytes(2, "big") + body + jpeg[2:]


@pytest.mark.parametrize(
    "pixels",
    [PICTURE[:, :, 0], np.dstack([PICTURE, PICTURE[:, :, 0]]), PICTURE.astype(np.uint16) * 256],
    ids=["grey", "alpha", "16 bit"],
)
def test_every_kind_of_pixel_becomes_three_bytes(pixels: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    image = read_image(str(path))
    assert (image.shape, image.dtype) == ((30, 40, 3), np.uint8)
    np.testing.assert_array_equal(image[:, :, 0], PICTURE[:, :, 0])


@pytest.mark.parametrize(
    ("orientation", "shape"), [(1, (30, 40, 3)), (3, (30, 40, 3)), (6, (40, 30, 3)), (8, (40, 30, 3))]
)
def test_exif_orientation_is_applied(orientation: int, shape: tuple[int, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(exif_orientation(JPEG, orientation))
    assert read_image(str(path)).shape == shape


def test_paths_may_have_any_letters(tmp_path: Path) -> None:
    path = tmp_path / "żółć 图片" / "ü.jpg"
    path.parent.mkdir()
    path.write_bytes(JPEG)
    assert read_image(str(path)).shape == (30, 40, 3)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.6, 0.99])
def test_a_file_that_is_cut_off_is_bad(suffix: str, kept: float, tmp_path: Path) -> None:
    data = cv2.imencode(suffix, PICTURE)[1].tobytes()
    path = tmp_path / f"a{suffix}"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(BadImageError):
        read_image(str(path))


def test_what_is_no_image_is_bad(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_text("hello")
    (tmp_path / "broken.jpg").symlink_to(tmp_path / "nothing")
    with pytest.raises(BadImageError, match="not an image"):
        read_image(str(tmp_path / "a.jpg"))
    with pytest.raises(BadImageError, match="No such file"):
        read_image(str(tmp_path / "broken.jpg"))


def test_only_the_main_images_end_counts() -> None:
    thumbnail = b"\xff\xe1" + (len(JPEG) + 2).to_bytes(2, "big") + JPEG
    with_thumbnail = JPEG[:2] + thumbnail + JPEG[2:]
    assert jpeg_is_complete(with_thumbnail)
    assert not jpeg_is_complete(with_thumbnail[:-2])
    assert jpeg_is_complete(JPEG + b"appended by a camera")
    assert not jpeg_is_complete(JPEG[:2])


@given(h=st.integers(1, 5000), w=st.integers(1, 5000), size=st.integers(32, 1600))
def test_size_to_fit_is_truncated_and_never_larger(h: int, w: int, size: int) -> None:
    new_h, new_w = size_to_fit(h, w, (size, size))
    assert max(new_h, new_w) in {size, size - 1}
    assert min(new_h, new_w) >= 1
    ratio = size / max(h, w)
    assert (new_h, new_w) == (h, w) or (new_h, new_w) == (max(int(h * ratio), 1), max(int(w * ratio), 1))


def test_resize_interpolates_by_use() -> None:
    np.testing.assert_array_equal(resize_to_fit(PICTURE, (20, 20)), cv2.resize(PICTURE, (20, 15)))
    np.testing.assert_array_equal(
        resize_to_fit(PICTURE, (20, 20), area=True), cv2.resize(PICTURE, (20, 15), interpolation=cv2.INTER_AREA)
    )
    np.testing.assert_array_equal(resize_to_fit(PICTURE, (80, 80), area=True), cv2.resize(PICTURE, (80, 60)))
    assert resize_to_fit(PICTURE, (40, 40)) is PICTURE
