"""The contracts of the seams, over real hosts on loopback."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256

import coincurve
import pytest
import trio

from p2p.host import MAX_STREAMS, Host
from p2p.peer import PeerId, peer_of
from tests.contracts import network as contract

pytestmark = pytest.mark.live


@dataclass
class Key:
    private_key: bytes

    @property
    def peer(self) -> PeerId:
        return peer_of(coincurve.PrivateKey(self.private_key).public_key.format())


def key(number: int) -> Key:
    return Key(sha256(b"contract %d" % number).digest())


@asynccontextmanager
async def hosts(count: int) -> AsyncGenerator[list[Host]]:
    made = [Host(key(n), ("/ip4/127.0.0.1/tcp/0",)) for n in range(count)]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for host in made:
                await nursery.start(host.run)
            yield made
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "check",
    [
        contract.check_one_connection_serves_both_directions,
        contract.check_bytes_arrive_whole_and_in_order,
        contract.check_messages_from_several_tasks_stay_whole,
        contract.check_a_failing_acceptor_ends_its_stream_only,
        contract.check_disconnect_breaks_streams_and_is_noticed,
    ],
)
async def test_network(check):
    async with hosts(2) as (one, two):
        await check(one, two)


async def test_network_refuses_what_cannot_be():
    async with hosts(2) as (one, two):
        await contract.check_what_cannot_be_reached_is_unavailable(one, two, key(9).peer)


async def test_network_bounds_streams():
    async with hosts(2) as (one, two):
        await contract.check_the_number_of_streams_is_bounded(one, two, MAX_STREAMS)
