"""What ``offers`` and ``models`` show: a gateway's book, verified here, the cheapest first."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import trio

import market.commands
from benchmarks.noop_worker import MODEL
from market.console import run_app, show_table
from market.hello import Greeter
from market.loadfeed import ask_loads
from market.looking import HEADINGS, read_book, rows_of
from p2p.errors import Refused, Unavailable
from tests.support.market_values import PIPELINE
from tests.support.marketplace import marketplace
from tests.support.model_folders import hollow_model

NOW = 1_800_000_000


async def test_a_gateways_book_is_listed_cheapest_first(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            dear, cheap = [await market.orchestrator(n, price=p) for n, p in ((2, 140 * 10**9), (3, 100 * 10**9))]
            _, seat = await market.client(4)
            await market.reach(seat)(gateway.key.peer)  # type: ignore[misc]
            feed = gateway.role._m.feed  # type: ignore[union-attr]
            while len(feed.book) < 2:
                await feed.changed()
            book = await read_book(seat, market.greeter("client"), gateway.key.peer, (PIPELINE,))
            rows = rows_of(book, max(posting.offer.issued_at for posting in book.postings()))
            assert [row.seller for row in rows] == [cheap.key.peer, dear.key.peer]
            told = rows[0].as_dict()
            side = told["native_side"]
            assert (told["model_hash"], told["price_wei"]) == (MODEL.hex(), 100 * 10**9)
            assert told["typical_wei"] == side * side * 40 * 100 * 10**9 // 10**6  # type: ignore[operator]
            assert 0 < told["expires_in_s"] <= 900  # type: ignore[operator]
            assert all(len(row.cells()) == len(HEADINGS) for row in rows)
            assert (rows[0].now, told["load"]) == ("-", None)
            json.dumps(told)


async def test_what_the_gateway_heard_of_a_sellers_load_stands_beside_its_offer(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            seller = await market.orchestrator(2, price=10**9)
            _, seat = await market.client(4)
            await market.reach(seat)(gateway.key.peer)  # type: ignore[misc]
            loads = gateway.role.loads.board  # type: ignore[union-attr]
            while loads.of(seller.key.peer, PIPELINE, 0) is None:
                await gateway.role._m.feed.changed()  # type: ignore[union-attr]
            greeter = market.greeter("client")
            book = await read_book(seat, greeter, gateway.key.peer, (PIPELINE,))
            heard = (await ask_loads(seat, greeter, gateway.key.peer, (PIPELINE,))).loads
            (row,) = rows_of(book, 0, heard)
            assert row.now == "1 free"
            load = row.as_dict()["load"]
            assert isinstance(load, dict)
            assert (load["free"], load["queue"], load["queue_ms"]) == (1, 0, 0)
            full = replace(heard[0], load=replace(heard[0].load, free=0, queue=1, queue_ms=4200, warm=()))
            (row,) = rows_of(book, 0, [full])
            assert row.now == "busy, 4 s"
            assert not row.is_warm
            with pytest.raises(Unavailable):
                await ask_loads(seat, greeter, seller.key.peer, (PIPELINE,))  # it says its own and no hearsay


async def test_a_gateway_of_another_network_shows_nothing(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            _, seat = await market.client(4)
            await market.reach(seat)(gateway.key.peer)  # type: ignore[misc]
            with pytest.raises((Refused, Unavailable)):
                await read_book(
                    seat, Greeter("elsewhere", "client", lambda: None, lambda: NOW), gateway.key.peer, ("x",)
                )


def test_models_of_this_machine_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PASAR_MODELS", str(hollow_model(tmp_path / "tiny-one")))
    assert run_app(market.commands.app, ["models", "--local", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["model"] == "tiny-one"
    assert run_app(market.commands.app, ["models", "--local"]) == 0
    assert told["model_hash"] in capsys.readouterr().out


def test_a_table_is_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    show_table(("name", "value"), [("x" * 150, "y" * 150), ("[red]", "short")])
    out = capsys.readouterr().out
    assert "x" * 150 in out
    assert "y" * 150 in out
    assert "[red]" in out
