"""``python -m benchmarks`` lists the benchmarks, ``python -m benchmarks NAME [--json]`` runs one.

Words go to stdout, with --json to stderr; the last line of stdout is one object. A goal that is missed is printed as
missed, and the exit code is 0 all the same: a slow machine is no failure of the program.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import signal
import sys
from collections.abc import Callable

from benchmarks.report import Load, NotRun, Report, Say, finish
from market.console import configure_logs
from p2p.errors import PasarError

# name: (module, function, one line). Imported only when they run, so that the list needs nothing.
BENCHMARKS = {
    "attack": ("benchmarks.attack", "run", "a market before, under and after a minute of attack on every protocol"),
    "auction": ("benchmarks.auction", "run", "bid to award with 1, 3 and 10 orchestrators, against a bare RPC"),
    "batching": ("benchmarks.batching", "run", "random arrivals at a worker: alone, in batches, in shared steps"),
    "herd": ("benchmarks.herd", "run", "twenty gateways after the same sellers, simulated: refusals, match, premium"),
    "join": ("benchmarks.join", "run", "a gateway's cold start: to its first offer, and to a book of 3 000"),
    "loads": ("benchmarks.loads", "run", "how old a gateway's view of 64 sellers is, and what it costs"),
    "churn": ("benchmarks.churn", "run", "bids on twenty nodes of which a third is killed each minute"),
    "gossip": (
        "benchmarks.gossip",
        "run",
        "10, 25 and 50 nodes in processes: delivery, age, CPU with and without the mends",
    ),
    "loop": ("benchmarks.loop", "run", "how late the node's event loop is while its worker draws or loads"),
    "model": ("benchmarks.model", "run", "what the bundled model draws, judged from pixels"),
    "overhead": ("benchmarks.overhead", "run", "a job of one second through the market, against the worker alone"),
    "prefilter": ("benchmarks.prefilter", "measure", "judging a full book of offers, against a hundredth of it"),
    "quality": ("benchmarks.quality", "run", "what each bundled model gets right on examples kept out of its training"),
    "tolerance": (
        "benchmarks.tolerance",
        "run",
        "how far honest runs of one job lie apart, and how near a cheat comes, against what is declared",
    ),
    "warm": ("benchmarks.warm", "run", "a lone request at a warm and a cold worker, against the library's own call"),
    "transcode": ("benchmarks.transcode", "run", "renditions of a film against the ffmpeg command line, and live"),
    "transfer": (
        "benchmarks.transfer",
        "run",
        "1, 16 and 100 MiB in chunks, against a bare stream, a stock one, TLS and js",
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Parse, run, print. 0 when the benchmark ran, goals met or missed; 2 for a name that is none, 4 when it broke."""
    listed = "\n".join(f"  {name:10} {line}" for name, (_, _, line) in BENCHMARKS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure a real part of Pasar against a reference in the same run.",
        epilog=f"benchmarks:\n{listed}\n\nThe exit code is 0 also when a goal is missed: it is printed as missed.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="?", choices=sorted(BENCHMARKS), help="the benchmark; without one, the list")
    parser.add_argument("--json", action="store_true", help="only the one object on stdout, words on stderr")
    given = parser.parse_args(argv)
    if given.name is None:
        print(listed)
        return 0
    say = Say(sys.stderr if given.json else sys.stdout)
    module, function, line = BENCHMARKS[given.name]
    say(f"{given.name}: {line}")
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))  # trio stops all children
    run: Callable[..., Report] = getattr(importlib.import_module(module), function)
    load = Load(say)
    try:
        made = run(say) if "say" in inspect.signature(run).parameters else run()
    except (NotRun, BaseExceptionGroup) as exc:
        print(f"benchmarks: {given.name}: {_reason(exc)}", file=sys.stderr)
        return 4
    finish(given.name, made, say, load)
    return 0


def _reason(exc: BaseException) -> str:
    """Why it did not run, in a line. What is nobody's known reason is raised on."""
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    if not isinstance(exc, NotRun | PasarError):
        raise exc
    return str(exc)


if __name__ == "__main__":
    configure_logs(as_json=False, level="warning")  # else a node in this process logs where the words go
    sys.exit(main())
