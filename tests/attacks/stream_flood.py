"""Streams opened without end, none of them used or closed."""

from typing import Any

from libp2p.network.stream.exceptions import StreamError
from stage import connect, dead, make_host, perform, running, serves

from p2p.hardening.receiving import STREAMS_PER_PEER

OPENED = STREAMS_PER_PEER + 60


async def attack(_guarded: bool) -> None:
    victim, attacker, honest = make_host(), make_host(), make_host()
    async with running(victim, attacker, honest):
        conn = await connect(attacker, victim)
        streams = [await conn.new_stream() for _ in range(OPENED)]
        held = victim.get_network().get_connections(attacker.get_id())[0]
        for stream in reversed(streams):  # the last one's fate is known when all others' is
            if len(held.streams) > STREAMS_PER_PEER:
                dead(f"serves {len(held.streams)} streams of one peer")
            if stream is streams[-1]:
                await refused(stream)
        await serves(honest, victim)


async def refused(stream: Any) -> None:
    """Returns when the stream is gone; one that is served is silent, and no reading of it ever ends."""
    try:
        await stream.read(64)
    except StreamError:  # reset, or already forgotten
        return
    dead("an unused stream spoke")


perform(attack, "stream-limit")
