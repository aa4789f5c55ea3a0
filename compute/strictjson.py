"""JSON from strangers: bounded in depth and in parts before it is parsed, no key twice. Pure.

Libraries read the same files later with parsers of their own; what passes here is harmless to them too.
"""

from __future__ import annotations

import json
import re
from typing import Any

from compute.flaws import BadModel, Flaw

MAX_DEPTH = 48
MAX_BRACKETS = 4_000_000  # a tokenizer of 250 000 merges has one million
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKETS = re.compile(rb"[\[\]{}]")


def check_depth(data: bytes, name: str, most: int = MAX_DEPTH) -> None:
    """Raises BadModel ``too-deep``. Nothing is built: the depth is counted in the bytes."""
    bare = _STRINGS.sub(b"", data)
    depth = 0
    for count, found in enumerate(_BRACKETS.finditer(bare)):
        depth += 1 if found.group() in (b"[", b"{") else -1
        if depth > most or count > MAX_BRACKETS:
            raise BadModel(Flaw.TOO_DEEP, f"{name} is nested more than {most} deep, or has too many parts")


def parse_object(data: bytes, name: str, most: int = MAX_DEPTH) -> dict[str, Any]:
    """The object in ``data``. Raises BadModel."""
    check_depth(data, name, most)
    try:
        value = json.loads(data, object_pairs_hook=_once)
    except (ValueError, RecursionError) as exc:
        raise BadModel(Flaw.NO_JSON, f"{name} is no JSON: {str(exc)[:100]}") from exc
    if not isinstance(value, dict):
        raise BadModel(Flaw.NO_JSON, f"{name} is no JSON object")
    return value


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key stands twice")  # two readers would see two files
    return found
