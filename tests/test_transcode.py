"""Transcoding: every frame arrives, segments join, live pushes give segments at once; strangers' files are refused."""

from __future__ import annotations

import io
import os
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

av = pytest.importorskip("av")
pytest.importorskip("numpy")

from compute.likeness import compare  # noqa: E402
from compute.pipelines import transcode, transcodechild, transcoder  # noqa: E402
from compute.pipelines.joining import as_mp4  # noqa: E402
from compute.pipelines.transcode import LIVE_WINDOW, Transcode, artifacts  # noqa: E402
from compute.pipelines.transcoder import Transcoder, gray_frames  # noqa: E402
from compute.renditions import Ladder, Rendition, Segment  # noqa: E402
from p2p.errors import Refused  # noqa: E402
from tests.support.films import bomb, film, seen, sound_only, steady, with_streams  # noqa: E402

LOW = Rendition("low", 160, 90, 200_000)
TWO = Ladder((Rendition("high", 320, 180, 500_000), LOW), 2000)
ONE = Ladder((LOW,), 2000)
PLAIN = film(steady(150), sound="aac")


def joined(segments: Any, name: str = "low") -> bytes:
    return b"".join(one.data for one in segments if one.rendition == name)


@pytest.fixture(scope="module")
def whole() -> tuple[tuple[Segment, ...], dict[str, str]]:
    return Transcode.load().film(PLAIN, TWO)


def test_every_frame_arrives(whole: Any) -> None:
    for name, size in (("high", (320, 180)), ("low", (160, 90))):
        found = seen(joined(whole[0], name))
        assert (found["frames"], found["size"]) == (150, size)
        assert all(0.033 < b - a < 0.034 for a, b in pairwise(found["times"]))


def test_frames_arrive_that_the_decoder_holds_back_until_it_is_flushed() -> None:
    """Where pictures refer to later ones the last come out for a packet without a time, which is easily passed over."""
    data = film(steady(40), preset="veryfast")
    with av.open(io.BytesIO(data)) as source:
        source.streams.video[0].thread_count = 1
        assert sum(len(packet.decode()) for packet in source.demux(video=0) if packet.dts is not None) < 40
    assert seen(joined(Transcoder(ONE).film(data)))["frames"] == 40
    assert seen(joined(Transcoder(ONE).push(data)))["frames"] == 40


def test_segments_are_cut_at_the_same_times_and_each_can_be_played_alone(whole: Any) -> None:
    segments, _ = whole
    for name in ("high", "low"):
        mine = [one for one in segments if one.rendition == name]
        assert [one.index for one in mine] == [0, 1, 2]
        assert sum(one.duration_ms for one in mine) == pytest.approx(5000, abs=60)
        for one, frames in zip(mine, (60, 60, 30), strict=True):
            alone = seen(one.data)
            assert alone["frames"] == frames
            assert alone["keys"][0] == alone["times"][0]


def test_sound_that_is_aac_already_is_carried_as_it_is(whole: Any) -> None:
    def packets(data: bytes, form: str) -> list[bytes]:
        with av.open(io.BytesIO(data), format=form) as source:
            return [bytes(p) for p in source.demux(audio=0) if p.size]

    was, now = packets(PLAIN, "mp4"), packets(joined(whole[0]), "mpegts")
    assert len(was) == len(now) > 200
    assert all(
        two.endswith(one) for one, two in zip(was, now, strict=True)
    )  # a header of seven bytes comes before each


def test_a_rendition_is_like_its_source(whole: Any) -> None:
    was, now = (list(gray_frames(data, 320, 180)) for data in (PLAIN, joined(whole[0], "high")))
    assert len(was) == len(now) == 150
    found, shifted = compare(was[:150:10], now[:150:10]), compare(was[1:150:10], now[0:150:10])
    assert found.psnr_min > 28  # fine stripes at few bits: what matters is that no frame is another
    assert shifted.psnr_min < found.psnr_min - 5


def test_playlists_lead_to_every_segment(whole: Any, tmp_path: Path) -> None:
    segments, playlists = whole
    assert set(playlists) == {"master.m3u8", "high.m3u8", "low.m3u8"}
    for name, file in artifacts(segments, playlists).items():
        (tmp_path / name).write_bytes(file.data)
    with av.open(str(tmp_path / "low.m3u8")) as source:  # a real player's reader
        assert sum(1 for packet in source.demux(video=0) for _ in packet.decode()) == 150
    with av.open(str(tmp_path / "master.m3u8")) as source:
        assert {stream.width for stream in source.streams.video} == {320, 160}


