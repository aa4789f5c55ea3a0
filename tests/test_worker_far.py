"""A worker of another host: the same contract over TLS, lost lines, and who is not let in."""

from __future__ import annotations

import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from compute import doorway
from compute.capability import MAX_MODELS
from compute.doorway import TRIES, Doorway
from compute.handshake import go_in
from compute.joinkey import KEY_FILE, PEM_FILE, guest_context, open_door_key, read_join_key
from compute.joinwire import JOIN_LIMIT, Side, WorkerJoin, WorkerWelcome, proof, proves
from compute.messages import Channel
from compute.safety import Checking
from compute.work import JobResult, Step, WorkerLost
from p2p.codec import encode
from p2p.errors import Misconfigured, Refused, Unavailable
from p2p.framing import head_of
from tests.contracts import worker as contract
from tests.contracts.worker import A, config_in, ignore, runs, spec_for, until
from tests.support.far_worker import far_worker, key_of, outpost_of, served_of
from tests.support.model_folders import hollow_model
from tests.support.pretend_worker import PICTURE

pytestmark = pytest.mark.live
WRONG = b"w" * 32


FIRST, *OTHERS = contract.CHECKS


@pytest.mark.parametrize("check", [FIRST, *(pytest.param(check, marks=pytest.mark.prove) for check in OTHERS)])
async def test_contract(tmp_path: Path, check: Callable[[contract.Stand], Awaitable[None]]) -> None:
    async with far_worker(config_in(tmp_path)) as far:
        await check(far.stand)


@pytest.mark.prove
async def test_a_stuck_or_swollen_worker_is_killed_on_its_own_host(tmp_path: Path) -> None:
    async with far_worker(config_in(tmp_path, **contract.IMPATIENT)) as far:
        await contract.check_a_stuck_or_swollen_worker_is_killed(far.stand)


async def test_a_lost_line_costs_no_job(tmp_path: Path) -> None:
    async with far_worker(config_in(tmp_path)) as far:
        worker, gate, steps = far.stand.worker, trio.Event(), list[int]()
        results: list[JobResult] = []

        def told(step: Step) -> None:
            steps.append(step.step)
            if step.step == 2:
                gate.set()

        async def waits() -> None:
            results.append(await worker.generate(A, spec_for(worker, "wait"), told))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits)
            await gate.wait()
            pid = worker.pid
            far.cable.dead = True
            await far.cable.cut()
            await until(lambda: not worker.connected)
            far.cable.dead = False
            await until(lambda: worker.connected)
            far.stand.go()
        assert results[0].artifacts[0].data == PICTURE
        assert worker.pid == pid
        assert steps == sorted(steps)  # it went on, it did not begin again


@pytest.mark.prove
async def test_a_worker_that_stays_away_has_lost_its_job_and_its_seat(tmp_path: Path) -> None:
    async with far_worker(config_in(tmp_path, orphan_s=0.2), away_s=0.2) as far:
        worker, gate = far.stand.worker, trio.Event()

        async def waits() -> None:
            with pytest.raises(WorkerLost, match="away"):
                await worker.generate(A, spec_for(worker, "wait"), contract.opens(gate))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(waits)
            await gate.wait()
            pid = worker.pid
            far.cable.dead = True
            await far.cable.cut()
        assert far.door.workers == ()
        assert pid is not None
        await until(lambda: not runs(pid))
        far.cable.dead = False
        await until(lambda: far.door.workers and far.door.workers[0].connected)  # and it may come back
        assert await far.door.workers[0].generate(A, spec_for(far.door.workers[0]), ignore)


@pytest.mark.prove
async def test_a_restarted_orchestrator_finds_the_job_of_its_guest(tmp_path: Path) -> None:
    config, gate = config_in(tmp_path), trio.Event()
    steps: list[int] = []
    with trio.fail_after(90):
        async with trio.open_nursery() as far:
            first = Doorway("127.0.0.1", 0, tmp_path)
            async with trio.open_nursery() as near:
                await near.start(first.run, served_of(config))
                far.start_soon(outpost_of(config, first.port, key_of(tmp_path)).run)
                await until(lambda: first.workers and first.workers[0].connected)
                worker, pid = first.workers[0], first.workers[0].pid
                near.start_soon(worker.generate, A, spec_for(worker, "wait"), contract.opens(gate))
                await gate.wait()
                await far_end_of_a_killed_node(worker)
                near.cancel_scope.cancel()
            again = Doorway("127.0.0.1", first.port, tmp_path)
            await far.start(again.run, served_of(config))
            await until(lambda: again.workers and again.workers[0].connected)
            worker = again.workers[0]
            assert worker.holds(A)
            (tmp_path / "traces" / "worker" / "go").touch()
            result = await worker.generate(A, spec_for(worker, "wait"), lambda step: steps.append(step.step))
            assert result.artifacts[0].data == PICTURE
            assert steps[0] >= 2
            assert worker.pid == pid
            far.cancel_scope.cancel()


