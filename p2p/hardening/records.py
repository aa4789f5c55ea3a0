"""A peer's signed record of its addresses travels once per connection in GossipSub, and is verified once everywhere.

Stock puts the sender's record into every message between neighbours, and verifies its signature each time. The hello
that opens each pubsub stream keeps it, and so does the news of a subscription. In the DHT the answer to a question
names twenty peers, each with its record, and the next one names nearly the same. Knows no topic and no key.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any
from weakref import WeakKeyDictionary

import trio
from libp2p.kad_dht import kad_dht, peer_routing, provider_store, value_store
from libp2p.kad_dht import utils as kad_utils
from libp2p.kad_dht.pb.kademlia_pb2 import Message as Question
from libp2p.peer import peerstore
from libp2p.peer.id import ID
from libp2p.pubsub import gossipsub, pubsub, utils
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub

from p2p.hardening.pinned import Ground, Patch

VERIFIED_FOR = 3600.0  # seconds; what a record brings is kept for twice as long
VERIFIED_MOST = 4096  # peers of one host
_stock_write = Pubsub.write_msg
_stock_consume = utils.maybe_consume_signed_record
_stock_consume_in_dht = kad_utils.maybe_consume_signed_record
_Verified = dict[ID, tuple[bytes, float]]
_verified: WeakKeyDictionary[Any, _Verified] = WeakKeyDictionary()  # by host


def _no_record(_host: Any) -> tuple[bytes, bool]:
    return b"", False


async def _write_msg(self: Any, stream: Any, rpc: Any) -> bool:
    if not rpc.senderRecord:
        rpc.ClearField("senderRecord")  # there and empty it would be wrong; the same message goes to many
    written: bool = await _stock_write(self, stream, rpc)
    return written


def _once(host: Any, peer: ID, record: bytes, verify: Callable[[], bool]) -> bool:
    """``verify`` the record and keep it, unless it is the one of this peer that was verified last."""
    digest, now = sha256(record).digest(), trio.current_time()
    verified = _verified.setdefault(host, {})
    known, at = verified.get(peer, (b"", 0.0))
    if known == digest and now - at < VERIFIED_FOR:
        return True
    if not verify():
        return False
    if peer not in verified and len(verified) >= VERIFIED_MOST:
        verified.pop(next(iter(verified)))
    verified[peer] = (digest, now)
    return True


def _consume(rpc: Any, host: Any, peer: ID) -> bool:
    """The record that a message between neighbours brings."""
    if not rpc.HasField("senderRecord"):
        return True
    return _once(host, peer, rpc.senderRecord, lambda: _stock_consume(rpc, host, peer))


def _consume_in_dht(said: Any, host: Any, peer: ID | None = None) -> bool:
    """The record of whoever asks or answers, or of a peer that an answer names."""
    field, named = ("senderRecord", peer) if isinstance(said, Question) else ("signedRecord", ID(said.id))
    if named is None or not said.HasField(field):
        return bool(_stock_consume_in_dht(said, host, peer))
    return _once(host, named, getattr(said, field), lambda: _stock_consume_in_dht(said, host, peer))


def _one_record() -> None:
    gossipsub.env_to_send_in_RPC = _no_record  # pubsub's own stays: its hello and its announcements bring the record
    Pubsub.write_msg = _write_msg
    pubsub.maybe_consume_signed_record = gossipsub.maybe_consume_signed_record = _consume


def _one_record_in_dht() -> None:
    for module in (kad_dht, peer_routing, provider_store, value_store):
        module.maybe_consume_signed_record = _consume_in_dht


PATCHES = (
    Patch(
        "one-record",
        "a signed record in every gossiped message, made by its sender and verified by its receiver each time",
        (
            Ground(peerstore, "env_to_send_in_RPC", "9fea9d702c187d22"),
            Ground(utils, "maybe_consume_signed_record", "11b2181c27d75df4"),
            Ground(Pubsub, "write_msg", "ee86b14b4181afff"),
            Ground(Pubsub, "get_hello_packet", "1161dbb181dfb9f4"),
            Ground(Pubsub, "continuously_read_stream", "ac0c4ad87ca39288"),
            Ground(GossipSub, "publish", "b978282af46297f7"),
            Ground(GossipSub, "emit_control_message", "557180d0b48c03db"),
            Ground(GossipSub, "handle_rpc", "bb6f7311e2958a22"),
        ),
        _one_record,
        speed=True,
    ),
    Patch(
        "one-record-in-dht",
        "twenty signatures verified for each answer of the DHT, nearly all of them for the second time",
        (Ground(kad_utils, "maybe_consume_signed_record", "fccef20585107b27"),),
        _one_record_in_dht,
        speed=True,
    ),
)
