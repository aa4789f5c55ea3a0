"""A model hub on loopback: the few endpoints that the hub's own library needs, and the ways in which one can fail.

GET  /api/models/ORG/NAME/revision/REV?blobs=True    the commit and the list of files
HEAD /ORG/NAME/resolve/COMMIT/FILE                   size and digest
GET  the same, also from a byte on (Range)           the bytes
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Hub:
    """One model, ``org/name``. ``asked`` are the requests so far, ``ranges`` the first bytes that were asked for.

    ``cuts`` maps a file to how many bytes its next transfers bring before the connection breaks; ``lies`` to the
    digest, and ``sizes`` to the size, that is stated for it. Without ``ranged`` it always sends whole files.
    """

    folder: Path
    repo: str = "org/name"
    asked: list[str] = field(default_factory=list)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    lies: dict[str, str] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    ranges: dict[str, list[int]] = field(default_factory=dict)
    ranged: bool = True
    url: str = ""

    def info(self) -> dict[str, object]:
        siblings = []
        for path in sorted(path for path in self.folder.rglob("*") if path.is_file()):
            name = path.relative_to(self.folder).as_posix()
            size = self.sizes.get(name, path.stat().st_size)
            one: dict[str, object] = {"rfilename": name, "size": size, "blobId": "0" * 40}
            if name.endswith((".safetensors", ".bin")):
                one["lfs"] = {"sha256": self.sha(name), "size": size, "pointerSize": 128}
            siblings.append(one)
        return {"id": self.repo, "modelId": self.repo, "sha": COMMIT, "siblings": siblings, "tags": [], "downloads": 0}

    def sha(self, name: str) -> str:
        return self.lies.get(name) or hashlib.sha256((self.folder / name).read_bytes()).hexdigest()

    def fetched(self, method: str = "GET") -> list[str]:
        """The files whose bytes (or heads) were asked for, in order."""
        marker = f"/resolve/{COMMIT}/"
        return [line.split(marker)[1] for line in self.asked if line.startswith(method) and marker in line]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """The hub answers on a port of loopback."""

    class Answering(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def answer(self, *, body: bool) -> None:
            path = urlsplit(self.path).path
            hub.asked.append(f"{self.command} {path}")
            if path.startswith(f"/api/models/{hub.repo}/revision/"):
                if path.endswith("/nowhere"):
                    self.give(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
                else:
                    self.give(200, json.dumps(hub.info()).encode(), {"Content-Type": "application/json"}, body)
                return
            _, found, name = path.partition(f"/{hub.repo}/resolve/{COMMIT}/")
            if not found or not (hub.folder / name).is_file():
                self.give(404, b"{}", {"X-Error-Code": "RepoNotFound" if not found else "EntryNotFound"}, body)
                return
            self.file(name, body)

        def file(self, name: str, body: bool) -> None:
            data = (hub.folder / name).read_bytes()
            begin = (
                0 if not hub.ranged else int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
            )
            if body:
                hub.ranges.setdefault(name, []).append(begin)
            headers = {"ETag": f'"{hub.sha(name)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if hub.ranged and "Range" in self.headers:
                headers["Content-Range"] = f"bytes {begin}-{len(data) - 1}/{len(data)}"
            cut = hub.cuts[name].pop(0) if body and hub.cuts.get(name) else None
            if cut is None:
                self.give(206 if "Content-Range" in headers else 200, data[begin:], headers, body)
                return
            self.head(206 if "Content-Range" in headers else 200, len(data) - begin, headers)
            self.wfile.write(data[begin : begin + cut])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(2)

        def head(self, status: int, length: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(length)}.items():
                self.send_header(key, value)
            self.end_headers()

        def give(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
            self.head(status, len(data), headers)
            if body:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        hub.url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
