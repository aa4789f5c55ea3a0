"""Bidding: what the ``bid`` command does: join the network, find a gateway, follow one job, keep its Receipt.

A light client knows a bootstrap only. It looks gateways up in the DHT and its address book, takes those that delivered
before first, and goes on to the next when one is gone. Ctrl-C takes the bid back and says what was charged.
"""

from __future__ import annotations

import json
import secrets
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import structlog
import trio

from compute.safety import as_dict, in_words
from ledger.money import wei_text
from market.album import Album
from market.bidwire import BidCancelled, JobFailed
from market.client import Client, Delivered, Ending, GatewayLost, Wish, bid_for, check_wish, choose_model
from market.config import Config
from market.console import DONE, FAILED, NO_GATEWAY, NO_MATCH
from market.finishing import PIPELINE, check_finish, finishing
from market.instance import Instance, claim
from market.lightclient import find_gateways, greeter_of, join
from market.overlay import Overlay
from market.progress import Display, JsonDisplay, PlainDisplay, RichDisplay
from market.receipt import safety_in
from market.refusal import Code, Refusal
from market.saving import check_target, has_playlists, places, write_all
from market.verifying import JOB_SUFFIX, write_private
from p2p.codec import encode
from p2p.errors import PeerFault, Refused, Unavailable
from p2p.peer import PeerId, peer_text

log = structlog.get_logger(__name__)


ENDINGS = {
    "image/png": ".png",
    "application/json": ".json",
    "application/x-subrip": ".srt",
    "text/vtt": ".vtt",
    "video/mp4": ".mp4",
    "video/mp2t": ".ts",
}
NO_ROOM = (Code.BUSY, Code.TOO_MANY, Code.NO_ANSWER)  # of this gateway: another one may have some


@dataclass(frozen=True, slots=True)
class Errand:
    """One ``bid`` on the command line.

    ``names``: those of the files of its result, where its pipeline names them; ``finish``: what a second bid makes of
    the picture; ``previews``: a folder.
    """

    pipeline: str
    wish: Wish
    out: Path | None
    as_json: bool
    files: tuple[bytes, ...] = ()
    names: tuple[str, ...] = ()
    finish: str = ""
    previews: Path | None = None


@dataclass(frozen=True, slots=True)
class Bought:
    """A result, and the gateway that it came through."""

    gateway: PeerId
    ending: Delivered


@dataclass(frozen=True, slots=True)
class Unserved:
    """Why there is no result: the exit code, and what is said of it."""

    code: int
    told: dict[str, Any]


@dataclass(slots=True)
class _Marks:
    """When what happened, on trio's clock."""

    started: float = field(default_factory=trio.current_time)
    found: float = 0.0
    finished: float = 0.0


async def run_bid(config: Config, errand: Errand) -> int:
    """Do the errand; the exit code. Raises Misconfigured before anything is dialled."""
    check_wish(errand.wish, errand.pipeline)
    check_finish(errand.finish, errand.pipeline)
    check_target(errand.out, errand.names)
    instance = claim(config.home, config.network, "client", config.data_dir)
    code = [FAILED]
    try:
        async with trio.open_nursery() as nursery:
            code[0] = await _Bidding(config, errand, instance).run(nursery)
            nursery.cancel_scope.cancel()
    finally:
        instance.release()
    return code[0]


