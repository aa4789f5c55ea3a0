"""Golden bytes of the job stream: a change of layout is a new version, never another meaning of this one."""

from __future__ import annotations

import contextlib
import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market import jobwire as wire
from market import protocol
from p2p.codec import decode, encode, registered, wire_name
from p2p.errors import MalformedMessage, UnknownMessage
from tests.support.session_world import JOB, RECEIPT, award, ref, seal_made

GOLDEN = Path(__file__).parent / "vectors" / "jobwire-v1.json"
MADE = seal_made(award(), 1600, 1000)
ONE_OF_EACH: tuple[Any, ...] = (
    award(slices=2, inputs=(ref("in"),), reservation=b"\x05" * 8),
    wire.Acceptance(JOB, 1, 100, b"params", (wire.BlobHave(ref("in").blob, b"\x07"),)),
    wire.JobRefusal(JOB, 1, wire.UNFUNDED, 5, 2**70, "deposit more", b"params"),
    wire.Tickets(JOB, 1, b"\x01" * 32, b"payment"),
    wire.TicketsVerdict(JOB, 1, b"\x01" * 32, b"verdict", 7, b"params"),
    wire.Start(JOB, 1),
    wire.Progress(JOB, 1, 3, 4, 900),
    wire.Preview(JOB, 1, 3, "image/png", b"px"),
    wire.SliceOutput(JOB, 1, 0, ref("s0"), 800),
    wire.Due(JOB, 1, 1, 800, b"params"),
    wire.Commitment(JOB, 1, (wire.SealedArtifact("image/png", ref("a"), ref("b")),), 1560, 1000, b"params"),
    wire.SealKey(JOB, 1, b"k" * 32),
    wire.Seal(JOB, 1, MADE.commitment, MADE.key, RECEIPT),
    wire.Delivery(JOB, 1, None, RECEIPT),
    wire.Cancellation(JOB, 1, wire.CANCELLED),
    wire.Resume(JOB, 1, 2, (wire.BlobHave(ref("b").blob, b"\x01"),)),
    wire.Failure(JOB, 1, wire.FAILED, "lost"),
    wire.Closure(JOB, 1, wire.DONE, 3),
)


@pytest.mark.parametrize("said", ONE_OF_EACH, ids=lambda said: wire_name(type(said))[0])
def test_every_message_keeps_its_bytes(said: Any) -> None:
    kind, version = wire_name(type(said))
    assert encode(said).hex() == json.loads(GOLDEN.read_text())[f"{kind}/{version}"]
    assert decode(encode(said)) == said


def test_the_protocol_page_lists_what_is_said_on_a_job_stream() -> None:
    spoken = {wire_name(cls)[0] for cls in wire.JobMessage.__args__}  # type: ignore[attr-defined]
    assert spoken == set(protocol.JOB_BUYER) | set(protocol.JOB_SELLER)
    assert spoken <= set(protocol.MESSAGES[protocol.JOB])


def test_the_protocol_page_names_only_messages_that_exist() -> None:
    for module in (
        "market.bid",
        "market.quote",
        "market.receipt",
        "market.bidwire",
        "market.bookfeed",
        "market.hello",
        "market.refusal",
        "p2p.blobs",
        "ledger.ticket",
    ):
        import_module(module)
    known = {kind for kind, _ in registered()}
    listed = {kind for kinds in protocol.MESSAGES.values() for kind in kinds}
    assert listed | set(protocol.JOB_SIGNED) | set(protocol.JOB_MONEY) <= known


@given(st.sampled_from(ONE_OF_EACH), st.data())
def test_a_damaged_message_is_refused_or_another_message_but_never_a_crash(said: Any, data: st.DataObject) -> None:
    raw = bytearray(encode(said))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedMessage, UnknownMessage):
        assert encode(decode(bytes(raw))) == bytes(raw)
