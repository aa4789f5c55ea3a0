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
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import trio

from compute.safety import as_dict, in_words
from ledger.money import wei_text
from market.bidwire import BidCancelled, JobFailed
from market.client import Client, Delivered, Ending, GatewayLost, Wish, bid_for, check_wish, choose_model
from market.config import Config
from market.console import DONE, FAILED, NO_GATEWAY, NO_MATCH
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
    """One ``bid`` on the command line. ``names``: those of the files of its result, where its pipeline names them."""

    pipeline: str
    wish: Wish
    out: Path | None
    as_json: bool
    files: tuple[bytes, ...] = ()
    names: tuple[str, ...] = ()


@dataclass(slots=True)
class _Marks:
    """When what happened, on trio's clock."""

    started: float = field(default_factory=trio.current_time)
    found: float = 0.0
    finished: float = 0.0


async def run_bid(config: Config, errand: Errand) -> int:
    """Do the errand; the exit code. Raises Misconfigured before anything is dialled."""
    check_wish(errand.wish, errand.pipeline)
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
        self._show: Display = self._display()

    async def run(self, nursery: trio.Nursery) -> int:
        with trio.CancelScope() as searching:
            nursery.start_soon(self._listen_for_ctrl_c, searching)
            overlay = await self._join(nursery)
            gateways = await self._gateways(overlay)
        if searching.cancelled_caught:
            self._show.end()
            told = {
                "code": "CANCELLED",
                "charged_wei": 0,
                "hint": "cancelled before a bid was made; nothing was charged",
            }
            return self._refused(FAILED, told)
        if not gateways:
            self._show.end()
            hint = "start one with --role gateway, or name a bootstrap of a network that has one with --bootstrap"
            return self._refused(NO_GATEWAY, {"code": "NO_GATEWAY", "hint": hint})
        self._marks.found = trio.current_time()
        client = Client(overlay.host, greeter_of(self._config), overlay.reach)
        return await self._try_all(client, overlay, gateways)

    async def _try_all(self, client: Client, overlay: Overlay, gateways: list[PeerId]) -> int:
        """The first gateway that answers does the job; one that is gone, or says it has no room, is passed over."""
        last = ""
        for place, gateway in enumerate(gateways, 1):
            try:
                ending = await self._at(client, gateway)
            except GatewayLost as exc:  # it may still work and charge: nobody else is asked to do the same
                self._show.end()
                return self._refused(FAILED, {"code": "GATEWAY_LOST", "hint": f"{exc} ({peer_text(gateway)})"})
            except (Unavailable, Refused) as exc:
                last = str(exc)
                overlay.book.failed(gateway)
                log.warning("gateway passed over", gateway=peer_text(gateway), reason=last)
                continue
            except PeerFault as fault:
                self._show.end()
                hint = f"gateway {peer_text(gateway)} broke the rules: {fault}"
                return self._refused(FAILED, {"code": fault.code, "hint": hint})
            finally:
                self._marks.finished = trio.current_time()
            overlay.book.succeeded(gateway)
            if isinstance(ending, Refusal) and ending.code in NO_ROOM and place < len(gateways):
                continue
            self._show.end()
            return self._report(gateway, ending)
        self._show.end()
        return self._refused(NO_GATEWAY, {"code": "NO_GATEWAY", "hint": f"no gateway answers: {last}"})

    async def _at(self, client: Client, gateway: PeerId) -> Ending:
        offered = await client.models(gateway, self._errand.pipeline)
        model = choose_model(offered, self._errand.wish)
        if isinstance(model, Refusal):
            return model
        bid = bid_for(self._errand.wish, model, self._errand.pipeline, secrets.token_bytes)
        return await client.bid(gateway, bid, self._show.news, self._cancelled, self._errand.files)

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

    def _report(self, gateway: PeerId, ending: Ending) -> int:
        match ending:
            case Delivered():
                return self._delivered(gateway, ending)
            case Refusal():
                told: dict[str, Any] = {
                    "code": ending.code.value,
                    "excluded": ending.counts,
                    "cheapest_wei": ending.cheapest_wei,
                    "limit_wei": ending.limit_wei,
                    "hint": ending.hint,
                }
                return self._refused(NO_MATCH, told)
            case BidCancelled(charged=charged):
                hint = f"charged {wei_text(charged)}"
                return self._refused(FAILED, {"code": "CANCELLED", "charged_wei": charged, "hint": hint})
            case JobFailed():
                tried = [peer_text(peer) for peer in ending.tried]
                told = {"code": ending.code, "tried": tried, "charged_wei": ending.charged, "hint": ending.hint}
                return self._refused(FAILED, told)

    def _refused(self, code: int, told: dict[str, Any]) -> int:
        if self._errand.as_json or code == NO_MATCH:
            print(json.dumps({"refusal": told}))
        else:
            print(f"pasar: {told['code']}: {told['hint']}", file=sys.stderr)
        return code

    def _delivered(self, gateway: PeerId, ending: Delivered) -> int:
        done = ending.done
        name = done.job_id.hex()[:12]
        kept, names = ending_of(done.artifacts[0].media_type), self._errand.names
        out = self._errand.out or Path(f"pasar-{name}{'' if has_playlists(names) else kept}")
        receipt = self._instance.path / "receipts" / f"{done.job_id.hex()}.receipt"
        receipt.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        receipt.write_bytes(done.receipt)
        write_private(receipt.with_suffix(JOB_SUFFIX), encode(ending.bid.spec))  # for a check of the work
        try:
            saved, *beside = save(out, ending, names)
        except OSError as exc:  # it is paid for: keep it where we can write
            saved, *_ = save(receipt.with_suffix("" if has_playlists(names) else kept), ending, names)
            hint = f"cannot write {out} ({exc.strerror}); the result is in {saved}"
            return self._refused(FAILED, {"code": "NOT_WRITTEN", "hint": hint, "out": saved})
        report = {
            "job_id": done.job_id.hex(),
            "gateway": peer_text(gateway),
            "orchestrator": peer_text(done.orchestrator),
            "tried": [peer_text(peer) for peer in done.tried],
            "price_wei": done.price,
            "limit_wei": done.limit,
            "paid_wei": done.paid,
            "seed": ending.bid.spec.seed,
            **as_dict(safety := safety_in(done.receipt)),
            "sha256": done.artifacts[0].digest.hex(),
            "receipt": str(receipt),
            "out": saved,
            **({"beside": beside} if beside else {}),
            "seconds": self._seconds(ending),
        }
        if self._errand.as_json:
            print(json.dumps(report))
        else:
            print(_summary(report, in_words(safety)))
        return DONE

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


def _summary(report: dict[str, Any], safety: str) -> str:
    seconds = report["seconds"]
    return "\n".join(
        (
            f"result    {', '.join([report['out'], *report.get('beside', ())])}",
            f"receipt   {report['receipt']}",
            f"made by   {report['orchestrator']}",
            f"price     {wei_text(report['price_wei'])} (limit {wei_text(report['limit_wei'])}), "
            f"paid with tickets worth {wei_text(report['paid_wei'])}",
            f"seed      {report['seed']}",
            f"safety    {safety}",
            f"time      {seconds['total']:.1f} s: found a gateway in {seconds['discover']:.1f}, auction "
            f"{seconds['auction']:.2f}, queue {seconds['queue']:.2f}, work {seconds['run']:.2f}, "
            f"transfer {seconds['transfer']:.2f}",
        )
    )
