"""One large file over HTTP, from where an earlier try stopped, even in another process. Shell.

The hub's own library forgets a file that it has not finished. What is here of one lies beside the finished ones, under
the name that it will have and ``.part``. Knows no hub: an address, a size, a place.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import requests

from p2p.errors import Unavailable

TRIES = 5  # in a row without a byte
PAUSE_S = 1.0
_CONNECT_S, _READ_S = 10.0, 60.0
_CHUNK = 2**18
_PARTIAL, _WHOLE = 206, 200

Tell = Callable[[int, int], None]  # bytes that are here, and in all


def transfer(url: str, headers: Mapping[str, str], size: int, target: Path, tell: Tell) -> None:
    """Have ``size`` bytes of ``url`` in ``target``, which is not there before it is whole. Raises Unavailable."""
    part = target.with_name(target.name + ".part")
    part.parent.mkdir(parents=True, exist_ok=True)
    tries = 0
    while True:
        have = part.stat().st_size if part.exists() else 0
        if have == size:
            part.replace(target)
            return
        if have > size:
            part.unlink()  # of another file, or a server that sent more than it stated
            continue
        try:
            _fetch(url, headers, have, size, part, tell)
        except requests.RequestException as exc:
            tries = 0 if part.exists() and part.stat().st_size > have else tries + 1
            if tries >= TRIES:
                raise Unavailable(f"the connection broke {TRIES} times; go on later with the same command") from exc
            time.sleep(PAUSE_S)


def _fetch(url: str, headers: Mapping[str, str], have: int, size: int, part: Path, tell: Tell) -> None:
    ranged = {**headers, "Accept-Encoding": "identity", "Range": f"bytes={have}-"}
    with requests.get(url, headers=ranged, stream=True, timeout=(_CONNECT_S, _READ_S)) as answer:
        if answer.status_code not in (_PARTIAL, _WHOLE):
            answer.raise_for_status()
            raise Unavailable(f"the hub answers {answer.status_code}")
        if answer.status_code == _WHOLE:
            have = 0  # it does not know ranges
        elif not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise Unavailable("the hub sends another part than was asked for")
        with part.open("r+b" if part.exists() else "wb") as file:
            file.truncate(have)
            file.seek(have)
            for chunk in answer.iter_content(_CHUNK):
                have += len(chunk)
                if have > size:
                    raise Unavailable("the hub sends more than it states")
                file.write(chunk)
                tell(have, size)
    if have < size:
        raise requests.ConnectionError("the connection ended early")
