"""One session machine on streams that come, break and go."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ledger.journal import Begun
from market.conversation import PROGRESS_BURST, Conversation
from market.jobwire import Closure, Progress
from market.parcels import Parcels
from market.session import Selling
from market.session.commands import Command, SendMessage
from market.session.events import Restarted
from p2p.codec import encode
from p2p.errors import Unavailable
from p2p.stream import MessageStream
from p2p.transport import Remote
from tests.support.market_values import Key

SELLER, GATEWAY = Key(1).peer, Key(2).peer


class Broken:
    """A stream that is gone when it is written to, before its reader has noticed."""

    peer, remote = GATEWAY, Remote("127.0.0.1")

    async def send(self, data: bytes) -> None:
        raise Unavailable("the stream is closed")

    async def receive(self, most: int = 65536) -> bytes:
        await trio.sleep_forever()
        return b""

    async def finish(self) -> None: ...
    async def aclose(self) -> None: ...
    async def reset(self) -> None: ...


async def nothing(command: Command) -> None:
    """A sale that does nothing."""


async def unkept(record: bytes) -> Begun[None]:
    raise AssertionError("nothing is journaled here")


async def test_a_stream_that_breaks_under_a_write_ends_that_stream_and_nothing_else() -> None:
    talk = Conversation(Selling(), SELLER, Parcels(), nothing, unkept, buying=False)
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:

            async def attach() -> None:
                with pytest.raises(Unavailable):
                    await talk.attach(MessageStream(Broken()))
                nursery.cancel_scope.cancel()

            await nursery.start(talk.run)
            nursery.start_soon(attach)
            await trio.testing.wait_all_tasks_blocked()
            await talk._do(SendMessage(Closure(b"\1" * 32, 1, "DONE")))
            await trio.sleep_forever()


class Recording(Broken):
    """A stream that takes what it is sent."""

    def __init__(self) -> None:
        self.sent = bytearray()

    async def send(self, data: bytes) -> None:
        self.sent += data


async def test_of_a_thousand_steps_in_a_moment_the_last_is_told_and_few_before() -> None:
    talk = Conversation(Selling(), SELLER, Parcels(), nothing, unkept, buying=False)
    stream = Recording()
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(talk.run)
            nursery.start_soon(talk.attach, MessageStream(stream))
            await trio.testing.wait_all_tasks_blocked()
            for step in range(1, 1001):
                await talk._do(SendMessage(Progress(b"\1" * 32, 1, step, 1000, 0)))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    last = encode(Progress(b"\1" * 32, 1, 1000, 1000, 0))
    assert stream.sent.endswith(last)
    assert PROGRESS_BURST <= stream.sent.count(b"progress") < 300


class Late:
    """A machine whose deadline is over; it notes the order of what it is told."""

    award = None

    def __init__(self) -> None:
        self.told: list[str] = []

    @property
    def wake_at(self) -> int | None:
        return None if "Ticked" in self.told else -1

    def handle(self, event: object, now: int) -> list[Command]:
        self.told.append(type(event).__name__)
        return []


async def test_a_deadline_that_is_over_waits_for_what_happened_before() -> None:
    """A restart past the deadline: closed by a tick first, it would close a second time when told of the restart."""
    machine = Late()
    talk = Conversation(machine, SELLER, Parcels(), nothing, unkept, buying=True)  # type: ignore[arg-type]
    talk.post(Restarted())
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(talk.run)
            while len(machine.told) < 2:  # noqa: ASYNC110  # the machine tells nobody
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
    assert machine.told == ["Restarted", "Ticked"]
