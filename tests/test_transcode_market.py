"""Films through a whole market with a real worker: renditions come back as files, bad films as one typed no."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import pytest
import trio

av = pytest.importorskip("av")
pytest.importorskip("torch")

from compute.modelfolder import bundled  # noqa: E402
from compute.spec import TRANSCODE, Input  # noqa: E402
from compute.workerchild import WorkerConfig  # noqa: E402
from compute.workerlink import Worker  # noqa: E402
from market.asking import Asked, ask  # noqa: E402
from market.bidwire import JobFailed, JobNews, News  # noqa: E402
from market.client import Client, Delivered, Ending, Wish, bid_for, choose_model  # noqa: E402
from market.conversation import now_ms  # noqa: E402
from market.refusal import Refusal  # noqa: E402
from market.saving import places, write_all  # noqa: E402
from p2p.peer import PeerId  # noqa: E402
from tests.support.films import bomb, film, seen, steady, with_streams  # noqa: E402
from tests.support.marketplace import Marketplace, Place, marketplace  # noqa: E402

pytestmark = pytest.mark.live
PLAIN = film(steady(90), sound="aac")


@dataclass
class Counter:
    """A market with one seller of transcoding, and a client in front of it."""

    market: Marketplace
    gateway: Place
    seller: Place
    client: Client
    worker: Worker

    async def buy(self, asked: Asked) -> tuple[Ending, list[JobNews]]:
        peer: PeerId = self.gateway.key.peer
        model = choose_model(await self.client.models(peer, TRANSCODE), asked.wish)
        assert not isinstance(model, Refusal)
        bid, heard = bid_for(asked.wish, model, TRANSCODE, self.market.random.randbytes), list[object]()
        ending = await self.client.bid(peer, bid, heard.append, files=asked.files)
        return ending, [news for news in heard if isinstance(news, JobNews)]


@asynccontextmanager
async def counter(folder: Path) -> AsyncGenerator[Counter]:
    worker = Worker(WorkerConfig(folder / "node", (bundled("x264-veryfast"),), device="cpu", threads=1))
    async with marketplace(folder, pipelines=(TRANSCODE,)) as market, trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        gateway = await market.gateway(1)
        seller = await market.orchestrator(2, price=1000, machine=worker)
        client, _ = await market.client(3)
        yield Counter(market, gateway, seller, client, worker)
        nursery.cancel_scope.cancel()


def wanted(folder: Path, data: bytes, *options: str, name: str = "film.mp4") -> Asked:
    path = folder / name
    path.write_bytes(data)
    patient = Wish("", deadline_ms=300_000, wait=True)  # a cold worker on a busy machine takes its time
    return ask(TRANSCODE, patient, path, options)


async def test_films_through_a_market(tmp_path: Path) -> None:
    with trio.fail_after(400):
        async with counter(tmp_path) as at:
            await a_film_comes_back_as_files(at, tmp_path)
            await bad_films_are_refused_and_nobody_is_blamed(at, tmp_path)


async def a_film_comes_back_as_files(at: Counter, folder: Path) -> None:
    asked = wanted(folder, PLAIN, "renditions=240p,144p")
    got, heard = await at.buy(asked)
    assert isinstance(got, Delivered)
    paths = places(folder / "out.mp4", asked.names)
    write_all(paths, got.files)
    assert [path.name for path in paths] == ["out-240p.mp4", "out-144p.mp4"]
    assert [seen(path.read_bytes())["frames"] for path in paths] == [90, 90]
    assert News.STEP in [news.event for news in heard]
    model = at.worker.capability().models[0]
    assert got.receipt.model == model.model
    assert (model.name, model.pipeline) == ("x264-veryfast", TRANSCODE)
    listed = wanted(folder, PLAIN, "renditions=144p", "form=hls")
    hls, _ = await at.buy(listed)
    assert isinstance(hls, Delivered)
    write_all(places(folder / "hls", listed.names), hls.files)
    with av.open(str(folder / "hls" / "master.m3u8")) as source:
        assert sum(1 for packet in source.demux(video=0) for _ in packet.decode()) == 90
    assert at.seller.books.standing(at.gateway.key.address).delivered == 2  # type: ignore[union-attr]


BAD = {
    "half a film": (PLAIN[: len(PLAIN) // 2], "BAD_FILM"),
    "no film": (b"GIF89a" * 1000, "BAD_FILM"),
    "a bomb": (bomb(), "FILM_TOO_LARGE"),
    "five million streams": (with_streams(5_000_000), "BAD_FILM"),
    "more frames than it says": (film(steady(120), form="mpegts"), "MORE_THAN_PAID"),
}


async def bad_films_are_refused_and_nobody_is_blamed(at: Counter, folder: Path) -> None:
    """Each is asked for as if it were a small and good one, by a client that lies or does not look."""
    good = wanted(folder, PLAIN, "renditions=144p")
    for what, (data, why) in BAD.items():
        file = Input("video/mp4", len(data), sha256(data).digest())
        got, _ = await at.buy(Asked(replace(good.wish, inputs=(file,)), (data,)))
        assert isinstance(got, JobFailed), what
        assert got.code == "BAD_INPUT", what
        assert why in got.hint, (what, got.hint)
        assert got.charged == 0
    view = at.gateway.role.reputation.view(at.seller.key.peer, now_ms())  # type: ignore[union-attr]
    assert not view.banned
    again, _ = await at.buy(good)
    assert isinstance(again, Delivered)
    assert again.receipt.price > 0
