"""The development chain: its RPC, its HTTP, and the process."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import given, settings

from ledger.broker import is_development
from ledger.contract import call_data, topic_of
from ledger.devchain import bind, ensure_devchain, main, probe, serve
from ledger.evm import Evm
from ledger.http_rpc import MAX_BODY, serve_json
from ledger.jsonrpc import MAX_BATCH, MAX_FUND, RpcFault
from ledger.rpc import HttpRpc, RpcRefused, ask
from ledger.transactions import Call, signed_transaction
from p2p.errors import Misconfigured, Refused, Unavailable
from p2p.peer import Address, address_text
from tests.contracts.chains import CHAIN_ID, ETHER, START, direct, key

ALICE = key(1)
WHO = address_text(ALICE.address)
ROOT = Path(__file__).parent.parent

# --- the RPC


@pytest.fixture(scope="module")
def rpc():
    found = direct()
    found.chain.evm.fund(ALICE.address, ETHER)
    found.chain.mine()
    return found.chain.rpc


def answer(rpc, method, *params):
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
    return json.loads(rpc.answer(json.dumps(body).encode()))


def test_what_a_wallet_asks(rpc):
    settlement = answer(rpc, "pasar_settlement")["result"]
    broker = settlement["broker"]
    assert settlement["chain_id"] == CHAIN_ID
    assert answer(rpc, "eth_chainId")["result"] == hex(CHAIN_ID)
    assert answer(rpc, "net_version")["result"] == str(CHAIN_ID)
    assert answer(rpc, "eth_getBalance", WHO, "latest")["result"] == hex(ETHER)
    assert len(answer(rpc, "eth_getCode", broker, "latest")["result"]) > 1000
    assert answer(rpc, "eth_getTransactionCount", WHO, "pending")["result"] == "0x0"
    head = answer(rpc, "eth_getBlockByNumber", "latest", False)["result"]
    assert head["number"] == answer(rpc, "eth_blockNumber")["result"]
    assert answer(rpc, "eth_getBlockByHash", head["hash"], False)["result"] == head
    assert head["baseFeePerGas"] == answer(rpc, "eth_gasPrice")["result"] == "0x7"
    assert answer(rpc, "eth_maxPriorityFeePerGas")["result"] == "0x0"
    history = answer(rpc, "eth_feeHistory", "0x2", "latest", [50, 90])["result"]
    assert len(history["baseFeePerGas"]) == 3
    assert history["reward"] == [["0x0", "0x0"]] * 2
    call = {"to": broker, "data": "0x" + call_data("roundLength").hex()}
    assert int(answer(rpc, "eth_call", call, "latest")["result"], 16) == 3600


def test_a_revert_carries_text_and_data(rpc):
    broker = answer(rpc, "pasar_settlement")["result"]["broker"]
    call = {"from": WHO, "to": broker, "data": "0x" + call_data("withdraw").hex()}
    for method in ("eth_call", "eth_estimateGas"):
        error = answer(rpc, method, call)["error"]
        assert error["code"] == 3
        assert error["message"] == "execution reverted: sender deposit and reserve are zero"
        assert error["data"].startswith("0x08c379a0")


def test_logs_are_filtered_by_block_address_and_topic(rpc):
    broker = answer(rpc, "pasar_settlement")["result"]["broker"]
    rounds = "0x" + topic_of("NewRound").hex()
    everything = {"fromBlock": "earliest", "toBlock": "latest"}
    (log,) = answer(rpc, "eth_getLogs", everything)["result"]
    assert log["topics"][0] == rounds
    for more, count in (
        ({"address": broker}, 1),
        ({"address": [WHO]}, 0),
        ({"topics": [[rounds, "0x" + "00" * 32]]}, 1),
        ({"topics": [None, log["topics"][1]]}, 1),
        ({"topics": [rounds, rounds]}, 0),
        ({"topics": [None, None, None]}, 0),
        ({"fromBlock": "0x2"}, 0),
    ):
        assert len(answer(rpc, "eth_getLogs", everything | more)["result"]) == count, more
    assert answer(rpc, "eth_getLogs", {"blockHash": log["blockHash"]})["result"] == [log]
    assert answer(rpc, "eth_getLogs", {"blockHash": "0x" + "11" * 32})["result"] == []


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"{", -32700),
        (b"\xff", -32700),
        (b"[" * 5000, -32700),
        (b"[]", -32600),
        (b"7", -32600),
        (b'{"method": 5}', -32600),
        (b'{"method": "eth_chainId", "id": [1]}', -32600),
        (b'{"id": 1, "method": "eth_nope"}', -32601),
        (b'{"id": 1, "method": "eth_chainId", "params": {}}', -32602),
        (b'{"id": 1, "method": "eth_getBalance", "params": []}', -32602),
        (b'{"id": 1, "method": "eth_getBalance", "params": ["0x12"]}', -32602),
        (b'{"id": 1, "method": "eth_getBalance", "params": ["%s", "0x-1"]}' % WHO.encode(), -32602),
        (b'{"id": 1, "method": "eth_sendRawTransaction", "params": ["0x 02"]}', -32602),
        (b'{"id": 1, "method": "eth_sendRawTransaction", "params": ["0x02"]}', -32000),
        (b'{"id": 1, "method": "eth_sendRawTransaction", "params": ["0x"]}', -32000),
        (json.dumps([{"method": "eth_chainId"}] * (MAX_BATCH + 1)).encode(), -32600),
    ],
)
def test_faults_are_typed(rpc, body, code):
    assert json.loads(rpc.answer(body))["error"]["code"] == code


def test_batches_and_notifications(rpc):
    one = {"jsonrpc": "2.0", "method": "eth_chainId", "params": []}
    replies = json.loads(rpc.answer(json.dumps([one | {"id": 5}, one, one | {"id": "x"}, 7]).encode()))
    assert [r["id"] for r in replies] == [5, "x", None]
    assert rpc.answer(json.dumps(one).encode()) == b""


def test_the_faucet_is_bounded(rpc):
    for amount in ("0x0", hex(MAX_FUND + 1)):
        assert answer(rpc, "pasar_fund", WHO, amount)["error"]["code"] == -32602
    with pytest.raises(RpcFault):
        rpc.call("pasar_fund", [WHO])


def test_only_the_latest_state_is_kept(rpc):
    assert "latest state" in answer(rpc, "eth_getBalance", WHO, "0x0")["error"]["message"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["0x", "0x1", WHO, "latest", "0x" + "11" * 32]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["to", "from", "data", "value", "gas", "topics", "address", "fromBlock"]), inner),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=150)
@given(data=st.data())
def test_no_parameters_make_a_traceback(rpc, data):
    method = data.draw(st.sampled_from(sorted(rpc._methods)))
    reply = answer(rpc, method, *data.draw(st.lists(JSON, max_size=3)))
    assert ("result" in reply) != ("error" in reply)


# --- the pool


@pytest.fixture
def evm():
    chain = Evm(CHAIN_ID, key(0), START)
    chain.fund(ALICE.address, ETHER)
    chain.mine(START + 1)
    return chain


def raw(nonce, *, fee=100, value=1, chain_id=CHAIN_ID, gas=21_000):
    return signed_transaction(ALICE, chain_id, nonce, Call(Address(b"\x22" * 20), b"", value, gas), fee, 0)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (raw(0, chain_id=1), "WRONG_CHAIN"),
        (raw(1), "NONCE_TOO_HIGH"),
        (raw(0, fee=6), "FEE_TOO_LOW"),
        (raw(0, value=ETHER), "INSUFFICIENT_FUNDS"),
        (raw(0, gas=40_000_000), "INSUFFICIENT_FUNDS"),
        (raw(0)[:-1], "INVALID"),
        (raw(0)[:-4] + b"zzzz", "INSUFFICIENT_FUNDS"),  # it is somebody's, who has nothing
        (bytes(200_000), "TOO_LARGE"),
    ],
)
def test_the_pool_takes_only_what_can_be_mined(evm, bad, code):
    with pytest.raises(Refused) as caught:
        evm.send_raw(bad)
    assert caught.value.code == code
    evm.mine(START + 2)
    assert evm.nonce_of(ALICE.address) == 0


def test_a_nonce_is_replaced_only_by_a_higher_fee(evm):
    first = evm.send_raw(raw(0))
    for again, code in ((raw(0), "ALREADY_KNOWN"), (raw(0, fee=105), "UNDERPRICED")):
        with pytest.raises(Refused) as caught:
            evm.send_raw(again)
        assert caught.value.code == code
    second = evm.send_raw(raw(0, fee=110))
    third = evm.send_raw(raw(1))
    assert evm.nonce_of(ALICE.address, pending=True) == 2
    evm.mine(START + 2)
    assert evm.receipt(first) is None
    assert evm.receipt(second)["status"] == evm.receipt(third)["status"] == "0x1"
    with pytest.raises(Refused) as caught:
        evm.send_raw(raw(0, fee=120))
    assert caught.value.code == "NONCE_TOO_LOW"


def test_time_never_stands_still_in_the_chain(evm):
    evm.mine(START)
    evm.mine(START)
    stamps = [int(evm.header(n)["timestamp"], 16) for n in range(evm.number + 1)]
    assert stamps == sorted(set(stamps))
    evm.mine(START + 10**6)
    assert int(evm.header(evm.number)["timestamp"], 16) == START + 10**6


# --- HTTP


@pytest.fixture
async def http():
    async def echo(body: bytes) -> bytes:
        return b"" if body == b"null" else body

    listener = bind(0)
    port = listener.getsockname()[1]
    listener.setblocking(False)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_json, trio.SocketListener(trio.socket.from_stdlib_socket(listener)), echo))
        yield port
        nursery.cancel_scope.cancel()


async def talk(port, request: bytes) -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        await stream.send_all(request)
        return await stream.receive_some(65_536)


def post(body: bytes = b"{}", **headers: str) -> bytes:
    wanted = {"Host": "127.0.0.1", "Content-Type": "application/json", "Content-Length": str(len(body))}
    wanted |= {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in wanted.items() if value)
    return b"POST / HTTP/1.1\r\n" + head.encode() + b"\r\n" + body


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (post(), 200),
        (post(Host="localhost:8545"), 200),
        (post(Host="[::1]:8545"), 200),
        (post(b"null"), 204),
        (post(Content_Length="", Transfer_Encoding="chunked", body=b"2\r\n{}\r\n0\r\n\r\n"), 200),
        (post(Host="evil.example"), 403),
        (post(Host="127.0.0.1.evil.example"), 403),
        (post(Origin="http://127.0.0.1"), 403),
        (post(Origin="null"), 403),
        (post(Content_Type="text/plain"), 415),
        (post(Content_Length=str(MAX_BODY + 1)), 413),
        (post(Content_Length="9" * 13), 413),
        (post(Content_Length="9" * 5000), 400),
        (post(Content_Length="x"), 400),
        (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 405),
        (b"OPTIONS / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 405),
        (b"nonsense\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\n" + b"X: " + b"y" * 50_000 + b"\r\n\r\n", 431),
    ],
)
async def test_only_programs_on_this_machine_are_answered(http, request_, status):
    reply = await talk(http, request_)
    assert reply.startswith(b"HTTP/1.1 %d" % status), reply[:80]
    assert b"access-control" not in reply.lower()


async def test_a_body_that_grows_past_the_limit_is_cut_off(http):
    chunk = b"%x\r\n" % 65_536 + b" " * 65_536 + b"\r\n"
    head = post(Content_Length="", Transfer_Encoding="chunked", body=b"")
    async with await trio.open_tcp_stream("127.0.0.1", http) as stream:
        await stream.send_all(head)
        for _ in range(MAX_BODY // 65_536):
            await stream.send_all(chunk)
        await stream.send_all(chunk)
        assert (await stream.receive_some(65_536)).startswith(b"HTTP/1.1 413")


async def test_a_connection_serves_many_requests(http):
    async with await trio.open_tcp_stream("127.0.0.1", http) as stream:
        for number in (b"1", b"2"):
            await stream.send_all(post(number))
            assert (await stream.receive_some(65_536)).endswith(number)


async def test_the_client_takes_nonsense_for_an_absent_node(http):
    rpc = HttpRpc(f"http://127.0.0.1:{http}/secret-path", timeout=5)
    with pytest.raises(Unavailable):  # an echo of two requests answers neither
        await rpc.batch([("a", []), ("b", [])])
    assert "secret" not in str(rpc)
    rpc.close()
    with pytest.raises(Misconfigured):
        HttpRpc("ftp://127.0.0.1")


async def test_nobody_there_is_unavailable():
    listener = bind(0)
    port = listener.getsockname()[1]
    listener.close()
    rpc = HttpRpc(f"http://127.0.0.1:{port}")
    with pytest.raises(Unavailable):
        await ask(rpc, "eth_chainId")
    rpc.close()
    assert await probe(port) is None


async def test_a_foreign_server_is_no_development_chain(http):
    with pytest.raises(Misconfigured, match="no development chain"):
        await probe(http)


async def test_a_chain_makes_blocks_and_ends_when_left_alone():
    listener = bind(0)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            info = await nursery.start(partial(serve, listener, None, 1.5))
            assert is_development(info.settlement.chain_id)
            rpc = HttpRpc(info.rpc)
            await ask(rpc, "pasar_fund", WHO, hex(5))
            block = int(await ask(rpc, "eth_blockNumber"), 16)
            await until(lambda: rich(rpc))
            assert int(await ask(rpc, "eth_blockNumber"), 16) > block
            with pytest.raises(RpcRefused):
                await ask(rpc, "eth_nope")
            rpc.close()


# --- the process


def run_devchain(*arguments: str) -> subprocess.Popen[str]:
    code = "import sys; from ledger.commands import app; app()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


@pytest.mark.live
def test_the_command_says_ready_and_ends_on_a_signal(tmp_path):
    with run_devchain("--port", "0", "--data-dir", str(tmp_path / "new")) as process:
        line = process.stdout.readline()
        assert line.startswith("READY ")
        ready = json.loads(line.removeprefix("READY "))
        assert is_development(ready["chain_id"])
        port = ready["rpc"].rsplit(":", 1)[1]
        with run_devchain("--port", port) as second:
            out, err = second.communicate(timeout=60)
        assert (second.returncode, out) == (2, "")
        assert err.startswith("pasar: port")
        assert err.count("\n") == 1
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out, err) == (0, "", "")
    noted = [json.loads(line) for line in (tmp_path / "new" / "devchain.log").read_text().splitlines()]
    assert [(n["event"], n["broker"]) for n in noted] == [
        ("devchain started", ready["broker"]),
        ("devchain ended", ready["broker"]),
    ]


def test_a_directory_that_cannot_be_written_is_named(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main(0, None, tmp_path / "file") == 2
    assert "data-dir: cannot write a log" in capsys.readouterr().err


@pytest.mark.live
def test_one_that_lingers_is_deaf_to_signals_and_ends_by_itself():
    with run_devchain("--port", "0", "--linger", "2") as process:
        assert process.stdout.readline().startswith("READY ")
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0  # not -15: it ended because nobody asked
        assert process.stderr.read() == ""


@pytest.mark.live
async def test_nodes_that_start_one_at_once_get_one_that_outlives_them(tmp_path):
    listener = bind(0)
    port = listener.getsockname()[1]
    listener.close()
    found = []

    async def node(name: str) -> None:
        found.append(await ensure_devchain(port, tmp_path / name, linger=3.0))

    async with trio.open_nursery() as nursery:
        for name in ("one", "two", "three"):
            nursery.start_soon(node, name)
    assert len(found) == 3
    assert len(set(found)) == 1
    assert await ensure_devchain(port, tmp_path / "four") == found[0]
    logs = [line for log in tmp_path.glob("*/devchain.log") for line in log.read_text().splitlines()]
    assert [json.loads(line)["event"] for line in logs] == ["devchain started"]  # what else is printed goes elsewhere
    assert sum("port" in said.read_text() for said in tmp_path.glob("*/devchain.out")) >= 1
    with trio.fail_after(60):  # left alone, it ends
        await until(lambda: gone(port))


async def gone(port: int) -> bool:
    try:
        await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
    except OSError:
        return True
    return False


async def rich(rpc: HttpRpc) -> bool:
    return int(await ask(rpc, "eth_getBalance", WHO, "latest"), 16) == 5


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    for _ in range(600):
        if await condition():
            return
        await trio.sleep(0.1)
    raise AssertionError("it did not come to be")
