"""``python -m benchmarks.simulator``: run seeds, show what fails, cut it down."""

from __future__ import annotations

import argparse
import json
import sys
import time

from benchmarks.simulator.schedule import LARGE, SMALL, Schedule, Size, drawn
from benchmarks.simulator.seeds import Memory, run_many, run_one
from benchmarks.simulator.shrinking import shrunk
from benchmarks.simulator.simulation import Result
from benchmarks.simulator.stillness import prepared

WHOLE = 10_000
AT_ONCE = 50  # seeds between two notes of how far we are


def main(argv: list[str] | None = None) -> int:
    """0 when everything held, 1 when something did not."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulator", description="Simulate whole markets.")
    parser.add_argument("--seed", type=int, help="one seed")
    parser.add_argument("--seeds", help="A:B, from A to below B")
    parser.add_argument("--all", action="store_true", help=f"{WHOLE} seeds, going on where the last run stopped")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--without", default="", help="with --seed: leave these out, by name")
    parser.add_argument("--large", action="store_true", help="the large world")
    parser.add_argument("--verbose", action="store_true", help="with --seed: everything that happens")
    parser.add_argument("--shrink", action="store_true", help="with --seed: cut a failure down to what it needs")
    given = parser.parse_args(argv)
    size = LARGE if given.large else SMALL
    with prepared():
        if given.seed is not None:
            schedule = drawn(given.seed, size).without(given.without.split(","))
            return _one(schedule, size, verbose=given.verbose, shrink=given.shrink)
        until = time.monotonic() + given.minutes * 60
        if given.all:
            return _all(until)
        first, _, last = (given.seeds or "0:200").partition(":")
        tally = run_many(range(int(first), int(last)), size, until, lambda result: _tell(result, size))
    print(json.dumps({"done": tally.done, "failed": {str(seed): why for seed, why in tally.failed.items()}}))
    return 1 if tally.failed else 0


def _one(schedule: Schedule, size: Size, *, verbose: bool, shrink: bool) -> int:
    result = run_one(schedule, print if verbose else None)
    print(f"seed {schedule.seed}: {result.lines} lines, {result.mock_s:.1f} s, digest {result.digest}")
    for why in result.broken:
        print(f"  {why}")
    if result.broken and shrink:
        least, left_out = shrunk(schedule, lambda tried: bool(run_one(tried).broken))
        print("what it needs:")
        for part in (least.disturbances, least.jobs, least.sellers, least.buyers):
            for one in part:
                print(f"  {one}")
        print(f"again: {command(schedule.seed, size, left_out)}")
    return 1 if result.broken else 0


def _all(until: float) -> int:
    memory, failed = Memory(), False
    done = memory.next_seed()
    while done < WHOLE and time.monotonic() < until:
        tally = run_many(range(done, min(WHOLE, done + AT_ONCE)), SMALL, until, lambda result: _tell(result, SMALL))
        failed, done = failed or bool(tally.failed), done + tally.done
        memory.remember(done)
        print(f"{done} of {WHOLE} seeds", file=sys.stderr, flush=True)
    print(json.dumps({"done": done, "of": WHOLE}))
    return 1 if failed else 0


def _tell(result: Result, size: Size) -> None:
    if result.broken:
        print(f"seed {result.schedule.seed}: {'; '.join(result.broken)}", file=sys.stderr)
        print(f"  again: {command(result.schedule.seed, size, ())} --shrink", file=sys.stderr, flush=True)


def command(seed: int, size: Size, left_out: tuple[str, ...]) -> str:
    """What to type to see this again."""
    large = " --large" if size is LARGE else ""
    without = f" --without {','.join(left_out)}" if left_out else ""
    return f"python -m benchmarks.simulator --seed {seed}{large}{without}"


if __name__ == "__main__":
    sys.exit(main())
