from __future__ import annotations

import errno
import io
import os
import subprocess
import sys

import numpy as np
import pytest
from pictures import collection_of, encoded, picture
from PIL import Image

from saat.data import decoding
from saat.data.decoding import (
    FORMATS,
    NO_IMAGE,
    allocate,
    check_upload,
    decode_image,
    decode_rows,
    open_image,
    resize_image,
)
from saat.errors import DataError

ORIENTATION = 0x0112  # the EXIF tag


def image_of(content) -> Image.Image:
    with open_image(content) as image:
        return image


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image).astype(int)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {})])
def test_lossless_formats_give_the_same_pixels(kind, options):
    assert np.array_equal(pixels(image_of(encoded(picture(1), kind, **options))), pixels(picture(1)))


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_lossy_formats_come_near(kind):
    assert np.abs(pixels(image_of(encoded(picture(1), kind, quality=95))) - pixels(picture(1))).mean() < 6


def test_gray_becomes_three_equal_channels():
    opened = pixels(image_of(encoded(picture(1).convert("L"))))
    assert opened.shape == (16, 24, 3)
    assert (opened == pixels(picture(1).convert("L"))[:, :, None]).all()


def test_sixteen_bit_gray_keeps_its_upper_byte():
    gray = np.array([[0, 255, 256, 0x8000, 0xFFFF]], np.uint16)
    assert pixels(image_of(encoded(Image.fromarray(gray))))[0, :, 0].tolist() == [0, 0, 1, 0x80, 0xFF]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_lie_over_white(mode):
    image = Image.new("L", (2, 1), 0).convert(mode)
    image.putalpha(Image.fromarray(np.array([[0, 255]], np.uint8)))
    assert pixels(image_of(encoded(image))).tolist() == [[[255] * 3, [0] * 3]]


def test_palette_with_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.putpixel((1, 0), 1)
    assert pixels(image_of(encoded(image, transparency=0))).tolist() == [[[255, 255, 255], [0, 0, 200]]]
    assert pixels(image_of(encoded(image, transparency=b"\x00\xff"))).tolist() == [[[255, 255, 255], [0, 0, 200]]]


def see_through_pictures():
    """Images of each kind that holds transparency, 24 x 16, as files."""
    alpha = Image.linear_gradient("L").resize((24, 16))
    color, gray, few = picture(1), picture(1).convert("L"), picture(1).quantize(8)
    for image in (color, gray):
        whole = image.copy()
        whole.putalpha(alpha)
        yield encoded(whole)
    corner = color.getpixel((0, 0))
    yield encoded(color, transparency=corner)
    yield encoded(gray, transparency=gray.getpixel((0, 0)))
    yield encoded(few, transparency=3)
    yield encoded(few, transparency=bytes(range(0, 256, 32)))
    yield encoded(few, "GIF", transparency=3)


@pytest.mark.parametrize("content", list(see_through_pictures()))
def test_strips_over_white_are_the_whole_over_white(content, monkeypatch):
    whole = Image.open(io.BytesIO(content)).convert("RGBA")
    wanted = Image.alpha_composite(Image.new("RGBA", whole.size, "white"), whole).convert("RGB")
    monkeypatch.setattr(decoding, "STRIP", 24 * 5)
    assert np.array_equal(pixels(image_of(content)), pixels(wanted))


