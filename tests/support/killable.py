"""``node.py`` that ends itself by SIGKILL the nth time it comes by a named point: ``KILL_AT=tickets-sent:2``.

The points are those of ``market/conversation.py``; a node that nobody tells to die hears of them and does nothing.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial

import market.roles
import node


def executioner(order: str) -> None:
    """Have this process killed as ``order`` says."""
    point, _, nth = order.partition(":")
    left = [int(nth)]

    def reached(name: str) -> None:
        left[0] -= name == point
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)

    for parts in ("Means", "Supplies"):
        setattr(market.roles, parts, partial(getattr(market.roles, parts), reached=reached))


if __name__ == "__main__":
    executioner(os.environ["KILL_AT"])
    sys.exit(node.main())
