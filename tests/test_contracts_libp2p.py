"""The contracts of the seams, over real hosts on loopback."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import coincurve
import pytest
import trio

from p2p.discovery import KademliaDiscovery
from p2p.gossip import GossipSub
from p2p.host import MAX_STREAMS, Host
from p2p.peer import PeerId, peer_of
from tests.contracts import discovery as discovery_contract
from tests.contracts import gossip as gossip_contract
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
    async with services(count, lambda host: None) as (made, _):
        yield made


@asynccontextmanager
async def services(count: int, over: Callable[[Host], Any]) -> AsyncGenerator[tuple[list[Host], list[Any]]]:
    """Running hosts, and what ``over`` puts on each."""
    made = [Host(key(n), ("/ip4/127.0.0.1/tcp/0",)) for n in range(count)]
    on_top = [over(host) for host in made]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            for runs in (*made, *filter(None, on_top)):
                await nursery.start(runs.run)
            yield made, on_top
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


@pytest.mark.parametrize(
    "check",
    [
        gossip_contract.check_accepted_messages_reach_every_reader,
        gossip_contract.check_a_node_does_not_hear_itself_nor_a_repeat,
        gossip_contract.check_what_the_judge_does_not_accept_is_dropped,
    ],
)
async def test_gossip(check):
    async with services(2, lambda host: GossipSub(host, "pasar/test/")) as ((one, two), (near, far)):
        await one.connect(contract.target(two))
        await check(near, far)


async def test_discovery():
    async with services(3, KademliaDiscovery) as ((one, middle, three), (provider, _, seeker)):
        await one.connect(contract.target(middle))
        await three.connect(contract.target(middle))
        await discovery_contract.check_a_third_node_finds_a_provider(provider, seeker, one, three)
