"""The contracts of the seams, over the network in memory."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from p2p.memory import MAX_STREAMS, MemoryNetwork, MemoryNode, running
from p2p.peer import PeerId, peer_of
from tests.contracts import discovery as discovery_contract
from tests.contracts import gossip as gossip_contract
from tests.contracts import network as contract


def peer(number: int) -> PeerId:
    return peer_of(b"\x02" + bytes([number]) * 32)


@asynccontextmanager
async def nodes(count: int, latency: float = 0.01) -> AsyncGenerator[list[MemoryNode]]:
    network = MemoryNetwork(seed=1, latency=latency)
    made = [network.node(peer(n)) for n in range(count)]
    async with running(*made):
        yield made


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
async def test_network(check, autojump_clock):
    async with nodes(2) as (one, two):
        await check(one, two)


async def test_network_refuses_what_cannot_be(autojump_clock):
    async with nodes(2) as (one, two):
        await contract.check_what_cannot_be_reached_is_unavailable(one, two, peer(9))


async def test_network_bounds_streams(autojump_clock):
    async with nodes(2) as (one, two):
        await contract.check_the_number_of_streams_is_bounded(one, two, MAX_STREAMS)


@pytest.mark.parametrize(
    "check",
    [
        gossip_contract.check_accepted_messages_reach_every_reader,
        gossip_contract.check_a_node_does_not_hear_itself_nor_a_repeat,
        gossip_contract.check_what_the_judge_does_not_accept_is_dropped,
    ],
)
async def test_gossip(check, autojump_clock):
    async with nodes(2) as (one, two):
        await one.connect(contract.target(two))
        await check(one, two)


async def test_discovery(autojump_clock):
    async with nodes(3) as (provider, middle, seeker):
        await provider.connect(contract.target(middle))
        await seeker.connect(contract.target(middle))
        await discovery_contract.check_a_third_node_finds_a_provider(provider, seeker, provider, seeker)