class _Bidding:
    """The state of one errand."""

    def __init__(self, config: Config, errand: Errand, instance: Instance) -> None:
        self._config, self._errand, self._instance = config, errand, instance
        self._marks = _Marks()
        self._cancelled = trio.Event()
        self._album = Album(errand.previews) if errand.previews is not None else None
        self._show: Display = self._display()

    async def run(self, nursery: trio.Nursery) -> int:
        with trio.CancelScope() as searching:
            nursery.start_soon(self._listen_for_ctrl_c, searching)
            overlay = await self._join(nursery)
            gateways = await self._gateways(overlay)
        if searching.cancelled_caught:
            self._show.end()
            hint = "cancelled before a bid was made; nothing was charged"
            return self._refused(FAILED, {"code": "CANCELLED", "charged_wei": 0, "hint": hint})
        if not gateways:
            self._show.end()
            hint = "start one with --role gateway, or name a bootstrap of a network that has one with --bootstrap"
            return self._refused(NO_GATEWAY, {"code": "NO_GATEWAY", "hint": hint})
        self._marks.found = trio.current_time()
        client = Client(overlay.host, greeter_of(self._config), overlay.reach)
        came = await self._try_all(client, overlay, gateways, self._errand)
        told = await self._deliver(client, overlay, gateways, came) if isinstance(came, Bought) else came
        self._show.end()
        return self._refused(told.code, told.told) if isinstance(told, Unserved) else self._report(told)

    async def _deliver(
        self, client: Client, overlay: Overlay, gateways: list[PeerId], first: Bought
    ) -> dict[str, Any] | Unserved:
        """Keep what was bought, and buy its finish where one was asked for; whatever comes of that, the first stays."""
        report = self._kept(first, self._errand.out)
        if isinstance(report, dict) and self._album is not None:
            report["previews"] = self._album.kept
        if isinstance(report, Unserved) or not self._errand.finish:
            return report
        self._show.say(f"the picture is in {report['out']}; finishing it")
        try:
            spent_ms = int((trio.current_time() - self._marks.found) * 1000)
            asked = finishing(self._errand.finish, self._errand.wish, first.ending, spent_ms)
        except Refused as exc:
            return {**report, "finish": {"refusal": {"code": exc.code, "hint": exc.hint}}}
        second = replace(self._errand, pipeline=PIPELINE, wish=asked.wish, files=asked.files)
        again = [first.gateway, *(one for one in gateways if one != first.gateway)]
        came = await self._try_all(client, overlay, again, second)
        out = Path(report["out"])
        larger = out.with_name(f"{out.stem}-{self._errand.finish}{out.suffix}")
        told = self._kept(came, larger) if isinstance(came, Bought) else came
        if isinstance(told, Unserved):
            return {**report, "finish": {"refusal": told.told}}
        return {**report, "finish": told, "total_wei": report["cost_wei"] + told["cost_wei"]}

    async def _try_all(
        self, client: Client, overlay: Overlay, gateways: list[PeerId], errand: Errand
    ) -> Bought | Unserved:
        """The first gateway that answers does the job; one that is gone, or says it has no room, is passed over."""
        last = ""
        for place, gateway in enumerate(gateways, 1):
            try:
                ending = await self._at(client, gateway, errand)
            except GatewayLost as exc:  # it may still work and charge: nobody else is asked to do the same
                return Unserved(FAILED, {"code": "GATEWAY_LOST", "hint": f"{exc} ({peer_text(gateway)})"})
            except (Unavailable, Refused) as exc:
                last = str(exc)
                overlay.book.failed(gateway)
                log.warning("gateway passed over", gateway=peer_text(gateway), reason=last)
                continue
            except PeerFault as fault:
                hint = f"gateway {peer_text(gateway)} broke the rules: {fault}"
                return Unserved(FAILED, {"code": fault.code, "hint": hint})
            finally:
                self._marks.finished = trio.current_time()
            overlay.book.succeeded(gateway)
            if isinstance(ending, Refusal) and ending.code in NO_ROOM and place < len(gateways):
                continue
            return Bought(gateway, ending) if isinstance(ending, Delivered) else unserved(ending)
        return Unserved(NO_GATEWAY, {"code": "NO_GATEWAY", "hint": f"no gateway answers: {last}"})

    async def _at(self, client: Client, gateway: PeerId, errand: Errand) -> Ending:
        offered = await client.models(gateway, errand.pipeline)
        model = choose_model(offered, errand.wish)
        if isinstance(model, Refusal):
            return model
        bid = bid_for(errand.wish, model, errand.pipeline, secrets.token_bytes)
        show = self._album.show if self._album is not None else lambda preview: None
        return await client.bid(gateway, bid, self._show.news, self._cancelled, errand.files, show)

    async def _join(self, nursery: trio.Nursery) -> Overlay:
        self._show.say("joining the network")
        return await join(self._config, self._instance.path, nursery)

    async def _gateways(self, overlay: Overlay) -> list[PeerId]:
        self._show.say("looking for a gateway")
        return await find_gateways(overlay)

    async def _listen_for_ctrl_c(self, searching: trio.CancelScope) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                if not self._marks.found:
                    searching.cancel()
                    return
                if self._cancelled.is_set():
                    raise KeyboardInterrupt
                self._show.say("taking the bid back")
                self._cancelled.set()

    # -- reporting ---------------------------------------------------------------------------------------------------

    def _display(self) -> Display:
        if self._errand.as_json:
            return JsonDisplay(sys.stderr)
        return RichDisplay() if sys.stderr.isatty() else PlainDisplay(sys.stderr)

    def _report(self, report: dict[str, Any]) -> int:
        """Say what was bought; the exit code, FAILED when it was not finished as asked."""
        finish = report.get("finish", {})
        print(json.dumps(report) if self._errand.as_json else summary(report))
        return FAILED if "refusal" in finish else DONE

    def _refused(self, code: int, told: dict[str, Any]) -> int:
        if self._errand.as_json or code == NO_MATCH:
            print(json.dumps({"refusal": told}))
        else:
            print(f"pasar: {told['code']}: {told['hint']}", file=sys.stderr)
        return code

    def _kept(self, bought: Bought, out: Path | None) -> dict[str, Any] | Unserved:
        """Write result and Receipt down; the report. What cannot be written where it should be is kept elsewhere."""
        ending = bought.ending
        done = ending.done
        kept, names = ending_of(done.artifacts[0].media_type), self._errand.names
        target = out or Path(f"pasar-{done.job_id.hex()[:12]}{'' if has_playlists(names) else kept}")
        receipt = self._instance.path / "receipts" / f"{done.job_id.hex()}.receipt"
        receipt.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        receipt.write_bytes(done.receipt)
        write_private(receipt.with_suffix(JOB_SUFFIX), encode(ending.bid.spec))  # for a check of the work
        try:
            saved, *beside = save(target, ending, names)
        except OSError as exc:  # it is paid for: keep it where we can write
            saved, *_ = save(receipt.with_suffix("" if has_playlists(names) else kept), ending, names)
            hint = f"cannot write {target} ({exc.strerror}); the result is in {saved}"
            return Unserved(FAILED, {"code": "NOT_WRITTEN", "hint": hint, "out": saved})
        return {
            "job_id": done.job_id.hex(),
            "gateway": peer_text(bought.gateway),
            "orchestrator": peer_text(done.orchestrator),
            "tried": [peer_text(peer) for peer in done.tried],
            "price_wei": done.price,
            "cost_wei": ending.receipt.price,
            "limit_wei": done.limit,
            "paid_wei": done.paid,
            "seed": ending.bid.spec.seed,
            **as_dict(safety_in(done.receipt)),
            "sha256": done.artifacts[0].digest.hex(),
            "receipt": str(receipt),
            "out": saved,
            **({"beside": beside} if beside else {}),
            "seconds": self._seconds(ending),
        }

    def _seconds(self, ending: Delivered) -> dict[str, float]:
        spent = ending.done.spent
        return {
            "discover": round(self._marks.found - self._marks.started, 3),
            "auction": spent.auction / 1000,
            "queue": spent.queue / 1000,
            "run": spent.run / 1000,
            "transfer": spent.transfer / 1000,
            "total": round(self._marks.finished - self._marks.started, 3),
        }


