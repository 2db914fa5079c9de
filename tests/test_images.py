import contextlib
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile

from pairs.images import read_header, read_picture
from pairs.picture import of_pillow, to_array
from utils import DataError


def opened(path, channels=3):
    return to_array(read_picture(path), channels)


@pytest.mark.parametrize("suffix", ["png", "jpg", "jfif", "webp", "bmp", "tif", "gif", "ppm"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_every_format_keeps_its_colours(tmp_path, suffix, mode):
    colour = (200, 100, 50) if mode == "RGB" else 120
    Image.new(mode, (20, 10), colour).save(tmp_path / f"a.{suffix}")
    array = opened(tmp_path / f"a.{suffix}")
    assert array.shape == (10, 20, 3) and array.dtype == np.uint8
    assert np.abs(array.astype(int) - colour).max() <= 6  # JPEG and WebP are lossy
    gray = opened(tmp_path / f"a.{suffix}", 1)  # by luminance
    assert gray.shape == (10, 20, 1)
    assert np.abs(gray.astype(int) - np.sum(np.array([0.299, 0.587, 0.114]) * colour)).max() <= 3


PALETTE = Image.new("P", (4, 4), 1)
PALETTE.putpalette([0, 0, 0, 10, 200, 30])


@pytest.mark.parametrize(("image", "name", "options", "channels", "colour"), [
    (Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "a.png", {}, 3, 255), (Image.new("LA", (4, 4)), "a.png", {}, 1, 255),
    (Image.new("CMYK", (4, 4), (0, 0, 0, 0)), "a.tif", {}, 3, 255), (Image.new("1", (4, 4), 1), "a.png", {}, 3, 255),
    (PALETTE, "a.png", {}, 3, (10, 200, 30)), (PALETTE, "a.png", dict(transparency=1), 3, 255)])
def test_palettes_become_colours_and_transparent_pixels_white(tmp_path, image, name, options, channels, colour):
    """And not the colour that is hidden there."""
    image.save(tmp_path / name, **options)
    assert (opened(tmp_path / name, channels) == colour).all()


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bits_keep_range_and_precision(tmp_path, suffix):
    values = np.array([[0, 1, 32768, 65535]], np.uint16)
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), values)
    array = opened(tmp_path / f"a.{suffix}", 1)
    assert array.dtype == np.float32
    np.testing.assert_allclose(array[..., 0], values / 65535, atol=1e-7)
    assert opened(tmp_path / f"a.{suffix}", 3).shape == (1, 4, 3)
    blue = np.arange(16, dtype=np.uint16).reshape(4, 4) + 10_000  # 16 values, of which 8 bits would keep one
    values = np.dstack([blue, np.full_like(blue, 30_000), np.full_like(blue, 50_000)])  # BGR
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), values)
    array = opened(tmp_path / f"a.{suffix}")
    assert array.dtype == np.float32
    np.testing.assert_allclose(array, values[..., ::-1] / 65535, atol=1e-7)
    gray = opened(tmp_path / f"a.{suffix}", 1)
    np.testing.assert_allclose(gray[..., 0], values @ [0.114, 0.587, 0.299] / 65535, atol=1e-6)


