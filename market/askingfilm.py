"""What a film costs to be transcoded, put into a wish: its frames, and the blocks of each.

Shell: measures the caller's own film. Knows no gateway.
"""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256

from compute.filmprobe import FILMS, film_size
from compute.profiles import OPTIONS, Order, blocks_of, canvas_of, read_order
from compute.spec import Input
from market.client import Wish
from p2p.errors import Misconfigured, Refused


def order_of(wish: Wish) -> Order:
    """What the options of a wish ask for. Raises Misconfigured."""
    given = {option.name: option.value for option in wish.options}
    unknown = next((name for name in given if name not in OPTIONS), None)
    if unknown is not None:
        raise Misconfigured(f"set: transcode has no option {unknown!r}; there are {', '.join(OPTIONS)}")
    try:
        return read_order(given.get)
    except Refused as exc:
        raise Misconfigured(f"set: {exc.hint}") from exc


def on_film(wish: Wish, data: bytes, suffix: str) -> Wish:
    """The wish with the price of this film. Raises Misconfigured."""
    if suffix not in FILMS:
        raise Misconfigured(f"file: a film ends in {', '.join(FILMS)}")
    order, size = order_of(wish), film_size(data)
    try:
        width, height = canvas_of(blocks_of(order.ladder, size.width, size.height))
    except Refused as exc:
        raise Misconfigured(f"file: {exc.hint}: {exc.need}, and {exc.have} can be asked for") from exc
    named = Input(FILMS[suffix], len(data), sha256(data).digest())
    return replace(wish, width=width, height=height, length=size.frames, inputs=(named,))
