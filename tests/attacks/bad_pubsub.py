"""Five bytes that are no RPC, on a gossip stream."""

import trio
from libp2p.custom_types import TProtocol
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from stage import connect, faults, make_host, perform, running, serves, until

MESH = TProtocol("/meshsub/1.1.0")


async def attack(guarded: bool) -> None:
    victim, attacker, honest = make_host(guarded), make_host(), make_host()
    router = GossipSub([MESH], 6, 4, 12, heartbeat_interval=1)
    pubsub = Pubsub(victim, router, strict_signing=True)
    async with running(victim, attacker, honest), background_trio_service(pubsub), background_trio_service(router):
        await pubsub.wait_until_ready()
        await connect(attacker, victim)
        stream = await attacker.new_stream(victim.get_id(), [MESH])
        await stream.write(b"\x05abcde")
        await until(lambda: "DecodeError" in faults) if guarded else await trio.sleep_forever()
        await serves(honest, victim)


perform(attack, "guard")
