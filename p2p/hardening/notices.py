"""Streams that open and close: nobody is told who does nothing about it.

Stock starts a task for every listener, four times in the life of a stream, and the library's own listeners do nothing.
A listener of ours that does nothing either says so: ``hears_streams = False``. All others are told as before.
"""

from __future__ import annotations

from typing import Any

from libp2p.host.basic_host import _IdentifyNotifee
from libp2p.network.swarm import Swarm
from libp2p.network.tag_store import TagStoreNotifee
from libp2p.pubsub.pubsub_notifee import PubsubNotifee

from p2p.hardening.pinned import Ground, Patch

OF_STREAMS = ("opened_stream", "closed_stream")
HEARS = "hears_streams"  # the attribute of a listener that is False when it does nothing about streams
_IDLE = frozenset({_IdentifyNotifee, TagStoreNotifee, PubsubNotifee})
_stock_notify = Swarm._notify


async def _notify(self: Any, method: str, *args: Any) -> None:
    if method in OF_STREAMS and all(_idle(listener) for listener in self.notifees):
        return
    await _stock_notify(self, method, *args)


def _idle(listener: Any) -> bool:
    return type(listener) in _IDLE or not getattr(listener, HEARS, True)


def _idle_notices() -> None:
    Swarm._notify = _notify


PATCHES = (
    Patch(
        "idle-notices",
        "a dozen tasks started for every stream, to tell of it whoever does nothing about it",
        (
            Ground(Swarm, "_notify", "36afe611751a4cb8"),
            Ground(Swarm, "notify_opened_stream", "27f5c2a14c79195b"),
            Ground(Swarm, "notify_closed_stream", "a34ffe3b8041e823"),
            Ground(_IdentifyNotifee, "opened_stream", "7202a6f0b3faf393"),
            Ground(_IdentifyNotifee, "closed_stream", "2ca1ed587438b50a"),
            Ground(TagStoreNotifee, "opened_stream", "a2478e3d7b583991"),
            Ground(TagStoreNotifee, "closed_stream", "8645d788a5abcd8b"),
            Ground(PubsubNotifee, "opened_stream", "b0e08b02576cb4d4"),
            Ground(PubsubNotifee, "closed_stream", "21a58180cbef9594"),
        ),
        _idle_notices,
        speed=True,
    ),
)
