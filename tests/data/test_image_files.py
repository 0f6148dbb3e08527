"""Image files decoded and brought to one size."""

import io
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from data import image_files
from data.image_files import decode_image, fit_images, has_color, read_image
from system.errors import DataError

RANDOM = np.random.default_rng(0)
COLOUR = RANDOM.integers(0, 256, (5, 7, 3), np.uint8)


def encode(image: Image.Image | np.ndarray, form: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_file_gives_its_pixels(form):
    pixels = decode_image(encode(COLOUR, form, lossless=True), channels=3)
    np.testing.assert_array_equal(pixels, COLOUR)
    assert pixels.dtype == np.uint8


def test_grey_and_color_are_converted_to_the_channels():
    grey = COLOUR[..., 0]
    np.testing.assert_array_equal(decode_image(encode(grey), channels=1), grey[..., None])
    np.testing.assert_array_equal(decode_image(encode(grey), channels=3), np.stack([grey] * 3, axis=-1))
    luma = COLOUR @ [0.299, 0.587, 0.114]  # ITU-R 601, as Pillow documents
    np.testing.assert_allclose(decode_image(encode(COLOUR), channels=1)[..., 0], luma, atol=1)
    deep = np.array([[0, 257, 25_700], [32_896, 65_278, 65_535]], np.uint16)
    eight_bits = [[0, 1, 100], [128, 254, 255]]
    np.testing.assert_array_equal(decode_image(encode(deep), channels=1)[..., 0], eight_bits)


def test_photo_is_rotated_by_its_exif_orientation():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: a viewer turns the image clockwise
    upright = decode_image(encode(COLOUR, exif=exif), channels=3)
    np.testing.assert_array_equal(upright, np.rot90(COLOUR, -1))


def test_transparent_pixels_become_white():
    alpha = np.zeros((5, 7, 1), np.uint8)
    alpha[1:3] = 255
    pixels = decode_image(encode(np.concatenate([COLOUR, alpha], axis=-1)), channels=3)
    np.testing.assert_array_equal(pixels[1:3], COLOUR[1:3])
    assert (pixels[3:] == 255).all()


def test_animation_gives_its_first_frame():
    frames = [Image.fromarray(np.full((4, 6), value, np.uint8)) for value in (10, 200)]
    animation = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (decode_image(animation, channels=1) == 10).all()


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
@pytest.mark.parametrize("exif", [b"Exif\0\0garbage!", b"Exif\0\0MM\0*\xff\xff\xff\xff"])
def test_pixels_with_broken_exif_are_read_as_stored(form, exif):
    raw = encode(COLOUR, form, lossless=True, exif=exif)
    np.testing.assert_array_equal(decode_image(raw, channels=3), COLOUR)


def test_other_formats_of_pillow_are_refused_and_start_no_program(tmp_path, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **options: pytest.fail(f"started {args}"))
    raw = encode(COLOUR, "EPS")
    with pytest.raises(DataError, match="not an image in a supported format"):
        decode_image(raw, channels=3)
    (tmp_path / "photo.png").write_bytes(raw)
    os.mkfifo(tmp_path / "pipe.png")
    assert not has_color(tmp_path / "photo.png")
    assert not has_color(tmp_path / "pipe.png")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "not an image in a supported format"),
        (b"some text", "not an image in a supported format"),
        (encode(RANDOM.integers(0, 256, (50, 50, 3), np.uint8))[:4_000], r"cannot be decoded \(.*truncated"),
        (encode(np.zeros((5, 7), np.float32), "TIFF"), "32-bit pixels"),
    ],
)
def test_invalid_image_raises(raw, reason):
    with pytest.raises(DataError, match=reason):
        decode_image(raw, channels=3)


@pytest.mark.parametrize(("height", "width"), [(10, 29), (29, 10), (7, 10), (10, 9)])
def test_image_fills_the_size_and_is_cropped_about_its_middle(height, width):
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    image = np.stack([8 * rows, 8 * columns], axis=-1).astype(np.uint8)  # pixels that are their positions
    scale = min(height / 5, width / 4)
    (fitted,) = fit_images(image[None], (5, 4)).astype(float) / 8
    middle = (height - 1) / 2, (width - 1) / 2
    expected_rows = middle[0] + scale * (np.arange(5) - 2)
    expected_columns = middle[1] + scale * (np.arange(4) - 1.5)
    # A crop in whole pixels moves the middle by up to one half; antialiasing pulls the outermost inwards.
    np.testing.assert_allclose(fitted[1:-1, 0, 0], expected_rows[1:-1], atol=0.8)
    np.testing.assert_allclose(fitted[0, 1:-1, 1], expected_columns[1:-1], atol=0.8)


def test_smaller_image_is_an_average():
    board = np.zeros((20, 20, 1), np.uint8)
    board[::2, ::2] = board[1::2, 1::2] = 100
    fitted = fit_images(board[None], (4, 4))
    np.testing.assert_allclose(fitted[0, 1:3, 1:3], 50, atol=1)  # without antialiasing 0 or 100


def test_images_are_resized_independently_and_unchanged_at_their_size():
    images = RANDOM.integers(0, 256, (3, 9, 12, 3), np.uint8)
    alone = np.concatenate([fit_images(image[None], (5, 5)) for image in images])
    np.testing.assert_array_equal(fit_images(images, (5, 5)), alone)
    np.testing.assert_array_equal(fit_images(images, (9, 12)), images)
    assert fit_images(images[:, :1], (8, 8)).shape == (3, 8, 8, 3)  # cropped to one pixel


def test_file_that_cannot_be_read_raises_one_line(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    os.mkfifo(tmp_path / "pipe.png")
    for name, message in (
        ("pipe.png", r"cannot read .*pipe\.png: not a regular file"),
        ("notes.txt", r"notes\.txt: not an image in a supported format; choose an image file$"),
        ("missing.png", r"cannot read .*missing\.png: No such file"),
    ):
        with pytest.raises(DataError, match=message):
            read_image(tmp_path / name, image_size=(8, 8), channels=3)


def test_files_are_decoded_on_the_cores_that_the_process_may_use(monkeypatch):
    pool = Mock(wraps=ThreadPoolExecutor)
    monkeypatch.setattr(image_files, "ThreadPoolExecutor", pool)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {3, 5, 8}, raising=False)
    assert list(image_files.read_images([], None, channels=1)) == []
    pool.assert_called_once_with(3)
