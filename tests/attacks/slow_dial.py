"""A dial to a peer that is there. The loop's clock stands still while anything moves; it must not have moved."""

import trio
from stage import connect, dead, make_host, perform, running
from trio.testing import MockClock

clock = MockClock(rate=0.0)


async def attack(_guarded: bool) -> None:
    node, far = make_host(), make_host()
    async with running(node, far):
        clock.autojump_threshold = 0.2
        before = trio.current_time()
        await connect(node, far)
        spent = trio.current_time() - before
        if spent > 0.2:
            dead(f"waited {spent * 1000:.0f} ms for nothing")


perform(attack, "fast-dial", clock=clock)