def test_one_file_can_be_made_of_the_segments(whole: Any) -> None:
    found = seen(as_mp4([one for one in whole[0] if one.rendition == "low"]))
    assert found["frames"] == 150
    assert found["times"][0] < 0.1
    assert found["codec"] == "aac"


def test_the_same_film_gives_the_same_bytes() -> None:
    first, again = (list(Transcoder(ONE).film(PLAIN)) for _ in range(2))
    assert first == again


def test_a_live_stream_goes_segment_by_segment() -> None:
    pieces = [film(steady(30), sound="aac", form="mpegts", start=1.0 + n) for n in range(LIVE_WINDOW + 2)]
    made: list[Segment] = []
    with Transcode.load().live(TWO) as live:
        for index, piece in enumerate(pieces):
            pushed = live.push(piece)
            assert [(one.rendition, one.index) for one in pushed.segments] == [("high", index), ("low", index)]
            made += pushed.segments
            lines = pushed.playlists["low.m3u8"].splitlines()
            assert lines[-1] == f"low_{index:05d}.ts"
            assert f"#EXT-X-MEDIA-SEQUENCE:{max(0, index - LIVE_WINDOW + 1)}" in lines
        assert live.end()["high.m3u8"].endswith("#EXT-X-ENDLIST\n")
    found = seen(joined(made))
    assert found["frames"] == 30 * len(pieces)
    assert all(0.02 < b - a < 0.06 for a, b in pairwise(found["times"]))
    assert counters_go_on(joined(made))


def counters_go_on(data: bytes) -> bool:
    last: dict[int, int] = {}
    for at in range(0, len(data), 188):
        pid, mark = (data[at + 1] & 0x1F) << 8 | data[at + 2], data[at + 3]
        if mark & 0x10 and pid != 0x1FFF:
            if pid in last and mark & 0x0F != (last[pid] + 1) % 16:
                return False
            last[pid] = mark & 0x0F
    return len(last) > 2


def test_live_segments_that_each_begin_at_zero_are_put_one_after_the_other() -> None:
    stream = Transcoder(ONE)
    made = [one for _ in range(3) for one in stream.push(film(steady(60)))]
    times = seen(joined(made))["times"]
    assert len(times) == 180
    assert all(0.02 < b - a < 0.06 for a, b in pairwise(times))


def test_a_bad_live_segment_is_refused_and_the_next_goes_on() -> None:
    stream = Transcoder(ONE)
    assert len(list(stream.push(film(steady(30), form="mpegts")))) == 1
    for bad in (b"", b"not a film" * 1000):
        with pytest.raises(Refused, match="BAD_FILM"):
            list(stream.push(bad))
    (later,) = stream.push(film(steady(30), form="mpegts", start=1.0))
    assert later.index == 1
    with pytest.raises(Refused, match="FILM_TOO_LONG"):
        list(stream.push(film(steady(120), form="mpegts", start=2.0)))


def test_other_sound_becomes_aac_once_for_all_renditions() -> None:
    segments = list(Transcoder(TWO).film(film(steady(90), sound="libopus", form="matroska")))
    for name in ("high", "low"):
        found = seen(joined(segments, name))
        assert found["codec"] == "aac"
        assert found["samples"] / 48_000 == pytest.approx(3.0, abs=0.1)


def test_sound_alone_gives_one_rendition_of_sound() -> None:
    segments, playlists = Transcode.load().film(sound_only(5.0), TWO)
    assert {one.rendition for one in segments} == {"audio"}
    assert set(playlists) == {"master.m3u8", "audio.m3u8"}
    assert "RESOLUTION" not in playlists["master.m3u8"]
    assert seen(joined(segments, "audio"))["samples"] / 48_000 == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize("turn", [90, -90])
def test_a_film_that_lies_on_its_side_is_stood_up(turn: int) -> None:
    assert seen(joined(Transcoder(ONE).film(film(steady(10), rotation=turn))))["size"] == (90, 160)


def test_odd_sides_wide_pixels_and_small_films() -> None:
    assert seen(joined(Transcoder(ONE).film(film(steady(5), width=161, height=91))))["size"] == (160, 90)
    wide = film(steady(5), width=160, height=180, aspect=Fraction(2))
    assert seen(joined(Transcoder(ONE).film(wide)))["size"] == (160, 90)
    small = film(steady(5), width=80, height=44)
    assert seen(joined(Transcoder(ONE).film(small)))["size"] == (80, 44)


