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
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from ledger.money import GWEI, wei_text
from market.console import DONE, FAILED, leaves
from market.demo_show import Show, seconds_since_start
from market.demo_stage import Child, ChildFailed, Stage, free_port_pair
from market.demo_tally import Tally
from p2p.errors import Misconfigured
from p2p.peer import peer_text

if TYPE_CHECKING:
    from trio_typing import TaskStatus

    from market.demo_client import Shopper

PROMPTS = ("a big red circle", "sunset over the sea", "a yellow star on a blue background")
PRICES = (100 * GWEI, 140 * GWEI)  # wei per million units
REDEEM_S = 60.0  # so long the demo waits for a win to be redeemed
BOOK_S = 30.0
LOOK_S = 0.1
LAST_LINES_S = 5.0  # so long the books' last lines are waited for
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Plan:
    """What the command line said. Pictures go to ``folder``, which outlives the demo."""

    as_json: bool
    keep: bool
    folder: Path


def run_demo(plan: Plan) -> int:
    """The whole of it; the exit code. Raises Misconfigured where pictures cannot be written."""
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise Misconfigured(f"cannot write pictures to {plan.folder}: {exc.strerror}") from exc
    home = Path(tempfile.mkdtemp(prefix="pasar-demo-"))
    failed: list[ChildFailed] = []
    try:
        code = trio.run(_Demo(plan, home).run, failed)
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
        self._tally = Tally()
        self._stage = Stage(home, self._port, self._heard)
        self._started = 0.0  # when the market was up, in seconds since this process began
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
        shopper = await self._open(nursery)
        await self._bids(shopper)
        await self._redemption(shopper)
        with trio.move_on_after(LAST_LINES_S):
            while self._tally.jobs < len(shopper.bag.pictures):  # noqa: ASYNC110 - a seller's log tells, and wakes nobody
                await trio.sleep(LOOK_S)
        done = len(shopper.bag.pictures) == shopper.bag.jobs and self._tally.redeemed
        self._code = DONE if done else FAILED
        self._report(shopper)
        if self._plan.keep:
            self._say_how_to_go_on()
            await trio.sleep_forever()

    # -- the market comes up -----------------------------------------------------------------------------------------

    async def _open(self, nursery: trio.Nursery) -> Shopper:
        """Everybody up, and the client connected with a gateway that knows both offers.

        Each is started as soon as it can be, and this process imports its own libraries while they import theirs.
        """
        stage = self._stage
        chain = await stage.start(nursery, "chain", "devchain", "--port", str(self._port + 1))
        bootstrap = await self._bootstrap(nursery)
        rpc = await stage.listening(self._port + 1)
        common = ("--log-json", "--network", self._network, "--rpc", rpc, "--bootstrap", bootstrap)
        async with trio.open_nursery() as starting:
            for number, price in enumerate(PRICES, 1):
                seller = ("--role", "orchestrator", "--price", str(price))
                child = await stage.start(nursery, f"orchestrator-{number}", *seller, *common)
                starting.start_soon(self._say_ready, child, price)
            gateway = await stage.start(nursery, "gateway", "--role", "gateway", *common)
            starting.start_soon(self._say_ready, gateway)
            starting.start_soon(self._say_chain, chain)
            library = await trio.to_thread.run_sync(import_module, "market.demo_client")
            shopper: Shopper = library.Shopper(
                self._network, self._home / "client", self._plan.folder, self._show, self._tally
            )
            await shopper.open(nursery, bootstrap)
        await shopper.find()
        with trio.move_on_after(BOOK_S):
            while self._tally.offers < len(PRICES):  # noqa: ASYNC110 - the gateway's log tells, and wakes nobody
                await trio.sleep(LOOK_S)
        self._started = seconds_since_start()
        return shopper

    async def _bootstrap(self, nursery: trio.Nursery) -> str:
        """Start it; its address, known before it is up: its key is made here."""
        identity = await trio.to_thread.run_sync(import_module, "p2p.identity")
        data = self._home / "bootstrap"
        key = await identity.load_or_create(data / "key.json", "", None, development=True)
        addr = f"/ip4/127.0.0.1/tcp/{self._port}"
        where = ("--network", self._network, "--listen", addr, "--data-dir", str(data))
        child = await self._stage.start(nursery, "bootstrap", "--role", "bootstrap", "--log-json", *where)
        nursery.start_soon(self._say_ready, child)
        return f"{addr}/p2p/{peer_text(key.peer)}"

    async def _say_chain(self, child: Child) -> None:
        info = await self._stage.ready(child)
        self._show.say("chain", f"ready: development chain {info['chain_id']} with broker {info['broker']}")

    async def _say_ready(self, child: Child, price: int = 0) -> None:
        ready = await self._stage.ready(child)
        asks = f", asks {wei_text(price)} per million units" if price else ""
        if price:
            self._tally.seller_ready(child.who, ready)
        self._show.say(child.who, f"ready: peer …{ready['peer_id'][-8:]}, address {ready['address']}{asks}")

    # -- jobs and money ----------------------------------------------------------------------------------------------

    async def _bids(self, shopper: Shopper) -> None:
        """The first bid alone, for the time to the first picture; the others overlap, so that both sellers work."""
        first, *others = PROMPTS
        await shopper.bid(first)
        async with trio.open_nursery() as nursery:
            for prompt in others:
                awarded = trio.Event()
                nursery.start_soon(shopper.bid, prompt, awarded)
                await awarded.wait()

    async def _redemption(self, shopper: Shopper) -> None:
        """Until a winning ticket is redeemed. While chance denies every win, further jobs follow."""
        with trio.move_on_after(REDEEM_S):
            await trio.sleep(2 * LOOK_S)  # the last lines of the logs are on their way
            while not self._tally.won:
                self._show.say("demo", "no ticket has won yet: one job more")
                await shopper.bid(PROMPTS[0])
                await trio.sleep(2 * LOOK_S)
            if not self._tally.redeemed:
                self._show.say("demo", "winning tickets are redeemed when their params are over: some seconds")
            while not self._tally.redeemed:  # noqa: ASYNC110 - an orchestrator's log tells, and wakes nobody
                await trio.sleep(LOOK_S)
            return
        self._show.say("demo", f"no winning ticket was redeemed in {REDEEM_S:.0f} s")

    # -- what it came to ---------------------------------------------------------------------------------------------

    def _heard(self, who: str, line: Mapping[str, Any]) -> None:
        words = self._tally.note(who, line)
        if words:
            self._show.say(who, words)

    def _report(self, shopper: Shopper) -> None:
        bag, tally = shopper.bag, self._tally
        report = {
            "jobs": bag.jobs,
            "delivered": len(bag.pictures),
            "images": bag.images,
            **tally.as_dict(),
            "paid_wei": bag.paid,
            "seconds": {
                "start": round(self._started, 3),
                "first_image": None if bag.first_at is None else round(bag.first_at, 3),
                "total": round(seconds_since_start(), 3),
            },
        }
        self._show.pictures([data for _, (_, data) in sorted(bag.pictures.items())])
        self._show.summary(report, tally)
        if self._plan.as_json:
            print(json.dumps(report), flush=True)

    def _say_how_to_go_on(self) -> None:
        ready = next(child.ready for child in self._stage.children if child.who == "bootstrap")
        command = (
            f'python node.py bid text-to-image --prompt "a green triangle" --network {self._network} '
            f"--bootstrap {ready['addrs'][0]} --data-dir {self._home / 'me'}"
        )
        self._show.paragraph("The market goes on. To bid, from another terminal:", f"    {command}")
        self._show.paragraph("Ctrl-C here ends it, and everything that was started.")

    async def _end_on_signal(
        self, scope: trio.CancelScope, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
            task_status.started()
            async for _ in signals:
                if not self._plan.keep or self._code != DONE:
                    self._code = INTERRUPTED
                self._show.say("demo", "ending everything that was started")
                scope.cancel()
