"""Subscriptions of one node: every accepted message of a topic into every reader's bounded channel.

A reader that is too slow loses the oldest message, never the newest, and never holds up anybody else; what was lost is
counted. Knows topics as names only.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Generic, TypeVar

import trio

T = TypeVar("T")
DEPTH = 1024


class Inboxes(Generic[T]):
    """Holds at most ``depth`` unread messages for each reader."""

    def __init__(self, depth: int = DEPTH) -> None:
        self.depth = depth
        self.lost = 0
        self._open: dict[str, set[tuple[trio.MemorySendChannel[T], trio.MemoryReceiveChannel[T]]]] = {}

    def deliver(self, topic: str, item: T) -> None:
        """Give ``item`` to every reader of ``topic``."""
        for send, receive in tuple(self._open.get(topic, ())):
            try:
                send.send_nowait(item)
            except trio.WouldBlock:
                receive.receive_nowait()  # the buffer is full, so the oldest is there
                self.lost += 1
                send.send_nowait(item)
            except trio.BrokenResourceError:
                continue  # a reader on its way out

    @asynccontextmanager
    async def subscribe(self, topic: str) -> AsyncGenerator[trio.MemoryReceiveChannel[T]]:
        """A channel of what is delivered from now on."""
        send, receive = trio.open_memory_channel[T](self.depth)
        pair = (send, receive)
        self._open.setdefault(topic, set()).add(pair)
        try:
            with send, receive:  # at once: between its end and our finally nothing else may run
                yield receive
        finally:
            self._open[topic].discard(pair)
            if not self._open[topic]:
                del self._open[topic]
