"""What every Discovery does. ``middle`` is whom both others were pointed at; ``seeker`` never met ``provider``."""

from __future__ import annotations

from hashlib import sha256

import trio

from p2p.transport import Discovery, Network, PeerAddrs


async def found(seeker: Discovery, key: bytes) -> tuple[PeerAddrs, ...]:
    """Ask until there is an answer: records take a moment to spread."""
    with trio.fail_after(30):
        while not (answer := await seeker.find(key)):  # noqa: ASYNC110 - nothing tells when
            await trio.sleep(0.2)
    return answer


async def check_a_third_node_finds_a_provider(
    provider: Discovery, seeker: Discovery, provider_network: Network, seeker_network: Network
) -> None:
    key = sha256(b"orchestrator/test/1").digest()
    assert await seeker.find(sha256(b"nobody provides this").digest()) == ()
    await provider.provide(key)
    (answer,) = await found(seeker, key)
    assert answer.peer == provider_network.peer
    bases = {addr.rpartition("/p2p/")[0] for addr in provider_network.addrs()}
    assert set(answer.addrs) == bases
    assert await provider.find(key) == ()  # a node does not find itself
    await seeker_network.connect(answer)
    assert provider_network.peer in seeker_network.connected()
