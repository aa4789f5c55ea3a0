"""Missing peers are looked for together: a flood of unknown sellers is one look-up, not one for each."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from market.overlay import LOOK_AGAIN_S, Overlay, Wiring, open_book
from p2p.errors import Unavailable
from p2p.identity import Identity
from p2p.transport import PeerAddrs
from tests.support.market_values import stranger


async def test_many_that_are_missed_at_once_are_looked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    wiring = Wiring("test", ("/ip4/127.0.0.1/tcp/0",), (), (), None, (), ("gateway",))
    overlay = Overlay(Identity(b"\x01" * 32), wiring, await open_book(tmp_path, lambda: 0.0), lambda: 0.0)
    looks = 0

    async def look() -> tuple[PeerAddrs, ...]:
        nonlocal looks
        looks += 1
        await trio.sleep(1)
        return ()

    monkeypatch.setattr(overlay, "look_once", look)

    async def miss(number: int) -> None:
        with pytest.raises(Unavailable):
            await overlay.reach(stranger(number))

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(miss, number)
    assert looks == 1
    await trio.sleep(LOOK_AGAIN_S)
    await miss(99)
    assert looks == 2
