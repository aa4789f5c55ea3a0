"""Wei, prices per million units, and the settlement that an amount belongs to.

Money is ``int`` wei everywhere; there is no float here. The one rounding rule, up and for the seller, lives in
``price_for``. Knows no job and no chain; a settlement is only a name here.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated

from p2p.codec import U64, Range
from p2p.errors import Misconfigured
from p2p.peer import WireAddress, address_text

GWEI = 10**9
ETH = 10**18
MILLION = 10**6
MAX_WEI = 2**128 - 1  # a bound for amounts on the wire: far above all ether that will ever be

Amount = Annotated[int, Range(0, MAX_WEI)]


@dataclass(frozen=True, slots=True)
class Settlement:
    """Where tickets are redeemed: one broker contract on one chain. Amounts of two settlements never mix."""

    chain_id: U64
    broker: WireAddress

    def __str__(self) -> str:
        return f"{self.chain_id}:{address_text(self.broker)}"


def price_for(units: int, per_million: int) -> int:
    """Wei for ``units`` at ``per_million`` wei per million units."""
    return scaled(per_million, units, MILLION)


def scaled(wei: int, share: int, whole: int) -> int:
    """``wei`` x share / whole, rounded up, for the seller: the one rounding rule of the market."""
    return -(-wei * share // whole)


def parse_wei(text: str) -> int:
    """``1000``, ``500gwei`` or ``0.001eth`` in wei. Raises Misconfigured, also for a fraction of a wei."""
    body = text.strip().lower()
    unit = next((u for u in ("gwei", "wei", "eth") if body.endswith(u)), "")
    scale = {"gwei": GWEI, "eth": ETH}.get(unit, 1)
    number = body.removesuffix(unit).strip()
    try:
        amount = Decimal(number) * scale if len(number) <= 60 else Decimal("nan")
    except InvalidOperation as exc:
        raise Misconfigured(f"{text!r} is no amount: write 1000, 500gwei or 0.001eth") from exc
    if not amount.is_finite() or amount != amount.to_integral_value() or not 0 <= amount <= MAX_WEI:
        raise Misconfigured(f"{text!r} is no whole amount of wei: write 1000, 500gwei or 0.001eth")
    return int(amount)


def wei_text(wei: int) -> str:
    """An amount as people read it: wei below a thousand gwei, then gwei, then ETH; never rounded to nothing."""
    if wei < 10**5:
        return f"{wei} wei"
    if wei < 10**15:
        return f"{_decimal(wei, GWEI)} gwei"
    return f"{_decimal(wei, ETH)} ETH"


def _decimal(wei: int, unit: int) -> str:
    text = f"{Decimal(wei) / unit:.6f}".rstrip("0").rstrip(".")
    return text if text != "0" else f"{Decimal(wei) / unit:.18f}".rstrip("0")
