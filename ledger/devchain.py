"""The development chain: an EVM with a broker and a faucet behind JSON-RPC on loopback, a block each second.

A process of its own, so that it outlives the node that started it. Each start is another chain id, another key and so
another settlement; nothing is kept. It binds its port before anything else: of several that start at once, one wins.
It answers loopback names only and nothing that a web page could send. Knows no node and no market.
"""

from __future__ import annotations

import json
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import coincurve
import trio

from ledger.broker import DEVELOPMENT_CHAINS, BrokerTerms, is_development
from ledger.http_rpc import serve_json
from ledger.money import Settlement
from ledger.rpc import HttpRpc, RpcRefused, ask
from p2p.errors import MalformedMessage, Misconfigured, Unavailable
from p2p.peer import Address, PeerId, address_of, address_text, parse_address, peer_of

if TYPE_CHECKING:
    from trio_typing import TaskStatus

BLOCK_SECONDS = 1.0
IDLE_SECONDS = 30.0
HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class ChainInfo:
    """Where a development chain answers, and what it settles."""

    rpc: str
    settlement: Settlement

    def as_dict(self) -> dict[str, object]:
        broker, chain_id = self.settlement.broker, self.settlement.chain_id
        return {"rpc": self.rpc, "broker": address_text(broker), "chain_id": chain_id}

    def ready_line(self) -> str:
        return "READY " + json.dumps(self.as_dict())


class FaucetKey:
    """A key that lives as long as its chain."""

    def __init__(self, secret: bytes) -> None:
        self._key = coincurve.PrivateKey(secret)
        self.peer: PeerId = peer_of(self._key.public_key.format(compressed=True))
        self.address: Address = address_of(self.peer)

    def sign(self, digest: bytes) -> bytes:
        signature: bytes = self._key.sign_recoverable(digest, hasher=None)
        return signature[:64] + bytes([signature[64] + 27])


class DevelopmentChain:
    """A chain with a broker on it. Synchronous: one thread at a time; blocks come from ``mine``."""

    def __init__(self, chain_id: int, faucet_secret: bytes, terms: BrokerTerms, clock: Callable[[], int]) -> None:
        from ledger.evm import Evm  # py-evm is an extra: only this process needs it
        from ledger.jsonrpc import DevelopmentRpc

        self._clock = clock
        faucet = FaucetKey(faucet_secret)
        self.evm = Evm(chain_id, faucet, clock())
        self.settlement = Settlement(chain_id, self._deploy(faucet, terms))
        self.rpc = DevelopmentRpc(self.evm, self.settlement, clock)

    def _deploy(self, faucet: FaucetKey, terms: BrokerTerms) -> Address:
        from ledger.contract import creation
        from ledger.transactions import Call

        data = creation(terms)
        gas = self.evm.estimate(faucet.address, Call(None, data), self._clock())
        transaction = self.evm.send_as(faucet, Call(None, data, 0, gas))
        self.mine()
        receipt = self.evm.receipt(transaction)
        if receipt is None or receipt["status"] != "0x1":
            raise AssertionError("the broker that ships with the package does not deploy")
        return parse_address(receipt["contractAddress"])

    def mine(self) -> None:
        """The next block, now."""
        self.evm.mine(self._clock())


def new_chain(terms: BrokerTerms | None = None) -> DevelopmentChain:
    """A chain like no other before it, on the calendar."""
    chain_id = secrets.choice(DEVELOPMENT_CHAINS)
    return DevelopmentChain(chain_id, secrets.token_bytes(32), terms or BrokerTerms(), lambda: int(time.time()))


def bind(port: int) -> socket.socket:
    """A listening socket on loopback; 0 takes a free port. Raises Misconfigured when the port is taken."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        if sys.platform != "win32":
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen(64)
    except OSError as exc:
        listener.close()
        raise Misconfigured(f"port {port} on {HOST} cannot be had: {exc.strerror or exc}") from exc
    return listener


async def serve(
    listener: socket.socket,
    terms: BrokerTerms | None = None,
    linger: float | None = None,
    *,
    task_status: TaskStatus[ChainInfo] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a fresh chain on ``listener`` until cancelled, or until nobody asked anything for ``linger`` seconds."""
    one_at_a_time = trio.CapacityLimiter(1)
    listener.setblocking(False)
    port = listener.getsockname()[1]
    chain = await trio.to_thread.run_sync(new_chain, terms, limiter=one_at_a_time)
    asked = trio.current_time()

    async def answer(body: bytes) -> bytes:
        nonlocal asked
        asked = trio.current_time()
        return await trio.to_thread.run_sync(chain.rpc.answer, body, limiter=one_at_a_time)

    async with trio.open_nursery() as nursery:
        streams = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
        await nursery.start(partial(serve_json, streams, answer))
        task_status.started(ChainInfo(f"http://{HOST}:{port}", chain.settlement))
        while linger is None or trio.current_time() - asked < linger:
            await trio.sleep(BLOCK_SECONDS)
            if trio.current_time() - asked < IDLE_SECONDS:  # blocks that nobody looks at only cost memory
                await trio.to_thread.run_sync(chain.mine, limiter=one_at_a_time)
        nursery.cancel_scope.cancel()


