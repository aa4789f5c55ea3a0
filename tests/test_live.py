"""A live stream through a market in memory: segments in, renditions and playlists out, in order, whatever is lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import trio
import trio.testing

av = pytest.importorskip("av")
pytest.importorskip("PIL")

from compute import filmcutting  # noqa: E402
from compute.filmcutting import SourceSegment, cut_film  # noqa: E402
from compute.renditions import SECOND  # noqa: E402
from compute.spec import TRANSCODE, Option  # noqa: E402
from market.askingfilm import order_of  # noqa: E402
from market.client import Client, Wish  # noqa: E402
from market.live import Live, Stream  # noqa: E402
from market.livesource import FilmSource, FolderSource, Ready, order  # noqa: E402
from market.reel import Piece, Told  # noqa: E402
from p2p.errors import Misconfigured, Unavailable  # noqa: E402
from p2p.peer import PeerId  # noqa: E402
from tests.support.film_machine import FilmMachine  # noqa: E402
from tests.support.films import film, seen, steady  # noqa: E402
from tests.support.marketplace import marketplace  # noqa: E402

WISH = Wish("", steps=1, guidance=0, seed=0, deadline_ms=20_000, wait=True, options=(Option("renditions", "144p"),))


@pytest.fixture(scope="module")
def camera(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "camera.mp4"
    path.write_bytes(film(steady(150), sound="aac", preset="veryfast"))
    return path


class Given:
    """A source that has everything at once."""

    def __init__(self, *segments: SourceSegment | None) -> None:
        self._left = list(segments)

    async def next(self) -> Ready | None:
        return Ready(self._left.pop(0), trio.current_time()) if self._left else None


def stream(out: Path, in_flight: int = 3, window: int = 0, wish: Wish = WISH) -> Stream:
    out.mkdir()
    return Stream(order_of(wish), wish, out, out, window, in_flight)


def played(path: Path) -> list[float]:
    """The times of the pictures that a player finds."""
    with av.open(str(path)) as source:
        return [float(f.pts * f.time_base) for packet in source.demux(video=0) for f in packet.decode()]


async def run(
    folder: Path,
    camera: Path,
    machine: FilmMachine,
    alter: Callable[[list[SourceSegment]], list[SourceSegment | None]] = list,
) -> tuple[Live, list[tuple[int, Told]]]:
    """A market with one seller, and a stream of the film's segments, or of what is made of them, to its end."""
    heard: list[tuple[int, Told]] = []
    with trio.fail_after(60):
        async with marketplace(folder, pipelines=(TRANSCODE,)) as market:
            gateway = await market.gateway(1)
            await market.orchestrator(2, price=1000, machine=machine)
            client, _ = await market.client(3)

            def tell(piece: Piece, told: Told) -> None:
                heard.append((piece.number, told))

            live = Live(stream(folder / "out"), client, [gateway.key.peer], tell)
            await live.run(Given(*alter(list(cut_film(camera, 1.0)))))
    return live, heard


async def test_segments_become_one_stream_without_a_gap(tmp_path: Path, camera: Path) -> None:
    live, heard = await run(tmp_path, camera, machine := FilmMachine())
    assert [number for number, _ in heard] == [0, 1, 2, 3, 4]
    assert machine.done == 5
    told = live.reel.told()
    assert (told.listed, told.lost, told.seconds) == (5, 0, pytest.approx(5.0, abs=0.01))
    assert live.price > 0
    out = tmp_path / "out"
    text = (out / "144p.m3u8").read_text()
    assert text.endswith("#EXT-X-ENDLIST\n")
    assert "DISCONTINUITY" not in text
    times = played(out / "master.m3u8")
    assert len(times) == 150
    assert all(0.033 < b - a < 0.034 for a, b in pairwise(times))
    assert len(list(out.glob("*.receipt"))) == 5
    assert not list(out.glob(".*"))
    joined = b"".join(path.read_bytes() for path in sorted(out.glob("144p_*.ts")))
    assert seen(joined)["codec"] == "aac"


async def test_a_segment_that_is_lost_is_a_break_in_the_stream(tmp_path: Path, camera: Path) -> None:
    """One of noise, one that the seller always loses, one that cannot be read at all: the others are all there."""

    def altered(segments: list[SourceSegment]) -> list[SourceSegment | None]:
        noise = SourceSegment(bytes(1000), ".ts", 320, 180, 30, SECOND)
        return [segments[0], noise, segments[1], None, *segments[2:]]

    live, _ = await run(tmp_path, camera, FilmMachine(), altered)
    assert (live.reel.told().listed, live.reel.told().lost) == (5, 2)
    assert "BAD" in live.refusal
    text = (tmp_path / "out" / "144p.m3u8").read_text()
    files = [line for line in text.splitlines() if not line.startswith("#")]
    assert files == [f"144p_{number:06d}.ts" for number in (0, 2, 4, 5, 6)]
    assert text.count("#EXT-X-DISCONTINUITY\n") == 2
    assert len(played(tmp_path / "out" / "144p.m3u8")) == 150