def test_an_uneven_film_keeps_its_times_unless_a_rate_is_asked_for() -> None:
    times = [0.0, 0.1, 0.15, 0.5, 0.9, 1.0, 1.6, 1.9]
    kept = seen(joined(Transcoder(ONE).film(film(times))))["times"]
    assert [b - kept[0] for b in kept] == pytest.approx(times, abs=0.01)
    even = Ladder((Rendition("low", 160, 90, 200_000, fps=10),))
    evened = seen(joined(Transcoder(even).film(film(times))))["times"]
    assert all(b - a == pytest.approx(0.1, abs=0.001) for a, b in pairwise(evened))
    assert 18 <= len(evened) <= 21


def test_key_frames_come_as_often_as_asked() -> None:
    often = Ladder((Rendition("low", 160, 90, 200_000, gop=15),))
    keys = seen(joined(Transcoder(often).film(film(steady(60)))))["keys"]
    assert [b - a for a, b in pairwise(keys)] == pytest.approx([0.5] * 3, abs=0.01)


def hostile() -> Iterator[tuple[str, bytes]]:
    yield "nothing", b""
    yield "noise", bytes(range(256)) * 400
    yield "a playlist", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"
    yield "a list of files", b"ffconcat version 1.0\nfile '/etc/passwd'\n"
    yield "half a film", PLAIN[: len(PLAIN) // 2]
    yield "a picture", b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">II", 100_000, 100_000) + bytes(64)
    yield "a gap in time", film([0.0, 0.1, 100.0, 100.1])
    yield "pictures that are larger than they say", bomb()
    yield "ten million streams", with_streams(10_000_000)


@pytest.mark.parametrize(("what", "data"), [pytest.param(*one, id=one[0]) for one in hostile()])
def test_what_is_no_film_is_refused(what: str, data: bytes) -> None:
    with pytest.raises(Refused, match=r"BAD_FILM|FILM_TOO_LARGE|CODEC_UNSERVED"):
        Transcode.load().film(data, ONE)


def test_limits_are_read_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value, code in (
        ("MAX_PIXELS", 320 * 180 - 1, "FILM_TOO_LARGE"),
        ("MAX_STREAMS", 1, "BAD_FILM"),
        ("VIDEO_CODECS", frozenset({"vp9"}), "CODEC_UNSERVED"),
        ("AUDIO_CODECS", frozenset({"opus"}), "CODEC_UNSERVED"),
        ("WHOLE", transcoder.Bounds(bytes=1000), "FILM_TOO_LARGE"),
        ("WHOLE", transcoder.Bounds(seconds=4), "FILM_TOO_LONG"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(transcoder, name, value)
            patch.setattr(transcoder._Encoders, "__init__", _no_decoding)
            with pytest.raises(Refused, match=code):
                list(Transcoder(ONE).film(PLAIN))


def _no_decoding(*args: object) -> None:
    raise AssertionError("a picture was decoded before the limits were read")


def test_too_many_pictures_a_second_are_refused() -> None:
    with pytest.raises(Refused, match="too many pictures"):
        list(Transcoder(ONE).film(film(steady(600, fps=2000), width=64, height=36)))


def _children() -> list[int]:
    """Of this process, of whatever thread."""
    found: list[int] = []
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # a thread that has ended meanwhile
            found += map(int, (task / "children").read_text().split())
    return found


def test_an_operator_may_end_a_film_and_the_decoder_ends_with_it() -> None:
    before, children = set(_children()), list[int]()

    def told(done: float) -> None:
        children.extend(pid for pid in _children() if pid not in before)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Transcode.load().film(film(steady(200)), TWO, told)
    assert children
    ends = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in children):  # killed; the system takes its time on a busy machine
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_the_decoder_has_little_memory_and_no_files() -> None:
    with Transcode.load().live(ONE) as live:
        live.push(film(steady(10)))
        assert live._child._process is not None
        limits = Path(f"/proc/{live._child._process.pid}/limits").read_text()
    assert f"Max address space         {transcodechild.MEMORY}" in limits
    assert "Max file size             0 " in limits


def test_a_decoder_that_falls_silent_or_dies_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcode, "PUSH_S", 0.3)
    for number, code in ((signal.SIGSTOP, "TOO_SLOW"), (signal.SIGKILL, "BAD_FILM")):
        with Transcode.load().live(ONE) as live:
            process = live._child._process
            assert process is not None
            os.kill(process.pid, number)
            with pytest.raises(Refused, match=code):
                live.push(film(steady(10)))
            with pytest.raises(Refused, match="BAD_FILM"):
                live.push(film(steady(10)))  # it is gone for good
            assert process.returncode is not None
