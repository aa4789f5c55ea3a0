"""A reader that takes nothing for six seconds (of the loop's clock) and then goes on."""

from typing import Any

import trio
from libp2p.custom_types import TProtocol
from stage import connect, dead, make_host, perform, running, until
from trio.testing import MockClock, wait_all_tasks_blocked

SINK = TProtocol("/sink/1")
SIZE = 1_000_000
clock = MockClock(rate=1.0)
resume = trio.Event()
arrived: list[int] = []


async def sink(stream: Any) -> None:
    await resume.wait()
    while sum(arrived) < SIZE:
        arrived.append(len(await stream.read(65536)))


async def attack(_guarded: bool) -> None:
    writer, reader = make_host(), make_host()
    reader.set_stream_handler(SINK, sink)
    async with running(writer, reader), trio.open_nursery() as nursery:
        await connect(writer, reader)
        stream = await writer.new_stream(reader.get_id(), [SINK])
        nursery.start_soon(pause, stream.muxed_stream)
        try:
            await stream.write(bytes(SIZE))
        except Exception as exc:
            dead(f"the pause cost the stream: {exc.__cause__!r}")
        await until(lambda: sum(arrived) == SIZE)


async def pause(muxed: Any) -> None:
    await until(lambda: muxed.send_window == 0)
    await wait_all_tasks_blocked()
    clock.jump(6)
    await wait_all_tasks_blocked()
    resume.set()


perform(attack, "patient-writes", clock=clock)
