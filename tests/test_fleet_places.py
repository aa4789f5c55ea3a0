"""How many jobs several devices take together, and that none of them then has more than it promised. No process."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from benchmarks.noop_worker import MODEL, NoopWorker
from compute.batching import worthwhile
from compute.fleet import Fleet
from compute.messages import Calibrated, Ready
from compute.served import Served
from compute.spec import AUDIO_TO_TEXT, TEXT_TO_IMAGE, JobShape
from compute.workerchild import WorkerConfig
from compute.workerlink import Worker
from market.placing import Placing

GAINS = (100, 158, 209, 224)
WORTH = 4  # eight do less than a tenth more than four


def shape(side: int = 64, *, steps: int = 4) -> JobShape:
    return JobShape(TEXT_TO_IMAGE, MODEL, side, side, steps, True)


SMALL, LARGE = shape(), shape(96)


class Device(Worker):
    """The node's end of a worker that told what it measured; what lies there, the test says."""

    def __init__(self, gains: tuple[int, ...] = GAINS) -> None:
        super().__init__(WorkerConfig(Path("nowhere"), ()))
        self._hear(Ready(1, "cpu", NoopWorker(slots=16).capability()))
        self._hear(Calibrated(MODEL, gains))
        self.lying: list[JobShape] = []

    @property
    def shapes(self) -> tuple[JobShape, ...]:
        return tuple(self.lying)


def fleet_of(*devices: Device, each: int | None = None) -> Fleet:
    machine = Fleet((), lambda: Served((), frozenset()), each)
    machine._local = list(devices)
    return machine


def test_places_of_several_devices_are_those_of_each() -> None:
    machine = fleet_of(Device(), Device(), Device((100,)))
    assert machine.places(SMALL, ()) == 2 * WORTH + 1
    assert Placing(machine, None).offered(TEXT_TO_IMAGE) == 2 * WORTH + 1
    assert Placing(fleet_of(Device(), Device(), each=2), 1024).offered(TEXT_TO_IMAGE) == 4
    assert fleet_of(Device(), each=99).slots == 16
    assert (fleet_of().capability().models, fleet_of().places(SMALL, ())) == ((), 0)
    with pytest.raises(ValueError, match="no such model"):
        fleet_of().crowded_ms(SMALL, 1)


def test_a_promise_counts_with_every_place_of_every_device_taken() -> None:
    device = Device()
    for each, total, most in ((None, 2 * WORTH, WORTH), (2, 4, 2), (1, 2, 1)):
        machine = fleet_of(Device(), Device(), each=each)
        assert machine.places(SMALL, ()) == total
        assert machine.crowded_ms(SMALL, total) == device.crowded_ms(SMALL, most)
        assert machine.crowded_ms(SMALL, 1) == device.crowded_ms(SMALL, 1)


def test_another_kind_goes_to_a_device_that_is_free_and_not_beside_the_first() -> None:
    one, two = Device(), Device()
    machine = fleet_of(one, two)
    one.lying = [SMALL]
    assert machine.places(SMALL, [SMALL]) == 2 * WORTH - 1
    held = [SMALL, LARGE]  # the second has its place on the other device, as long as it is held
    assert machine.places(SMALL, held) == WORTH - 1
    assert machine.places(LARGE, held) == worthwhile(one._gains_for(LARGE)) - 1
    sound = JobShape(AUDIO_TO_TEXT, MODEL, 0, 0, 1, False, length=1000)
    assert machine.places(sound, held) == 0


class Places(RuleBasedStateMachine):
    """Jobs come while there are places, go where they are put, and end in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.devices = [Device(), Device((100, 150)), Device()]
        self.machine = fleet_of(*self.devices)

    @property
    def taken(self) -> list[JobShape]:
        return [one for device in self.devices for one in device.lying]

    @rule(one=st.sampled_from([SMALL, LARGE, shape(steps=9), shape(128)]))
    def come(self, one: JobShape) -> None:
        if self.machine.places(one, self.taken) > 0:
            worker = self.machine._chosen(one, None)
            assert isinstance(worker, Device)
            worker.lying.append(one)

    @precondition(lambda self: bool(self.taken))
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        device = data.draw(st.sampled_from([device for device in self.devices if device.lying]))
        device.lying.pop(data.draw(st.integers(0, len(device.lying) - 1)))

    @invariant()
    def no_device_has_more_than_was_promised(self) -> None:
        for device in self.devices:
            kinds = {(one.width, one.guided) for one in device.lying}
            assert len(kinds) <= 1
            for one in device.lying:
                assert len(device.lying) <= device.places(one, ())


TestPlaces = Places.TestCase
TestPlaces.settings = settings(max_examples=60, stateful_step_count=30)
