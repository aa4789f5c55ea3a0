"""A signed record is sent and verified once for a connection, and again when it is another."""

from __future__ import annotations

from typing import Any

import pytest
from libp2p import new_host
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.kad_dht import kad_dht, peer_routing
from libp2p.kad_dht import utils as kad_utils
from libp2p.kad_dht.pb.kademlia_pb2 import Message
from libp2p.peer.peerstore import env_to_send_in_RPC
from libp2p.pubsub import gossipsub, pubsub, utils
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub

from p2p import hardening
from p2p.hardening import records


def a_host(seed: int) -> Any:
    hardening.install()
    return new_host(key_pair=create_new_key_pair(bytes([seed]) * 32))


def an_rpc(record: bytes) -> Any:
    rpc = rpc_pb2.RPC()
    rpc.senderRecord = record
    return rpc


class Kept:
    """A stream that keeps what is written."""

    def __init__(self) -> None:
        self.written = list[bytes]()

    async def write(self, data: bytes) -> None:
        self.written.append(data)


async def test_a_message_leaves_without_a_record_and_the_hello_with_one() -> None:
    host, stream = a_host(1), Kept()
    rpc = rpc_pb2.RPC(publish=[rpc_pb2.Message(data=b"news")])
    rpc.senderRecord, _ = gossipsub.env_to_send_in_RPC(host)
    for _ in range(2):  # one message goes to many neighbours
        await Pubsub.write_msg(None, stream, rpc)  # type: ignore[arg-type]
    first, second = (rpc_pb2.RPC.FromString(data[1:]) for data in stream.written)
    assert first == second
    assert not first.HasField("senderRecord")
    assert first.publish[0].data == b"news"
    assert pubsub.env_to_send_in_RPC(host)[0] == env_to_send_in_RPC(host)[0] != b""


async def test_a_record_is_verified_once_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    host, far = a_host(1), a_host(2)
    verified = list[bytes]()

    def count(rpc: Any, *rest: Any) -> bool:
        verified.append(rpc.senderRecord)
        return utils.maybe_consume_signed_record(rpc, *rest)

    monkeypatch.setattr(records, "_stock_consume", count)
    record, _ = env_to_send_in_RPC(far)
    for _ in range(3):
        assert pubsub.maybe_consume_signed_record(an_rpc(record), host, far.get_id())
    assert gossipsub.maybe_consume_signed_record(rpc_pb2.RPC(), host, far.get_id())
    assert verified == [record]
    monkeypatch.setattr(records, "VERIFIED_FOR", 0.0)
    assert pubsub.maybe_consume_signed_record(an_rpc(record), host, far.get_id())
    assert verified == [record, record]


async def test_a_wrong_record_is_refused_every_time_and_never_remembered() -> None:
    host, far, other = a_host(1), a_host(2), a_host(3)
    record, _ = env_to_send_in_RPC(far)
    for wrong in (b"", record[:-1] + bytes([record[-1] ^ 1]), env_to_send_in_RPC(other)[0]):
        for _ in range(2):
            assert not pubsub.maybe_consume_signed_record(an_rpc(wrong), host, far.get_id())
    assert pubsub.maybe_consume_signed_record(an_rpc(record), host, far.get_id())
    assert not pubsub.maybe_consume_signed_record(an_rpc(record), host, other.get_id())


async def test_the_number_of_peers_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    host, peers = a_host(1), [a_host(seed) for seed in range(2, 7)]
    monkeypatch.setattr(records, "VERIFIED_MOST", 3)
    for far in peers:
        assert pubsub.maybe_consume_signed_record(an_rpc(env_to_send_in_RPC(far)[0]), host, far.get_id())
    assert list(records._verified[host]) == [far.get_id() for far in peers[-3:]]


async def test_in_the_dht_a_record_is_verified_once_and_a_wrong_one_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    host, far, other = a_host(1), a_host(2), a_host(3)
    verified = list[Any]()

    def count(said: Any, *rest: Any) -> bool:
        verified.append(said)
        return kad_utils.maybe_consume_signed_record(said, *rest)

    monkeypatch.setattr(records, "_stock_consume_in_dht", count)
    record, _ = env_to_send_in_RPC(far)
    for _ in range(3):
        assert peer_routing.maybe_consume_signed_record(
            Message.Peer(id=far.get_id().to_bytes(), signedRecord=record), host
        )
        assert kad_dht.maybe_consume_signed_record(Message(senderRecord=record), host, far.get_id())
    assert len(verified) == 1
    for _ in range(2):
        stolen = Message.Peer(id=other.get_id().to_bytes(), signedRecord=record)
        assert not peer_routing.maybe_consume_signed_record(stolen, host)
        assert not kad_dht.maybe_consume_signed_record(Message(senderRecord=record), host, other.get_id())
    assert len(verified) == 5
    assert peer_routing.maybe_consume_signed_record(Message.Peer(id=far.get_id().to_bytes()), host)  # none to verify
