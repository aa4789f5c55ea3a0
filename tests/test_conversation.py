"""One session machine on streams that come, break and go."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ledger.journal import Begun
from market.conversation import Conversation
from market.jobwire import Closure
from market.parcels import Parcels
from market.session import Selling
from market.session.commands import Command, SendMessage
from market.session.events import Restarted
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
