"""What a person names on the command line for a pipeline that works on a file: measured, or refused in a line."""

from __future__ import annotations

import io
import wave
from hashlib import sha256
from pathlib import Path

import pytest

from compute.profiles import blocks_of, read_order
from compute.spec import (
    AUDIO_TO_TEXT,
    IMAGE_TO_TEXT,
    MAX_INPUT,
    SEGMENT_ANYTHING,
    TEXT_TO_IMAGE,
    TRANSCODE,
    UPSCALE,
    Option,
)
from market.asking import UNMEASURED_MS, ask
from market.bidwire import ModelOnOffer
from market.client import Wish, bid_for
from p2p.errors import Misconfigured

MODEL = ModelOnOffer("any", bytes(32), 0, 4096, 1, 1, 1, 1)
WORDS = Wish("a red circle")
PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + (96).to_bytes(4, "big") + (64).to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
)


def kept(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def sound(seconds: float, rate: int = 8000) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(2 * int(seconds * rate)))
    return out.getvalue()


@pytest.mark.parametrize(
    ("pipeline", "options", "sides"),
    [(IMAGE_TO_TEXT, (), (96, 64)), (UPSCALE, (), (192, 128)), (UPSCALE, ("factor=4",), (384, 256))],
)
def test_a_picture_is_measured_by_its_header(
    tmp_path: Path, pipeline: str, options: tuple[str, ...], sides: tuple[int, int]
) -> None:
    asked = ask(pipeline, Wish(""), kept(tmp_path, "a.png", PNG), options)
    bid = bid_for(asked.wish, MODEL, pipeline, bytes)
    shape = bid.spec.shape
    assert (shape.width, shape.height, shape.steps, shape.guided, shape.input_bytes) == (*sides, 1, False, len(PNG))
    assert asked.files == (PNG,)
    assert bid.spec.inputs[0].digest == sha256(PNG).digest()


def test_a_sound_is_measured_by_its_header_where_that_is_read(tmp_path: Path) -> None:
    data = sound(1.5)
    told = ask(AUDIO_TO_TEXT, Wish(""), kept(tmp_path, "a.wav", data), ()).wish
    assert (told.length, told.width, told.inputs[0].media_type) == (1500, 0, "audio/wav")
    assert ask(AUDIO_TO_TEXT, Wish(""), kept(tmp_path, "a.mp3", b"ID3"), ()).wish.length == UNMEASURED_MS


def test_options_stand_in_order() -> None:
    told = ask(TEXT_TO_IMAGE, WORDS, None, ("b=2", "a=1=1")).wish
    assert told.options == (Option("a", "1=1"), Option("b", "2"))


@pytest.mark.parametrize(
    ("pipeline", "name", "data", "options", "says"),
    [
        ("text-to-llama", "a.png", PNG, (), "there are"),
        (TEXT_TO_IMAGE, "a.png", PNG, (), "words alone"),
        (SEGMENT_ANYTHING, None, b"", (), "--file"),
        (IMAGE_TO_TEXT, "a.png", b"no picture", (), "neither PNG"),
        (IMAGE_TO_TEXT, "a.png", b"", (), "bytes"),
        (AUDIO_TO_TEXT, "a.wav", b"RIFF", (), "no WAV"),
        (AUDIO_TO_TEXT, "a.txt", b"words", (), "ends in"),
        (UPSCALE, "a.png", PNG, ("factor=3",), "2 or 4"),
        (UPSCALE, "a.png", PNG, ("factor",), "NAME=VALUE"),
        (UPSCALE, "a.png", PNG, ("factor=2", "factor=4"), "twice"),
        (UPSCALE, "a.png", PNG, ("x" * 33 + "=1",), "NAME=VALUE"),
        (UPSCALE, "a.png", PNG, tuple(f"o{n}=1" for n in range(33)), "at most"),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_line(
    tmp_path: Path, pipeline: str, name: str | None, data: bytes, options: tuple[str, ...], says: str
) -> None:
    wish = WORDS if pipeline == TEXT_TO_IMAGE else Wish("")
    with pytest.raises(Misconfigured, match=says) as refused:
        ask(pipeline, wish, None if name is None else kept(tmp_path, name, data), options)
    assert "\n" not in str(refused.value)


def test_a_file_beyond_what_a_node_holds_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    with path.open("wb") as file:
        file.truncate(MAX_INPUT + 1)
    with pytest.raises(Misconfigured, match="can be sent"):
        ask(IMAGE_TO_TEXT, Wish(""), path, ())


def test_words_are_needed_for_a_picture() -> None:
    with pytest.raises(Misconfigured, match="prompt"):
        ask(TEXT_TO_IMAGE, Wish(""), None, ())


def test_a_film_is_measured_by_its_boxes(tmp_path: Path) -> None:
    pytest.importorskip("av")
    from tests.support.films import film, steady

    data = film(steady(40), width=320, height=180)
    asked = ask(TRANSCODE, Wish(""), kept(tmp_path, "a.mp4", data), ("renditions=144p", "form=hls"))
    shape = bid_for(asked.wish, MODEL, TRANSCODE, bytes).spec.shape
    blocks = blocks_of(read_order({"renditions": "144p"}.get).ladder, 320, 180)
    assert (shape.length, shape.steps, shape.guided, shape.input_bytes) == (40, 1, False, len(data))
    assert blocks <= shape.width * shape.height < blocks + shape.width
    assert asked.names == ("master.m3u8", "144p.m3u8", "144p.ts")


@pytest.mark.parametrize(
    ("name", "data", "options", "says"),
    [
        ("a.avi", b"RIFF", (), "ends in"),
        ("a.mp4", b"no film", (), "no film"),
        ("a.mp4", b"x", ("renditions=9p",), "a rendition is one of"),
        ("a.mp4", b"x", ("form=avi",), "form is one of"),
        ("a.mp4", b"x", ("speed=1",), "no option 'speed'"),
    ],
)
def test_what_is_no_film_or_no_order_is_said_in_a_line(
    tmp_path: Path, name: str, data: bytes, options: tuple[str, ...], says: str
) -> None:
    pytest.importorskip("av")
    with pytest.raises(Misconfigured, match=says):
        ask(TRANSCODE, Wish(""), kept(tmp_path, name, data), options)


def test_without_pyav_only_a_plain_mp4_can_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compute import filmprobe

    monkeypatch.setattr(filmprobe.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(Misconfigured, match="PyAV"):
        ask(TRANSCODE, Wish(""), kept(tmp_path, "a.ts", b"G" * 188), ())
