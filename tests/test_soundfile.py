"""Sound files of strangers: every encoding of one sound is that sound, and a header that lies costs nothing."""

from __future__ import annotations

import struct
import tracemalloc
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compute.wavefile import read_wav
from p2p.errors import Refused

np = pytest.importorskip("numpy")

from compute.soundfile import RATE, SoundLimits, read_sound, to_rate  # noqa: E402
from tests.support.bad_media import silence, sound_beside_a_picture  # noqa: E402


def wav(body: bytes, *, kind: int = 1, channels: int = 1, rate: int = RATE, bits: int = 16, **lies: Any) -> bytes:
    frame = lies.get("frame", channels * bits // 8)
    fmt = struct.pack("<HHIIHH", kind, channels, rate, rate * frame % 2**32, frame, bits) + lies.get("extra", b"")
    parts = lies.get("before", b"") + b"fmt " + struct.pack("<I", len(fmt)) + fmt
    parts += b"data" + struct.pack("<I", lies.get("size", len(body))) + body
    return b"RIFF" + struct.pack("<I", len(parts) + 4) + b"WAVE" + parts


def tone(rate: int, hertz: float = 440.0, seconds: float = 0.5) -> Any:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate)


def code_of(data: bytes, limits: SoundLimits | None = None) -> str:
    with pytest.raises(Refused) as caught:
        read_sound(data, limits or SoundLimits())
    return caught.value.code


def encoded(samples: Any) -> dict[str, bytes]:
    whole = (samples * (2**31 - 1)).astype("<i4")
    extended = struct.pack("<HHI", 22, 16, 4) + struct.pack("<H", 1) + bytes(14)
    sixteen = (samples * 32767).astype("<i2").tobytes()
    return {
        "8 bits": wav((samples * 127 + 128).round().astype("u1").tobytes(), bits=8),
        "16 bits": wav(sixteen),
        "24 bits": wav(whole.view("u1").reshape(-1, 4)[:, 1:].tobytes(), bits=24),
        "32 bits": wav(whole.tobytes(), bits=32),
        "floats": wav(samples.astype("<f4").tobytes(), kind=3, bits=32),
        "doubles": wav(samples.astype("<f8").tobytes(), kind=3, bits=64),
        "extensible": wav(sixteen, kind=0xFFFE, extra=extended),
        "stereo": wav(np.repeat((samples * 32767).astype("<i2"), 2).tobytes(), channels=2),
        "a part before": wav(sixteen, before=b"LIST" + struct.pack("<I", 3) + b"abc\x00"),
    }


def test_every_encoding_of_one_sound_is_that_sound() -> None:
    samples = tone(RATE)
    for name, data in encoded(samples).items():
        assert np.abs(read_sound(data) - samples).max() < (0.01 if name == "8 bits" else 1e-4), name


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
def test_another_rate_is_the_same_sound(rate: int) -> None:
    heard = read_sound(wav((tone(rate) * 32767).astype("<i2").tobytes(), rate=rate))
    meant = tone(RATE)
    assert abs(len(heard) - len(meant)) <= 1
    middle = slice(1000, -1000)  # the ends of a filter know half of what they need
    assert np.abs(heard[: len(meant)][middle] - meant[: len(heard)][middle]).max() < 0.02


def test_what_the_rate_cannot_hold_is_filtered_out_and_not_folded_down() -> None:
    assert np.abs(to_rate(tone(48_000, 11_000.0).astype(np.float32), 48_000)[500:-500]).max() < 0.005


@pytest.mark.parametrize(
    "data",
    [
        wav(b"", size=0),
        wav(b"\x00" * 100, size=2**32 - 1),
        wav(b"\x00" * 100, size=0x7FFFFFFF),
        wav(b"\x00" * 99, size=101),
        wav(b"\x00" * 100, channels=0),
        wav(b"\x00" * 100, channels=65_535, frame=2),
        wav(b"\x00" * 100, channels=9),
        wav(b"\x00" * 100, rate=0),
        wav(b"\x00" * 100, rate=2**32 - 1),
        wav(b"\x00" * 100, bits=0),
        wav(b"\x00" * 100, bits=12),
        wav(b"\x00" * 100, kind=0x55),
        wav(b"\x00" * 100, kind=0xFFFE),
        wav(b"\x00" * 100, frame=3),
        wav(b"")[:30],
        b"RIFF\x00\x00\x00\x00WAVE",
        b"RIFF\x00\x00\x00\x00WAVE" + b"junk\x00\x00\x00\x00" * 100_000,
        wav(b"\x00"),
        wav(np.array([np.inf, -np.inf, 0], "<f4").tobytes(), kind=3, bits=32),
        wav(np.array([np.nan] * 10, "<f8").tobytes(), kind=3, bits=64),
    ],
)
def test_a_wav_that_lies_is_refused(data: bytes) -> None:
    tracemalloc.start()
    assert code_of(data) == "BAD_SOUND"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200_000


