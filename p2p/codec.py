"""Frozen dataclasses to canonical msgpack and back: one value, one encoding.

A message is the array ``[kind, version, *fields]`` in field order: no map, so no key order to agree on. Nested
dataclasses are arrays of their fields, without kind. Integers past 64 bits ride in one extension type. ``decode``
checks every bound, builds the value, packs what it read again and compares; what differs is refused. There are no
floats.

Bounds are written where the field is: ``Annotated[bytes, Size(32, 32)]``, ``Annotated[int, Range(0, 100)]``. A field
without a bound gets the narrow default below. This module knows no message; each family registers its own.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgpack

from p2p.errors import MalformedMessage, UnknownMessage

MAX_MESSAGE = 256 * 1024  # a control message; streams of chunks pass their own, larger limit
MAX_INT = 2**256 - 1
_BIG = 1  # msgpack extension: unsigned integer past 64 bits, big-endian, no leading zero

_LONG = 16 * 1024  # bytes from which the last field is worth not being copied
_NO_BYTES = b"\xc4\x00"  # msgpack: bytes of no length

_KINDS: dict[tuple[str, int], type] = {}
_WIRE: dict[type, tuple[str, int]] = {}

T = TypeVar("T")
Turn = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Size:
    """Bounds, both included, on the length of bytes, of a text in UTF-8 bytes, or of a tuple."""

    least: int
    most: int


@dataclass(frozen=True, slots=True)
class Range:
    """Bounds of an integer, both included."""

    least: int
    most: int


Hash = Annotated[bytes, Size(32, 32)]
JobId = Annotated[bytes, Size(32, 32)]
Signature = Annotated[bytes, Size(65, 65)]
Wei = Annotated[int, Range(0, MAX_INT)]
U32 = Annotated[int, Range(0, 2**32 - 1)]
U64 = Annotated[int, Range(0, 2**64 - 1)]
Name = Annotated[str, Size(1, 96)]

_DEFAULT: dict[type, Size | Range] = {
    int: Range(0, MAX_INT),
    bytes: Size(0, 64),
    str: Size(0, 256),
    tuple: Size(0, 256),
}


def message(kind: str, version: int) -> Callable[[type[T]], type[T]]:
    """Give a frozen dataclass its name on the wire. A new layout takes a new version.

    Raises ValueError at import when the kind and version are taken.
    """

    def register(cls: type[T]) -> type[T]:
        if _KINDS.setdefault((kind, version), cls) is not cls:
            raise ValueError(f"{kind} v{version} is taken by {_KINDS[kind, version].__name__}")
        _WIRE[cls] = (kind, version)
        return cls

    return register


def wire_name(cls: type) -> tuple[str, int]:
    """The kind and version of a registered message class."""
    return _WIRE[cls]


def registered() -> dict[tuple[str, int], type]:
    """Every message known to this process, by kind and version."""
    return dict(_KINDS)


def encode(value: Any) -> bytes:
    """The one encoding of a registered message. Raises ValueError when the value breaks its own bounds (our bug)."""
    return b"".join(encode_parts(value))


def encode_parts(value: Any) -> tuple[bytes, ...]:
    """``encode`` in pieces that only have to be joined: a long file at the end of a message is not copied for it."""
    kind, version = _WIRE[type(value)]
    try:
        raw = [kind, version, *_lower(type(value), value)]
    except MalformedMessage as exc:
        raise ValueError(f"{kind} v{version}: {exc}") from exc
    return _packed(raw)


def _packed(raw: Sequence[Any]) -> tuple[bytes, ...]:
    """The one way to pack plain values, the last of them apart when it is long."""
    last = raw[-1]
    if type(last) is not bytes or len(last) < _LONG:
        return (_pack(raw),)
    without = _pack([*raw[:-1], b""])[: -len(_NO_BYTES)]
    size = len(last)
    length = b"\xc5" + size.to_bytes(2, "big") if size < 2**16 else b"\xc6" + size.to_bytes(4, "big")
    return without + length, last


def decode(data: bytes, limit: int = MAX_MESSAGE) -> Any:
    """The message in ``data``.

    Raises MalformedMessage for every input that is not the canonical encoding of a message within its bounds, and
    UnknownMessage for a well-formed head with a kind or version that is not known here. Nothing else.
    """
    if len(data) > limit:
        raise MalformedMessage(f"{len(data)} bytes, more than {limit}")
    raw, has_big = _unpack(data)
    if type(raw) is not tuple or len(raw) < 2 or type(raw[0]) is not str or type(raw[1]) is not int:
        raise MalformedMessage("no message head")
    cls = _KINDS.get((raw[0], raw[1]))
    if cls is None:
        raise UnknownMessage(raw[0][:64], raw[1])
    value = _raise(cls, raw[2:], raw[0])
    # What was taken has one type and one place each, so that it could be packed in another way only as msgpack.
    head, *rest = _packed(_unpack_as_packed(data) if has_big else raw)
    # What is long and comes last is what was read after this very head, so that equal lengths make it equal.
    if len(head) + sum(map(len, rest)) != len(data) or data[: len(head)] != head:
        raise MalformedMessage(f"{raw[0]} v{raw[1]} is not canonical")
    return value


def decode_as(cls: type[T], data: bytes, limit: int = MAX_MESSAGE) -> T:
    """Like ``decode``, and MalformedMessage when the message is of another class."""
    value = decode(data, limit)
    if type(value) is not cls:
        raise MalformedMessage(f"{type(value).__name__} where {cls.__name__} belongs")
    return value


def _pack(raw: Any) -> bytes:
    packed: bytes = msgpack.packb(raw, use_bin_type=True)
    return packed


def _unpack(data: bytes) -> tuple[Any, bool]:
    """The plain values in ``data``, and whether an integer past 64 bits is among them."""
    bigs: list[int] = []

    def keep_big(code: int, body: bytes) -> int:
        bigs.append(_unpack_big(code, body))
        return bigs[-1]

    try:
        raw = msgpack.unpackb(data, ext_hook=keep_big, use_list=False, raw=False, strict_map_key=True)
    except MalformedMessage:
        raise
    except Exception as exc:  # msgpack raises many types on hostile input, RecursionError-like ones included
        raise MalformedMessage(f"undecodable: {type(exc).__name__}") from exc
    return raw, bool(bigs)


def _unpack_as_packed(data: bytes) -> Any:
    """The same of what ``_unpack`` has read, its large integers left as they are on the wire."""
    return msgpack.unpackb(data, use_list=False, raw=False, strict_map_key=True)


def _unpack_big(code: int, body: bytes) -> int:
    if code != _BIG or not 9 <= len(body) <= 32 or not body[0]:
        raise MalformedMessage(f"extension {code} of {len(body)} bytes")
    return int.from_bytes(body, "big")


@cache
def _plan(cls: type) -> tuple[tuple[str, Turn, Turn], ...]:
    """Each field's name, and how it goes out and comes in: made once, for it runs for every message."""
    hints = get_type_hints(cls, include_extras=True)
    return tuple((f.name, *_turns(hints[f.name], f"{cls.__name__}.{f.name}", None)) for f in fields(cls))