async def far_end_of_a_killed_node(worker: contract.Worker) -> None:
    """A node that is killed says nothing any more: not even that its jobs are given up."""
    assert worker._life is not None
    await worker._life._link.aclose()  # type: ignore[attr-defined]


async def test_who_has_another_key_or_another_door_is_told_so(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    other = tmp_path / "other"
    other.mkdir(mode=0o700)
    open_door_key(other)
    async with doors(config) as door:
        key = key_of(tmp_path)
        for wrong, code in ((replace(key, key=WRONG), "WRONG_KEY"), (key_of(other), "WRONG_CERTIFICATE")):
            with pytest.RaisesGroup(pytest.RaisesExc(Misconfigured, match=code), allow_unwrapped=True):
                await outpost_of(config, door.port, wrong).run()
        assert door.workers == ()


async def test_tries_without_the_key_come_to_an_end_and_the_key_still_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorway, "TRIES_A_SECOND", 1.0)
    config = config_in(tmp_path)
    async with doors(config) as door:
        wrong, codes = replace(key_of(tmp_path), key=WRONG), list[str]()
        for _ in range(int(TRIES) + 4):
            try:
                await go_in("127.0.0.1", door.port, wrong, join_of(config))
            except Refused as exc:
                codes.append(exc.code)
            except Unavailable:
                codes.append("closed")
        assert codes.count("WRONG_KEY") >= TRIES
        assert "closed" in codes
        while True:
            try:
                stream, welcome = await go_in("127.0.0.1", door.port, key_of(tmp_path), join_of(config))
            except Unavailable:
                await trio.sleep(0.05)
                continue
            break
        assert welcome == WorkerWelcome(join_of(config).models)
        await trio.aclose_forcefully(stream)


async def test_strangers_who_say_nothing_or_nonsense_are_shut_out_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doorway, "MEET_S", 0.3)
    monkeypatch.setattr(doorway, "TRIES", 1000.0)
    config = config_in(tmp_path)
    async with doors(config) as door:
        silent = [await trio.open_tcp_stream("127.0.0.1", door.port) for _ in range(doorway.MAX_MEETING)]
        await until(lambda: door._meeting == doorway.MAX_MEETING)
        one_more = await trio.open_tcp_stream("127.0.0.1", door.port)
        for waiting in (one_more, *silent):  # the last one is closed at once: nobody waits in line
            assert await waiting.receive_some(1) == b""
            await waiting.aclose()
        noisy = await trio.open_tcp_stream("127.0.0.1", door.port)
        await noisy.send_all(b"GET / HTTP/1.1\r\n\r\n" * 100)
        with suppress(trio.BrokenResourceError):  # reset or closed, when it has said what it thinks of it
            while await noisy.receive_some(4096):
                pass
        await noisy.aclose()
        stream, _ = await go_in("127.0.0.1", door.port, key_of(tmp_path), join_of(config))
        assert len(door.workers) == 1
        await trio.aclose_forcefully(stream)


async def test_a_join_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    assert len(encode(WorkerJoin("n" * 32, bytes(16), Channel.HEALTH, (bytes(32),) * MAX_MODELS))) < JOIN_LIMIT
    config = config_in(tmp_path)
    async with doors(config) as door:
        key = key_of(tmp_path)
        raw = await trio.open_tcp_stream("127.0.0.1", door.port)
        stream = trio.SSLStream(raw, guest_context(), https_compatible=True)
        asked, own = await exactly(stream, 32), bytes(32)
        await stream.send_all(own + proof(key.key, Side.WORKER, key.pin, asked, own))
        await exactly(stream, 33)
        await stream.send_all(head_of(JOIN_LIMIT + 1))  # and not a byte of it
        with suppress(trio.BrokenResourceError):
            assert await stream.receive_some(1) == b""
        await stream.aclose()
        assert door.workers == ()


