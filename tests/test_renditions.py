"""What may be asked of a transcoding, and the playlists: bounds, sides, numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.renditions import (
    MAX_RENDITIONS,
    Ladder,
    Rendition,
    Segment,
    Variant,
    fitted,
    master_playlist,
    media_playlist,
    ranges_playlist,
    renumbered,
    standing_alone,
)
from p2p.errors import Refused

GOOD = {"name": "360p", "width": 640, "height": 360, "bitrate": 600_000}


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": ""}, {"name": "../up"}, {"name": "a" * 33}, {"name": "360P"}, {"name": "audio"}, {"width": 0},
        {"width": 100_000}, {"height": 16}, {"height": 360.0}, {"bitrate": 0}, {"bitrate": 10**9}, {"fps": -1},
        {"fps": 1000}, {"gop": -1}, {"gop": 10**6}, {"width": True},
    ],
)  # fmt: skip
def test_a_rendition_out_of_bounds_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(Refused, match="BAD_RENDITION"):
        Rendition(**{**GOOD, **wrong})


def test_a_ladder_is_bounded_and_its_names_differ() -> None:
    one = Rendition(**GOOD)
    for renditions in (
        (),
        (one, one),
        tuple(Rendition(**{**GOOD, "name": f"r{n}"}) for n in range(MAX_RENDITIONS + 1)),
    ):
        with pytest.raises(Refused, match="BAD_LADDER"):
            Ladder(renditions)
    for segment_ms in (0, 499, 20_001, 2.0):
        with pytest.raises(Refused, match="BAD_LADDER"):
            Ladder((one,), segment_ms)


sides = st.integers(2, 4000)


@given(sides, sides, st.integers(32, 3840), st.integers(32, 3840))
def test_a_picture_is_fitted_even_never_larger_and_as_upright_as_it_was(w: int, h: int, box_w: int, box_h: int) -> None:
    width, height = fitted(w, h, Rendition("r", box_w, box_h, 100_000))
    assert width % 2 == height % 2 == 0
    assert width >= 2
    assert height >= 2
    assert width <= w + 1  # an odd side may be rounded up to an even one
    assert height <= h + 1
    assert max(width, height) <= max(box_w, box_h) + 1
    assert min(width, height) <= min(box_w, box_h) + 1
    share = min(width / w, height / h)
    assert abs(width - w * share) <= max(2.0, w / h * 2)


def test_a_film_that_fits_keeps_its_shape() -> None:
    box = Rendition("r", 640, 360, 100_000)
    assert fitted(1280, 720, box) == (640, 360)
    assert fitted(720, 1280, box) == (360, 640)  # a box is turned for an upright film
    assert fitted(320, 180, box) == (320, 180)  # and never enlarges
    assert fitted(1000, 1000, box) == (360, 360)


def test_a_whole_playlist_reads_as_a_player_wants_it() -> None:
    text = media_playlist([("a_00000.ts", 2000), ("a_00001.ts", 1033)], ended=True, whole=True)
    lines = text.splitlines()
    assert lines[0] == "#EXTM3U"
    assert "#EXT-X-TARGETDURATION:2" in lines
    assert "#EXT-X-PLAYLIST-TYPE:VOD" in lines
    assert lines[-3:] == ["#EXTINF:1.033,", "a_00001.ts", "#EXT-X-ENDLIST"]


def test_a_live_playlist_goes_on_and_ends() -> None:
    now = media_playlist([("a_00004.ts", 2000)], ended=False, first=4, longest_ms=3000)
    assert "#EXT-X-MEDIA-SEQUENCE:4" in now
    assert "#EXT-X-TARGETDURATION:3" in now
    assert "ENDLIST" not in now
    assert "VOD" not in now
    assert media_playlist([("a_00004.ts", 2000)], ended=True, first=4).endswith("#EXT-X-ENDLIST\n")


@given(st.lists(st.integers(1, 20_000), min_size=1, max_size=20))
def test_no_segment_is_longer_than_the_target(lengths: list[int]) -> None:
    text = media_playlist([(f"{n}.ts", ms) for n, ms in enumerate(lengths)], ended=True)
    target = int(text.split("TARGETDURATION:")[1].split()[0])
    assert all(round(ms / 1000) <= target for ms in lengths)


def test_the_master_playlist_names_sides_only_where_there_are_pictures() -> None:
    text = master_playlist([Variant("360p", 640, 360, 900_000), Variant("audio", 0, 0, 128_000)])
    assert "BANDWIDTH=900000,RESOLUTION=640x360\n360p.m3u8" in text
    assert "BANDWIDTH=128000\naudio.m3u8" in text


def test_segments_are_named_in_order() -> None:
    assert [Segment("r", index, 0, b"").file for index in (0, 7)] == ["r_00000.ts", "r_00007.ts"]


def packet(pid: int, payload: bool, counter: int) -> bytes:
    head = bytes([0x47, pid >> 8, pid & 0xFF, (0x10 if payload else 0x20) | counter])
    return head + bytes(184)


@given(st.lists(st.tuples(st.sampled_from([0, 17, 256]), st.booleans()), max_size=60), st.integers(0, 60))
def test_counters_go_on_over_segments(packets: list[tuple[int, bool]], cut: int) -> None:
    counters: dict[int, int] = {}
    joined = b"".join(
        renumbered(b"".join(packet(pid, payload, 0) for pid, payload in part), counters)
        for part in (packets[:cut], packets[cut:])
    )
    last: dict[int, int] = {}
    for at, (pid, payload) in enumerate(packets):
        counter = joined[at * 188 + 3] & 0x0F
        if payload:
            assert counter == (last.get(pid, -1) + 1) % 16
            last[pid] = counter
        else:
            assert counter == last.get(pid, 0)


def test_what_is_no_transport_stream_is_not_renumbered() -> None:
    with pytest.raises(ValueError, match="transport"):
        renumbered(bytes(188), {})


def test_segments_that_lie_in_one_file_are_found_by_their_place_in_it() -> None:
    lines = ranges_playlist("r.ts", [(1000, 2000), (188, 1033)]).splitlines()
    assert lines[1] == "#EXT-X-VERSION:4"
    assert lines[-7:] == [
        "#EXTINF:2.000,", "#EXT-X-BYTERANGE:1000@0", "r.ts", "#EXTINF:1.033,", "#EXT-X-BYTERANGE:188@1000", "r.ts",
        "#EXT-X-ENDLIST",
    ]  # fmt: skip


def test_breaks_are_said_before_the_segment_that_does_not_go_on() -> None:
    text = media_playlist([("a.ts", 2000), ("b.ts", 2000)], ended=False, first=7, breaks=[1], breaks_before=3)
    assert "#EXT-X-DISCONTINUITY-SEQUENCE:3\n" in text
    assert "a.ts\n#EXT-X-DISCONTINUITY\n#EXTINF:2.000,\nb.ts\n" in text


def test_a_segment_that_stands_alone_says_for_each_id_that_its_counters_are_new() -> None:
    def packet(pid: int, counter: int) -> bytes:
        return bytes((0x47, pid >> 8, pid & 0xFF, 0x10 | counter)) + bytes(184)

    plain = packet(0, 0) + packet(256, 0) + packet(256, 1) + packet(0, 1)
    made = standing_alone(plain)
    packets = [made[at : at + 188] for at in range(0, len(made), 188)]
    assert [(one[1] & 0x1F) << 8 | one[2] for one in packets] == [0, 0, 256, 256, 256, 0]
    added = [one for one in packets if not one[3] & 0x10]
    assert len(added) == 2
    assert all((one[3], one[4], one[5]) == (0x2F, 183, 0x80) and len(one) == 188 for one in added)
    assert b"".join(one for one in packets if one[3] & 0x10) == plain
    with pytest.raises(ValueError, match="no transport stream"):
        standing_alone(bytes(188))
