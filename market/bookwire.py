"""What is said on the book streams: pages of signed offers, and sums of spans by which two books find what differs.

    /pasar/book/1   book-ask (1) -> book-page (1)
    /pasar/book/2   book-ask (2) -> book-page (2) · book-sums-ask -> book-sums · book-want -> book-page (2)

A **span** is the sellers after one peer id and up to another, nil being either end. Envelopes travel as they were
gossiped: nothing that a neighbour says of them is believed. Pure; knows no book.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from p2p.codec import U32, Name, Range, Size, message
from p2p.envelope import Signed
from p2p.peer import WirePeer

PAGE = 32  # of version 1: envelopes of at most 4 KiB each, half a control frame
MAX_PAGE = 512
PAGE_BYTES = 160 * 1024  # of version 2, so that a page with all around it fits a control frame
MAX_WANTED = 512
MAX_SPANS = 64  # in one ask
PARTS = 16
MAX_ITEMS = 32

Salt = Annotated[bytes, Size(16, 16)]
Sum = Annotated[bytes, Size(16, 16)]


@message("book-ask", 1)
@dataclass(frozen=True, slots=True)
class BookAsk:
    """Offers of ``pipeline`` by sellers whose id comes after ``after``, in that order; at most ``most``."""

    pipeline: Name
    after: WirePeer | None
    most: Annotated[int, Range(1, PAGE)]


@message("book-page", 1)
@dataclass(frozen=True, slots=True)
class BookPage:
    """Envelopes as they were gossiped. A page shorter than asked for is the last."""

    offers: Annotated[tuple[Signed, ...], Size(0, PAGE)]


@dataclass(frozen=True, slots=True)
class Span:
    """The sellers whose ids come after ``after`` and not after ``until``; nil is the one end and the other."""

    after: WirePeer | None
    until: WirePeer | None


@message("book-ask", 2)
@dataclass(frozen=True, slots=True)
class SpanAsk:
    """Offers of ``pipeline`` by the sellers of a span, by their ids, as many as one page holds."""

    pipeline: Name
    span: Span


@message("book-page", 2)
@dataclass(frozen=True, slots=True)
class Page:
    """Envelopes as they were gossiped. ``last``: there are more, and they come after this seller; nil: that was all."""

    offers: Annotated[tuple[Signed, ...], Size(0, MAX_PAGE)]
    last: WirePeer | None


@message("book-want", 1)
@dataclass(frozen=True, slots=True)
class Want:
    """The offers of these sellers, by their ids, as many as one page holds."""

    pipeline: Name
    sellers: Annotated[tuple[WirePeer, ...], Size(1, MAX_WANTED)]


@message("book-sums-ask", 1)
@dataclass(frozen=True, slots=True)
class SumsAsk:
    """Say what you hold in each of these spans; one pipeline in a stream, and first of all the whole."""

    pipeline: Name
    spans: Annotated[tuple[Span, ...], Size(1, MAX_SPANS)]


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a span, from where the part before it ends: how many offers, and the sum over them."""

    until: WirePeer | None
    offers: U32
    sum: Sum


@dataclass(frozen=True, slots=True)
class Item:
    """One offer: its seller, and the salted digest of its payload."""

    seller: WirePeer
    digest: Sum


@dataclass(frozen=True, slots=True)
class Described:
    """A span of many offers in parts, or each offer of a span of few."""

    parts: Annotated[tuple[Part, ...], Size(0, PARTS)]
    items: Annotated[tuple[Item, ...], Size(0, MAX_ITEMS)]


@message("book-sums", 1)
@dataclass(frozen=True, slots=True)
class Sums:
    """What the answerer holds, span by span in the order of the ask. ``salt`` is its own, one for a stream."""

    salt: Salt
    spans: Annotated[tuple[Described, ...], Size(1, MAX_SPANS)]