async def exactly(stream: trio.abc.Stream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await stream.receive_some(size - len(data))
    return data


async def test_a_name_belongs_to_one_and_models_must_be_there(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    async with doors(config) as door:
        go = partial(go_in, "127.0.0.1", door.port, key_of(tmp_path))
        join = join_of(config)
        for wrong, code in (
            (replace(join, models=(b"x" * 32,)), "NO_MODEL"),
            (replace(join, channel=Channel.HEALTH), "UNKNOWN"),
        ):
            with pytest.raises(Refused, match=code):
                await go(wrong)
        stream, welcome = await go(join)
        assert welcome.models == join.models
        with pytest.raises(Refused, match="NAME_TAKEN"):
            await go(replace(join, instance=b"j" * 16))
        again, _ = await go(join)  # the same worker: its old line is dead
        assert len(door.workers) == 1
        for number in range(1, doorway.MAX_GUESTS):
            await trio.aclose_forcefully((await go(replace(join, name=f"n{number}")))[0])
        with pytest.raises(Refused, match="TOO_MANY"):
            await go(replace(join, name="one more"))
        for one in (stream, again):
            await trio.aclose_forcefully(one)


async def test_where_results_are_checked_no_worker_comes_that_does_not(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    checked = replace(served_of(config), checking=Checking("checker", ("unsafe",)))
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            door = Doorway("127.0.0.1", 0, tmp_path)
            await nursery.start(door.run, checked)
            go = partial(go_in, "127.0.0.1", door.port, key_of(tmp_path))
            with pytest.raises(Refused, match="NO_CHECKER"):
                await go(join_of(config))
            stream, _ = await go(replace(join_of(config), checks=True))
            await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()


async def test_a_worker_without_the_models_ends_with_the_reason(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    far = config_in(tmp_path / "far", models=(hollow_model(tmp_path / "other", b"other weights"),))
    async with doors(config) as door:
        with pytest.RaisesGroup(pytest.RaisesExc(Misconfigured, match="NO_MODEL"), allow_unwrapped=True):
            await outpost_of(far, door.port, key_of(tmp_path)).run()


def test_the_key_is_private_or_refused(tmp_path: Path) -> None:
    key, _ = open_door_key(tmp_path)
    assert open_door_key(tmp_path)[0] == key == read_join_key(tmp_path / KEY_FILE)
    assert key.key.hex() not in repr(key)
    for name in (KEY_FILE, PEM_FILE):
        path = tmp_path / name
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        path.chmod(0o640)
        with pytest.raises(Misconfigured, match="chmod 600"):
            open_door_key(tmp_path)
        path.chmod(0o600)
    for nonsense in (b"", b"pasar-worker 1 00 00", b"pasar-worker 2 " + b"00" * 32 + b" " + b"00" * 32, b"\xff" * 2000):
        (tmp_path / KEY_FILE).write_bytes(nonsense)
        with pytest.raises(Misconfigured, match=KEY_FILE):
            read_join_key(tmp_path / KEY_FILE)
    (tmp_path / KEY_FILE).unlink()
    (tmp_path / PEM_FILE).write_text("nonsense")
    (tmp_path / PEM_FILE).chmod(0o600)
    with pytest.raises(Misconfigured, match="remove it"):
        open_door_key(tmp_path)


def test_a_proof_is_of_one_side_one_certificate_and_one_conversation() -> None:
    told: dict[str, Any] = {
        "key": b"k" * 32,
        "side": Side.WORKER,
        "pin": b"p" * 32,
        "asked": b"a" * 32,
        "own": b"o" * 32,
    }
    claim = proof(**told)
    assert proves(claim, **told)
    for field, value in (("key", WRONG), ("side", Side.ORCHESTRATOR), ("pin", WRONG), ("asked", WRONG), ("own", WRONG)):
        assert not proves(claim, **{**told, field: value})


def join_of(config: contract.WorkerConfig) -> WorkerJoin:
    return WorkerJoin("far", b"i" * 16, Channel.WORK, tuple(entry.model for entry in served_of(config).entries))


@asynccontextmanager
async def doors(config: contract.WorkerConfig) -> AsyncIterator[Doorway]:
    """A door that nobody has come through."""
    door = Doorway("127.0.0.1", 0, config.folder)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(door.run, served_of(config))
            yield door
            nursery.cancel_scope.cancel()
