"""A hundred questions and answers on one open stream, and the turns of the loop that both ends take for them."""

from __future__ import annotations

import trio
from stage import ECHO, answered, connect, dead, make_host, perform, running

MOST = 8  # turns for a question and its answer, of the two ends together; without quick locks it is 16, and 54 in stock


class Turns(trio.abc.Instrument):
    """Counts the steps of all tasks."""

    def __init__(self) -> None:
        self.steps = 0

    def before_task_step(self, _task: trio.lowlevel.Task) -> None:
        self.steps += 1


async def attack(_guarded: bool) -> None:
    asker, far = make_host(), make_host()
    async with running(asker, far):
        await connect(asker, far)
        stream = await asker.new_stream(far.get_id(), [ECHO])
        await answered(stream)
        turns = Turns()
        trio.lowlevel.add_instrument(turns)
        for _ in range(100):
            await answered(stream)
        trio.lowlevel.remove_instrument(turns)
        if turns.steps > 100 * MOST:
            dead(f"takes {turns.steps / 100:.0f} turns for a question and its answer")


perform(attack, "quick-locks")
