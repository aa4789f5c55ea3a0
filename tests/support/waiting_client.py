"""A light client that joins, finds its gateways, says READY, and makes a bid at every SIGUSR1 until it is ended.

Settings come from the environment as any node's. Each bid is one JSON object on stdout.
"""

from __future__ import annotations

import json
import secrets
import signal

import trio

from compute.spec import TEXT_TO_IMAGE
from market.client import Client, Delivered, Wish, bid_for, choose_model
from market.config import Config, load_config
from market.console import configure_logs
from market.instance import claim
from market.lightclient import find_gateways, greeter_of, join
from market.refusal import Refusal
from p2p.errors import PasarError
from p2p.limits import bound_recursion
from p2p.peer import PeerId, peer_text

WISH = Wish(prompt="a red circle", steps=4, deadline_ms=30_000)


async def bid(client: Client, gateway: PeerId) -> dict[str, object]:
    """What came of one bid."""
    try:
        model = choose_model(await client.models(gateway, TEXT_TO_IMAGE), WISH)
        if isinstance(model, Refusal):
            return {"refused": model.hint}
        made = bid_for(WISH, model, TEXT_TO_IMAGE, secrets.token_bytes)
        ending = await client.bid(gateway, made, lambda news: None, trio.Event())
    except PasarError as exc:
        return {"failed": str(exc)}
    if not isinstance(ending, Delivered):
        return {"ended": repr(ending)[:500]}
    return {"delivered": len(ending.files[0]), "orchestrator": peer_text(ending.done.orchestrator)}


async def main(config: Config) -> None:
    instance = claim(config.home, config.network, "client", config.data_dir)
    with trio.open_signal_receiver(signal.SIGUSR1) as signals:
        async with trio.open_nursery() as nursery:
            overlay = await join(config, instance.path, nursery)
            gateways: list[PeerId] = []
            while not gateways:
                gateways = await find_gateways(overlay)
            print("READY " + json.dumps({"gateways": [peer_text(peer) for peer in gateways]}), flush=True)
            async for _ in signals:
                still = gateways[0] in overlay.host.connected()
                done = await bid(Client(overlay.host, greeter_of(config), overlay.reach), gateways[0])
                print(json.dumps({"was_connected": still, **done}), flush=True)


if __name__ == "__main__":
    bound_recursion()
    configure_logs(as_json=False, level="info")
    trio.run(main, load_config())
