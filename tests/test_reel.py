"""A live stream in the order of its source, whatever the order in which the market gives its pieces back."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from compute.profiles import MAX_START, PROFILES
from compute.renditions import SECOND, Ladder
from market.reel import KEPT_BEHIND, MAX_PIECE_MS, Piece, Reel

LADDER = Ladder((PROFILES["240p"], PROFILES["144p"]))
TWO_S = 2 * SECOND


def cut(reel: Reel, length: int = TWO_S, now: float = 0.0) -> Piece:
    piece = reel.cut(length, (1280, 720), now)
    assert piece is not None
    return piece


def came(reel: Reel, piece: Piece, now: float = 0.0) -> list[int]:
    return [one.number for one in reel.came(piece.number, {"240p": 1000, "144p": 500}, now)]


def files(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def test_pieces_are_listed_in_order_and_the_clock_goes_on() -> None:
    reel = Reel(LADDER, window=0)
    one, two, three = (cut(reel, length) for length in (TWO_S, SECOND, TWO_S))
    assert [one.start, two.start, three.start] == [0, TWO_S, TWO_S + SECOND]
    assert came(reel, three) == []
    assert reel.playlists() == {}
    assert came(reel, one) == [0]
    assert came(reel, two) == [1, 2]
    assert came(reel, two) == []  # said twice
    assert files(reel.playlists()["240p"]) == [f"240p_00000{n}.ts" for n in range(3)]
    assert "DISCONTINUITY" not in reel.playlists()["144p"]
    assert "RESOLUTION=426x240" in reel.master()


def test_a_lost_piece_is_a_break_and_not_the_end() -> None:
    reel = Reel(LADDER, window=0)
    pieces = [cut(reel) for _ in range(4)]
    for piece in (pieces[0], pieces[3], pieces[2]):
        came(reel, piece)
    assert [one.number for one in reel.failed(pieces[1].number, 0.0)] == [2, 3]
    lines = reel.playlists()["240p"].splitlines()
    at = lines.index("#EXT-X-DISCONTINUITY")
    assert lines[at + 2] == "240p_000002.ts"
    assert lines.count("#EXT-X-DISCONTINUITY") == 1
    assert (reel.told().listed, reel.told().lost) == (3, 1)


def test_a_piece_that_cannot_be_read_or_is_too_long_is_lost_in_its_place() -> None:
    reel = Reel(LADDER, window=0)
    one = cut(reel)
    reel.lose()
    assert reel.cut(2 * TWO_S, (1280, 720), 0.0) is None  # players were promised at most three seconds
    four = cut(reel)
    came(reel, four)
    assert came(reel, one) == [0, 3]
    assert reel.told().lost == 2
    assert reel.playlists()["240p"].count("#EXT-X-DISCONTINUITY\n") == 1


def test_a_piece_that_no_seller_takes_is_lost() -> None:
    assert Reel(LADDER, window=0).cut((MAX_PIECE_MS + 100) * SECOND // 1000, (1280, 720), 0.0) is None
    assert Reel(LADDER, window=0).cut(MAX_PIECE_MS * SECOND // 1000, (1280, 720), 0.0) is not None
    assert Reel(LADDER, window=0).cut(0, (1280, 720), 0.0) is None


def test_a_window_moves_on_and_what_left_it_is_forgotten_later() -> None:
    reel, gone = Reel(LADDER, window=2), list[str]()
    for number in range(12):
        came(reel, cut(reel))
        listed = files(reel.playlists()["144p"])
        assert listed == [f"144p_{n:06d}.ts" for n in range(max(0, number - 1), number + 1)]
        assert f"#EXT-X-MEDIA-SEQUENCE:{max(0, number - 1)}\n" in reel.playlists()["144p"]
        gone += reel.forget()
    assert len(gone) == len(set(gone)) == 2 * (12 - 2 - 2 * KEPT_BEHIND)
    assert not set(gone) & set(files(reel.playlists()["144p"]))


def test_breaks_that_left_the_window_are_counted() -> None:
    reel = Reel(LADDER, window=2)
    for number in range(6):
        piece = cut(reel)
        if number == 1:
            reel.failed(piece.number, 0.0)
        else:
            came(reel, piece)
    text = reel.playlists()["240p"]
    assert "#EXT-X-DISCONTINUITY-SEQUENCE:1\n" in text
    assert "#EXT-X-DISCONTINUITY\n" not in text


def test_the_clock_of_a_transport_stream_begins_anew_after_a_day() -> None:
    reel = Reel(LADDER, window=3)
    came(reel, cut(reel))
    reel._clock = MAX_START - SECOND
    piece = cut(reel)
    assert (piece.start, piece.anew) == (0, True)
    came(reel, piece)
    assert "#EXT-X-DISCONTINUITY\n" in reel.playlists()["240p"]


def test_the_end_is_said_when_all_is_settled() -> None:
    reel = Reel(LADDER, window=2)
    one, two = cut(reel), cut(reel)
    came(reel, one)
    reel.end()
    assert "ENDLIST" not in reel.playlists()["240p"]
    reel.failed(two.number, 0.0)
    assert reel.playlists()["240p"].endswith("#EXT-X-ENDLIST\n")


def test_lag_is_from_when_a_piece_was_there_to_when_it_is_listed() -> None:
    reel = Reel(LADDER, window=0)
    one, two = cut(reel, now=10.0), cut(reel, now=12.0)
    came(reel, two, now=13.0)
    assert reel.told().lag_s == 0.0
    came(reel, one, now=15.5)
    assert (reel.told().lag_s, reel.told().worst_lag_s) == (3.5, 5.5)
    assert reel.told().seconds == 4.0


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.randoms(use_true_random=False), st.integers(0, 4))
def test_in_whatever_order_they_come(good: list[bool], random: object, window: int) -> None:
    """The playlist only ever grows at its end and shrinks at its start; the right pieces are in it when all is over."""
    reel = Reel(LADDER, window)
    pieces = [cut(reel) for _ in good]
    order = list(range(len(good)))
    random.shuffle(order)  # type: ignore[attr-defined]
    before: list[str] = []
    for number in order:
        if good[number]:
            came(reel, pieces[number])
        else:
            reel.failed(pieces[number].number, 0.0)
        now = files(reel.playlists().get("240p", ""))
        kept = [file for file in before if file in now]
        assert now[: len(kept)] == kept == before[len(before) - len(kept) :]
        before = now
    wanted = [f"240p_{n:06d}.ts" for n, well in enumerate(good) if well]
    assert before == (wanted[-window:] if window else wanted)
    assert reel.in_flight == 0
    if before:
        text = reel.playlists()["240p"]
        (first,) = re.findall(r"MEDIA-SEQUENCE:(\d+)", text)
        assert int(first) == len(wanted) - len(before)
        longest = int(re.findall(r"TARGETDURATION:(\d+)", text)[0])
        assert all(float(told) <= longest for told in re.findall(r"EXTINF:([\d.]+)", text))