def ending_of(media_type: str) -> str:
    """How the name of a file of this type ends."""
    return ENDINGS.get(media_type, ".bin")


def save(out: Path, ending: Delivered, names: Sequence[str] = ()) -> list[str]:
    """Write the result, and what came with it: under its own names, else beside it. Where each file is."""
    if len(names) == len(ending.files):
        named = places(out, names)
        write_all(named, ending.files)
        return [str(path) for path in named]
    out.write_bytes(ending.files[0])
    written = [str(out)]
    for number, (head, data) in enumerate(zip(ending.done.artifacts[1:], ending.files[1:], strict=True), 1):
        path = out.with_suffix(ending_of(head.media_type))
        if str(path) in written:
            path = out.with_name(f"{out.stem}-{number}{path.suffix}")
        path.write_bytes(data)
        written.append(str(path))
    return written


def unserved(ending: Ending) -> Unserved:
    """What is said of a bid that ended without a result."""
    match ending:
        case Refusal():
            told: dict[str, Any] = {
                "code": ending.code.value,
                "excluded": ending.counts,
                "cheapest_wei": ending.cheapest_wei,
                "limit_wei": ending.limit_wei,
                "hint": ending.hint,
            }
            return Unserved(NO_MATCH, told)
        case BidCancelled(charged=charged):
            hint = f"charged {wei_text(charged)}"
            return Unserved(FAILED, {"code": "CANCELLED", "charged_wei": charged, "hint": hint})
        case JobFailed():
            tried = [peer_text(peer) for peer in ending.tried]
            told = {"code": ending.code, "tried": tried, "charged_wei": ending.charged, "hint": ending.hint}
            return Unserved(FAILED, told)
    raise AssertionError("a result is no refusal")


def summary(report: dict[str, Any]) -> str:
    """What a person reads of a result, and of its finish."""
    seconds = report["seconds"]
    lines = [
        f"result    {', '.join([report['out'], *report.get('beside', ())])}",
        f"receipt   {report['receipt']}",
        f"made by   {report['orchestrator']}",
        f"price     {wei_text(report['price_wei'])} (limit {wei_text(report['limit_wei'])}), "
        f"cost {wei_text(report['cost_wei'])}, paid with tickets worth {wei_text(report['paid_wei'])}",
        f"seed      {report['seed']}",
        f"safety    {in_words(report)}",
        f"time      {seconds['total']:.1f} s: found a gateway in {seconds['discover']:.1f}, auction "
        f"{seconds['auction']:.2f}, queue {seconds['queue']:.2f}, work {seconds['run']:.2f}, "
        f"transfer {seconds['transfer']:.2f}",
    ]
    finish = report.get("finish")
    if finish and "refusal" in finish:
        refusal = finish["refusal"]
        lines.append(f"NOT FINISHED  {refusal['code']}: {refusal['hint']}; the picture above is delivered and paid")
    elif finish:
        lines += ["finished:", summary(finish), f"together  {wei_text(report['total_wei'])}"]
    return "\n".join(lines)
