"""What a gateway checks before it calls a result delivered: every lie in a receipt, every file that is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from benchmarks.noop_worker import blank
from compute.spec import Artifact
from market import jobwire as wire
from market.opening import check_receipt, unsealed
from market.sealing import WrongKey
from p2p.errors import PeerFault
from tests.support.hostile import SPEC, HostileSeller
from tests.support.market_values import NETWORK, SETTLEMENT, Key

LIAR = 9


@pytest.mark.parametrize(
    "lie",
    [
        *({"price": 1}, {"attempt": 2}, {"job_id": b"x" * 32}, {"seed": 8}, {"steps": 5}, {"model": b"x" * 32}),
        *({"network": "main"}, {"settlement": replace(SETTLEMENT, chain_id=1)}, {"quote": b"x" * 32}),
        *({"gateway": Key(77).peer}, {"gateway": Key(77).peer, "sender": Key(77).address}, {"sender": b"x" * 20}),
        *({"spec": b"x" * 32}, {"trace_root": None}, {"orchestrator": Key(77).peer}),
    ],
    ids=lambda lie: "+".join(lie),
)
def test_every_lie_in_a_receipt_is_seen(lie: dict[str, Any]) -> None:
    liar, buyer = HostileSeller(None, Key(LIAR), None, None), Key(1).peer  # type: ignore[arg-type]
    award, data = liar.sold_to(buyer), blank(64, 64)
    files = [Artifact("image/png", data)]
    known = {"network": NETWORK, "gateway": buyer, "seller": liar.key.peer, "price": award.price}
    check_receipt(liar.receipt(award, [data], buyer), files, award, **known)  # type: ignore[arg-type]
    with pytest.raises(PeerFault):
        check_receipt(liar.receipt(award, [data], buyer, **lie), files, award, **known)  # type: ignore[arg-type]
    for wrong in ([b"another file"], [data, data]):
        with pytest.raises(PeerFault):
            check_receipt(liar.receipt(award, wrong, buyer), files, award, **known)  # type: ignore[arg-type]


def test_files_that_are_not_what_was_committed_or_asked() -> None:
    liar = HostileSeller(None, Key(LIAR), None, None)  # type: ignore[arg-type]
    award = liar.sold_to(Key(1).peer)

    def opened(data: bytes = blank(64, 64), secret: bytes = b"k" * 32, **changes: Any) -> tuple[Artifact, ...]:
        artifacts, ciphers = liar.sealed(award, data)
        bound = liar.commitment(award, [replace(artifacts[0], **changes)])
        return unsealed(bound, liar.secret(award, secret), ciphers, SPEC, liar.key.peer)

    assert opened()[0].data == blank(64, 64)
    for lie in ({"data": blank(64, 128)}, {"data": b"GIF89a" * 20}, {"data": b""}, {"secret": b"?" * 32}):
        with pytest.raises(WrongKey):
            opened(**lie)  # type: ignore[arg-type]
    with pytest.raises(WrongKey):
        opened(plain=wire.BlobRef(b"d" * 32, 64))
    artifacts, ciphers = liar.sealed(award)
    bound, key = liar.commitment(award, artifacts), liar.secret(award)
    for wrong in ([], [b""], [ciphers[0][:-1]], [ciphers[0] * 2]):
        with pytest.raises(WrongKey):
            unsealed(bound, key, wrong, SPEC, liar.key.peer)
