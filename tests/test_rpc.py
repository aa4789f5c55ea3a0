"""The chain client against nodes that answer badly: slowly, too much, twice, elsewhere, or not at all."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from ledger import rpc_transport
from ledger.contract import call_data, event_of, result_of, topic_of
from ledger.rpc import HttpRpc, RpcRefused, ask
from p2p.errors import Unavailable
from p2p.limits import RECURSION

ROOT = Path(__file__).parent.parent
Reply = Callable[[bytes], bytes]


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Node:
    """A server that says to each request what it was told to, and remembers the requests."""

    def __init__(self, answer: Callable[[bytes, trio.SocketStream], Awaitable[None]]) -> None:
        self.answer = answer
        self.heard: list[bytes] = []

    async def serve(self, stream: trio.SocketStream) -> None:
        async with stream:
            data = b""
            try:
                while b"\r\n\r\n" not in data:
                    data += await stream.receive_some(65_536)
                head, _, body = data.partition(b"\r\n\r\n")
                size = next(int(h[15:]) for h in head.split(b"\r\n") if h.lower().startswith(b"content-length:"))
                while len(body) < size:
                    body += await stream.receive_some(65_536)
                self.heard.append(body)
                await self.answer(body, stream)
            except trio.BrokenResourceError:
                return


def says(reply: Reply) -> Node:
    async def answer(body: bytes, stream: trio.SocketStream) -> None:
        await stream.send_all(reply(body))

    return Node(answer)


@pytest.fixture
async def at(nursery):
    """Start a node; an HttpRpc for it."""
    opened: list[HttpRpc] = []

    async def start(node: Node, timeout: float = 5.0) -> HttpRpc:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, node.serve, [listener])
        opened.append(HttpRpc(f"http://127.0.0.1:{listener.socket.getsockname()[1]}", timeout=timeout))
        return opened[-1]

    yield start
    for rpc in opened:
        rpc.close()


def echoing(body: bytes) -> bytes:
    asked = json.loads(body)
    calls = asked if isinstance(asked, list) else [asked]
    answers = [{"jsonrpc": "2.0", "id": c["id"], "result": c["method"]} for c in reversed(calls)]
    return http(json.dumps(answers if isinstance(asked, list) else answers[0]).encode())


async def test_answers_come_in_the_order_of_the_calls(at):
    rpc = await at(says(echoing))
    assert await ask(rpc, "one") == "one"
    assert await rpc.batch([("a", []), ("b", [1]), ("c", [])]) == ["a", "b", "c"]


async def test_many_at_once_never_swap_answers(at):
    rpc = await at(says(echoing))
    found: dict[str, list[str]] = {}

    async def one(name: str) -> None:
        found[name] = await rpc.batch([(name, []), (name, [])])

    async with trio.open_nursery() as several:
        for n in range(24):
            several.start_soon(one, f"m{n}")
    assert found == {f"m{n}": [f"m{n}"] * 2 for n in range(24)}


async def test_what_failed_is_sent_once(at):
    async def hang_up(body: bytes, stream: trio.SocketStream) -> None:
        return

    for method in ("eth_sendRawTransaction", "eth_call"):
        node = Node(hang_up)
        with pytest.raises(Unavailable, match="cannot be reached"):
            await ask(await at(node), method, "0x00")
        assert len(node.heard) == 1
    node = says(lambda _: http(b"", "503 Busy"))
    with pytest.raises(Unavailable, match="503"):
        await ask(await at(node), "eth_call")
    assert len(node.heard) == 1


async def test_an_error_under_a_bad_status_is_still_the_nodes_word(at):
    body = json.dumps({"jsonrpc": "2.0", "id": 0, "error": {"code": -32005, "message": "range"}}).encode()
    with pytest.raises(RpcRefused, match="range"):
        await ask(await at(says(lambda _: http(body, "400 Bad Request"))), "eth_getLogs")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"\xff\xfe",
        b"7",
        b"[]",
        b"[7]",
        b'"text"',
        b"[" * 100_000,
        b'{"id": 0}',
        b'{"id": 1, "result": 5}',
        b'[{"id": 0, "result": 5}, {"id": "x", "result": 5}]',
        b'[{"id": 0, "result": 5}, {"result": 5}]',
        b'[{"id": 0, "result": 5}, {"id": 0, "result": 5}]',
    ],
)
async def test_nonsense_is_unavailability(at, body):
    rpc = await at(says(lambda _: http(body)))
    with pytest.raises(Unavailable):
        await rpc.batch([("a", []), ("b", [])])
    if b'"id": 0, "result"' not in body:
        with pytest.raises(Unavailable):
            await ask(rpc, "a")


async def test_too_much_is_cut_off_also_when_it_is_packed(at, monkeypatch):
    monkeypatch.setattr(rpc_transport, "MAX_REPLY", 100_000)
    much = json.dumps({"jsonrpc": "2.0", "id": 0, "result": "x" * 200_000}).encode()
    packed = gzip.compress(much)
    assert len(packed) < 1000
    for reply in (http(much), http(packed, "200 OK", "Content-Encoding: gzip")):
        with pytest.raises(Unavailable):
            await ask(await at(says(lambda _, reply=reply: reply)), "a")
    little = gzip.compress(json.dumps({"jsonrpc": "2.0", "id": 0, "result": "x" * 90_000}).encode())
    fine = http(little, "200 OK", "Content-Encoding: gzip")
    assert await ask(await at(says(lambda _: fine)), "a") == "x" * 90_000


async def test_a_reply_in_chunks_is_read_whole(at):
    body = b'{"jsonrpc": "2.0", "id": 0, "result": "0x7"}'
    parts = b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in (body[:9], body[9:])) + b"0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert await ask(await at(says(lambda _: head + parts)), "a") == "0x7"


async def test_a_redirection_is_not_followed(at):
    target = says(echoing)
    rpc = await at(target)
    node = says(lambda _: http(b"", "307 Temporary Redirect", f"Location: {rpc}/elsewhere"))
    with pytest.raises(Unavailable):
        await ask(await at(node), "a")
    assert target.heard == []


async def test_a_node_that_never_answers_stops_nobody(at):
    async def never(body: bytes, stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async def drip(body: bytes, stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            await stream.send_all(b" ")
            await trio.sleep(0.02)

    for node in (Node(never), Node(drip)):
        rpc, turns = await at(node, timeout=0.3), 0
        async with trio.open_nursery() as nursery:

            async def refused(rpc: HttpRpc = rpc, nursery: trio.Nursery = nursery) -> None:
                with pytest.raises(Unavailable):
                    await ask(rpc, "a")
                nursery.cancel_scope.cancel()

            nursery.start_soon(refused)
            while True:  # the loop goes on meanwhile, and the wait has an end
                turns += 1
                await trio.sleep(0.01)
        assert turns > 5


def test_calls_and_events_are_the_contracts():
    who = b"\x22" * 20
    assert call_data("getSenderInfo", who).hex() == "e1a589da" + "00" * 12 + "22" * 20
    assert result_of("usedTickets", b"\x00" * 31 + b"\x01") is True
    with pytest.raises(Unavailable):
        result_of("getSenderInfo", b"\x01" * 31)
    log = {
        "address": "0x" + "11" * 20,
        "topics": ["0x" + topic_of("DepositFunded").hex(), "0x" + "00" * 12 + who.hex()],
        "data": "0x" + "00" * 31 + "07",
        "blockNumber": "0x5",
        "logIndex": "0x1",
        "transactionIndex": "0x0",
        "transactionHash": "0x" + "33" * 32,
        "blockHash": "0x" + "44" * 32,
    }
    event = event_of(log)
    assert event is not None
    assert (event.name, event.fields, event.block, event.index) == ("DepositFunded", {"sender": who, "amount": 7}, 5, 1)
    for key in ("topics", "data", "blockNumber", "transactionHash"):
        for wrong in (None, "0x", "zz", [], ["0x" + "00" * 32], 7):
            event_of({**log, key: wrong})  # an event or none, never an error
    assert event_of({**log, "topics": log["topics"][:1]}) is None
    assert event_of({**log, "data": "0x"}) is None


@pytest.mark.parametrize("module", ["node", "market.bidding", "ledger.chain", "ledger.devchain"])
def test_web3_is_loaded_with_the_first_request(module):
    """A light client never has one."""
    late = ("web3", "aiohttp", "starlette", "hypercorn")
    probe = f"import sys, {module}; print([m for m in {late} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_web3_leaves_the_recursion_limit_alone():
    probe = "import sys, ledger.rpc_transport, ledger.contract as c; c.prepare(); print(sys.getrecursionlimit())"
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str(RECURSION), done.stderr