@pytest.mark.parametrize(("most", "kind"), [(19, "u1"), (255, "u1"), (4095, ">u2"), (65535, ">u2")])
def test_of_pgm_the_numbers_stay_as_they_are_written_and_of_8_bits_the_largest_is_white(tmp_path, most, kind):
    values = np.array([[0, 1, most // 2, most]])
    content = f"P5\n4 1\n{most}\n".encode() + values.astype(kind).tobytes()
    (tmp_path / "a.pgm").write_bytes(content)
    picture = read_picture(tmp_path / "a.pgm")
    assert (picture.indices == values).all()
    if most > 255:
        assert picture.kind == "uint16" and (picture.array[..., 0] == values).all()
    else:
        assert picture.kind == "uint8" and (abs(picture.array[..., 0] - values * 255 / most) < 1).all()
    colour = values[..., None] * [1, 0, 1]
    (tmp_path / "a.ppm").write_bytes(f"P6\n4 1\n{most}\n".encode() + colour.astype(kind).tobytes())
    array = read_picture(tmp_path / "a.ppm").array
    assert (array[..., 0] == picture.array[..., 0]).all() and (array[..., 1] == 0).all()
    (tmp_path / "a.pgm").write_bytes(content[:-1])
    (tmp_path / "text.pgm").write_bytes(b"P2\n2 1\n19\n3 19\n")
    for name, reason in (("a", "truncated|not enough"), ("text", "spelled out")):
        with pytest.raises(DataError, match=f"{name}.pgm cannot be read: .*{reason}"):
            read_picture(tmp_path / f"{name}.pgm")


def test_of_gif_gray_is_gray_and_colours_are_no_classes(tmp_path):
    values = np.array([[50, 100, 250] * 100], np.uint8)
    gray, first, second = (Image.fromarray(values // n) for n in (1, 2, 50))
    gray.save(tmp_path / "gray.gif")
    picture = read_picture(tmp_path / "gray.gif")
    assert picture.channels == 1 and (picture.array[..., 0] == values).all() and (picture.indices == values).all()
    first.save(tmp_path / "two.gif", save_all=True, append_images=[second])
    assert read_header(tmp_path / "two.gif").frames
    assert (read_picture(tmp_path / "two.gif").indices == values // 2).all()
    whole = (tmp_path / "two.gif").read_bytes()
    for end in range(len(whole) // 2, len(whole)):  # Pillow raises IndexError and more
        (tmp_path / "cut.gif").write_bytes(whole[:end])
        with contextlib.suppress(DataError):
            read_header(tmp_path / "cut.gif")
    second.putpalette([value for i in range(256) for value in (i, 255 - i, 7)])
    second.save(tmp_path / "classes.gif", transparency=2, optimize=False)
    picture = read_picture(tmp_path / "classes.gif")
    assert picture.indices is None and picture.array[0, 0].tolist() == [1, 254, 7]
    assert picture.alpha[0, :3].tolist() == [255, 0, 255]


def test_16_bit_transparency_is_laid_over_white(tmp_path):
    values = np.zeros((4, 4, 4), np.uint16)
    values[:2, :, 3] = 65535
    cv2.imwrite(str(tmp_path / "a.png"), values)
    for channels in (3, 1):
        assert (opened(tmp_path / "a.png", channels)[:2] == 0).all()
        assert (opened(tmp_path / "a.png", channels)[2:] == 1).all()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_the_gray_that_a_png_calls_transparent_is_white(tmp_path, bits, place):
    """As GDAL marks pixels without a value, and optimisers the ground of a drawing."""
    values = np.linspace(0, 2**bits - 1, 4).astype(np.uint16)
    row = values.astype(">u2").tobytes() if bits == 16 else np.packbits(
        (values[:, None] >> np.arange(bits)[::-1] & 1).astype(np.uint8)).tobytes()
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 4, 1, bits, 0, 0, 0, 0), b"tRNS": struct.pack(">H", values[place]),
              b"IDAT": zlib.compress(b"\0" + row), b"IEND": b""}
    parts = (struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
             for name, body in chunks.items())
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    picture = read_picture(tmp_path / "a.png")
    clear = values == values[place]
    assert (picture.indices == values).all() and (picture.alpha == np.where(clear, 0, np.iinfo(picture.kind).max)).all()
    wanted = np.where(clear, 1, values / (2**bits - 1))
    np.testing.assert_allclose(to_array(picture, 1)[0, :, 0] / (255 if bits < 16 else 1), wanted, atol=1e-6)


def test_a_colour_that_was_transparent_before_pillow_converted_it_hides_nothing():
    image = Image.new("RGB", (4, 4))
    image.info["transparency"] = (0, 0, 0)
    assert [of_pillow(image.convert(mode)).alpha for mode in "IF"] == [None, None]


def test_a_size_is_read_without_decoding(tmp_path, monkeypatch):
    for suffix in ("png", "jpg", "webp", "tif", "bmp"):
        Image.new("RGB", (64, 32)).save(tmp_path / f"a.{suffix}")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    for suffix in ("png", "jpg", "tif", "bmp"):
        assert read_header(tmp_path / f"a.{suffix}").size == (64, 32)


def test_unusable_files_are_named(tmp_path):
    Image.new("RGB", (64, 64), "red").save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    bad = {"zero.png": b"", "text.jpg": b"not an image", "cut.png": whole[: len(whole) // 2],
           "flipped.png": whole[:60] + bytes(b ^ 255 for b in whole[60:90]) + whole[90:]}
    for name, content in bad.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            read_picture(tmp_path / name)
    with pytest.raises(DataError, match="gone.png"):
        read_picture(tmp_path / "gone.png")


def test_an_image_beyond_pillows_limit_is_refused_unread(tmp_path, monkeypatch):
    for width, height in ((100_000, 100_000), (2**31 - 1, 2**31 - 1), (2**31 - 1, 1)):
        head = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 2, 0, 0, 0])
        content = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + head + zlib.crc32(head).to_bytes(4, "big")
        (tmp_path / "a.png").write_bytes(content + b"rest")
        for read in (read_picture, read_header):
            with pytest.raises(DataError, match="a.png"):
                read(tmp_path / "a.png")
    Image.new("1", (400, 300)).save(tmp_path / "huge.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)  # a warning from here on, an error from twice that
    with pytest.raises(DataError, match="huge.png is too large: more than 100,000 pixels"):
        read_picture(tmp_path / "huge.png")


def test_a_message_survives_the_way_out_of_a_loader_process():
    carried = "Caught DataError in DataLoader worker process 0.\nOriginal Traceback …\nutils.DataError: a.png is bad"
    assert str(DataError(carried)) == "a.png is bad"
