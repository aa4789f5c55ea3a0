"""More inbound connections in a life than a node has slots (250), each used and closed in good order."""

from typing import Any

import trio
from stage import connect, dead, make_host, perform, running, until

GUESTS, TURNS = 26, 10


async def attack(_guarded: bool) -> None:
    victim = make_host()
    guests = [make_host() for _ in range(GUESTS)]
    async with running(victim, *guests), trio.open_nursery() as nursery:
        for guest in guests:
            nursery.start_soon(come_and_go, guest, victim)


async def come_and_go(guest: Any, victim: Any) -> None:
    for turn in range(TURNS):
        try:
            conn = await connect(guest, victim)
        except Exception as exc:
            dead(f"deaf in turn {turn} of {GUESTS} guests: {exc}")
        await conn.close()
        await until(lambda: guest.get_id() not in victim.get_network().connections)


perform(attack, "inbound-slots")
