"""A supervised process that is no node: its supervisor and lifeline are real, what it does is on its command line.

    small_node.py RULE WORD...      one WORD for each life, the last one for all that follow

serve: READY, then drain on the first order for as long as the file ``busy`` exists, and end. die N: exit code N. kill:
SIGKILL. soon N: READY, then exit code N. block: READY, then a loop that never turns again. hopeless: says so and dies.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from pathlib import Path

import trio

from market.console import Exit, configure_logs
from market.lifeline import Lifeline
from market.restarting import Rule
from market.supervisor import Supervisor

LIVES, BUSY, SPARE = Path("lives"), Path("busy"), Path("spare")


async def live(lifeline: Lifeline, word: str, number: int) -> int:
    """One life."""
    name, _, argument = word.partition(" ")
    if name == "die":
        return int(argument)
    if name == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    async with trio.open_nursery() as nursery:
        await nursery.start(lifeline.run)
        if name == "hopeless":
            await lifeline.hopeless()
            os._exit(4)
        ready = {"pid": os.getpid(), "life": number, "port": lifeline.port, "keeper": lifeline.keeper}
        if await lifeline.ready(4000 + number):
            print("READY " + json.dumps(ready), flush=True)
        print("serving " + json.dumps(ready), file=sys.stderr, flush=True)
        if name == "soon":
            os._exit(int(argument))
        if name == "block":
            time.sleep(3600)  # noqa: ASYNC251 - this is what goes wrong
        await lifeline.ordered(1)
        await lifeline.stopping()
        nursery.start_soon(_hurry, lifeline, nursery.cancel_scope)
        while BUSY.exists():  # noqa: ASYNC110, ASYNC240 - the test takes the file away
            await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    return 0


async def _hurry(lifeline: Lifeline, scope: trio.CancelScope) -> None:
    await lifeline.ordered(2)
    print("hurried", file=sys.stderr, flush=True)
    scope.cancel()


def main() -> int:
    configure_logs(as_json=True, level="info")
    told, words = json.loads(sys.argv[1]), sys.argv[2:]
    after = told.pop("spare_after_s", 3600)
    try:
        lifeline = Supervisor(lambda: SPARE.touch(), Rule(**told), spare_after_s=after).run()
    except Exit as exc:
        return exc.code
    faulthandler.enable()
    number = len(LIVES.read_text()) if LIVES.exists() else 0
    with LIVES.open("a") as file:
        file.write(".")
    return trio.run(live, lifeline, words[min(number, len(words) - 1)], number + 1)


if __name__ == "__main__":
    sys.exit(main())
