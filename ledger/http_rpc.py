"""JSON over HTTP for programs on this machine: POST in, JSON out, on trio.

Bodies, headers and waiting are bounded. A request is answered only when its Host names loopback and it carries no
Origin: a web page, also one whose name was rebound to 127.0.0.1, cannot drive what is served here. It knows no method.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING

import h11
import trio

if TYPE_CHECKING:
    from trio_typing import TaskStatus

MAX_BODY = 1024 * 1024
MAX_HEAD = 16 * 1024
MAX_CONNECTIONS = 128
IDLE_SECONDS = 75.0
_LOOPBACK = {"127.0.0.1", "localhost", "[::1]"}

Answer = Callable[[bytes], Awaitable[bytes]]


async def serve_json(
    listener: trio.SocketListener,
    answer: Answer,
    *,
    task_status: TaskStatus[object] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled; a connection beyond MAX_CONNECTIONS waits for a place."""
    places = trio.Semaphore(MAX_CONNECTIONS)
    await trio.serve_listeners(partial(_connection, answer, places), [listener], task_status=task_status)


async def _connection(answer: Answer, places: trio.Semaphore, stream: trio.SocketStream) -> None:
    http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    async with places, stream:
        try:
            while await _exchange(http, stream, answer):
                http.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError):
            return  # the caller went away, or said nothing for too long


async def _exchange(http: h11.Connection, stream: trio.SocketStream, answer: Answer) -> bool:
    """One request and its response; whether another may follow on this connection."""
    try:
        request = await _next_event(http, stream)
        if not isinstance(request, h11.Request):
            return False
        status, body = _refusal(request), b""
        if status == 0:
            status, body = await _read_body(http, stream)
    except h11.RemoteProtocolError as exc:
        if http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await _respond(http, stream, exc.error_status_hint, b"", close=True)
        return False
    if status != 0:
        await _respond(http, stream, status, b"", close=True)
        return False
    reply = await answer(body)
    await _respond(http, stream, 200 if reply else 204, reply)
    return http.our_state is h11.DONE and http.their_state is h11.DONE


async def _next_event(http: h11.Connection, stream: trio.SocketStream) -> object:
    while True:
        event = http.next_event()
        if event is not h11.NEED_DATA:
            return event
        if http.they_are_waiting_for_100_continue:
            go_on = http.send(h11.InformationalResponse(status_code=100, headers=[]))
            await stream.send_all(go_on or b"")
        with trio.fail_after(IDLE_SECONDS):
            http.receive_data(await stream.receive_some(MAX_HEAD))


def _refusal(request: h11.Request) -> int:
    """The HTTP status for a request that is not answered; 0 for one that is."""
    headers = {bytes(name).lower(): bytes(value).decode("latin-1") for name, value in request.headers}
    if headers.get(b"host", "").rsplit(":", 1)[0].lower() not in _LOOPBACK or b"origin" in headers:
        return 403
    if request.method != b"POST":
        return 405
    if headers.get(b"content-type", "").split(";")[0].strip().lower() != "application/json":
        return 415
    length = headers.get(b"content-length", "0")
    return 413 if not length.isdecimal() or len(length) > 12 or int(length) > MAX_BODY else 0


async def _read_body(http: h11.Connection, stream: trio.SocketStream) -> tuple[int, bytes]:
    body = bytearray()
    while True:
        event = await _next_event(http, stream)
        if isinstance(event, h11.EndOfMessage):
            return 0, bytes(body)
        if not isinstance(event, h11.Data):
            return 400, b""
        body += event.data
        if len(body) > MAX_BODY:  # chunked bodies announce no length
            return 413, b""


async def _respond(
    http: h11.Connection, stream: trio.SocketStream, status: int, body: bytes, *, close: bool = False
) -> None:
    headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
    if close:
        headers.append(("connection", "close"))
    sent = http.send(h11.Response(status_code=status, headers=headers)) or b""
    sent += (http.send(h11.Data(data=body)) or b"") + (http.send(h11.EndOfMessage()) or b"")
    with trio.fail_after(IDLE_SECONDS):
        await stream.send_all(sent)