async def test_a_market_that_does_nothing_loses_all_and_says_why(tmp_path: Path, camera: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path, pipelines=(TRANSCODE,)) as market:
            gateway = await market.gateway(1)
            client, _ = await market.client(3)
            live = Live(stream(tmp_path / "out"), client, [gateway.key.peer], lambda piece, told: None)
            await live.run(Given(*cut_film(camera, 1.0)))
    assert (live.reel.told().listed, live.reel.told().lost) == (0, 5)
    assert "nobody offers transcode" in live.refusal
    assert not list((tmp_path / "out").iterdir())


async def test_no_more_segments_are_held_than_may_be_under_way(tmp_path: Path, camera: Path) -> None:
    held, most = [0], [0]

    class Slow(Client):
        def __init__(self) -> None:
            """Reaches nobody."""

        async def models(self, gateway: PeerId, pipeline: str) -> object:  # type: ignore[override]
            held[0] += 1
            most[0] = max(most[0], held[0])
            await trio.sleep(0.01)
            held[0] -= 1
            raise Unavailable("nobody is there")

    live = Live(stream(tmp_path / "out", in_flight=2), Slow(), [b"g" * 39], lambda piece, told: None)
    with trio.fail_after(20):
        await live.run(Given(*cut_film(camera, 1.0)))
    assert most == [2]
    assert live.reel.told().lost == 5
    assert live.refusal == "nobody is there"


async def test_a_folder_that_cannot_be_written_ends_the_stream(tmp_path: Path) -> None:
    from market.live import write

    with pytest.raises(Unavailable, match="cannot write"):
        write([tmp_path / "nowhere" / "a.ts"], [b""], ())


# -- where segments come from ------------------------------------------------------------------------------------------


def test_names_are_in_order_as_people_count() -> None:
    names = ["seg10.ts", "seg9.ts", "b1.ts", "seg009b.ts"]
    assert sorted(names, key=order) == ["b1.ts", "seg9.ts", "seg009b.ts", "seg10.ts"]


async def test_segments_are_taken_in_order_and_when_they_are_whole(tmp_path: Path, camera: Path) -> None:
    source, cuts = FolderSource(tmp_path, idle_s=0.2), list(cut_film(camera, 1.0))
    (tmp_path / "seg2.ts").write_bytes(cuts[0].data)
    (tmp_path / "notes.txt").write_text("no film")
    with trio.fail_after(20):
        assert await source.next() is None  # it may still be written to
        (tmp_path / "seg10.ts").write_bytes(cuts[1].data)
        assert data(await source.next()) == cuts[0].data
        (tmp_path / "seg1.ts").write_bytes(cuts[2].data)  # too late: what comes after it was taken
        (tmp_path / "seg11.ts").write_bytes(b"no film")
        assert data(await source.next()) == cuts[1].data
        aged(tmp_path / "seg11.ts", 2)
        assert data(await source.next()) is None
        assert await source.next() is None


def data(ready: Ready | None) -> bytes | None:
    assert ready is not None
    return None if ready.segment is None else ready.segment.data


def aged(path: Path, seconds: float) -> None:
    past = path.stat().st_mtime - seconds
    os.utime(path, (past, past))


async def test_what_waited_in_the_folder_is_as_late_as_it_waited(tmp_path: Path, camera: Path) -> None:
    cut = next(cut_film(camera, 1.0))
    (tmp_path / "a.ts").write_bytes(cut.data)
    aged(tmp_path / "a.ts", 7)
    with trio.fail_after(20):
        ready = await FolderSource(tmp_path, idle_s=0, whole=True).next()
    assert ready is not None
    assert trio.current_time() - ready.since > 6.9


async def test_a_film_comes_no_faster_than_it_is_shown(camera: Path, mock_clock: trio.testing.MockClock) -> None:
    mock_clock.rate = 20.0
    source, begun, got = FilmSource(camera, 1.0), trio.current_time(), 0
    while (ready := await source.next()) is not None:
        got += 1
        assert trio.current_time() - begun >= got - 0.01
        assert ready.since - begun == pytest.approx(got, abs=0.05)
    assert got == 5


def test_a_film_without_key_frames_is_not_held_whole(camera: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filmcutting, "MAX_HELD", 10_000)
    with pytest.raises(Misconfigured, match="too few key frames"):
        list(cut_film(camera, 1.0))


async def test_what_is_no_film_is_said_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no film")
    with pytest.raises(Misconfigured, match="cannot be read"):
        await FilmSource(tmp_path / "a.mp4", 2.0).next()
    with pytest.raises(Misconfigured, match="cannot be read"):
        await FolderSource(tmp_path / "nowhere", 0).next()
