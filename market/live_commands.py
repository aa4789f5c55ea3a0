"""The command ``live``: a stream of segments in, renditions and playlists out, through a market.

Parses, joins the network as a light client, shows how far behind the stream is. What it imports for that is imported
where it begins.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import trio
import typer

from ledger.money import parse_wei, wei_text
from market.config import Config, load_config
from market.console import DONE, FAILED, NO_GATEWAY, Exit, configure_logs
from p2p.errors import Misconfigured

if TYPE_CHECKING:
    from market.client import Wish
    from market.livesource import Source
    from market.reel import Piece, Told

app = typer.Typer()
MAX_IN_FLIGHT = 16


@dataclass(frozen=True, slots=True)
class Plan:
    """What ``live`` was told."""

    source: Path
    out: Path
    wish: Wish
    window: int
    in_flight: int
    segment_s: float
    idle_s: float
    paced: bool
    whole: bool
    as_json: bool


@app.command()
def live(
    source: Annotated[Path, typer.Option(help="Folder in which segments appear, or a film.")],
    out: Annotated[Path, typer.Option(help="Folder of the playlists and segments.")],
    option: Annotated[
        list[str] | None, typer.Option("--set", help="NAME=VALUE: renditions=240p,360p or 640x360@600k.")
    ] = None,
    window: Annotated[int, typer.Option(help="Segments in a playlist; 0: all of them.", min=0, max=1000)] = 6,
    in_flight: Annotated[int, typer.Option(help="Segments under way at once.", min=1, max=MAX_IN_FLIGHT)] = 3,
    segment: Annotated[float, typer.Option(help="Least seconds of a segment, of a film.", min=0.5, max=10)] = 2.0,
    idle: Annotated[float, typer.Option(help="Seconds without a segment that end it; 0: Ctrl-C does.", min=0)] = 30.0,
    pace: Annotated[bool, typer.Option("--pace/--no-pace", help="A film no faster than it is shown.")] = True,
    whole: Annotated[bool, typer.Option("--whole", help="Files in the folder are whole once they are there.")] = False,
    model: Annotated[str | None, typer.Option(help="Name of an encoder, or the head of its hash.")] = None,
    limit: Annotated[str | None, typer.Option(help="The most that one segment may cost.")] = None,
    deadline: Annotated[float, typer.Option(help="Seconds that one segment may take.", min=0.5, max=3600)] = 20.0,
    bootstrap: Annotated[list[str] | None, typer.Option(help="Multiaddr of a bootstrap, with /p2p/PEER.")] = None,
    network: Annotated[str | None, typer.Option(help="Name of the network.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Directory of this client.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One object on stdout, a line a segment on stderr.")] = False,
) -> None:
    """Have a stream made into renditions while it comes: each segment is a job, bid for and paid alone."""
    from market.asking import options_of
    from market.client import Wish

    config = load_config(data_dir=data_dir, bootstrap=tuple(bootstrap or ()), network=network)
    wish = Wish(
        "",
        steps=1,
        guidance=0,
        seed=0,
        model=model,
        limit=parse_wei(limit) if limit else 0,
        deadline_ms=round(deadline * 1000),
        wait=True,
        options=options_of(option or ()),
    )
    if as_json:
        configure_logs(as_json=True, level="warning")
    plan = Plan(source, out, wish, window, in_flight, segment, idle, pace, whole, as_json)
    code = trio.run(run_live, config, plan)
    if code:
        raise Exit(code)


async def run_live(config: Config, plan: Plan) -> int:
    """Do it; the exit code. Raises Misconfigured before anything is dialled."""
    from market.askingfilm import order_of
    from market.client import Client
    from market.instance import claim
    from market.lightclient import find_gateways, greeter_of, join
    from market.live import Live, Stream

    order = order_of(plan.wish)
    taken = {one.name for one in plan.wish.options} & {"form", "start"}
    if taken:
        raise Misconfigured(f"set: live says {', '.join(sorted(taken))} itself")
    source = source_of(plan)
    if not plan.out.absolute().parent.is_dir() or plan.out.is_file():
        raise Misconfigured(f"out: {plan.out} cannot become a folder")
    plan.out.mkdir(exist_ok=True)
    instance = claim(config.home, config.network, "client", config.data_dir)
    receipts = instance.path / "receipts"
    receipts.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        async with trio.open_nursery() as nursery:
            overlay = await join(config, instance.path, nursery)
            gateways = await find_gateways(overlay)
            client = Client(overlay.host, greeter_of(config), overlay.reach)
            stream = Stream(order, plan.wish, plan.out, receipts, plan.window, plan.in_flight)
            live = Live(stream, client, gateways, lambda piece, told: _show(piece, told, as_json=plan.as_json))
            if gateways:
                await live.run(source)
            nursery.cancel_scope.cancel()
    finally:
        instance.release()
    if not gateways:
        print("pasar: NO_GATEWAY: start one with --role gateway, or name a --bootstrap", file=sys.stderr)
        return NO_GATEWAY
    return _report(plan, live.reel.told(), live.price, live.refusal)


def source_of(plan: Plan) -> Source:
    """The folder or the film. Raises Misconfigured, also where PyAV is missing: segments are measured with it."""
    import importlib.util

    from compute.filmprobe import NEEDS_AV

    if importlib.util.find_spec("av") is None:
        raise Misconfigured(f"live {NEEDS_AV}")
    from market.livesource import FilmSource, FolderSource

    if plan.source.is_dir():
        return FolderSource(plan.source, plan.idle_s, whole=plan.whole)
    if not plan.source.is_file():
        raise Misconfigured(f"source: {plan.source} is neither a folder nor a film")
    return FilmSource(plan.source, plan.segment_s, paced=plan.paced)


def _show(piece: Piece, told: Told, *, as_json: bool) -> None:
    if as_json:
        line = {"event": "listed", "segment": piece.number, "lag_s": round(told.lag_s, 3), "lost": told.lost}
        print(json.dumps(line), file=sys.stderr, flush=True)
    else:
        lost = f", {told.lost} lost" if told.lost else ""
        print(f"segment {piece.number}: {told.lag_s:.1f} s behind{lost}", file=sys.stderr, flush=True)


def _report(plan: Plan, told: Told, price: int, refusal: str) -> int:
    report: dict[str, object] = {
        "out": str(plan.out / "master.m3u8"),
        "segments": told.listed,
        "lost": told.lost,
        "seconds": round(told.seconds, 3),
        "lag_s": round(told.lag_s, 3),
        "worst_lag_s": round(told.worst_lag_s, 3),
        "price_wei": price,
        **({"refusal": refusal} if told.lost else {}),
    }
    if plan.as_json:
        print(json.dumps(report))
    elif told.listed:
        print(f"playlist  {report['out']}")
        print(f"listed    {told.listed} segments, {told.seconds:.1f} s; {told.lost} lost")
        print(f"behind    {told.lag_s:.1f} s at the end, {told.worst_lag_s:.1f} s at most")
        print(f"price     {wei_text(price)}")
    if told.lost:
        print(f"pasar: the last segment that was lost: {refusal}", file=sys.stderr)
    return DONE if told.listed else FAILED
