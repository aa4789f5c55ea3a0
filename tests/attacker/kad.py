"""On the DHT: records without end, questions without end, and streams that ask nothing."""

from __future__ import annotations

import time
from contextlib import suppress

import trio
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.utils import encode_varint_prefixed
from multiaddr import Multiaddr

from market.protocol import KAD
from p2p.errors import PasarError
from p2p.presence import DAY, provider_key
from tests.attacker.stand import Act, Stand, token


async def ask(stand: Stand, *messages: Message, streams: int, each: int) -> None:
    async with stand.connected() as (host, target):
        for number in range(streams):
            with suppress(PasarError):
                stream = await host.open(target.peer, KAD)
                said = encode_varint_prefixed(messages[number % len(messages)].SerializeToString())
                await stream.send(said * each)
                stand.done["dht questions"] += each
                with trio.move_on_after(0.01):
                    await stream.receive()
                await stream.reset()
            if target.peer not in host.connected():
                return


async def records(stand: Stand) -> None:
    """A record under the key that everybody asks for, and under keys that nobody does."""
    async with stand.connected() as (host, target):
        today = provider_key("orchestrator", stand.network, int(time.time()) // DAY)
        for number in range(200):
            with suppress(PasarError):
                record = Message(type=Message.MessageType.ADD_PROVIDER, key=token(32) if number % 4 else today)
                addr = Multiaddr("/ip4/127.0.66.9/tcp/9").to_bytes()
                record.providerPeers.add(id=host.peer, addrs=[addr] * 100)
                stream = await host.open(target.peer, KAD)
                await stream.send(encode_varint_prefixed(record.SerializeToString()))
                stand.done["dht records"] += 1
                await stream.aclose()
            if target.peer not in host.connected():
                return


async def questions(stand: Stand) -> None:
    """Who is near, who provides: many times on one stream, on many streams."""
    near = Message(type=Message.MessageType.FIND_NODE, key=token(32))
    providers = Message(type=Message.MessageType.GET_PROVIDERS, key=token(32))
    values = Message(type=Message.MessageType.GET_VALUE, key=b"/pasar/" + token(8))
    put = Message(type=Message.MessageType.PUT_VALUE, key=b"/x/" + token(8))
    await ask(stand, near, providers, values, put, streams=300, each=100)


async def silent_streams(stand: Stand) -> None:
    """Streams to the DHT that ask nothing, to take its places."""
    async with stand.connected() as (host, target):
        with suppress(PasarError):
            for _ in range(64):
                await (await host.open(target.peer, KAD)).send(b"")
                stand.done["silent dht streams"] += 1
        await trio.sleep(10)


ACTS: list[Act] = [records, questions, silent_streams]
