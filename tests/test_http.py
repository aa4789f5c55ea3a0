"""The HTTP face: alive, ready, status, for this machine only; and a port that is taken."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from market.config import load_config
from market.http import app as face_app
from market.http.app import Status, host_name
from market.http.face import Face
from market.roles import open_face
from p2p.errors import Misconfigured

ROOT = Path(__file__).parent.parent
READY = Status("gateway", "main", ready=True, peer_id="16Uiu2HAm", connected=3, offers=2)


@pytest.fixture
async def face(nursery):
    made = Face("127.0.0.1:0", "gateway", "main")
    await nursery.start(made.run)
    yield made
    made.close()


def port_of(face: Face) -> int:
    return int(face.url.rsplit(":", 1)[1])


async def talk(face: Face, data: bytes) -> bytes:
    """What comes back for these bytes, until the server hangs up."""
    async with await trio.open_tcp_stream("127.0.0.1", port_of(face)) as stream:
        await stream.send_all(data)
        found = b""
        try:
            while piece := await stream.receive_some(65_536):
                found += piece
        except trio.BrokenResourceError:
            pass
        return found


async def get(face: Face, path: str, host: str = "127.0.0.1:80", *more: str) -> tuple[int, str]:
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}", "Connection: close", *more]
    reply = await talk(face, "\r\n".join(lines).encode() + b"\r\n\r\n")
    head, _, body = reply.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


async def test_it_is_alive_at_once_and_ready_when_the_node_is(face):
    assert await get(face, "/healthz") == (200, "ok\n")
    assert await get(face, "/readyz") == (503, "starting\n")
    code, body = await get(face, "/v1/status")
    assert (code, json.loads(body)["ready"], json.loads(body)["role"]) == (200, False, "gateway")
    face.show(lambda: READY)
    assert await get(face, "/readyz") == (200, "ready\n")
    code, body = await get(face, "/v1/status")
    assert code == 200
    assert json.loads(body) == {
        "role": "gateway",
        "network": "main",
        "ready": True,
        "peer_id": "16Uiu2HAm",
        "connected": 3,
        "offers": 2,
    }
    assert (await get(face, "/nowhere"))[0] == 404


async def test_only_loopback_names_are_answered(face):
    for host in ("127.0.0.1", "localhost", "LOCALHOST:8080", "[::1]:8080", "[::1]"):
        assert (await get(face, "/healthz", host))[0] == 200
    for host in (
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil:80",
        "",
        "192.168.0.1",
        "localhost:x",
        "::1",
    ):
        code, body = await get(face, "/healthz", host)
        assert code == 403
        assert "ok" not in body
    assert (await get(face, "/healthz", "localhost", "Host: evil.example"))[0] in (400, 403)
    assert b" 200" not in (await talk(face, b"GET /healthz HTTP/1.0\r\n\r\n"))[:20]


def test_a_host_is_its_name_without_the_port():
    assert host_name("[::1]:1") == host_name("[::1]") == "[::1]"
    assert host_name("localhost:1:2") == "localhost:1"


async def test_a_status_is_read_and_not_written(face):
    reply = await talk(face, b"POST /v1/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 405")


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 100 + b"\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nHTTP2-Settings: !\r\nConnection: Upgrade\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 40_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ],
)
async def test_nonsense_harms_nobody_else(face, data):
    with trio.move_on_after(1):  # some are waited for, to their own end
        assert b" 200 " not in (await talk(face, data))[:20]
    for _ in range(30):  # were the server to fall over it, it stands up again
        try:
            assert await get(face, "/healthz") == (200, "ok\n")
            return
        except (OSError, IndexError):
            await trio.sleep(0.1)
    raise AssertionError("the face did not come back")


async def test_requests_at_once_are_bounded(face, monkeypatch):
    monkeypatch.setattr(face_app, "MAX_AT_ONCE", 0)
    code, body = await get(face, "/healthz")
    assert (code, json.loads(body)["error"]["code"]) == (503, "BUSY")


async def test_a_server_that_falls_stands_up_again_on_the_same_port(nursery, monkeypatch, autojump_clock):
    from market.http import face as module

    falls, real = [], module.serve

    async def falling(app, config, *, mode, task_status):
        if falls:
            await real(app, config, mode=mode, task_status=task_status)
        falls.append(1)
        socket.socket(fileno=int(config.bind[0][5:])).close()
        task_status.started()
        raise KeyError("a bug in the server")

    monkeypatch.setattr(module, "serve", falling)
    made = Face("127.0.0.1:0", "gateway", "main")
    await nursery.start(made.run)
    await trio.sleep(5)
    monkeypatch.undo()
    assert len(falls) == 1
    assert await get(made, "/healthz") == (200, "ok\n")
    made.close()


def test_a_taken_port_is_a_mistake_of_the_operator():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        for host in ("127.0.0.1", "localhost"):
            with pytest.raises(Misconfigured, match=f"http: port {port} on {host} cannot be used"):
                Face(f"{host}:{port}", "gateway", "main")
    with pytest.raises(Misconfigured, match="not on loopback"):
        Face("0.0.0.0:0", "gateway", "main")
    assert open_face(load_config(), "gateway") is None
    first = open_face(load_config(http="localhost:0"), "bootstrap")
    with pytest.raises(Misconfigured, match="cannot be used"):
        Face(first.url.removeprefix("http://"), "gateway", "main")
    first.close()


@pytest.mark.live
def test_a_node_shows_its_face_and_the_second_on_the_port_ends_before_it_is_seen(tmp_path):
    environment = {"PASAR_HOME": str(tmp_path), "PATH": "", "PASAR_LOCAL_PORT": str(free_port())}

    def start(http: str, data_dir: str) -> subprocess.Popen[str]:
        words = ["--role", "bootstrap", "--http", http, "--data-dir", str(tmp_path / data_dir)]
        return subprocess.Popen(
            [sys.executable, "node.py", *words],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    with start("127.0.0.1:0", "one") as node:
        try:
            ready = json.loads(node.stdout.readline().removeprefix("READY "))
            place = ready["http"].removeprefix("http://")
            host, port = place.split(":")
            with socket.create_connection((host, int(port)), timeout=30) as stream:
                stream.sendall(f"GET /v1/status HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n".encode())
                reply = b"".join(iter(lambda: stream.recv(65_536), b""))
            status = json.loads(reply.partition(b"\r\n\r\n")[2])
            assert (status["ready"], status["peer_id"]) == (True, ready["peer_id"])
            with start(place, "two") as second:
                out, err = second.communicate(timeout=60)
            assert (second.returncode, out) == (2, "")
            assert f"port {port}" in err
            assert err.count("\n") == 1
        finally:
            node.terminate()
        out, err = node.communicate(timeout=60)
        assert (node.returncode, out) == (0, "")
        assert "Traceback" not in err


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
