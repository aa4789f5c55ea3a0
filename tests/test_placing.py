"""Without the operator's number: jobs of one kind share what the machine gained, and nobody's promise is outgrown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from benchmarks.noop_worker import MODEL, NoopWorker
from compute.messages import Calibrated, Ready
from compute.spec import AUDIO_TO_TEXT, TEXT_TO_IMAGE, JobShape
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker
from market.placing import Placing

GAINS = (100, 158, 209, 224)
WORTH = 4  # eight do less than a tenth more than four


def shape(side: int = 64, *, guided: bool = True, steps: int = 4) -> JobShape:
    return JobShape(TEXT_TO_IMAGE, MODEL, side, side, steps, guided)


SOUND = JobShape(AUDIO_TO_TEXT, MODEL, 0, 0, 1, False, length=1000)
KINDS = (shape(), shape(steps=9), shape(guided=False), shape(96), SOUND)


def measured(gains: tuple[int, ...] | None = GAINS) -> Worker:
    """The node's end of a worker that told what it measured; a process is not needed for that."""
    worker = Worker(WorkerConfig(Path("nowhere"), ()))
    worker._hear(Ready(1, "cpu", NoopWorker(slots=16).capability()))
    if gains is not None:
        worker._hear(Calibrated(MODEL, gains))
    return worker


@pytest.mark.parametrize(("gains", "offered"), [(None, 1), ((100,), 1), ((100, 109), 1), (GAINS, WORTH)])
def test_as_many_are_on_offer_as_pay(gains: tuple[int, ...] | None, offered: int) -> None:
    placing = Placing(measured(gains), None)
    assert placing.offered(TEXT_TO_IMAGE) == placing.free(TEXT_TO_IMAGE, []) == offered
    assert placing.offered("nothing of the kind") == 1


def test_the_operator_s_number_wins_up_to_what_the_machine_has() -> None:
    for asked, offered in ((1, 1), (2, 2), (7, 7), (99, 16)):
        placing = Placing(measured(), asked)
        assert placing.offered(TEXT_TO_IMAGE) == offered
        assert placing.places(shape(), [shape(96)], []).free == offered - 1
        assert placing.free(TEXT_TO_IMAGE, [shape(96)]) == offered - 1


def test_a_promise_counts_with_every_place_of_its_kind_taken() -> None:
    worker = measured()
    placing = Placing(worker, None)
    alone = worker.capability().predict_ms(shape(steps=100))
    assert placing.places(shape(steps=100), [], []).run_ms == -(-alone * WORTH * 100 // GAINS[2])
    assert Placing(worker, 1).places(shape(steps=100), [], []).run_ms == alone
    large = shape(128, steps=100)  # four times the pixels: two of them are as much as eight
    assert placing.places(large, [], []).run_ms == -(-worker.capability().predict_ms(large) * 2 * 100 // GAINS[1])


def test_another_kind_waits_until_the_device_is_free() -> None:
    placing = Placing(measured(), None)
    assert placing.places(shape(), [shape(steps=9)] * 3, []).free == 1
    for taken in ([shape(96)], [shape(guided=False)], [SOUND], [shape(), shape(96)]):
        assert placing.places(shape(), taken, []).free == 0
    assert placing.free(TEXT_TO_IMAGE, [shape()] * 3) == 1
    assert placing.free(TEXT_TO_IMAGE, [SOUND]) == 0
    assert placing.free(AUDIO_TO_TEXT, [shape()]) == 0


def test_a_place_that_is_held_is_its_holder_s() -> None:
    placing = Placing(measured(), None)
    mine = placing.places(shape(), [], [shape()])
    assert mine.free == WORTH  # who holds one of them takes it; the others come behind the holds
    others = placing.places(shape(96), [], [shape()])
    assert others.free == 1  # and that one is held


class Places(RuleBasedStateMachine):
    """Quotes with a place are given, run out or are taken, others are taken without one, jobs end."""

    def __init__(self) -> None:
        super().__init__()
        self.worker = measured()
        self.placing = Placing(self.worker, None)
        self.work: list[JobShape] = []
        self.held: list[JobShape] = []

    @rule(kind=st.sampled_from(KINDS))
    def hold(self, kind: JobShape) -> None:
        if self.placing.places(kind, self.work, self.held).free > len(self.held):
            self.held.append(kind)

    @precondition(lambda self: self.held)
    @rule(taken=st.booleans())
    def end_hold(self, taken: bool) -> None:
        kind = self.held.pop(0)
        if taken:
            assert self.placing.places(kind, self.work, [kind, *self.held]).free > 0
            self.work.append(kind)

    @rule(kind=st.sampled_from(KINDS))
    def take(self, kind: JobShape) -> None:
        if self.placing.places(kind, self.work, self.held).free > len(self.held):
            self.work.append(kind)

    @precondition(lambda self: self.work)
    @rule(which=st.integers(0, 99))
    def finish(self, which: int) -> None:
        del self.work[which % len(self.work)]

    @invariant()
    def nobody_has_more_company_than_was_promised(self) -> None:
        taken = self.work + self.held
        for kind in taken:
            assert len(taken) <= self.worker.places(kind, ())
        assert len({(one.width, one.guided) for one in taken}) <= 1


TestPlaces = Places.TestCase
TestPlaces.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
