"""The log under a flood: so many lines about one peer, so many of one kind, and whatever concerns nobody."""

from __future__ import annotations

import pytest
import structlog

from p2p.loglimit import LINES, LINES_EACH, SUBJECTS, WINDOW, LogLimit


class Log:
    """Says lines, and counts those that come through."""

    def __init__(self) -> None:
        self.now = 0.0
        self.limit = LogLimit(lambda: self.now)
        self.shown: list[dict[str, object]] = []

    def say(self, event: str, method: str = "info", **fields: object) -> bool:
        try:
            self.shown.append(dict(self.limit(None, method, {"event": event, **fields})))
        except structlog.DropEvent:
            return False
        return True


@pytest.mark.parametrize("field", ["peer", "gateway", "seller", "client", "neighbour"])
def test_one_peer_has_its_lines_of_each_kind(field: str) -> None:
    log = Log()
    said = [log.say("stream_fault", **{field: "loud"}) for _ in range(3 * LINES_EACH)]
    assert said == [True] * LINES_EACH + [False] * (2 * LINES_EACH)
    assert "note" in log.shown[-1]
    assert "note" not in log.shown[-2]
    assert log.say("stream_fault", **{field: "quiet"})
    assert log.say("gossip_rejected", **{field: "loud"})
    log.now = WINDOW
    assert log.say("stream_fault", **{field: "loud"})
    assert log.limit.dropped == 2 * LINES_EACH


def test_keys_without_end_have_the_lines_of_their_kind_and_no_more() -> None:
    log = Log()
    assert sum(log.say("peer_shut_out", peer=f"key {n}") for n in range(10_000)) == LINES
    assert len(log.limit._seen) <= SUBJECTS + 1


def test_the_lines_of_jobs_are_shown_however_many_one_peer_has() -> None:
    log = Log()
    assert all(log.say("quoted", seller="busy", job=str(n)) for n in range(10 * LINES_EACH))
    assert sum(log.say("quoted", seller="busy", job=str(n)) for n in range(2 * LINES)) < LINES


def test_errors_of_our_own_are_always_shown() -> None:
    log = Log()
    assert all(log.say("acceptor_failed", "error") for _ in range(3 * LINES))
