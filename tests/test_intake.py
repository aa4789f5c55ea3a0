"""What a neighbour sends on its gossip stream is taken in where it is read, each message once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from libp2p import new_host
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.peer.peerstore import env_to_send_in_RPC
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.tools.anyio_service import background_trio_service
from libp2p.utils.varint import encode_uvarint, encode_varint_prefixed

from p2p import hardening

TOPIC, MOST, SUBSCRIPTIONS = "offers", 2000, 3


def a_host(seed: int) -> Any:
    hardening.install()
    return new_host(key_pair=create_new_key_pair(bytes([seed]) * 32))


FAR = a_host(2)


@asynccontextmanager
async def a_node() -> AsyncIterator[Any]:
    """A pubsub that is joined to one topic and keeps what it pushes on, and what it hears of control."""
    router = GossipSub([TProtocol("/meshsub/1.1.0")], 6, 4, 12, heartbeat_interval=1)
    node: Any = Pubsub(a_host(1), router, max_inbound_rpc_size=MOST, max_subscriptions_per_rpc=SUBSCRIPTIONS)
    node.subscribed_topics_receive[TOPIC] = node.subscribed_topics_send[TOPIC] = SimpleNamespace()
    node.pushed, node.controls, node.dead = [], [], []

    async def push(peer: Any, message: Any) -> None:
        node.pushed.append(message.data)
        node._mark_msg_seen(message)

    async def control(rpc: Any, peer: Any) -> None:
        node.controls.append(rpc.control)

    node.push_msg, router.handle_rpc, node._handle_dead_peer = push, control, node.dead.append  # type: ignore[method-assign]
    async with background_trio_service(node):
        await node.wait_until_ready()
        yield node


class Said:
    """A stream that brings these bytes and ends."""

    def __init__(self, data: bytes) -> None:
        self.data, self.resets = data, 0
        self.muxed_conn = SimpleNamespace(peer_id=FAR.get_id())

    async def read(self, most: int) -> bytes:
        piece, self.data = self.data[:most], self.data[most:]
        return piece

    async def reset(self) -> None:
        self.resets += 1


def message(number: int, topic: str = TOPIC) -> Any:
    return rpc_pb2.Message(from_id=b"far", seqno=number.to_bytes(8, "big"), data=b"%d" % number, topicIDs=[topic])


def said(*rpcs: Any) -> Said:
    return Said(b"".join(encode_varint_prefixed(rpc.SerializeToString()) for rpc in rpcs))


async def test_each_message_of_a_topic_of_ours_is_pushed_once() -> None:
    async with a_node() as node:
        first = rpc_pb2.RPC(publish=[message(1), message(2), message(3, "other")])
        await node.continuously_read_stream(said(first, first, rpc_pb2.RPC(publish=[message(4)])))
        assert node.pushed == [b"1", b"2", b"4"]


async def test_subscriptions_are_noted_up_to_their_number_and_control_goes_to_the_router() -> None:
    async with a_node() as node:
        few, many = rpc_pb2.RPC(), rpc_pb2.RPC()
        few.subscriptions.add(subscribe=True, topicid="one")
        for number in range(SUBSCRIPTIONS + 1):
            many.subscriptions.add(subscribe=True, topicid=f"many {number}")
        many.control.graft.add(topicID=TOPIC)
        await node.continuously_read_stream(said(few, many))
        assert set(node.peer_topics) == {"one"}
        assert node.controls == [many.control]


async def test_what_comes_with_a_wrong_record_is_ignored_and_what_follows_is_not() -> None:
    async with a_node() as node:
        wrong, right = rpc_pb2.RPC(publish=[message(1)]), rpc_pb2.RPC(publish=[message(2)])
        wrong.senderRecord = b"none"
        right.senderRecord = env_to_send_in_RPC(FAR)[0]
        await node.continuously_read_stream(said(wrong, right))
        assert node.pushed == [b"2"]


async def test_what_is_too_large_ends_the_stream_before_it_is_read() -> None:
    async with a_node() as node:
        stream = Said(encode_uvarint(MOST + 1))
        await node.continuously_read_stream(stream)
        assert (stream.resets, node.dead) == (1, [FAR.get_id()])


async def test_what_is_no_rpc_is_left_to_the_guard_of_the_stream() -> None:
    async with a_node() as node:
        with pytest.raises(DecodeError):
            await node.continuously_read_stream(Said(encode_varint_prefixed(b"abcde")))
