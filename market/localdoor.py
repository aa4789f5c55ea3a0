"""The local door: how other programs of the same user ask a running node, over a socket in its data directory.

One connection carries one question and one answer, as framed canonical messages. Who may ask is the file system's to
say: the socket is 0600 in a directory that is 0700. Knows no question; whoever opens the door brings the answers.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import structlog
import trio

from compute.workerchild import remove_socket, socket_path
from p2p.codec import MAX_MESSAGE, Name, Size, Wei, decode, encode, message
from p2p.errors import MalformedMessage, Misconfigured, PasarError, PeerFault, Refused, Unavailable, UnknownMessage
from p2p.framing import FrameDecoder, frame

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger(__name__)

MAX_QUESTION = 4096
MAX_GUESTS = 16  # at a time; the next waits
ASKING_S = 5.0  # a guest that says nothing makes room
ANSWER_S = 960.0  # a transaction may wait that long for its block
MAX_TEXT = 1024
_READ = 64 * 1024
MISCONFIGURED, UNAVAILABLE, UNKNOWN = "MISCONFIGURED", "UNAVAILABLE", "UNKNOWN"

Answers = Mapping[type, Callable[[Any], Awaitable[object]]]


@message("door-refusal", 1)
@dataclass(frozen=True, slots=True)
class DoorRefusal:
    """Why there is no answer; ``text`` is for the operator, who owns both ends."""

    code: Name
    text: Annotated[str, Size(0, MAX_TEXT)]
    have: Wei = 0
    need: Wei = 0


def door_path(data_dir: Path) -> Path:
    """Where the door of a data directory is. Makes its folder; raises Misconfigured when that is somebody else's."""
    return socket_path(data_dir / "door", "node")


class LocalDoor:
    """Answers while ``run`` does. Belongs to whoever holds the data directory's lock: an older socket is replaced."""

    def __init__(self, data_dir: Path, answers: Answers) -> None:
        self._data_dir, self._answers = data_dir, answers
        self._guests = trio.Semaphore(MAX_GUESTS)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Started means: questions are answered."""
        path = door_path(self._data_dir)
        listener = _listen(path)
        try:
            async with listener, trio.open_nursery() as nursery:
                await nursery.start(trio.serve_listeners, self._receive, [listener])
                task_status.started()
        finally:
            remove_socket(path)

    async def _receive(self, guest: trio.SocketStream) -> None:
        async with self._guests, guest:
            try:
                with trio.fail_after(ASKING_S):
                    question = await _read(guest, MAX_QUESTION)
                await guest.send_all(frame(encode(await self._answer(question))))
            except (PeerFault, trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                log.debug("the local door was left without an answer", reason=f"{type(exc).__name__}: {exc}")

    async def _answer(self, question: bytes | None) -> object:
        if question is None:
            raise MalformedMessage("no question")
        try:
            asked = decode(question, MAX_QUESTION)
            answer = self._answers.get(type(asked))
            if answer is None:
                raise UnknownMessage(type(asked).__name__, 0)
            with trio.fail_after(ANSWER_S):
                return await answer(asked)
        except UnknownMessage:
            return DoorRefusal(UNKNOWN, "this node is of another version, or of a role that has no answer to this")
        except trio.TooSlowError:
            return DoorRefusal(UNAVAILABLE, f"no answer in {ANSWER_S:.0f} s")
        except Refused as exc:
            return DoorRefusal(exc.code, exc.hint[: MAX_TEXT // 4], exc.have, exc.need)
        except (Misconfigured, Unavailable) as exc:
            code = MISCONFIGURED if isinstance(exc, Misconfigured) else UNAVAILABLE
            return DoorRefusal(code, str(exc)[: MAX_TEXT // 4])  # a sign has four bytes at most


async def knock(data_dir: Path, question: object, patience: float) -> Any:
    """What the node of a data directory answers; None when no node is there.

    Raises what the node raised (Refused, Misconfigured, Unavailable), and Unavailable when it does not answer.
    """
    path = door_path(data_dir)
    try:
        with trio.fail_after(patience):
            stream = await trio.open_unix_socket(str(path))
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except (OSError, trio.TooSlowError) as exc:
        raise Unavailable(f"the node of {data_dir} cannot be asked: {exc}") from exc
    try:
        with trio.fail_after(patience):
            async with stream:
                await stream.send_all(frame(encode(question)))
                reply = await _read(stream, MAX_MESSAGE)
        answer = None if reply is None else decode(reply)
    except (PasarError, trio.TooSlowError, trio.BrokenResourceError) as exc:
        raise Unavailable(f"the node of {data_dir} does not answer: {exc or type(exc).__name__}") from exc
    if answer is None:
        raise Unavailable(f"the node of {data_dir} hung up: it is stopping, or of another version")
    if isinstance(answer, DoorRefusal):
        raise _raised(answer)
    return answer


def _raised(refusal: DoorRefusal) -> PasarError:
    if refusal.code == MISCONFIGURED:
        return Misconfigured(refusal.text)
    if refusal.code in (UNAVAILABLE, UNKNOWN):
        return Unavailable(refusal.text)
    return Refused(refusal.code, refusal.text, have=refusal.have, need=refusal.need)


def _listen(path: Path) -> trio.SocketListener:
    """Raises Misconfigured. Nobody else can be in a directory that is ours alone before the mode is set."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)  # of a node that was killed
        listening.bind(str(path))
        path.chmod(0o600)
        listening.listen(MAX_GUESTS)
        listening.setblocking(False)
    except OSError as exc:
        listening.close()
        raise Misconfigured(f"data-dir: cannot open the local door {path}: {exc.strerror}") from exc
    return trio.SocketListener(trio.socket.from_stdlib_socket(listening))


async def _read(stream: trio.SocketStream, limit: int) -> bytes | None:
    """The one frame that the other side sends; None when it ends before. Raises MalformedMessage."""
    decoder = FrameDecoder(limit)
    while data := await stream.receive_some(_READ):
        for payload in decoder.feed(data):
            return payload
    return None