def _lower(cls: type, value: Any) -> list[Any]:
    """Fields of a dataclass as plain msgpack values, each checked against its annotation."""
    return [lower(getattr(value, name)) for name, lower, _ in _plan(cls)]


def _raise(cls: type, raw: Any, where: str) -> Any:
    plan = _plan(cls)
    if type(raw) is not tuple or len(raw) != len(plan):
        raise MalformedMessage(f"{where}: wrong number of fields")
    values = [take(item) for (_, _, take), item in zip(plan, raw, strict=True)]
    try:
        return cls(*values)
    except ValueError as exc:  # a class may check what its annotations cannot say
        raise MalformedMessage(f"{where}: {exc}") from exc


def _turns(hint: Any, where: str, bound: Size | Range | None) -> tuple[Turn, Turn]:
    """How a value of this annotation goes out, and how it comes in. Raises ValueError for one without an encoding."""
    origin = get_origin(hint)
    if origin is Annotated:
        inner, *marks = get_args(hint)
        own = next((m for m in marks if isinstance(m, Size | Range)), None)
        return _turns(inner, where, bound or own)
    if hasattr(hint, "__supertype__"):
        return _turns(hint.__supertype__, where, bound)
    if origin in (Union, types.UnionType):
        return _optional_turns(hint, where)
    if origin is tuple:
        return _tuple_turns(get_args(hint), where, bound)
    if is_dataclass(hint) and isinstance(hint, type):
        return _nested_turns(hint, where)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return _enum_turns(hint, where)
    return _plain_turns(hint, where, bound)


def _optional_turns(hint: Any, where: str) -> tuple[Turn, Turn]:
    inner = [a for a in get_args(hint) if a is not type(None)]
    if len(inner) != 1:
        raise ValueError(f"{where}: only `X | None` is supported")
    lower, take = _turns(inner[0], where, None)
    return lambda item: None if item is None else lower(item), lambda item: None if item is None else take(item)


