"""Where a job goes, and what several devices offer together."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from compute.capability import Capability, Dtype, ModelCapability
from compute.placement import Seat, choose, spread, together
from compute.spec import TEXT_TO_IMAGE

ENTRY = ModelCapability(b"m" * 32, "tiny", TEXT_TO_IMAGE, 64, 256, 8, 1000, Dtype.FP32, 90_000, 700, True)
OTHER = replace(ENTRY, model=b"o" * 32, name="other")
SEATS = st.builds(Seat, st.integers(1, 8), st.integers(0, 12), st.integers(1, 10_000))
ROWS = st.lists(st.none() | SEATS, max_size=6)


@given(ROWS, st.none() | st.integers(0, 5))
def test_a_job_goes_where_it_can_run_and_where_a_place_is_free(row: list[Seat | None], avoid: int | None) -> None:
    at = choose(row, avoid)
    able = {index: seat for index, seat in enumerate(row) if seat is not None}
    if not able:
        assert at is None
        return
    assert at in able
    if at == avoid:
        assert set(able) == {avoid}
    others = {index: seat for index, seat in able.items() if index != avoid} or able
    if any(not seat.full for seat in others.values()):
        assert not able[at].full


@given(ROWS)
def test_nothing_is_passed_over_that_is_better_in_every_way(row: list[Seat | None]) -> None:
    at = choose(row)
    taken = row[at] if at is not None else None
    for seat in row:
        if seat is not None and taken is not None and seat.full == taken.full and seat != taken:
            assert (taken.done_ms, taken.jobs) <= (seat.done_ms, seat.jobs)


def test_a_warm_model_comes_before_a_cold_one_and_the_least_queued_before_the_others() -> None:
    warm, cold, busy = Seat(4, 0, 100), Seat(4, 0, 15_100), Seat(4, 1, 130)
    assert choose([cold, warm]) == 1
    assert choose([busy, warm]) == 1
    assert choose([Seat(2, 2, 130), cold]) == 1  # a place that was promised to others is not given away
    assert choose([Seat(2, 9, 130), Seat(2, 3, 130)]) == 1
    assert choose([warm, None, busy], avoid=0) == 2
    assert choose([warm, None], avoid=0) == 0


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 40), st.integers(1, 50))
def test_jobs_are_spread_over_the_places_that_there_are(rooms: list[int], jobs: int, each_ms: int) -> None:
    counts = spread(rooms, lambda at, n: each_ms * n, jobs)
    assert sum(counts) == min(jobs, sum(rooms))
    assert all(count <= room for count, room in zip(counts, rooms, strict=True))
    with_room = [count for count, room in zip(counts, rooms, strict=True) if room > count]
    assert all(count >= max(counts) - 1 for count in with_room)  # alike devices have alike many


def test_what_is_offered_holds_on_every_device() -> None:
    slow = replace(ENTRY, units_per_second=10, load_ms=900, warm=False, max_side=128)
    both = together([(Capability((ENTRY, OTHER), 16), 2), (Capability((slow,), 16), 3)])
    assert both.slots == 5
    (entry, other) = both.models
    assert (entry.units_per_second, entry.load_ms, entry.warm, entry.max_side) == (10, 900, True, 128)
    assert other == OTHER
    unmeasured = replace(ENTRY, units_per_second=0)
    assert together([(Capability((unmeasured,)), 1), (Capability((ENTRY,)), 1)]).models[0].units_per_second == 90_000
    assert together([]) == Capability(())
