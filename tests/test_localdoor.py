"""The local door: one question, one answer, for this user only; everything else is turned away."""

from __future__ import annotations

import os
import socket
import stat

import pytest
import trio

from market.localdoor import ASKING_S, MAX_GUESTS, MAX_QUESTION, LocalDoor, door_path, knock
from market.walletdoor import Deposited, DepositOrder, WalletQuestion
from p2p.codec import encode
from p2p.errors import Misconfigured, Refused, Unavailable
from p2p.framing import frame


def question(number: int) -> DepositOrder:
    return DepositOrder(number, 0)


def answer(number: int) -> Deposited:
    return Deposited(bytes(32), number, 0, 0)


async def doubled(order: DepositOrder) -> Deposited:
    if order.deposit == 13:
        raise Refused("NO_LUCK", "not this one", have=12, need=14)
    if order.deposit == 14:
        raise Misconfigured("the operator must act " * 200)
    if order.deposit == 15:
        raise Unavailable("not now")
    return answer(order.deposit * 2)


@pytest.fixture
async def door(tmp_path, nursery):
    await nursery.start(LocalDoor(tmp_path, {DepositOrder: doubled}).run)
    return tmp_path


async def raw(data_dir, data: bytes) -> bytes:
    """What comes back for these bytes, to the end."""
    stream = await trio.open_unix_socket(str(door_path(data_dir)))
    async with stream:
        await stream.send_all(data)
        await stream.send_eof()
        found = b""
        while piece := await stream.receive_some(65_536):
            found += piece
        return found


async def test_a_question_is_answered_once_per_knock(door):
    assert await knock(door, question(21), 5) == answer(42)
    assert await knock(door, question(4), 5) == answer(8)
    asked = frame(encode(question(1)))
    assert await raw(door, asked + asked) == frame(encode(answer(2)))


async def test_only_this_user_may_ask(door):
    path = door_path(door)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert path.stat().st_uid == os.getuid()


async def test_what_the_node_raises_is_raised_again(door):
    with pytest.raises(Refused) as refused:
        await knock(door, question(13), 5)
    found = refused.value
    assert (found.code, found.hint, found.have, found.need) == ("NO_LUCK", "not this one", 12, 14)
    with pytest.raises(Misconfigured, match="the operator must act"):
        await knock(door, question(14), 5)
    with pytest.raises(Unavailable, match="not now"):
        await knock(door, question(15), 5)


async def test_a_node_without_an_answer_says_so(door):
    with pytest.raises(Unavailable, match="another version"):
        await knock(door, WalletQuestion(), 5)
    assert b"door-refusal" in await raw(door, frame(b"\x93\xa7unknown\x01\x00"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x00\x00\x00",
        (MAX_QUESTION + 1).to_bytes(4, "big"),
        frame(b"\xc1"),
        frame(encode(question(1)) + b"\x00"),
        frame(b"\xdc\xff\xff" * 100),
    ],
)
async def test_what_is_no_question_is_turned_away_and_harms_nobody(door, data):
    assert await raw(door, data) == b""
    assert await knock(door, question(1), 5) == answer(2)


async def test_guests_that_say_nothing_make_room(tmp_path, nursery, autojump_clock):
    await nursery.start(LocalDoor(tmp_path, {DepositOrder: doubled}).run)
    silent = [await trio.open_unix_socket(str(door_path(tmp_path))) for _ in range(MAX_GUESTS)]
    began = trio.current_time()
    assert await knock(tmp_path, question(3), ASKING_S * 2) == answer(6)
    assert trio.current_time() - began >= ASKING_S
    for stream in silent:
        await stream.aclose()


async def test_nobody_there_is_none(tmp_path):
    assert await knock(tmp_path, question(1), 5) is None
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(door_path(tmp_path)))
    assert door_path(tmp_path).exists()
    assert await knock(tmp_path, question(1), 5) is None


async def test_a_door_replaces_one_that_was_left_behind_and_leaves_none(tmp_path):
    door_path(tmp_path).write_text("")
    async with trio.open_nursery() as nursery:
        await nursery.start(LocalDoor(tmp_path, {DepositOrder: doubled}).run)
        assert await knock(tmp_path, question(1), 5) == answer(2)
        nursery.cancel_scope.cancel()
    assert not door_path(tmp_path).exists()


async def test_a_long_directory_has_a_door_too(tmp_path, nursery):
    deep = tmp_path / ("x" * 120)
    await nursery.start(LocalDoor(deep, {DepositOrder: doubled}).run)
    assert len(str(door_path(deep))) < 104
    assert await knock(deep, question(1), 5) == answer(2)


async def test_one_that_hangs_up_or_never_answers_is_unavailable(tmp_path, nursery, autojump_clock):
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.receive_some(1)
        await stream.aclose()

    async def never(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    for number, behave in enumerate((hang_up, never)):
        folder = tmp_path / str(number)
        listening = trio.socket.socket(trio.socket.AF_UNIX)
        await listening.bind(str(door_path(folder)))
        listening.listen(1)
        nursery.start_soon(trio.serve_listeners, behave, [trio.SocketListener(listening)])
        with pytest.raises(Unavailable):
            await knock(folder, question(1), 5)


async def test_a_door_far_away_leaves_no_folder_behind(tmp_path):
    far = tmp_path / ("d" * 120)
    folder = door_path(far).parent
    assert folder.parent != far
    async with trio.open_nursery() as nursery:
        await nursery.start(LocalDoor(far, {DepositOrder: doubled}).run)
        assert await knock(far, question(21), 5) == answer(42)
        nursery.cancel_scope.cancel()
    assert folder.name not in os.listdir(folder.parent)