def _tuple_turns(args: tuple[Any, ...], where: str, bound: Size | Range | None) -> tuple[Turn, Turn]:
    if len(args) == 2 and args[1] is Ellipsis:
        size = bound or _DEFAULT[tuple]
        lower, take = _turns(args[0], where, None)

        def check(item: Any) -> Any:
            if type(item) is not tuple:
                raise MalformedMessage(f"{where}: not an array")
            _check_bound(len(item), size, where)
            return item

        return lambda item: [lower(one) for one in check(item)], lambda item: tuple(take(one) for one in check(item))
    turns = [_turns(arg, where, None) for arg in args]

    def each(item: Any, way: int) -> list[Any]:
        if type(item) is not tuple:
            raise MalformedMessage(f"{where}: not an array")
        if len(item) != len(turns):
            raise MalformedMessage(f"{where}: {len(item)} items where {len(turns)} belong")
        return [both[way](one) for both, one in zip(turns, item, strict=True)]

    return lambda item: each(item, 0), lambda item: tuple(each(item, 1))


def _nested_turns(cls: type, where: str) -> tuple[Turn, Turn]:
    def lower(item: Any) -> Any:
        if type(item) is not cls:
            raise MalformedMessage(f"{where}: not a {cls.__name__}")
        return _lower(cls, item)

    return lower, lambda item: _raise(cls, item, where)


def _enum_turns(kind: type[StrEnum], where: str) -> tuple[Turn, Turn]:
    def take(item: Any) -> Any:
        try:
            return kind(item)
        except ValueError as exc:
            raise MalformedMessage(f"{where}: not one of {[m.value for m in kind]}") from exc

    return lambda item: take(item).value, take


def _plain_turns(hint: Any, where: str, bound: Size | Range | None) -> tuple[Turn, Turn]:
    make = {int: _integer_turns, bytes: _bytes_turns, str: _text_turns, bool: _flag_turns}.get(hint)
    if make is None:
        raise ValueError(f"{where}: {hint!r} has no encoding")
    return make(where, bound or _DEFAULT.get(hint) or Range(0, 1))


def _flag_turns(where: str, bound: Size | Range) -> tuple[Turn, Turn]:
    def take(item: Any) -> Any:
        if type(item) is not bool:
            raise _other_type(item, bool, where)
        return item

    return take, take


def _integer_turns(where: str, bound: Size | Range) -> tuple[Turn, Turn]:
    least, most = bound.least, bound.most

    def take(item: Any) -> Any:
        if type(item) is not int:
            raise _other_type(item, int, where)
        if not least <= item <= most:
            raise _out_of_bounds(item, bound, where)
        return item

    def lower(item: Any) -> Any:
        if take(item) < 2**64:
            return item
        return msgpack.ExtType(_BIG, item.to_bytes((item.bit_length() + 7) // 8, "big"))

    return (take if most < 2**64 else lower), take


def _bytes_turns(where: str, bound: Size | Range) -> tuple[Turn, Turn]:
    least, most = bound.least, bound.most

    def take(item: Any) -> Any:
        if type(item) is not bytes:
            raise _other_type(item, bytes, where)
        if not least <= len(item) <= most:
            raise _out_of_bounds(len(item), bound, where)
        return item

    return take, take


def _text_turns(where: str, bound: Size | Range) -> tuple[Turn, Turn]:
    least, most = bound.least, bound.most

    def take(item: Any) -> Any:
        if type(item) is not str:
            raise _other_type(item, str, where)
        size = len(item) if item.isascii() else _text_size(item, where)
        if not least <= size <= most:
            raise _out_of_bounds(size, bound, where)
        return item

    return take, take


def _text_size(text: str, where: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError as exc:
        raise MalformedMessage(f"{where}: no text") from exc


def _check_bound(measure: int, bound: Size | Range, where: str) -> None:
    if not bound.least <= measure <= bound.most:
        raise _out_of_bounds(measure, bound, where)


def _other_type(item: Any, hint: type, where: str) -> MalformedMessage:
    return MalformedMessage(f"{where}: {type(item).__name__} where {hint.__name__} belongs")


def _out_of_bounds(measure: int, bound: Size | Range, where: str) -> MalformedMessage:
    return MalformedMessage(f"{where}: {measure} outside {bound.least}..{bound.most}")
