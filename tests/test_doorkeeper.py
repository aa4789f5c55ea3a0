"""The doorkeeper: what one address, one subnet and all of them may have, and who makes room when the house is full."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import doorkeeper
from p2p.doorkeeper import (
    BARRED,
    BARRED_MOST,
    CONNECTIONS,
    CONNECTIONS_EACH,
    CONNECTIONS_SUBNET,
    FORGIVEN,
    HANDSHAKES,
    HANDSHAKES_EACH,
    INBOUND_BURST,
    INBOUND_PER_SECOND,
    Doorkeeper,
    Visit,
)

NEIGHBOURS = ("127.0.0.1", "10.1.2.3", "192.168.7.7", "::1", "fe80::1", "::ffff:10.0.0.1")


def arrive(door: Doorkeeper, ip: str, now: float = 0.0) -> Visit | None:
    """One that has shaken hands at once."""
    visit = door.enter(ip, now)
    if visit is not None:
        door.shaken(visit)
    return visit


def strangers(count: int) -> list[str]:
    """Addresses of subnets of their own."""
    return [f"{11 + n // 65_536}.{n // 256 % 256}.{n % 256}.1" for n in range(count)]


def test_an_address_has_its_rate_of_connections() -> None:
    door, burst = Doorkeeper(), int(INBOUND_BURST)

    def comes_and_goes(ip: str, now: float) -> bool:
        visit = arrive(door, ip, now)
        if visit is not None:
            door.left(visit)
        return visit is not None

    assert [comes_and_goes("8.8.8.8", 0.0) for _ in range(burst + 1)] == [True] * burst + [False]
    assert comes_and_goes("8.8.4.4", 0.0)
    assert [comes_and_goes("8.8.8.8", 1.0) for _ in range(11)] == [True] * int(INBOUND_PER_SECOND) + [False]
    assert [comes_and_goes(f"2a00:1450:4001::{n:x}", 0.0) for n in range(burst + 1)] == [True] * burst + [False]
    assert len(door) == 0


def test_an_address_has_its_number_of_handshakes() -> None:
    door = Doorkeeper()
    visits = [door.enter("8.8.8.8", 0.0) for _ in range(HANDSHAKES_EACH)]
    assert all(visits)
    assert door.enter("8.8.8.8", 0.0) is None
    assert door.enter("8.8.4.4", 0.0) is not None
    assert visits[0] is not None
    door.shaken(visits[0])
    assert door.enter("8.8.8.8", 0.0) is not None


def test_all_together_have_their_number_of_handshakes_and_a_newcomer_is_still_heard() -> None:
    door = Doorkeeper()
    assert all(door.enter("127.0.0.1", 0.0) for _ in range(HANDSHAKES))
    assert door.enter("127.0.0.1", 0.0) is None
    heard = [door.enter(ip, 0.0) for ip in strangers(HANDSHAKES + 1)]
    assert [visit is not None for visit in heard] == [True] * HANDSHAKES + [False]


def test_an_address_and_a_subnet_have_their_number_of_connections() -> None:
    door, ages = Doorkeeper(), iter(range(10**6))
    assert all(arrive(door, "8.8.8.8", next(ages)) for _ in range(CONNECTIONS_EACH))
    assert arrive(door, "8.8.8.8", next(ages)) is None
    others = CONNECTIONS_SUBNET - CONNECTIONS_EACH
    assert all(arrive(door, f"8.8.8.{9 + n % 200}", 10.0 * next(ages)) for n in range(others))
    assert arrive(door, "8.8.8.250", 10.0 * next(ages)) is None
    assert arrive(door, "8.8.9.1", 0.0) is not None


@pytest.mark.parametrize("ip", NEIGHBOURS)
def test_a_neighbour_is_bound_only_when_it_is_asked_for(ip: str) -> None:
    assert all(arrive(Doorkeeper(), ip) for _ in range(2 * int(INBOUND_BURST)))
    strict = Doorkeeper(strict_private=True)
    assert sum(arrive(strict, ip) is not None for _ in range(100)) == INBOUND_BURST


def test_what_is_no_address_stays_out() -> None:
    assert Doorkeeper().enter("nonsense", 0.0) is None
    Doorkeeper().punish("nonsense", 0.0)


def test_a_full_house_makes_room_for_a_less_crowded_subnet_and_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorkeeper, "CONNECTIONS", 10)
    assert CONNECTIONS > 10
    door, gone = Doorkeeper(), []
    for number in range(8):
        visit = arrive(door, f"8.8.8.{number}")
        assert visit is not None
        visit.evict = lambda number=number: gone.append(number)  # type: ignore[misc]
    honest = [arrive(door, ip) for ip in strangers(2)]
    assert len(door) == 10
    assert arrive(door, "8.8.8.77") is None
    assert gone == []
    assert arrive(door, "9.9.9.9") is not None
    assert gone == [7]
    assert len(door) == 10
    assert all(visit is not None for visit in honest)
    while arrive(door, strangers(100)[len(gone) + 10]) is not None:
        pass
    assert gone == [7, 6, 5, 4, 3, 2, 1]  # a crowd of one loses nobody


def test_an_address_whose_peers_are_shut_out_waits_longer_each_time() -> None:
    door, now, waits = Doorkeeper(), 0.0, list[float]()
    inside = arrive(door, "8.8.8.8", now)
    for _ in range(12):
        for _ in range(3):  # of several that are shut out together the first counts
            door.punish("8.8.8.8", now)
        assert arrive(door, "8.8.8.8", now) is None
        assert arrive(door, "8.8.4.4", now) is not None
        begun = now
        while arrive(door, "8.8.8.8", now) is None:
            now += 1.0
        waits.append(now - begun)
    assert waits == [min(BARRED * 2**n, BARRED_MOST) for n in range(12)]
    assert inside in door._visits[door.subnet("8.8.8.8")]  # who was let in before stays
    now += FORGIVEN
    door.punish("8.8.8.8", now)
    assert arrive(door, "8.8.8.8", now + BARRED) is not None
    neighbours = Doorkeeper()
    neighbours.punish("127.0.0.1", 0.0)
    assert sum(arrive(neighbours, "127.0.0.1") is not None for _ in range(100)) == 100


def test_so_many_addresses_are_barred_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorkeeper, "BARRED_KEPT", 3)
    door = Doorkeeper()
    for ip in strangers(5):
        door.punish(ip, 0.0)
    assert [arrive(door, ip, 1.0) is None for ip in strangers(5)] == [False, False, True, True, True]


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from(["enter", "shaken", "left"])), max_size=200))
def test_what_has_left_is_counted_no_more(moves: list[tuple[int, str]]) -> None:
    door, inside = Doorkeeper(), dict[int, Visit]()
    for number, move in moves:
        if move == "enter" and number not in inside:
            visit = door.enter(f"10.0.0.{number}", 0.0)
            assert visit is not None
            inside[number] = visit
        elif move == "shaken" and number in inside:
            door.shaken(inside[number])
        elif move == "left" and number in inside:
            door.left(inside.pop(number))
    assert len(door) == len(inside)
    for visit in inside.values():
        door.left(visit)
        door.left(visit)
    assert (len(door), door._inside, door._shaking, door._visits) == (0, {}, {}, {})
