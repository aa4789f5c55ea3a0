"""Inbound connections: a slot is given back when its connection ends, and a doorkeeper may refuse before the handshake.

Knows no rate and no address range; who is let in, and who has to leave for another, is the doorkeeper's to say.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import structlog
import trio
from libp2p.abc import IMuxedConn
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm

from p2p.hardening.pinned import Ground, Patch

log = structlog.get_logger(__name__)


class Door(Protocol):
    """Whoever counts visits: see ``p2p/doorkeeper.py``. What ``enter`` gives has an ``evict`` to be set."""

    def enter(self, ip: str, now: float) -> Any: ...
    def shaken(self, visit: Any) -> None: ...
    def left(self, visit: Any) -> None: ...


DOORKEEPER = "pasar_doorkeeper"  # the attribute of a swarm that holds its doorkeeper
GOODBYE = 5.0  # seconds that a closing connection has to send its last frame
_stock_inbound = Swarm._do_handle_inbound_connection


async def _serve_inbound(swarm: Any, raw: Any, maddr: Any, failure: Any) -> None:
    """Serve one inbound connection until it is closed, or its place is needed for another.

    The caller holds one of the swarm's inbound slots for as long as this runs, and closes the socket after it. Stock
    runs until the *swarm* ends, so that 250 connections in a node's life are all that it ever accepts.
    """
    if isinstance(raw, IMuxedConn):  # QUIC and its like come multiplexed; no host here listens on them
        await _stock_inbound(swarm, raw, maddr, failure)
        return
    remote = swarm._build_remote_multiaddr(raw)
    if remote is not None and not await swarm.connection_gate.is_allowed(remote):
        return
    doorkeeper: Door | None = getattr(swarm, DOORKEEPER, None)
    address = raw.get_remote_address()
    if doorkeeper is None or address is None:
        await _shake_and_serve(swarm, raw, maddr, _nothing, trio.Event())
        return
    visit = doorkeeper.enter(address[0], trio.current_time())
    if visit is None:
        return
    leave = trio.Event()
    visit.evict = leave.set
    try:
        await _shake_and_serve(swarm, raw, maddr, partial(doorkeeper.shaken, visit), leave)
    finally:
        doorkeeper.left(visit)


async def _shake_and_serve(swarm: Any, raw: Any, maddr: Any, shaken: Callable[[], None], leave: trio.Event) -> None:
    try:
        muxed = await swarm.upgrade_inbound_raw_conn(RawConnection(raw, False), maddr)
    except Exception as exc:  # a stranger's handshake may fail in any way, in four libraries; it is refused, no more
        log.debug("inbound_handshake_failed", error=type(exc).__name__)
        return
    finally:
        shaken()
    for conn in swarm.get_connections(muxed.peer_id):
        if conn.muxed_conn is muxed:
            await _until_closed(conn, leave)
            with trio.move_on_after(GOODBYE):
                await muxed.event_closed.wait()


async def _until_closed(conn: Any, leave: trio.Event) -> None:
    async with trio.open_nursery() as nursery:

        async def end_when_told() -> None:
            await leave.wait()
            with trio.move_on_after(GOODBYE):
                await conn.close()

        nursery.start_soon(end_when_told)
        await conn.event_closed.wait()
        nursery.cancel_scope.cancel()


def _nothing() -> None:
    """Nobody counts."""


def _inbound_slots() -> None:
    Swarm._do_handle_inbound_connection = _serve_inbound


PATCHES = (
    Patch(
        "inbound-slots",
        "deaf after 250 inbound connections",
        (
            Ground(Swarm, "_do_handle_inbound_connection", "c22fdfd5289f671c"),
            Ground(Swarm, "_handle_inbound_connection", "0800fdf9770ed8e6"),
            Ground(Swarm, "upgrade_inbound_raw_conn", "e24c4285f494767a"),
        ),
        _inbound_slots,
    ),
)
