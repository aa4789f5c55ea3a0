"""Seventy megabytes pushed into one stream that nobody reads, past every credit."""

from typing import Any

import trio
from libp2p.custom_types import TProtocol
from stage import connect, dead, make_host, perform, running, send_raw_frame, serves

MUTE = TProtocol("/mute/1")
PUSHED = 70 << 20


async def mute(_stream: Any) -> None:
    await trio.sleep_forever()


async def attack(_guarded: bool) -> None:
    victim, attacker, honest = make_host(), make_host(), make_host()
    victim.set_stream_handler(MUTE, mute)
    async with running(victim, attacker, honest):
        conn = await connect(attacker, victim)
        stream = await attacker.new_stream(victim.get_id(), [MUTE])
        muxed = victim.get_network().get_connections(attacker.get_id())[0].muxed_conn
        worst = 0
        for _ in range(PUSHED >> 20):
            try:
                await send_raw_frame(conn, stream.muxed_stream.stream_id, bytes(1 << 20))
            except Exception:
                break
            worst = max(worst, sum(map(len, muxed.stream_buffers.values())))
        if worst > 64 << 20:
            dead(f"holds {worst >> 20} MiB for one peer")
        if not muxed.event_shutting_down.is_set():
            dead("the peer was not cut off")
        await serves(honest, victim)


perform(attack, "bounded-buffers")
