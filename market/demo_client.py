"""The demo's light client: knows a bootstrap, finds the gateway over the DHT, bids, saves what is delivered.

The only part of the demo's market that lives in its own process. Starts nothing and counts no ticket.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from pathlib import Path

import trio

from compute.spec import TEXT_TO_IMAGE
from market.bidwire import BidTaken, JobNews, News
from market.client import Client, Delivered, Wish, bid_for, choose_model
from market.config import load_config
from market.demo_show import Show, job_words, save_picture, seconds_since_start
from market.demo_tally import Tally
from market.lightclient import find_gateways, greeter_of, join
from market.refusal import Refusal
from p2p.errors import PasarError, Unavailable
from p2p.peer import PeerId, peer_text


@dataclass(slots=True)
class Bag:
    """What the client asked for and got; pictures by the number of their job."""

    jobs: int = 0
    paid: int = 0
    pictures: dict[int, tuple[Path, bytes]] = field(default_factory=dict)
    first_at: float | None = None

    @property
    def images(self) -> list[str]:
        return [str(path) for _, (path, _) in sorted(self.pictures.items())]


class Shopper:
    """``open`` first; then bids, one after the other or together."""

    def __init__(self, network: str, home: Path, folder: Path, show: Show, tally: Tally) -> None:
        self._network, self._home, self._folder, self._show, self._tally = network, home, folder, show, tally
        self.bag = Bag()
        self._client: Client
        self._gateway: PeerId

    async def open(self, nursery: trio.Nursery, bootstrap: str) -> None:
        """Join the network. Raises Unavailable where it cannot."""
        config = load_config(network=self._network, bootstrap=(bootstrap,), data_dir=self._home)
        self._overlay = await join(config, self._home, nursery)
        self._client = Client(self._overlay.host, greeter_of(config), self._overlay.reach)

    async def find(self) -> None:
        """Find the gateway. Raises Unavailable when there is none."""
        gateways = await find_gateways(self._overlay)
        if not gateways:
            raise Unavailable("the client found no gateway over the DHT")
        self._gateway = gateways[0]
        self._tally.found.update(peer_text(peer) for peer in self._overlay.found)
        self._show.say("client", f"found gateway …{peer_text(self._gateway)[-8:]} over the DHT")

    async def bid(self, prompt: str, awarded: trio.Event | None = None) -> None:
        """One job to its end; ``awarded`` is set when somebody has it, or nobody ever will."""
        self.bag.jobs += 1
        number, on_award = self.bag.jobs, trio.Event() if awarded is None else awarded
        job = f"job {number}"
        self._show.say(job, f'bid: text-to-image, "{prompt}"')

        def tell(news: BidTaken | JobNews) -> None:
            if isinstance(news, JobNews) and news.event is News.STEP and news.step:
                self._show.step(job, news.step, news.steps)
            elif words := job_words(news, self._tally.name_of, _seller(news)):
                self._show.say(job, words)
            if isinstance(news, JobNews) and news.event is News.AWARDED:
                on_award.set()

        try:
            offered = await self._client.models(self._gateway, TEXT_TO_IMAGE)
            wish = Wish(prompt, seed=number)
            model = choose_model(offered, wish)
            if isinstance(model, Refusal):
                raise Unavailable(model.hint)
            bid = bid_for(wish, model, TEXT_TO_IMAGE, secrets.token_bytes)
            ending = await self._client.bid(self._gateway, bid, tell)
        except PasarError as exc:
            self._show.say(job, f"no picture: {exc}")
            return
        finally:
            on_award.set()
        if isinstance(ending, Delivered):
            self._keep(number, prompt, ending)
        else:
            self._show.say(job, f"no picture: {getattr(ending, 'hint', '') or type(ending).__name__}")

    def _keep(self, number: int, prompt: str, got: Delivered) -> None:
        path = save_picture(self._folder, number, prompt, got.files[0])
        self.bag.first_at = self.bag.first_at or seconds_since_start()
        self.bag.pictures[number] = path, got.files[0]
        self.bag.paid += got.done.paid
        self._show.say(f"job {number}", f"delivered, Receipt and digests check: {path}")


def _seller(news: BidTaken | JobNews) -> str:
    return peer_text(news.orchestrator) if isinstance(news, JobNews) and news.orchestrator is not None else ""
