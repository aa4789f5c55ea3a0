"""What a transcoding job asks for, what it pays, and what its files are called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compute.digest import MAX_ARTIFACTS
from compute.profiles import (
    BLOCK,
    MAX_IN_PLAYLISTS,
    MAX_START,
    PROFILES,
    Form,
    blocks_of,
    canvas_of,
    read_order,
)
from compute.renditions import MAX_RENDITIONS, Ladder, Rendition
from compute.spec import MAX_SIDE
from p2p.errors import Refused


def test_without_options_there_are_two_files() -> None:
    order = read_order({}.get)
    assert (order.form, order.names, order.start) == (Form.MP4, ("360p.mp4", "240p.mp4"), 0)


def test_files_are_called_as_the_playlists_call_them() -> None:
    asked = {"renditions": "240p, 640x360@700k", "form": "hls", "segment": "4000"}
    order = read_order(asked.get)
    assert order.names == ("master.m3u8", "240p.m3u8", "240p.ts", "640x360.m3u8", "640x360.ts")
    assert order.ladder == Ladder((PROFILES["240p"], Rendition("640x360", 640, 360, 700_000)), 4000)
    segment = read_order({**asked, "form": "segment", "start": "90000"}.get)
    assert (segment.names, segment.start) == (("240p.ts", "640x360.ts"), 90_000)


@pytest.mark.parametrize(
    "wrong",
    [
        {"form": "avi"}, {"form": ""}, {"renditions": ""}, {"renditions": "240p,240p"}, {"renditions": "239p"},
        {"renditions": "1x1@1k"}, {"renditions": "9999x9999@600k"}, {"renditions": "640x360@99999k"},
        {"renditions": "640x360"}, {"renditions": "../up"}, {"segment": "0"}, {"segment": "-1"},
        {"segment": "99999"}, {"segment": "2e3"}, {"segment": "٣"}, {"segment": "nan"}, {"start": "1"},
        {"form": "segment", "start": str(MAX_START + 1)}, {"form": "segment", "start": "1" * 99},
        {"renditions": ",".join(f"6{n}x360@600k" for n in range(10, 11 + MAX_RENDITIONS))},
        {"form": "hls", "renditions": ",".join(f"6{n}x360@600k" for n in range(10, 11 + MAX_IN_PLAYLISTS))},
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_the_callers_mistake(wrong: dict[str, str]) -> None:
    with pytest.raises(Refused) as refused:
        read_order(wrong.get)
    assert refused.value.code == "BAD_INPUT"
    assert refused.value.hint


def test_a_result_never_has_more_files_than_may_travel() -> None:
    many = ",".join(f"6{n}x360@600k" for n in range(10, 10 + MAX_IN_PLAYLISTS))
    assert len(read_order({"form": "hls", "renditions": many}.get).names) <= MAX_ARTIFACTS


@given(st.integers(1, MAX_SIDE**2))
def test_a_canvas_has_room_for_its_blocks_and_little_more(blocks: int) -> None:
    width, height = canvas_of(blocks)
    assert min(width, height) >= 1
    assert max(width, height) <= MAX_SIDE
    assert blocks <= width * height < blocks + width


def test_a_film_beyond_every_canvas_is_refused() -> None:
    with pytest.raises(Refused, match="BAD_INPUT"):
        canvas_of(MAX_SIDE**2 + 1)


boxes = st.lists(st.sampled_from(sorted(PROFILES)), min_size=1, unique=True)


@given(boxes, st.integers(1, 8000), st.integers(1, 8000))
def test_more_of_anything_never_costs_less(names: list[str], width: int, height: int) -> None:
    ladder = Ladder(tuple(PROFILES[name] for name in names))
    cost = blocks_of(ladder, width, height)
    assert cost * BLOCK >= sum(one.width * one.height for one in ladder.renditions) + width * height / 2
    assert blocks_of(ladder, width + 1, height) >= cost
    if len(names) > 1:
        assert blocks_of(Ladder(ladder.renditions[1:]), width, height) < cost
