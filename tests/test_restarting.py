"""The supervisor's rule: stories of nodes that die, hang and are told to stop, and what holds whatever happens."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from market.restarting import (
    Abort,
    Beaten,
    Command,
    Died,
    End,
    Event,
    Hopeless,
    Kill,
    Ordered,
    Readied,
    Restarting,
    Rule,
    Start,
    State,
    Stop,
    Ticked,
    Wait,
)

RULE = Rule()
LOOK_S = 1.0


class Story:
    """A machine and its clock; looks at it as often as the supervisor does."""

    def __init__(self, rule: Rule = RULE) -> None:
        self.now = 1000.0
        self.machine = Restarting(rule, self.now)
        assert self.tell(Ticked()) == [Start()]

    def tell(self, event: Event) -> list[Command]:
        return self.machine.handle(event, self.now)

    def sleep(self, seconds: float, *, beating: bool = False) -> list[Command]:
        """Let time pass; what came of it."""
        done: list[Command] = []
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + LOOK_S)
            done += self.tell(Beaten()) if beating else []
            done += self.tell(Ticked())
        return done

    def serve(self, seconds: float = 0.0) -> None:
        """The node comes up and serves for a while."""
        assert self.tell(Beaten()) == []
        assert self.tell(Readied()) == []
        assert self.sleep(seconds, beating=True) == []


@pytest.fixture
def story() -> Story:
    return Story()


def test_a_node_that_dies_is_started_again_at_once(story: Story) -> None:
    story.serve(3)
    assert story.tell(Died(-9)) == [Wait("was killed by signal 9", 0.0), Start()]
    assert story.machine.was_ready
    assert story.machine.state is State.STARTING


def test_one_that_dies_again_and_again_is_waited_for_longer_and_longer(story: Story) -> None:
    story.serve()
    pauses = []
    for _ in range(len(RULE.pauses_s) + 2):
        waits = [command for command in story.tell(Died(1)) if isinstance(command, Wait)]
        pauses += [wait.pause_s for wait in waits]
        started = story.machine.state is State.STARTING or story.sleep(pauses[-1]) == [Start()]
        assert started
        story.serve(RULE.steady_s / 2)
    assert pauses == [*RULE.pauses_s, RULE.pauses_s[-1], RULE.pauses_s[-1]]


def test_a_steady_life_clears_the_record(story: Story) -> None:
    for _ in range(20):
        story.serve(RULE.steady_s)
        assert story.tell(Died(1)) == [Wait("ended with exit code 1", 0.0), Start()]


def test_one_that_was_never_ready_is_given_up_with_its_own_exit_code(story: Story) -> None:
    for _ in range(RULE.tries - 1):
        story.tell(Beaten())
        story.tell(Died(1))
        story.sleep(max(RULE.pauses_s))
        assert story.machine.state is State.STARTING
    (end,) = story.tell(Died(-11))
    assert isinstance(end, End)
    assert end.code == 128 + 11
    assert "given up after 5 tries" in end.why


@pytest.mark.parametrize("code", [0, 2])
@pytest.mark.parametrize("served", [False, True])
def test_an_end_on_order_or_by_a_mistake_is_the_end_and_was_explained(story: Story, code: int, served: bool) -> None:
    if served:
        story.serve(100)
    assert story.tell(Died(code)) == [End(code, "")]
    assert story.sleep(1000) == []


def test_a_node_that_says_that_it_is_hopeless_is_believed(story: Story) -> None:
    story.serve(100)
    assert story.tell(Hopeless()) == []
    assert story.tell(Died(4)) == [End(4, "")]


def test_a_silent_node_is_ended_so_that_it_tells_where_it_hung_and_then_killed(story: Story) -> None:
    story.serve(5)
    done = story.sleep(RULE.silence_s + RULE.mercy_s + 2)
    assert [type(command) for command in done] == [Abort, Kill]
    assert story.tell(Died(-9)) == [Wait("was killed by signal 9", 0.0), Start()]


def test_a_node_that_does_not_come_up_is_given_its_time(story: Story) -> None:
    assert story.sleep(RULE.start_s - 1) == []
    assert [type(command) for command in story.sleep(2)] == [Abort]


def test_a_supervisor_that_was_stopped_itself_blames_nobody(story: Story) -> None:
    story.serve(5)
    story.now += 10_000
    assert story.tell(Ticked()) == []
    assert story.sleep(RULE.silence_s - 2) == []
    assert story.tell(Beaten()) == []


def test_an_order_is_passed_on_and_the_exit_code_with_it(story: Story) -> None:
    story.serve(5)
    assert story.tell(Ordered()) == [Stop(listens=True)]
    assert story.sleep(60, beating=True) == []
    assert story.tell(Died(0)) == [End(0, "")]


def test_a_second_order_is_passed_on_too_and_leaves_less_time(story: Story) -> None:
    story.serve(5)
    story.tell(Ordered())
    assert story.tell(Ordered()) == [Stop(listens=True)]
    done = story.sleep(RULE.hurry_s + 1, beating=True)
    assert [type(command) for command in done] == [Kill]
    assert story.tell(Died(-9)) == [End(137, "")]


def test_a_drain_that_never_ends_is_ended(story: Story) -> None:
    story.serve(5)
    story.tell(Ordered())
    done = story.sleep(RULE.drain_s + 1, beating=True)
    assert [type(command) for command in done] == [Kill]


def test_an_order_to_a_node_that_is_not_up_is_a_signal(story: Story) -> None:
    assert story.tell(Ordered()) == [Stop(listens=False)]
    assert story.tell(Died(-15)) == [End(143, "")]


def test_an_order_between_two_nodes_is_the_end(story: Story) -> None:
    story.serve()
    story.tell(Died(1))
    assert isinstance(story.tell(Died(1))[0], Wait)
    assert story.tell(Ordered()) == [End(0, "")]


events = st.one_of(
    st.sampled_from([Beaten(), Readied(), Hopeless(), Ordered(), Ticked()]),
    st.builds(Died, st.sampled_from([0, 1, 2, 4, -9, -11])),
)
passages = st.lists(st.tuples(events, st.floats(0, 50)), max_size=60)


def replay(passage: list[tuple[Event, float]]) -> Iterator[tuple[Event, Command | None, Restarting]]:
    """A death comes only while there is a node, as the system would have it."""
    now = 0.0
    machine, alive = Restarting(RULE, now), False
    for event, pause in [(Ticked(), 0.0), *passage]:
        if isinstance(event, Died):
            if not alive:
                continue
            alive = False
        for command in machine.handle(event, now):
            alive = alive or isinstance(command, Start)
            yield event, command, machine
        yield event, None, machine
        now += pause


@given(passages)
def test_there_is_never_more_than_one_node_and_none_after_the_end(passage: list[tuple[Event, float]]) -> None:
    alive, over = 0, False
    dead: Event | None = None
    for event, command, machine in replay(passage):
        if isinstance(event, Died) and event is not dead:
            alive, dead = 0, event
        if command is not None:
            assert not over
        match command:
            case Start():
                alive += 1
            case End():
                over = True
                assert machine.wake_at == math.inf
            case Stop() | Abort() | Kill():
                assert alive == 1
        assert alive <= 1
        assert not (over and alive)
        if command is None:
            dead = None


@given(passages)
def test_after_an_order_no_node_is_started(passage: list[tuple[Event, float]]) -> None:
    ordered = False
    for event, command, machine in replay(passage):
        ordered = ordered or (event == Ordered() and machine.state is not State.OVER) or bool(machine.orders)
        assert not (ordered and isinstance(command, Start))


@given(st.lists(st.floats(0.01, RULE.silence_s - 0.01), min_size=1, max_size=50))
def test_a_node_that_beats_in_time_is_never_ended(pauses: list[float]) -> None:
    story = Story()
    story.serve()
    for pause in pauses:
        assert story.sleep(pause) == []
        assert story.tell(Beaten()) == []


@given(st.lists(st.tuples(st.floats(0.01, 1e6), st.booleans()), min_size=1, max_size=50))
def test_whatever_a_supervisor_sleeps_it_ends_nobody_who_beats_when_it_looks(looks: list[tuple[float, bool]]) -> None:
    """The whole group stops and goes on: who beats whenever both run lives."""
    story = Story()
    story.serve()
    for pause, long in looks:
        story.now += pause if long else min(pause, LOOK_S)
        assert story.tell(Beaten()) == []
        assert story.tell(Ticked()) == []


@given(st.lists(st.sampled_from([1, 4, -9, -6]), min_size=30, max_size=30))
def test_whatever_it_dies_of_a_node_that_served_comes_back_within_a_minute(codes: list[int]) -> None:
    story = Story()
    story.serve()
    for code in codes:
        story.tell(Died(code))
        story.sleep(max(RULE.pauses_s))
        assert story.machine.state is State.STARTING
        story.serve()
