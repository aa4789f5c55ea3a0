"""Limits of files that callers bring, at their real values: one more is refused, before anything is decoded."""

from __future__ import annotations

import io
import struct
import tracemalloc
from typing import Any

import pytest

from compute.pictureheader import MAX_SEGMENTS, Claimed, claimed
from compute.wavefile import MAX_CHANNELS, MAX_CHUNKS, MAX_RATE, MIN_RATE, read_wav
from p2p.errors import Refused

np = pytest.importorskip("numpy")
pytest.importorskip("PIL")
from PIL import Image  # noqa: E402

from compute.imagefile import read_picture  # noqa: E402
from compute.soundfile import MAX_STREAMS, RATE, read_sound  # noqa: E402


def jpeg_with(parts: int) -> bytes:
    """A JPEG of 40 x 24 with so many comments before the parts that it has anyway."""
    out = io.BytesIO()
    Image.new("RGB", (40, 24), "red").save(out, "JPEG")
    return out.getvalue()[:2] + b"\xff\xfe\x00\x04ab" * parts + out.getvalue()[2:]


def test_a_jpeg_says_its_sides_within_so_many_parts() -> None:
    own = next(parts for parts in range(MAX_SEGMENTS) if claimed(jpeg_with(MAX_SEGMENTS - parts)))
    assert 1 < own < 10
    assert claimed(jpeg_with(MAX_SEGMENTS - own)) == Claimed("JPEG", 40, 24)
    assert claimed(jpeg_with(MAX_SEGMENTS - own + 1)) is None
    with pytest.raises(Refused, match="BAD_PICTURE"):
        read_picture(jpeg_with(100_000))


def wav(*, rate: int = RATE, channels: int = 1, junk: int = 0) -> bytes:
    fmt = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * 2 * channels, 2 * channels, 16)
    data = bytes(2 * channels * 100)
    parts = b"WAVE" + fmt + b"junk\x00\x00\x00\x00" * junk + b"data" + struct.pack("<I", len(data)) + data
    return b"RIFF" + struct.pack("<I", len(parts)) + parts


def test_a_wav_has_its_sound_within_so_many_parts() -> None:
    assert read_wav(wav(junk=MAX_CHUNKS - 2)).frames == 100
    for junk in (MAX_CHUNKS - 1, 1_000_000):
        with pytest.raises(Refused, match="BAD_SOUND"):
            read_wav(wav(junk=junk))


def test_channels_and_rates_have_limits() -> None:
    for rate, channels in ((MIN_RATE, 1), (MAX_RATE, MAX_CHANNELS)):
        assert len(read_sound(wav(rate=rate, channels=channels))) == 100 * RATE // rate
    for rate, channels in ((MIN_RATE - 1, 1), (MAX_RATE + 1, 1), (RATE, MAX_CHANNELS + 1), (RATE, 0)):
        with pytest.raises(Refused, match="BAD_SOUND"):
            read_sound(wav(rate=rate, channels=channels))


def streams(av: Any, count: int) -> bytes:
    """A container with so many sounds in it."""
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as file:
        made = [file.add_stream("pcm_s16le", rate=RATE) for _ in range(count)]
        for stream in made:
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), "s16", "mono")
            frame.sample_rate, frame.pts = RATE, 0
            for packet in [*stream.encode(frame), *stream.encode(None)]:
                file.mux(packet)
    return out.getvalue()


def test_a_container_has_so_many_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beyond are never opened; what is in the first is heard."""
    av = pytest.importorskip("av")
    opened, really_open = list[int](), av.open

    def watched(*args: Any, **options: Any) -> Any:
        container = really_open(*args, **options)
        opened.append(len(container.streams))
        return container

    files = [streams(av, count) for count in (MAX_STREAMS, MAX_STREAMS + 1, 10 * MAX_STREAMS)]
    monkeypatch.setattr(av, "open", watched)
    assert [len(read_sound(data)) for data in files] == [4096] * 3
    assert opened == [MAX_STREAMS] * 3


def test_a_film_or_a_segment_of_too_many_bytes_never_reaches_the_decoder() -> None:
    pytest.importorskip("av")
    from compute.pipelines.transcoder import MAX_PUSH_BYTES, Transcoder
    from compute.renditions import MAX_BYTES, Ladder, Rendition

    transcoder = Transcoder(Ladder((Rendition("r", 64, 36, 100_000),)))
    film, segment = bytes(MAX_BYTES + 1), bytes(MAX_PUSH_BYTES + 1)
    tracemalloc.start()
    for work in (lambda: transcoder.film(film), lambda: transcoder.push(segment)):
        with pytest.raises(Refused, match="FILM_TOO_LARGE"):
            list(work())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
