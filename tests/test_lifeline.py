"""A node's line to its supervisor: what it says, what counts as an order, and what it says about broken books."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

import market.roles
from ledger.conservation import BooksBroken
from market.config import load_config
from market.instance import claim
from market.lifeline import Lifeline

pytestmark = pytest.mark.live  # it listens for signals of this process


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The supervisor's end, with a deadline, and the node's."""
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    yield ours, theirs
    ours.close()
    theirs.close()


@asynccontextmanager
async def running(lifeline: Lifeline) -> AsyncGenerator[None]:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            await nursery.start(lifeline.run)
            yield
            nursery.cancel_scope.cancel()


async def until(ours: socket.socket, word: str) -> str:
    """What the supervisor hears up to and with ``word``."""
    said = ""
    while word not in said:
        said += (await trio.to_thread.run_sync(ours.recv, 4096)).decode()
    return said


def waits(lifeline: Lifeline, times: int) -> bool:
    """Whether so many orders have not come."""
    return max(lifeline._signals, lifeline._stops) < times


async def test_it_beats_and_says_that_it_is_ready_once(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    lifeline = Lifeline(theirs, beat_s=0.01, port=4001)
    async with running(lifeline):
        assert await lifeline.ready(4001)
        assert "PORT=4001\nREADY=1\n" in await until(ours, "READY=1\n")
        assert not await lifeline.ready(4001)
        await until(ours, "WATCHDOG=1\n\nWATCHDOG=1\n")
        await lifeline.stopping()
        assert "STOPPING=1\n" in await until(ours, "STOPPING=1\n")
    assert lifeline.keeper == os.getppid()


async def test_a_signal_and_its_echo_are_one_order(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    lifeline = Lifeline(theirs)
    async with running(lifeline):
        os.kill(os.getpid(), signal.SIGINT)
        ours.sendall(b"STOP\n")
        await lifeline.ordered(1)
        while not (lifeline._signals and lifeline._stops):  # noqa: ASYNC110 - both are on their way
            await trio.sleep(0.01)
        assert waits(lifeline, 2)
        ours.sendall(b"STOP\n")
        await lifeline.ordered(2)


async def test_two_orders_in_one_read_are_two(ends: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = ends
    async with running(lifeline := Lifeline(theirs)):
        ours.sendall(b"STOP\nSTOP\n")
        await lifeline.ordered(2)


async def test_a_supervisor_that_is_gone_is_an_order_and_hurts_nobody_who_speaks(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = ends
    async with running(lifeline := Lifeline(theirs, beat_s=0.01)):
        ours.close()
        await lifeline.ordered(1)
        assert waits(lifeline, 2)
        assert await lifeline.ready(4001)
        await lifeline.stopping()


async def test_a_supervisor_that_does_not_read_holds_nothing_up(ends: tuple[socket.socket, socket.socket]) -> None:
    _, theirs = ends
    lifeline = Lifeline(theirs, beat_s=0.0)  # fills the line
    async with running(lifeline):
        with trio.move_on_after(0.5):
            await trio.sleep_forever()
        assert await lifeline.ready(4001)


async def test_without_a_supervisor_signals_count_alone() -> None:
    async with running(lifeline := Lifeline()):
        assert lifeline.keeper == 0
        os.kill(os.getpid(), signal.SIGTERM)
        await lifeline.ordered(1)
        assert waits(lifeline, 2)


async def test_books_that_contradict_themselves_ask_for_no_restart(
    ends: tuple[socket.socket, socket.socket], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(life: market.roles.Life) -> None:
        raise BooksBroken("they do not balance")

    monkeypatch.setattr(market.roles, "run_bootstrap", broken)
    ours, theirs = ends
    instance = claim(tmp_path, "main", "bootstrap")
    with trio.fail_after(30), pytest.RaisesGroup(BooksBroken, flatten_subgroups=True):
        await market.roles.live(load_config(home=tmp_path), "bootstrap", lambda *_: None, instance, Lifeline(theirs))  # type: ignore[arg-type, return-value]
    assert "HOPELESS=1\n" in await until(ours, "HOPELESS=1\n")
