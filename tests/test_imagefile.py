"""Picture files of strangers: what is whole is read alike in every format, the rest is refused before it costs."""

from __future__ import annotations

import io
import struct
import tracemalloc
import warnings
import zlib
from random import Random
from typing import Any

import pytest

from compute.pictureheader import MAX_SCANS, Claimed, claimed, scans
from p2p.errors import Refused

np = pytest.importorskip("numpy")
pytest.importorskip("PIL")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from PIL import Image  # noqa: E402

from compute.imagefile import PictureLimits, read_picture  # noqa: E402

FORMATS = ("PNG", "JPEG", "WEBP")


def file_of(width: int, height: int, name: str, mode: str = "RGB", **options: Any) -> bytes:
    pixels = np.random.default_rng(7).integers(0, 256, (height, width, 3), np.uint8)
    smooth = Image.fromarray(pixels).resize((4, 4)).resize((width, height)).convert(mode)
    out = io.BytesIO()
    smooth.save(out, name, **options)
    return out.getvalue()


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = zlib.compress(b"\x00" * 1_000_000)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def code_of(data: bytes, limits: PictureLimits | None = None) -> str:
    with pytest.raises(Refused) as caught:
        read_picture(data, limits or PictureLimits())
    return caught.value.code


@pytest.mark.parametrize("name", FORMATS)
@given(width=st.integers(8, 300), height=st.integers(8, 300))
@settings(max_examples=15, deadline=None)
def test_the_header_says_what_the_decoder_finds(name: str, width: int, height: int) -> None:
    data = file_of(width, height, name)
    assert claimed(data) == Claimed(name, width, height)
    assert read_picture(data).size == (width, height)


@pytest.mark.parametrize(("name", "options"), [
    ("WEBP", {"lossless": True}), ("WEBP", {"mode": "RGBA"}), ("JPEG", {"progressive": True}), ("JPEG", {"mode": "L"}),
    ("JPEG", {"mode": "CMYK"}), ("PNG", {"mode": "P"}), ("PNG", {"mode": "LA"}), ("PNG", {"mode": "1"}),
])  # fmt: skip
def test_every_kind_comes_out_as_rgb(name: str, options: dict[str, Any]) -> None:
    data = file_of(40, 24, name, **options)
    picture = read_picture(data)
    assert (picture.mode, picture.size) == ("RGB", (40, 24))


def test_transparent_parts_are_white_and_deep_gray_keeps_its_middle() -> None:
    out = io.BytesIO()
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(out, "PNG")
    assert read_picture(out.getvalue()).getpixel((3, 3)) == (255, 255, 255)
    out = io.BytesIO()
    Image.fromarray(np.full((16, 16), 32_896, np.uint16)).save(out, "PNG")
    assert read_picture(out.getvalue()).getpixel((3, 3)) == (128, 128, 128)


def test_a_picture_of_a_turned_camera_comes_out_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    assert read_picture(file_of(40, 24, "JPEG", exif=exif)).size == (24, 40)


@pytest.mark.parametrize("sides", [(100_000, 100_000), (2**31 - 1, 1), (4097, 8), (4096, 4096)])
def test_a_bomb_is_refused_by_its_header(sides: tuple[int, int]) -> None:
    data = png_that_claims(*sides)
    tracemalloc.start()
    assert code_of(data) == "PICTURE_TOO_LARGE"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000


def test_a_webp_bomb_is_refused_before_its_decoder_sees_it() -> None:
    body = b"\x00" * 4 + (16_382).to_bytes(3, "little") * 2
    data = b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + body
    assert code_of(data) == "PICTURE_TOO_LARGE"


def test_a_jpeg_of_scans_without_end_is_refused_before_its_decoder_sees_it() -> None:
    data = file_of(64, 64, "JPEG", progressive=True)
    assert 1 < scans(data) <= MAX_SCANS // 4
    last = data[data.rindex(b"\xff\xda") : -2]
    assert read_picture(data[:-2] + last * 10 + data[-2:]).size == (64, 64)
    assert code_of(data[:-2] + last * MAX_SCANS + data[-2:]) == "PICTURE_TOO_LARGE"


def test_bytes_pixels_and_short_sides_have_their_own_limits() -> None:
    data = file_of(64, 64, "PNG")
    assert code_of(data, PictureLimits(bytes=len(data) - 1)) == "PICTURE_TOO_LARGE"
    assert code_of(data, PictureLimits(pixels=64 * 64 - 1)) == "PICTURE_TOO_LARGE"
    assert code_of(data, PictureLimits(least_side=65)) == "BAD_PICTURE"
    assert read_picture(data, PictureLimits(bytes=len(data), pixels=64 * 64, side=64)).size == (64, 64)


@pytest.mark.parametrize("data", [
    b"", b"\x89PNG", b"GIF89a" + bytes(100), b"%PDF-1.7", bytes(4096), b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b"\xff\xd8\xff" + b"\xff" * 4000, b"\xff\xd8\xff\xe0\x00\x00" * 900, b"RIFF\x00\x00\x00\x00WEBP",
    b"RIFF\x10\x00\x00\x00WEBPVP8L", png_that_claims(0, 0), png_that_claims(4000, 2000),
])  # fmt: skip
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    assert code_of(data) == "BAD_PICTURE"


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_is_cut_off_anywhere_is_refused(name: str) -> None:
    data = file_of(64, 48, name)
    for end in sorted(Random(3).sample(range(len(data) - 20), 40)):
        assert code_of(data[:end]) == "BAD_PICTURE", end


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_read_or_refused_and_nothing_else(name: str) -> None:
    rng, whole = Random(5), file_of(64, 48, name, **({"exif": Image.Exif()} if name == "JPEG" else {}))
    refused: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks about broken EXIF
        for _ in range(300):
            data = bytearray(whole)
            for _ in range(rng.randint(1, 6)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            try:
                read_picture(bytes(data))
            except Refused as exc:
                refused.append(exc.code)
    assert "BAD_PICTURE" in refused
    assert set(refused) <= {"BAD_PICTURE", "PICTURE_TOO_LARGE"}
