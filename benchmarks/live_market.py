"""A live stream through a market of processes, as fast as it goes: what a second of film takes, auctions and all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import trio

from benchmarks.report import Say
from benchmarks.stage import NODE, READY_S, Stage, stage
from compute.spec import TRANSCODE, Option
from market.askingfilm import order_of
from market.client import Wish
from market.live import Live, Stream
from market.livesource import FilmSource

DEADLINE_MS = 60_000


async def through_market(clip: Path, renditions: str, seconds: float, say: Say) -> dict[str, Any]:
    """One seller, three segments under way, each a job; the film's seconds over those that it took."""
    wish = Wish(
        "",
        steps=1,
        guidance=0,
        seed=0,
        deadline_ms=DEADLINE_MS,
        wait=True,
        options=(Option("renditions", renditions),),
    )
    out = clip.parent / "live"
    out.mkdir()
    async with stage(say) as market:
        await market.orchestrator("seller", [*NODE, "--role", "orchestrator"], "--model", "x264-veryfast")
        await _on_offer(market)
        stream = Stream(order_of(wish), wish, out, out, 0, 3)
        live = Live(stream, market.client, [market.gateway], lambda piece, told: None)
        begun = trio.current_time()
        await live.run(FilmSource(clip, seconds, paced=False))
        took, told = trio.current_time() - begun, live.reel.told()
    say(f"live {renditions} through a market: {told.seconds:.0f} s of film in {took:.1f} s, {told.lost} segments lost")
    return {
        "speed": round(told.seconds / took, 2),
        "segments": told.listed,
        "lost": told.lost,
        "slowest_s": round(told.worst_lag_s, 2),
    }


async def _on_offer(market: Stage) -> None:
    with trio.fail_after(READY_S):
        while True:
            found = await market.client.models(market.gateway, TRANSCODE)
            if found.models and found.models[0].warm:
                return
            await trio.sleep(0.2)
