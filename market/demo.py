"""Demo: a whole market on this machine, from nothing to pictures that were paid for, in one command.

    chain, bootstrap -> two orchestrators, a gateway -> three bids from a light client -> tickets redeemed -> all ended

Real processes on a network of their own in a temporary directory; only the light client lives in this process. It ends
well when every job was delivered and a winning ticket was redeemed on chain. Knows no role's inside.
"""

from __future__ import annotations

import json
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from compute.spec import TEXT_TO_IMAGE
from ledger.money import GWEI, wei_text
from market.bidwire import BidTaken, JobNews, News
from market.client import Client, Delivered, Wish, bid_for, choose_model
from market.config import Config, load_config
from market.console import DONE, FAILED, leaves
from market.demo_show import Show, job_words, save_picture, seconds_since_start
from market.demo_stage import ChildFailed, Stage, free_port_pair
from market.demo_tally import Tally
from market.lightclient import find_gateways, greeter_of, join
from market.overlay import Overlay
from p2p.errors import Misconfigured, PasarError, Unavailable
from p2p.identity import load_or_create
from p2p.peer import PeerId, peer_text

if TYPE_CHECKING:
    from trio_typing import TaskStatus

PROMPTS = ("a big red circle", "sunset over the sea", "a yellow star on a blue background")
PRICES = (100 * GWEI, 140 * GWEI)  # wei per million units
REDEEM_S = 60.0  # so long the demo waits for a win to be redeemed
BOOK_S = 30.0
LOOK_S = 0.1
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line said. Pictures go to ``folder``, which outlives the demo."""

    as_json: bool
    keep: bool
    folder: Path


@dataclass(slots=True)
class _Marks:
    """Seconds since this process began."""

    start: float = 0.0
    first_image: float | None = None
    total: float = 0.0


@dataclass(slots=True)
class _Result:
    """What the client got."""

    jobs: int = 0
    delivered: int = 0
    paid: int = 0
    images: list[str] = field(default_factory=list)
    files: list[bytes] = field(default_factory=list)


def run_demo(plan: Plan) -> int:
    """The whole of it; the exit code. Raises Misconfigured where pictures cannot be written."""
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise Misconfigured(f"cannot write pictures to {plan.folder}: {exc.strerror}") from exc
    home = Path(tempfile.mkdtemp(prefix="pasar-demo-"))
    failed: list[ChildFailed] = []
    demo = _Demo(plan, home)
    try:
        code = trio.run(demo.run, failed)
    finally:
        if not failed:
            shutil.rmtree(home, ignore_errors=True)
    for failure in failed[:1]:
        print(f"pasar: {failure}; the last it said:", *failure.tail, sep="\n    ", file=sys.stderr)
        print(f"pasar: all logs are in {home}", file=sys.stderr)
    return code


class _Demo:
    """One run. Every child is ended before ``run`` returns."""

    def __init__(self, plan: Plan, home: Path) -> None:
        self._plan, self._home = plan, home
        self._network = f"demo-{secrets.token_hex(4)}"
        self._port = free_port_pair()
        self._show = Show(sys.stderr if plan.as_json else sys.stdout)
        self._tally, self._marks, self._result = Tally(), _Marks(), _Result()
        self._stage = Stage(home, self._port, self._heard)
        self._code = FAILED

    async def run(self, failed: list[ChildFailed]) -> int:
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._end_on_signal, nursery.cancel_scope)
                self._show.say("demo", f"network {self._network}, everything in {self._home}")
                try:
                    await self._play(nursery)
                finally:
                    self._show.end()
                    await self._stage.clear()
                nursery.cancel_scope.cancel()
        except* ChildFailed as group:
            failed += [exc for exc in leaves(group) if isinstance(exc, ChildFailed)]
            self._code = FAILED
        return self._code

    async def _play(self, nursery: trio.Nursery) -> None:
        overlay, gateway = await self._open(nursery)
        await self._bids(overlay, gateway)
        await self._redemption(overlay, gateway)
        self._marks.total = seconds_since_start()
        self._code = DONE if self._result.delivered == self._result.jobs and self._tally.redeemed else FAILED
        self._report()
        if self._plan.keep:
            self._say_how_to_go_on()
            await trio.sleep_forever()

    # -- the market comes up -----------------------------------------------------------------------------------------

    async def _open(self, nursery: trio.Nursery) -> tuple[Overlay, PeerId]:
        """Everybody up, the client connected with a gateway that knows both offers."""
        stage, show = self._stage, self._show
        chain = await stage.start(nursery, "chain", "devchain", "--port", str(self._port + 1))
        bootstrap = await self._bootstrap(nursery)
        info = await stage.ready(chain)
        show.say("chain", f"development chain {info['chain_id']} with broker {info['broker']} at {info['rpc']}")
        common = ("--log-json", "--network", self._network, "--rpc", info["rpc"], "--bootstrap", bootstrap)
        wanted = [
            ("gateway", "gateway", 0),
            *((f"orchestrator-{n}", "orchestrator", p) for n, p in enumerate(PRICES, 1)),
        ]
        async with trio.open_nursery() as starting:
            for who, role, price in reversed(wanted):
                data = ("--data-dir", str(self._home / who), *(("--price", str(price)) if price else ()))
                child = await stage.start(nursery, who, "--role", role, *common, *data)
                starting.start_soon(self._wait_for, child, price)
            overlay = await self._join(nursery, bootstrap)
        gateways = await find_gateways(overlay)
        if not gateways:
            raise Unavailable("the client found no gateway over the DHT")
        self._tally.found.update(peer_text(peer) for peer in overlay.found)
        show.say("client", f"found the gateway …{peer_text(gateways[0])[-8:]} over the DHT")
        await self._both_offers()
        self._marks.start = seconds_since_start()
        return overlay, gateways[0]

    async def _bootstrap(self, nursery: trio.Nursery) -> str:
        """Start it; its address, known before it is up: its key is made here."""
        data = self._home / "bootstrap"
        data.mkdir(mode=0o700)
        key = await load_or_create(data / "key.json", "", None, development=True)
        addr = f"/ip4/127.0.0.1/tcp/{self._port}"
        where = ("--network", self._network, "--listen", addr, "--data-dir", str(data))
        child = await self._stage.start(nursery, "bootstrap", "--role", "bootstrap", "--log-json", *where)
        nursery.start_soon(self._wait_for, child, 0)
        return f"{addr}/p2p/{peer_text(key.peer)}"

    async def _wait_for(self, child: Any, price: int) -> None:
        ready = await self._stage.ready(child)
        asks = ""
        if price:
            self._tally.seller_ready(child.who, ready)
            asks = f", asks {wei_text(price)} per million units"
        self._show.say(child.who, f"ready: …{ready['peer_id'][-8:]}, {ready['address']}{asks}")

    async def _join(self, nursery: trio.Nursery, bootstrap: str) -> Overlay:
        config: Config = load_config(network=self._network, bootstrap=(bootstrap,), data_dir=self._home / "client")
        return await join(config, self._home / "client", nursery)

    async def _both_offers(self) -> None:
        with trio.move_on_after(BOOK_S):
            while self._tally.offers < len(PRICES):  # noqa: ASYNC110 - the gateway's log tells, and wakes nobody
                await trio.sleep(LOOK_S)

    # -- jobs and money ----------------------------------------------------------------------------------------------

    async def _bids(self, overlay: Overlay, gateway: PeerId) -> None:
        """The first bid alone, for the time to the first picture; the others together, for both orchestrators."""
        await self._bid(overlay, gateway, PROMPTS[0])
        async with trio.open_nursery() as nursery:
            for prompt in PROMPTS[1:]:
                nursery.start_soon(self._bid, overlay, gateway, prompt)

    async def _bid(self, overlay: Overlay, gateway: PeerId, prompt: str) -> None:
        self._result.jobs += 1
        number, greeter = self._result.jobs, greeter_of(load_config(network=self._network))
        job, client = f"job {number}", Client(overlay.host, greeter, overlay.reach)
        self._show.say(job, f'bid: text-to-image, "{prompt}"')

        def tell(news: BidTaken | JobNews) -> None:
            if isinstance(news, JobNews) and news.event is News.STEP:
                self._show.step(job, news.step, news.steps)
            elif words := job_words(news, self._tally.name_of, _seller(news)):
                self._show.say(job, words)

        try:
            model = choose_model(await client.models(gateway, TEXT_TO_IMAGE), None)
            bid = bid_for(Wish(prompt, seed=number), model, TEXT_TO_IMAGE, secrets.token_bytes)
            ending = await client.bid(gateway, bid, tell)
        except PasarError as exc:
            self._show.say(job, f"no picture: {exc}")
            return
        if isinstance(ending, Delivered):
            self._delivered(job, number, prompt, ending)
        else:
            self._show.say(job, f"no picture: {getattr(ending, 'hint', '') or type(ending).__name__}")

    def _delivered(self, job: str, number: int, prompt: str, got: Delivered) -> None:
        path = save_picture(self._plan.folder, number, prompt, got.files[0])
        if self._marks.first_image is None:
            self._marks.first_image = seconds_since_start()
        result = self._result
        result.delivered, result.paid = result.delivered + 1, result.paid + got.done.paid
        result.images.append(str(path))
        result.files.append(got.files[0])
        self._show.say(job, f"delivered, Receipt checked: {path}")

    async def _redemption(self, overlay: Overlay, gateway: PeerId) -> None:
        """Until a winning ticket is redeemed. While chance denies every win, further jobs follow."""
        with trio.move_on_after(REDEEM_S):
            await trio.sleep(2 * LOOK_S)  # the last lines of the logs are on their way
            while not self._tally.won:
                self._show.say("demo", "no ticket has won yet: one job more")
                await self._bid(overlay, gateway, PROMPTS[0])
                await trio.sleep(2 * LOOK_S)
            if not self._tally.redeemed:
                self._show.say("demo", "waiting until the params of winning tickets are over, to redeem them")
            while not self._tally.redeemed:  # noqa: ASYNC110 - an orchestrator's log tells, and wakes nobody
                await trio.sleep(LOOK_S)
            return
        self._show.say("demo", f"no winning ticket was redeemed in {REDEEM_S:.0f} s")

    # -- what it came to ---------------------------------------------------------------------------------------------

    def _heard(self, who: str, line: Mapping[str, Any]) -> None:
        words = self._tally.note(who, line)
        if words:
            self._show.say(who, words)

    def _report(self) -> None:
        tally, result, marks = self._tally, self._result, self._marks
        first = None if marks.first_image is None else round(marks.first_image, 3)
        report = {
            "jobs": result.jobs,
            "delivered": result.delivered,
            "images": result.images,
            "peers_found_by_dht": len(tally.found),
            "offers": tally.offers,
            "quotes": tally.quotes,
            "tickets": tally.tickets,
            "tickets_won": tally.won,
            "redeemed_wei": tally.redeemed_wei,
            "paid_wei": result.paid,
            "orchestrators": {seller.address: seller.as_dict() for seller in tally.sellers.values()},
            "seconds": {"start": round(marks.start, 3), "first_image": first, "total": round(marks.total, 3)},
        }
        self._show.pictures(result.files)
        self._show.summary(report, tally)
        if self._plan.as_json:
            print(json.dumps(report), flush=True)

    def _say_how_to_go_on(self) -> None:
        ready = next(child.ready for child in self._stage.children if child.who == "bootstrap")
        command = (
            f'python node.py bid text-to-image --prompt "a green tree on a hill" --network {self._network} '
            f"--bootstrap {ready['addrs'][0]} --data-dir {self._home / 'me'}"
        )
        self._show.console.print("\nThe market goes on. To bid, from another terminal:\n")
        self._show.console.print(f"    {command}\n")
        self._show.console.print("Ctrl-C here ends it, and everything that was started.")

    async def _end_on_signal(
        self, scope: trio.CancelScope, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            task_status.started()
            async for _ in signals:
                self._code = self._code if self._marks.total else INTERRUPTED
                self._show.say("demo", "ending everything that was started")
                scope.cancel()


def _seller(news: BidTaken | JobNews) -> str:
    return peer_text(news.orchestrator) if isinstance(news, JobNews) and news.orchestrator is not None else ""