def test_length_in_bytes_and_seconds_has_limits() -> None:
    data = wav(b"\x00\x00" * RATE * 3)
    assert code_of(data, SoundLimits(bytes=len(data) - 1)) == "SOUND_TOO_LARGE"
    assert code_of(data, SoundLimits(seconds=2)) == "SOUND_TOO_LONG"
    assert len(read_sound(data, SoundLimits(bytes=len(data), seconds=3))) == 3 * RATE


def test_what_is_decoded_has_a_limit_whatever_its_length(av: Any) -> None:
    stereo = wav(b"\x00\x00" * RATE * 2, channels=2)
    assert code_of(stereo, SoundLimits(samples=2 * RATE - 1)) == "SOUND_TOO_LARGE"
    assert len(read_sound(stereo, SoundLimits(samples=2 * RATE))) == RATE
    assert code_of(silence(2), SoundLimits(samples=2**20)) == "SOUND_TOO_LARGE"


def test_another_rate_costs_no_memory_but_for_the_result() -> None:
    samples = np.zeros(2**22, np.float32)
    tracemalloc.start()
    made = to_rate(samples, 192_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * len(made) + 40 * 2**20 < 4 * samples.nbytes


def test_of_a_film_the_sound_alone_is_decoded(av: Any) -> None:
    assert len(read_sound(sound_beside_a_picture(64))) == RATE


@given(st.binary(max_size=200))
def test_bytes_that_are_no_wav_are_refused(data: bytes) -> None:
    assert code_of(b"RIFF\x00\x00\x00\x00WAVE" + data) == "BAD_SOUND"


@given(st.data())
@settings(max_examples=200)
def test_a_damaged_header_is_read_within_the_file_or_refused(data: st.DataObject) -> None:
    whole = bytearray(wav(b"\x01\x02" * 500))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(12, 43))] = data.draw(st.integers(0, 255))
    try:
        found = read_wav(bytes(whole))
    except Refused as exc:
        assert exc.code == "BAD_SOUND"  # noqa: PT017 - either is right
        return
    assert found.start + found.length <= len(whole)
    assert found.length % (found.channels * int(found.encoding[-1])) == 0


def test_other_formats_are_read_with_pyav_and_refused_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    assert code_of(b"fLaC" + bytes(100)) == "SOUND_UNSERVED"


@pytest.fixture
def av() -> Any:
    return pytest.importorskip("av")


def container(av: Any, kind: str, codec: str, rate: int, seconds: float) -> bytes:
    import io

    out = io.BytesIO()
    with av.open(out, "w", format=kind) as file:
        stream = file.add_stream(codec, rate=rate)
        samples = (tone(rate, seconds=seconds) * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(samples, "s16", "mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    return out.getvalue()


@pytest.mark.parametrize(("kind", "codec"), [("flac", "flac"), ("mp3", "libmp3lame"), ("ogg", "libopus")])
def test_a_compressed_file_is_the_same_sound(av: Any, kind: str, codec: str) -> None:
    data = container(av, kind, codec, 48_000, 1.0)
    heard = read_sound(data)
    assert abs(len(heard) / RATE - 1.0) < 0.1
    spectrum = np.abs(np.fft.rfft(heard))
    assert abs(spectrum.argmax() * RATE / len(heard) - 440) < 5
    assert code_of(data, SoundLimits(seconds=0)) == "SOUND_TOO_LONG"


def test_damaged_containers_and_play_lists_are_refused(av: Any) -> None:
    data, rng = bytearray(container(av, "flac", "flac", 16_000, 0.5)), Random(2)
    assert code_of(bytes(data[:60])) == "BAD_SOUND"
    assert code_of(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n") == "BAD_SOUND"
    assert code_of(bytes(4000)) == "BAD_SOUND"
    for _ in range(30):
        for _ in range(4):
            data[rng.randrange(len(data))] = rng.randrange(256)
        try:
            read_sound(bytes(data))
        except Refused as exc:
            assert exc.code in ("BAD_SOUND", "SOUND_TOO_LONG")  # noqa: PT017 - either is right
