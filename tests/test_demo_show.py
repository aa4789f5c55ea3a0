"""What the demo counts and says, from lines as its nodes log them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.bidwire import BidTaken, JobNews, News
from market.demo_show import Show, half_blocks, job_words, save_picture, summary_lines
from market.demo_stage import free_port_pair
from market.demo_tally import Tally, counted

READY = {"address": "0xA", "peer_id": "16Uiu2HAmSELLER"}
GWEI = 10**9


def ready_tally() -> Tally:
    tally = Tally()
    tally.seller_ready("orchestrator-1", READY)
    return tally


def credited(tickets: int, wei: int) -> dict[str, object]:
    return {"event": "tickets credited", "tickets": tickets, "credited": wei}


def test_a_peer_that_two_nodes_found_is_one_peer() -> None:
    tally = ready_tally()
    line = {"event": "peer found", "peer": "16Uiu2HAmGATEWAY", "kind": "gateway"}
    assert tally.note("orchestrator-1", line) == "found gateway …mGATEWAY over the DHT"
    tally.note("orchestrator-2", line)
    tally.note("gateway", {"event": "peer found", "peer": "16Uiu2HAmSELLER", "kind": "orchestrator"})
    assert tally.as_dict()["peers_found_by_dht"] == 2


def test_offers_are_the_most_that_the_gateway_held() -> None:
    tally = Tally()
    told = [tally.note("gateway", {"event": "offers known", "offers": n}) for n in (1, 2, 1, 2)]
    assert [bool(words) for words in told] == [True, True, False, False]
    tally.note("bootstrap", {"event": "offers known", "offers": 9})
    assert tally.offers == 2


def test_quotes_are_counted_for_their_seller_by_the_gateway_alone() -> None:
    tally = ready_tally()
    tally.note("gateway", {"event": "quoted", "seller": READY["peer_id"], "price": 5})
    tally.note("gateway", {"event": "quoted", "seller": "somebody else", "price": 6})
    tally.note("orchestrator-1", {"event": "quoted", "seller": READY["peer_id"], "price": 5})
    assert (tally.quotes, tally.sellers["orchestrator-1"].quoted) == (2, 1)


def test_wins_are_told_with_the_payment_that_they_came_in() -> None:
    tally = ready_tally()
    for _ in range(2):
        assert tally.note("orchestrator-1", {"event": "ticket won", "face_wei": 4 * GWEI}) == ""
    told = tally.note("orchestrator-1", credited(15, 15 * GWEI))
    assert told == "15 tickets credited, worth 15 gwei; 2 won 4 gwei each"
    assert tally.note("orchestrator-1", credited(1, GWEI)) == "1 ticket credited, worth 1 gwei"
    assert (tally.won, tally.tickets, tally.sellers["orchestrator-1"].credit_wei) == (2, 16, 16 * GWEI)


def test_redemptions_and_closed_sales_are_counted() -> None:
    tally = ready_tally()
    paid = {"event": "tickets redeemed", "tickets": 3, "earned_wei": 12 * GWEI, "cost_wei": 665_000}
    assert tally.note("orchestrator-1", paid) == "3 tickets redeemed on chain: 12 gwei earned, gas 0.000665 gwei"
    for code in ("DONE", "CANCELLED"):
        tally.note("orchestrator-1", {"event": "sale closed", "code": code})
    assert tally.as_dict()["redeemed_wei"] == 12 * GWEI
    assert tally.as_dict()["orchestrators"] == {"0xA": {"quoted": 0, "jobs": 1, "credit_wei": 0}}


def test_a_ticket_that_wins_for_sure_is_told_and_kept() -> None:
    tally = ready_tally()
    assert "p = 1" in tally.note("orchestrator-1", {"event": "tickets sure to win"})
    assert any("p = 1" in line for line in summary_lines(report_of(tally), tally))


@given(
    st.dictionaries(
        st.sampled_from(["event", "peer", "offers", "seller", "tickets", "credited", "earned_wei", "face_wei", "code"]),
        st.one_of(
            st.sampled_from(["peer found", "offers known", "quoted", "tickets credited", "ticket won", "sale closed"]),
            st.integers(-5, 5),
            st.none(),
            st.text(max_size=5),
            st.lists(st.integers(), max_size=2),
        ),
    )
)
def test_no_line_can_upset_the_count(line: dict[str, object]) -> None:
    tally = ready_tally()
    for who in ("gateway", "orchestrator-1", "nobody"):
        assert isinstance(tally.note(who, line), str)
    json.dumps(tally.as_dict())


def report_of(tally: Tally, first: float | None = 12.34) -> dict[str, object]:
    seconds = {"start": 9.87, "first_image": first, "total": 20.0}
    return {**tally.as_dict(), "jobs": 3, "delivered": 3, "images": ["a.png"], "paid_wei": 0, "seconds": seconds}


def test_the_summary_says_when_there_was_no_picture() -> None:
    lines = summary_lines(report_of(Tally(), None), Tally())
    assert lines[-1] == "time       market up after 9.9 s, first picture after never, all done after 20.0 s"
    assert lines[0] == "picture    a.png"


def test_news_has_words_or_a_bar() -> None:
    said = {event: job_words(JobNews(bytes(32), event, wei=5, step=1), str, "peer") for event in News}
    assert {event for event, words in said.items() if not words} == {News.STEP, News.PAID, News.AUCTION}
    assert job_words(BidTaken(bytes(32), 7, True, 1000), str, "").endswith("7 wei, twice the cheapest offer")
    assert job_words(BidTaken(bytes(32), 7, False, 1000), str, "").endswith("7 wei")


def test_elsewhere_than_on_a_terminal_a_line_for_each_half() -> None:
    out = io.StringIO()
    show = Show(out)
    for step in range(1, 21):
        show.step("job 1", step, 20)
    show.end()
    assert [line.split("job 1")[1].strip() for line in out.getvalue().splitlines()] == [
        f"step {n} of 20" for n in (10, 20)
    ]


def test_a_picture_is_saved_under_what_was_asked_for(tmp_path: Path) -> None:
    path = save_picture(tmp_path, 2, "Sun/../set: over_the sea!" + "x" * 200, b"data")
    assert path.parent == tmp_path
    assert path.name.startswith("2-sun-set-over-the-sea-xxx")
    assert len(path.name) < 64
    assert path.read_bytes() == b"data"


def test_pictures_become_text() -> None:
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    picture = image.new("RGB", (8, 8), (255, 0, 0))
    picture.paste((0, 0, 255), (0, 4, 8, 8))
    picture.save(out, "PNG")
    drawn = half_blocks(out.getvalue(), 8)
    assert drawn is not None
    assert drawn.plain.split() == ["▀" * 8] * 4
    styles = [str(span.style) for span in drawn.spans]
    assert styles[0] == "rgb(255,0,0) on rgb(255,0,0)"
    assert styles[-1] == "rgb(0,0,255) on rgb(0,0,255)"
    assert half_blocks(b"no picture") is None


def test_a_pair_of_ports_is_a_pair() -> None:
    assert 0 < free_port_pair() < 65535


def test_counts_read_well() -> None:
    assert (counted(1, "job"), counted(2, "job"), counted(0, "job")) == ("1 job", "2 jobs", "0 jobs")