PEAK = """
import io, sys
from PIL import Image
from saat.data.decoding import open_image
def peak():
    return 1024 * int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
content = io.BytesIO()
Image.new("RGB", (8, 8)).save(content, "PNG")
with open_image(content.getvalue()):
    pass
content = sys.stdin.buffer.read()
before = peak()
with open_image(content) as image:
    pass
print((peak() - before) / (4 * image.width * image.height))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read where Linux has it")
@pytest.mark.parametrize(("mode", "most"), [("RGB", 1.3), ("RGBA", 2.4), ("LA", 2.4), ("I;16", 3.0)])
def test_an_image_is_in_memory_hardly_more_often_than_it_has_to_be(mode, most):
    """As it was read and, if that is not RGB, in RGB: in units of four bytes a pixel, which Pillow takes for either."""
    content = encoded(Image.new(mode, (4000, 4000)))
    done = subprocess.run([sys.executable, "-c", PEAK], input=content, capture_output=True, check=True)
    assert float(done.stdout) < most


def test_cmyk_jpeg():
    opened = image_of(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"))
    red, green, blue = pixels(opened)[8, 8]
    assert opened.mode == "RGB"
    assert red > 200 > 60 > max(green, blue)


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # turn by a quarter, clockwise
    opened = image_of(encoded(picture(1), exif=exif))
    assert opened.size == (16, 24)
    assert np.array_equal(pixels(opened), np.rot90(pixels(picture(1)), -1))


def test_first_frame_of_an_animation():
    frames = [picture(seed).quantize(16) for seed in (1, 2)]
    opened = image_of(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]))
    assert np.abs(pixels(opened) - pixels(frames[0].convert("RGB"))).max() <= 2


def test_each_damage_is_named_and_left_out():
    good, jpeg = encoded(picture(1)), encoded(picture(2, width=200, height=200), "JPEG")
    contents = [good, jpeg[: len(jpeg) // 2], b"", b"hello", good[:-30], good[:40] + b"\xff" * 40 + good[80:]]
    decoded = decode_rows(collection_of(contents), range(6), size=8, crop_border=0, quiet=True)
    assert [bool(digest) for digest in decoded.digests] == [True, False, False, False, False, False]
    assert [text.partition(":")[0] for text in decoded.damaged] == [f"item {row}" for row in range(1, 6)]
    assert "truncated" in decoded.damaged[0]
    assert decoded.damaged[1:3] == ("item 2: empty", f"item 3: {NO_IMAGE}")


def test_random_damage_never_crashes():
    generator = np.random.default_rng(0)
    contents = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
        whole = np.frombuffer(encoded(picture(3), kind), np.uint8)
        for _ in range(40):
            broken = whole.copy()
            broken[generator.integers(0, len(whole), 4)] = generator.integers(0, 256, 4)
            contents.append(broken[: generator.integers(1, len(whole) + 1)].tobytes())
    decoded = decode_rows(collection_of(contents), range(len(contents)), size=8, crop_border=0, quiet=True)
    assert len(decoded.damaged) + sum(map(bool, decoded.digests)) == len(contents)
    assert len(decoded.damaged) > 50


def test_a_pixel_bomb_is_refused_by_its_header():
    bomb = encoded(Image.new("1", (8000, 5001)))  # 5 KB of file, 120 MB of RGB
    with pytest.raises(DataError, match="8000 x 5001 pixels, more than 40,000,000"):
        check_upload(bomb)
    with pytest.raises(DataError, match="more than 178,000,000 pixels"):  # where Pillow itself refuses
        image_of(encoded(Image.new("1", (14_000, 14_000))))


def test_large_images_are_decoded_one_at_a_time(monkeypatch):
    monkeypatch.setattr(decoding, "UPLOAD_PIXELS", 100)
    with open_image(encoded(picture(1, width=10, height=10))):
        assert not decoding._LARGE.locked()
    with open_image(encoded(picture(1, width=10, height=11))):
        assert decoding._LARGE.locked()  # while it is used, too
    with pytest.raises(DataError), open_image(encoded(picture(1, width=10, height=11))[:-30]):
        pass
    assert not decoding._LARGE.locked()


def test_a_jpeg_is_decoded_to_as_much_as_is_needed():
    large = encoded(picture(1, width=640, height=480), "JPEG", quality=95)
    with open_image(large, side=40) as image:
        assert image.size == (160, 120)
        near = pixels(image.resize((40, 30), Image.Resampling.BOX))
    assert np.abs(near - pixels(image_of(large).resize((40, 30), Image.Resampling.BOX))).mean() < 2
    with open_image(encoded(picture(1, width=640, height=480)), side=40) as image:
        assert image.size == (640, 480)


def test_a_photograph_of_a_large_camera_is_read():
    assert image_of(encoded(Image.new("1", (8256, 5504)), "TIFF")).size == (8256, 5504)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_known_white_are_named(mode):
    with pytest.raises(DataError, match="pixels of 32 bits, of which nothing says what is white"):
        image_of(encoded(Image.new(mode, (4, 4), 1), "TIFF"))


def test_crop_border_comes_before_resizing():
    framed = Image.new("RGB", (20, 20), "black")
    framed.paste(Image.new("RGB", (8, 8), "white"), (6, 6))
    assert (pixels(resize_image(framed, size=4, crop_border=6)) == 255).all()
    with pytest.raises(DataError, match="20 x 20 pixels, nothing left after crop_border 10"):
        resize_image(framed, size=4, crop_border=10)


def test_an_image_of_the_right_size_is_not_resampled():
    image = picture(1, width=8, height=8)
    decoded = decode_rows(collection_of([encoded(image)]), [0], size=8, crop_border=0, quiet=True)
    assert np.array_equal(decoded.images[0].transpose(1, 2, 0), np.asarray(image))


def test_one_image_is_decoded_as_many_are():
    contents = [encoded(picture(1), "JPEG"), encoded(picture(2, width=8, height=8))]
    for crop_border in (0, 2):
        decoded = decode_rows(collection_of(contents), range(2), size=8, crop_border=crop_border, quiet=True)
        for content, wanted in zip(contents, decoded.images, strict=True):
            image = decode_image(content, size=8, crop_border=crop_border)
            assert (image.dtype, image.flags.c_contiguous) == (np.uint8, True)
            assert np.array_equal(image, wanted)


def test_digests_are_of_the_content():
    contents = [encoded(picture(1)), encoded(picture(1), "WEBP", lossless=True), encoded(picture(2))]
    first, copy, other = decode_rows(collection_of(contents), range(3), size=8, crop_border=0, quiet=True).digests
    assert first == copy != other


def test_digests_know_the_shape_and_nothing_of_the_size_asked_for():
    wide, tall = Image.new("RGB", (4, 2)), Image.new("RGB", (2, 4))
    small, large = (
        decode_rows(collection_of([encoded(wide), encoded(tall)]), [0, 1], size=size, crop_border=0, quiet=True)
        for size in (8, 16)
    )
    assert small.digests == large.digests
    assert small.digests[0] != small.digests[1]


def test_large_stores_lie_in_a_file(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_MEMORY", 100)
    assert isinstance(allocate((2, 3, 8, 8)), np.memmap)
    contents = [encoded(picture(seed)) for seed in range(3)]
    in_file = decode_rows(collection_of(contents), range(3), size=8, crop_border=0, quiet=True)
    monkeypatch.undo()
    in_memory = decode_rows(collection_of(contents), range(3), size=8, crop_border=0, quiet=True)
    assert isinstance(in_file.images, np.memmap)
    assert np.array_equal(in_file.images, in_memory.images)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="no room is reserved here")
def test_a_full_temporary_disk_is_told_before_images_are_decoded(monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    def unknown(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(decoding, "MAX_MEMORY", 100)
    monkeypatch.setattr(os, "posix_fallocate", unknown)
    assert allocate((2, 3, 8, 8)).shape == (2, 3, 8, 8)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DataError, match=r"^384 bytes of pixels have room in /.*; TMPDIR names .*: No space left"):
        allocate((2, 3, 8, 8))


@pytest.mark.parametrize("kind", FORMATS)
def test_images_of_known_formats_are_read(kind):
    content = io.BytesIO()
    Image.new("RGB", (6, 4), "white").save(content, kind)
    assert image_of(content.getvalue()).size == (6, 4)


def test_other_formats_are_not_tried():
    content = io.BytesIO()
    Image.new("RGB", (6, 4), "white").save(content, "EPS")  # Pillow would start Ghostscript on it
    with pytest.raises(DataError, match=f"^{NO_IMAGE}$"):
        image_of(content.getvalue())
