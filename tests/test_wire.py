"""The wire is frozen: its page, its table of streams and its kept bytes say what the messages are."""

from __future__ import annotations

import json
from typing import Any, get_args

import pytest

from market import jobwire, protocol
from p2p.codec import decode, encode, registered
from p2p.stream import JOB_FRAME
from tests.support.wire_page import PAGE, rendered
from tests.support.wire_values import GOLDEN, everything, example, kept, name_of

EVERYTHING = everything()
GOLDEN_NAMES = frozenset(json.loads(GOLDEN.read_text()))
STREAMED = {kind for kinds in protocol.MESSAGES.values() for kind in kinds} | set(protocol.GOSSIP)
INSIDE = {*protocol.SIGNED, *protocol.JOB_MONEY, *protocol.DIGESTED, *protocol.INPUTS, *protocol.TRANSFERS}
AT_HOME = {*protocol.WORKER, *protocol.DOOR, *protocol.DISK}


def test_the_table_of_streams_names_every_message_there_is_and_no_other() -> None:
    kinds = {kind for kind, _ in EVERYTHING}
    listed = STREAMED | INSIDE | AT_HOME
    assert kinds - listed == set(), "name it in market/protocol.py"
    assert listed - kinds == set(), "market/protocol.py names what is not there"
    assert not AT_HOME & (STREAMED | INSIDE)
    assert not STREAMED & INSIDE


def test_the_job_stream_carries_what_both_machines_speak() -> None:
    for kinds, union in ((protocol.JOB_BUYER, jobwire.FromGateway), (protocol.JOB_SELLER, jobwire.FromOrchestrator)):
        assert set(kinds) == {name_of(cls).partition("/")[0] for cls in get_args(union)}
    assert protocol.STREAMS[protocol.JOB] == JOB_FRAME


def test_the_page_says_what_the_messages_are() -> None:
    text = PAGE.read_text()
    assert rendered(text) == text, "run python -m tests.support.wire_page"
    for kind, version in EVERYTHING:
        assert f"`{kind}` version {version}." in text
    for name, limit in protocol.STREAMS.items():
        assert f"| `{name}` |" in text
        assert f"{limit:,}".replace(",", " ") in text
    for name in (protocol.MESHSUB, protocol.KAD, protocol.offers_topic("NETWORK", "PIPELINE")):
        assert f"`{name}`" in text


def test_bytes_are_kept_of_every_version_of_every_message() -> None:
    missing = {f"{kind}/{version}" for kind, version in EVERYTHING} - set(kept())
    assert missing == set(), "run python -m tests.support.wire_values"


@pytest.mark.parametrize("name", sorted(kept()))
def test_kept_bytes_are_still_that_message(name: str) -> None:
    kind, _, version = name.partition("/")
    data = bytes.fromhex(kept()[name])
    value = decode(data, limit=2**24)
    assert type(value) is registered()[kind, int(version)]
    assert encode(value) == data


@pytest.mark.parametrize("cls", EVERYTHING.values(), ids=name_of)
def test_the_same_value_has_the_same_bytes(cls: type) -> None:
    value: Any = example(cls)
    assert decode(encode(value), limit=2**24) == value
    if name_of(cls) in GOLDEN_NAMES:
        assert encode(value).hex() == kept()[name_of(cls)]