class ChainLog:
    """``devchain.log`` in a directory, a line of JSON for each start and end; without a directory, nothing."""

    def __init__(self, data_dir: Path | None) -> None:
        """Makes the directory. Raises Misconfigured when nothing can be written there."""
        self._file = data_dir / "devchain.log" if data_dir else None
        try:
            if data_dir and self._file:
                data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._file.open("a").close()
        except OSError as exc:
            raise Misconfigured(f"data-dir: cannot write a log in {data_dir}: {exc.strerror}") from exc

    def note(self, event: str, info: ChainInfo) -> None:
        """Write a line. A directory that was removed meanwhile, or a full disk, ends no chain."""
        if self._file is not None:
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            with suppress(OSError), self._file.open("a") as file:
                print(json.dumps({"timestamp": at, "event": event, **info.as_dict()}), file=file)


async def run_process(port: int, linger: float | None = None, data_dir: Path | None = None) -> None:
    """The whole process: READY on stdout, then blocks until a signal; with ``linger``, until it is left alone."""
    log, listener = ChainLog(data_dir), bind(port)
    info: ChainInfo | None = None
    if linger is not None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    async with trio.open_nursery() as nursery:
        if linger is None:
            await nursery.start(_end_on_signal, nursery.cancel_scope)
        started: ChainInfo = await nursery.start(partial(serve, listener, None, linger))
        info = started
        print(started.ready_line(), flush=True)
        log.note("devchain started", started)
    if info is not None:
        log.note("devchain ended", info)


async def _end_on_signal(scope: trio.CancelScope, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
            return


async def probe(port: int, timeout: float = 20.0) -> ChainInfo | None:
    """The development chain at a port; None when nobody listens there. Raises Misconfigured for anybody else."""
    url = f"http://{HOST}:{port}"
    try:
        await (await trio.open_tcp_stream(HOST, port)).aclose()
    except OSError:
        return None
    rpc = HttpRpc(url, timeout=timeout)
    try:
        found = await ask(rpc, "pasar_settlement")
        settlement = Settlement(int(found["chain_id"]), parse_address(found["broker"]))
    except (Unavailable, RpcRefused, MalformedMessage, KeyError, TypeError, ValueError) as exc:
        raise Misconfigured(f"port {port} is taken by something that is no development chain of Pasar") from exc
    finally:
        rpc.close()
    if not is_development(settlement.chain_id):
        raise Misconfigured(f"the chain at port {port} says it is {settlement.chain_id}, which is no development chain")
    return ChainInfo(url, settlement)


async def ensure_devchain(port: int, data_dir: Path, *, linger: float = 60.0, timeout: float = 60.0) -> ChainInfo:
    """The development chain at ``port``, started when there is none. It outlives its starter by ``linger`` seconds.

    Of several nodes that start one at once, the one whose chain got the port wins, and the others use it. Raises
    Misconfigured, or Unavailable when none comes up in time (``devchain.out`` in ``data_dir`` says why).
    """
    if (found := await probe(port)) is not None:
        return found
    out = data_dir / "devchain.out"
    child = await trio.to_thread.run_sync(_start, port, linger, out)
    with trio.move_on_after(timeout):
        while True:
            if (found := await probe(port)) is not None:
                child.poll()
                child.returncode = child.returncode or 0  # it lives on by design; nobody waits for it
                return found
            if child.poll() not in (None, 2):
                raise Unavailable(f"the development chain ended with {child.returncode}: see {out}")
            await trio.sleep(0.1)
    raise Unavailable(f"no development chain at port {port} in {timeout:.0f} s: see {out}")


def _start(port: int, linger: float, out: Path) -> subprocess.Popen[bytes]:
    """Raises Misconfigured when nothing can be written at ``out``, which takes whatever the process prints."""
    try:
        out.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        output = out.open("ab")
    except OSError as exc:
        raise Misconfigured(f"data-dir: cannot write {out}: {exc.strerror}") from exc
    command = [sys.executable, "-m", "ledger.devchain", str(port), str(linger), str(out.parent)]
    with output:
        return subprocess.Popen(
            command,
            cwd=Path(__file__).parent.parent,  # where `-m` finds this package, installed or not
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def main(port: int, linger: float | None = None, data_dir: Path | None = None) -> int:
    """Run the process; its exit code."""
    try:
        trio.run(run_process, port, linger, data_dir)
    except Misconfigured as exc:
        print(f"pasar: {exc}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as exc:
        print(f"pasar: the development chain needs the extra pasar[devchain]: {exc}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), float(sys.argv[2]), Path(sys.argv[3])))
