"""Where the files of a result go. A result of several named files keeps their names: its playlists use them.

Shell: looks at folders and writes files. Knows no market.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from p2p.errors import Misconfigured

PLAYLIST = ".m3u8"


def check_target(out: Path | None, names: Sequence[str] = ()) -> None:
    """Raise Misconfigured when the result could not be written, before it is paid for."""
    listed = has_playlists(names)
    folder = Path().absolute() if out is None else out.absolute()
    if out is not None and not (listed and out.is_dir()):
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise Misconfigured(f"out: {folder} is no folder that can be written to")
    if out is not None and listed and out.is_file():
        raise Misconfigured(f"out: {out} is a file, and playlists come in a folder")
    if out is not None and not listed and (out.is_dir() or (out.exists() and not os.access(out, os.W_OK))):
        raise Misconfigured(f"out: {out} cannot be written")


def places(out: Path, names: Sequence[str]) -> tuple[Path, ...]:
    """The file of each name: in the folder ``out`` where playlists lead to them, else beside it under its stem."""
    if has_playlists(names):
        return tuple(out / name for name in names)
    if len(names) == 1:
        return (out,)
    return tuple(out.with_name(f"{out.stem}-{name}") for name in names)


def write_all(paths: Sequence[Path], files: Sequence[bytes]) -> None:
    """Write them, their folder too. Raises OSError."""
    for path, data in zip(paths, files, strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


def has_playlists(names: Sequence[str]) -> bool:
    """Whether these are files that name each other."""
    return any(name.endswith(PLAYLIST) for name in names)
