"""The attacker: a process that speaks every protocol wrongly, at full speed, until its time is over.

    python -m tests.attacker --network NAME --seconds 60 /ip4/127.0.0.1/tcp/4001/p2p/16Uiu2...

Every act runs in several copies at once, round after round, each round as another peer. What was done is one line of
JSON on stdout at the end: an attack that did nothing proves nothing.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterator
from random import Random

import structlog
import trio

from p2p.addresses import parse_target
from p2p.errors import PasarError
from p2p.limits import raise_open_files
from tests.attacker import below, gossip, kad, market, streams
from tests.attacker.stand import ROUND_S, Act, Stand, dial_from_sources

ACTS: list[Act] = [*below.ACTS, *streams.ACTS, *gossip.ACTS, *kad.ACTS, *market.ACTS]
PAUSE_S = 0.05
MISTAKES = (TypeError, AttributeError, NameError, LookupError, AssertionError)  # of the attacker's own


async def again_and_again(stand: Stand, act: Act, source: int) -> None:
    """One act, round after round. Whatever ends a round is what an attack is there for."""
    stand.use_source(source)
    while True:
        try:
            with trio.move_on_after(ROUND_S):
                await act(stand)
            stand.done[f"rounds of {act.__name__}"] += 1
        except (PasarError, OSError, trio.TrioInternalError) as exc:
            stand.ended[f"{act.__name__}: {type(exc).__name__}"] += 1
        except Exception as exc:  # the library's own types for "they hung up", alone and in groups
            if any(isinstance(leaf, MISTAKES) for leaf in leaves(exc)):
                raise
            stand.ended[f"{act.__name__}: {name_of(exc)}"] += 1
        await trio.sleep(PAUSE_S)


def name_of(exc: BaseException) -> str:
    return "+".join(sorted({type(leaf).__name__ for leaf in leaves(exc)}))


def leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for part in exc.exceptions:
            yield from leaves(part)
    else:
        yield exc


async def attack(stand: Stand, seconds: float, acts: list[Act]) -> None:
    """Until the time is over. What is open then is not closed: an attacker is not polite."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end, stand, seconds)
        await stand.look_around()
        for number, act in enumerate(acts):
            nursery.start_soon(again_and_again, stand, act, number)


async def end(stand: Stand, seconds: float) -> None:
    await trio.sleep(seconds)
    print(json.dumps({"offers": len(stand.offers), "done": stand.done, "ended": stand.ended}), flush=True)
    os._exit(0)


def main() -> int:
    """Attack, count, end."""
    parser = argparse.ArgumentParser(prog="python -m tests.attacker")
    parser.add_argument("targets", nargs="+")
    parser.add_argument("--network", required=True)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="names of acts")
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    raise_open_files()
    dial_from_sources()
    acts = [act for act in ACTS if not given.only or act.__name__ in given.only]
    stand = Stand(given.network, [parse_target(addr) for addr in given.targets], Random(given.seed))
    trio.run(attack, stand, given.seconds, acts)
    return 1


if __name__ == "__main__":
    sys.exit(main())
