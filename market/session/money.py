"""The arithmetic of one attempt's money: reservation, lateness, slices, the cost of a cancel, names of payments.

Integers only, rounded up, for the seller. Pure; knows no state of a session.
"""

from __future__ import annotations

from p2p.peer import keccak256

RESERVATION_PART = 16  # the reservation is worth a sixteenth of the price
MAX_SLICES = 16

_PAYMENT = b"pasar/payment-id/1\0"


def payment_id(job_id: bytes, attempt: int, ordinal: int) -> bytes:
    """The name of an attempt's payment: 0 goes with the award, the others count up."""
    return keccak256(_PAYMENT + job_id + attempt.to_bytes(4, "big") + ordinal.to_bytes(4, "big"))


def reservation(price: int) -> int:
    """What a seller asks to see before it starts on value that is paid at the end."""
    return -(-price // RESERVATION_PART)


def late_price(price: int, late_rate: int, late_ms: int) -> int:
    """What is left of ``price``: ``late_rate`` less for every full late second, never below nothing."""
    return max(0, price - late_rate * (max(0, late_ms) // 1000))


def slices_for(price: int, exposure: int) -> int:
    """In how many slices a streamed job is paid when one side lets ``exposure`` stand: at most 16, at least 1."""
    if price <= 0:
        return 1
    return min(MAX_SLICES, -(-price // exposure)) if exposure > 0 else MAX_SLICES


def slice_total(price: int, slices: int, worked: int) -> int:
    """What the first ``worked`` of ``slices`` slices cost together: the price itself for all of them."""
    return -(-price * worked // slices)


def first_due(price: int, slices: int) -> int:
    """What must be covered before any work: the reservation, or the first slice."""
    return slice_total(price, slices, 1) if slices else reservation(price)


def cancel_cost(price: int, step: int, steps: int) -> int:
    """What a cancel after the start costs: the share of the work that is done, at most the reservation."""
    done = -(-price * step // steps) if steps else 0
    return min(done, reservation(price))
