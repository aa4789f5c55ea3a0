"""The tables of docs/wire.md, made from the messages themselves.

    python -m tests.support.wire_page        puts them into docs/wire.md, between its markers

A section of the page between ``<!-- messages: NAME -->`` and ``<!-- end -->`` belongs to this module; the rest is
written by hand. tests/test_wire.py compares.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from market import protocol
from p2p.codec import _DEFAULT, Range, Size  # the defaults are part of the wire
from tests.support.wire_values import everything

PAGE = Path(__file__).parent.parent.parent / "docs" / "wire.md"
MARKED = re.compile(r"(<!-- messages: ([a-z-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
SHORT = {2**32 - 1: "u32", 2**64 - 1: "u64", 2**128 - 1: "u128", 2**256 - 1: "u256"}
_COMMON = ("hello", *protocol.CHUNKS)

SECTIONS: dict[str, tuple[str, ...]] = {
    "common": _COMMON,
    "control": tuple(k for k in (*protocol.MESSAGES[protocol.CONTROL], "quote") if k not in (*_COMMON, "signed")),
    "bid": tuple(k for k in protocol.MESSAGES[protocol.BID] if k not in _COMMON),
    "job": (*(k for k in protocol.MESSAGES[protocol.JOB] if k not in _COMMON), "commitment", "seal-key"),
    "money": (*protocol.JOB_MONEY, "statement"),
    "receipt": ("receipt", "countersigned-receipt", *protocol.DIGESTED),
    "gossip": ("signed", "offer"),
    "load": tuple(k for k in protocol.MESSAGES[protocol.LOAD] if k not in _COMMON),
    "book": tuple(k for k in protocol.MESSAGES[protocol.BOOK] if k not in _COMMON),
    "proof": tuple(k for k in protocol.MESSAGES[protocol.PROOF] if k not in _COMMON),
    "trace": (*(k for k in protocol.MESSAGES[protocol.TRACE] if k not in _COMMON), *protocol.INPUTS),
    "ping": protocol.MESSAGES[protocol.PING],
    "dialback": protocol.MESSAGES[protocol.DIALBACK],
    "transfer": protocol.TRANSFERS,
    "worker": protocol.WORKER,
    "door": protocol.DOOR,
    "disk": protocol.DISK,
}


def rendered(text: str) -> str:
    """The page with every marked section as it must be."""

    def fill(found: re.Match[str]) -> str:
        name = found[2]
        inside = _shapes() if name == "shapes" else _messages(SECTIONS[name])
        return f"{found[1]}{inside}{found[3]}"

    return MARKED.sub(fill, text)


def _messages(kinds: Iterable[str]) -> str:
    known = everything()
    lines: list[str] = []
    for kind in kinds:
        for (name, version), cls in known.items():
            if name == kind:
                lines += [f"\n**`{kind}` version {version}.** {_says(cls)}\n", *_table(cls)]
    return "\n".join(lines) + "\n\n"


def _shapes() -> str:
    lines: list[str] = []
    for name, cls in sorted(_nested().items()):
        lines += [f"\n**{name}.** {_says(cls)}\n", *_table(cls)]
    return "\n".join(lines) + "\n\n"


def _nested() -> dict[str, type]:
    """Every dataclass that is a field of a message."""
    found: dict[str, type] = {}
    waiting = list(everything().values())
    while waiting:
        for hint in get_type_hints(waiting.pop(), include_extras=True).values():
            for cls in _inside(hint):
                if cls.__name__ not in found:
                    found[cls.__name__] = cls
                    waiting.append(cls)
    return found


def _inside(hint: Any) -> Iterable[type]:
    if is_dataclass(hint) and isinstance(hint, type):
        yield hint
    for arg in get_args(hint):
        yield from _inside(arg)


def _says(cls: type) -> str:
    return " ".join((inspect.getdoc(cls) or "").split())


def _table(cls: type) -> list[str]:
    hints = get_type_hints(cls, include_extras=True)
    if not hints:
        return ["No fields."]
    rows = [f"| {field.name} | {_type(hints[field.name], None)} |" for field in fields(cls)]
    return ["| field | type |", "|---|---|", *rows]


def _type(hint: Any, bound: Size | Range | None) -> str:
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *marks = get_args(hint)
        return _type(inner, bound or next((m for m in marks if isinstance(m, Size | Range)), None))
    if hasattr(hint, "__supertype__"):
        return _type(hint.__supertype__, bound)
    if origin in (Union, types.UnionType):
        return f"{_type(next(a for a in get_args(hint) if a is not type(None)), None)} or nil"
    if origin is tuple:
        return _array(get_args(hint), bound)
    if is_dataclass(hint) and isinstance(hint, type):
        return hint.__name__
    if issubclass(hint, StrEnum):
        return "one of " + ", ".join(f"`{member.value}`" for member in hint)
    return _plain(hint, bound)


def _array(args: tuple[Any, ...], bound: Size | Range | None) -> str:
    if args[-1] is not Ellipsis:
        return "array of " + ", ".join(_type(arg, None) for arg in args)
    size = bound or _DEFAULT[tuple]
    return f"{size.least} to {size.most} of: {_type(args[0], None)}"


def _plain(hint: type, bound: Size | Range | None) -> str:
    if hint is bool:
        return "bool"
    limit = bound or _DEFAULT[hint]
    if hint is int:
        return (
            SHORT.get(limit.most) if limit.least == 0 and limit.most in SHORT else f"int {limit.least} to {limit.most}"
        )  # type: ignore[return-value]
    word = "bytes" if hint is bytes else "text"
    return f"{word}, {limit.most}" if limit.least == limit.most else f"{word}, {limit.least} to {limit.most}"


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
