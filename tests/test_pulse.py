"""When to ask, when to give up: properties of the pulse, of redials and of the standing of our own ports."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2p.peer import PeerId, peer_of
from p2p.pulse import BEAT, DRIFT, HASTE, MISSES, PATIENCE, STALL, UNASKED, Clocks, Pulse, Step
from p2p.redial import FIRST, LONGEST, STEADY, Redials
from p2p.standing import LIFE, MOST, Reach, Standing
from p2p.transport import PeerAddrs

GONE_WITHIN = 45.0
ticks = st.floats(0.2, 1.5)
chances = st.floats(0.0, 0.999)


def peer(number: int) -> PeerId:
    return peer_of(b"\x02" + number.to_bytes(32, "big"))


def at(number: int, *addrs: str) -> PeerAddrs:
    return PeerAddrs(peer(number), addrs or (f"/ip4/10.0.0.{number % 250}/tcp/4001",))


# -- pulse


@given(st.booleans(), chances, st.lists(ticks, min_size=1, max_size=20), st.integers(0, 200))
def test_a_silent_peer_is_gone_within_45_seconds_and_not_before_two_questions(dialled, chance, steps, answered):
    now, asked_in_vain, alive_at = 0.0, 0, 0.0
    steps = (steps * 300)[:300]
    pulse = Pulse(now, dialled=dialled, chance=chance)
    for number, step in enumerate(steps):
        now += step
        what = pulse.look(now)
        if what is Step.ASK and number < answered:
            pulse.answered(now)
            alive_at, asked_in_vain = now, 0
        elif what is Step.ASK:
            asked_in_vain += 1
        elif what is Step.CLOSE:
            break
    else:
        raise AssertionError("it was never closed")
    assert asked_in_vain == MISSES
    assert MISSES * PATIENCE <= now - alive_at <= GONE_WITHIN


@given(
    st.booleans(),
    chances,
    st.lists(st.tuples(ticks, st.floats(0.0, PATIENCE - 0.1), st.booleans()), max_size=30),
)
def test_a_peer_that_answers_in_time_is_never_closed_and_never_unwatched(dialled, chance, steps):
    now, asked, last, due = 0.0, False, 0.0, 0.0
    pulse = Pulse(now, dialled=dialled, chance=chance)
    for step, delay, asks_us in steps * 15:
        now += step
        if asked and now >= due:
            pulse.answered(due)
            asked, last = False, due
        if asks_us and not dialled:
            pulse.heard(now)
            last = now
        what = pulse.look(now)
        assert what is not Step.CLOSE
        if what is Step.ASK:
            asked, due = True, now + delay
        assert now - last <= max(BEAT, UNASKED) + PATIENCE + 2 * 1.5


@given(st.booleans(), chances, st.lists(st.floats(STALL + 0.1, 10_000), min_size=1, max_size=20))
def test_a_silence_during_which_we_did_not_look_closes_nothing(dialled, chance, naps):
    now = 0.0
    pulse = Pulse(now, dialled=dialled, chance=chance)
    for nap in naps:
        now += nap
        assert pulse.look(now) is Step.ASK  # asked at once, and given time for it
        assert pulse.look(now + HASTE - 0.1) is Step.WAIT
        now += HASTE - 0.1


def test_after_a_sleep_one_short_miss_is_enough_and_one_answer_restores_trust():
    pulse = Pulse(0.0, dialled=True)
    assert pulse.look(1.0) is Step.WAIT
    pulse.suspect(1.0)
    assert pulse.look(1.5) is Step.ASK
    assert pulse.patience == HASTE
    assert pulse.look(4.0) is Step.WAIT
    assert pulse.look(6.5) is Step.CLOSE
    other = Pulse(0.0, dialled=True)
    other.suspect(0.0)
    assert other.look(0.5) is Step.ASK
    other.answered(1.0)
    assert other.patience == PATIENCE
    assert other.look(2.0) is Step.WAIT


def test_who_is_asked_need_not_ask_and_a_question_of_its_own_stays_open():
    pulse = Pulse(0.0, dialled=False)
    for now in range(1, 200):
        if now % 15 == 0:
            pulse.heard(now)
        assert pulse.look(now) is Step.WAIT
    for now in range(200, 220):
        if pulse.look(now) is Step.ASK:
            break
    pulse.heard(now)  # it speaks and does not listen: the question is not taken back
    assert pulse.waits
    eager = Pulse(0.0, dialled=True)
    eager.heard(14.9)  # who dialled keeps the NAT between open, whatever the other does
    assert [eager.look(t) for t in (4.0, 8.0, 12.0, 15.0)] == [Step.WAIT, Step.WAIT, Step.WAIT, Step.ASK]


@given(st.floats(-1e6, 1e6), st.floats(0, 1e9), st.floats(-1e6, 1e6).filter(lambda d: abs(abs(d) - DRIFT) > 0.1))
def test_a_clock_that_jumps_is_seen_once(now, wall, drift):
    clocks = Clocks(now, wall)
    assert not clocks.jumped(now + 1, wall + 1)
    assert clocks.jumped(now + 2, wall + 2 + drift) is (abs(drift) > DRIFT)
    assert not clocks.jumped(now + 3, wall + 3 + drift)


# -- redials


@given(st.lists(st.tuples(st.floats(0, 100), chances), min_size=1, max_size=40))
def test_a_peer_that_never_answers_is_dialled_ever_more_seldom_and_for_ever(rounds):
    redials, now, pause = Redials(), 0.0, FIRST
    redials.want(at(1), now)
    assert redials.due(now, (), 5) == (at(1),)
    for later, chance in rounds:
        redials.missed(peer(1), now, chance)
        due = redials.next_due(())
        assert 0.5 * pause - 0.001 <= due - now <= 1.5 * pause + 0.001
        assert redials.due(due - 0.001, (), 5) == ()
        assert redials.due(due, (), 5) == (at(1),)
        redials.want(at(1), now)  # found again at the same place: no reason to hurry
        assert redials.next_due(()) == due
        pause = min(LONGEST, 2 * pause)
        now = due + later


def test_only_a_connection_that_lasted_begins_the_pause_anew():
    redials = Redials()
    redials.want(at(1), 0.0)
    for now in (0.0, 10.0, 20.0):  # it accepts, and hangs up at once
        redials.met(peer(1), now)
        redials.missed(peer(1), now + 1, 0.5)
    assert redials.next_due(()) == 21.0 + 4 * FIRST
    redials.met(peer(1), 30.0)
    redials.missed(peer(1), 30.0 + STEADY, 0.5)
    assert redials.next_due(()) == 30.0 + STEADY + FIRST


def test_new_addresses_and_a_wake_cut_the_pause_short():
    redials = Redials()
    redials.want(at(1), 0.0)
    for _ in range(10):
        redials.missed(peer(1), 0.0, 0.5)
    assert redials.next_due(()) > 30
    moved = at(1, "/ip4/10.9.9.9/tcp/1")
    redials.want(moved, 0.0)
    assert redials.due(FIRST, (), 5) == (moved,)
    redials.missed(peer(1), FIRST, 0.5)
    redials.wake(2.0)
    assert redials.due(2.0, (), 5) == (moved,)
    assert redials.due(2.0, {peer(1)}, 5) == ()
    assert redials.due(2.0, (), 0) == ()


@given(st.lists(st.integers(0, 30), max_size=200), st.sets(st.integers(0, 30), max_size=3))
def test_the_wanted_are_bounded_and_the_connected_stay(order, connected):
    redials = Redials(most=5)
    for number in connected:
        redials.want(at(number), 0.0)
        redials.met(peer(number), 0.0)
    for number in order:
        redials.want(at(number), 1.0)
        assert len(redials) <= 5
    assert all(peer(number) in redials for number in connected)
    redials.forget(peer(99))
    redials.missed(peer(99), 0.0, 0.0)


# -- standing

votes = st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=40)
HERE = "/ip4/1.2.3.4/tcp/4001"


@given(votes)
def test_the_last_votes_of_the_last_peers_decide(cast):
    standing = Standing()
    last: dict[int, bool] = {}
    for number, yes in cast:
        standing.vote(peer(number), (HERE,) if yes else (), 10.0)
        last.pop(number, None)
        last[number] = yes
    counted = list(last.values())[-MOST:]
    if not counted:
        assert standing.reach(10.0) is Reach.UNKNOWN
    else:
        public = 2 * sum(counted) > len(counted)
        assert standing.reach(10.0) is (Reach.PUBLIC if public else Reach.PRIVATE)
        assert standing.addrs(10.0) == ((HERE,) if public else ())
    assert standing.reach(10.0 + LIFE) is Reach.UNKNOWN
    assert standing.addrs(10.0 + LIFE) == ()
    standing.reset()
    assert standing.reach(10.0) is Reach.UNKNOWN


def test_one_liar_of_three_neither_hides_nor_shows_us_and_the_truth_is_named_first():
    other = "/ip4/6.6.6.6/tcp/1"
    for honest, found in (((HERE,), Reach.PUBLIC), ((), Reach.PRIVATE)):
        standing = Standing()
        standing.vote(peer(1), honest, 0.0)
        standing.vote(peer(2), honest, 0.0)
        standing.vote(peer(3), () if honest else (other,), 0.0)
        assert standing.reach(1.0) is found
    standing = Standing()
    for number, addr in ((1, other), (2, HERE), (3, HERE)):
        standing.vote(peer(number), (addr,), 0.0)
    assert standing.addrs(1.0) == (HERE, other)
