"""An operator's policy: words and patterns in prompts, bounded in number and in time; what follows in the market."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.noop_worker import NoopWorker
from compute.spec import MAX_PROMPT
from market import jobwire as wire
from market.bidwire import JobFailed
from market.client import Delivered
from market.config import load_config
from market.conversation import now_ms
from market.policy import EVERYTHING, MAX_PATTERNS, MAX_WAYS, MAX_WORD, MAX_WORDS, Policy, plain
from market.refusal import Code, Refusal
from p2p.errors import Misconfigured
from tests.support.job_specs import job_spec
from tests.support.marketplace import marketplace

NO_RED = Policy(("red circle",))


def refused(policy: Policy, prompt: str, negative: str = "") -> bool:
    return bool(policy.refuses(job_spec(bytes(32), prompt=prompt, negative=negative)))


@pytest.mark.parametrize(
    ("prompt", "taken"),
    [
        ("a red circle", False),
        ("A  RED\ncircle!", False),
        ("a ｒｅｄ cïrcle", False),
        ("a red-circle.", False),
        ("a reddish circle", True),
        ("red circles", True),
        ("", True),
        ("bomb-making", False),
        ("bombastic", False),
        ("aplomb", True),
        ("how he kills time", False),
        ("skills", True),
    ],
)
def test_words_are_whole_words_in_any_spelling_and_patterns_are_searched(prompt: str, taken: bool) -> None:
    policy = Policy(("Red Circle",), (r"\bbomb\w*", r"\bkill(s|ed)?\b"))
    assert refused(policy, prompt) is not taken
    assert not refused(policy, "a house", negative=prompt)
    assert not refused(EVERYTHING, prompt)


@given(st.text(max_size=300))
def test_any_prompt_has_an_answer_and_what_is_forbidden_is_found_in_it(text: str) -> None:
    policy = Policy(("forbidden",), ("a.*z",))
    words = plain(text).split()
    assert all(word.isalnum() for word in words)
    assert refused(policy, text) == ("forbidden" in words or 0 <= plain(text).find("a") < plain(text).rfind("z"))
    assert refused(policy, f"{text[:150]} forbidden {text[150:]}")


@pytest.mark.parametrize(
    "pattern",
    [
        "(", "", "a" * 257, "(a+)+b", "(ab|cd)*e", "a*a*b", ".*.*x", r"(\w)\1", "(a{0,64}){2}", "(?=(a+))a*b",
        "(?:x{0,3}){0,3}y*", "a{0,9}b{0,9}c{0,9}d{0,9}e{0,9}f{0,9}",
    ],
)  # fmt: skip
def test_a_pattern_that_a_text_could_hold_up_is_none(pattern: str) -> None:
    with pytest.raises(Misconfigured, match="safety"):
        Policy((), (pattern,))


@given(st.from_regex(r"[ab.]([*+?]|\{0,[1-9]\})?[ab.]([*+?]|\{0,[1-9]\})?(c|d)?", fullmatch=True))
def test_what_is_let_in_is_one_open_repeat_and_few_choices(pattern: str) -> None:
    opened = sum(pattern.count(sign) for sign in "*+")
    if opened <= 1 and "?" not in pattern and "{" not in pattern:
        assert Policy((), (pattern,)).patterns == (pattern,)
    if opened > 1:
        with pytest.raises(Misconfigured):
            Policy((), (pattern,))
    assert MAX_WAYS < MAX_PROMPT**2


@pytest.mark.parametrize("words", [("",), ("  ",), ("!",), ("a" * (MAX_WORD + 1),), ("a",) * (MAX_WORDS + 1)])
def test_words_are_bounded(words: tuple[str, ...]) -> None:
    with pytest.raises(Misconfigured, match="safety"):
        Policy(words)
    with pytest.raises(Misconfigured, match="safety"):
        Policy((), ("a",) * (MAX_PATTERNS + 1))


def test_the_operators_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pasar").mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    words = 'words = ["gore"]\npatterns = ["blood.*"]\n'
    written = f'[safety]\n{words}checker = "org/name"\nunsafe = ["bad"]\nlet_pass = 20\n'
    (tmp_path / "pasar" / "pasar.toml").write_text(written)
    told = load_config().safety
    assert told.policy == Policy(("gore",), ("blood.*",))
    assert told.checking is not None
    assert (told.checking.checker, told.checking.unsafe, told.checking.most) == ("org/name", ("bad",), 200_000)
    for wrong in ({"patterns": ["(a+)+"]}, {"words": [""]}, {"let_pass": 101}, {"let_pas": 1}, {"checker": 3}):
        with pytest.raises(Misconfigured, match="safety"):
            load_config(safety=wrong)


# -- in the market ---------------------------------------------------------------------------------------------------


async def test_a_seller_declines_before_the_work_and_is_not_at_fault(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            machine = NoopWorker()
            choosy = await market.orchestrator(2, price=1_000_000, machine=machine, policy=NO_RED)
            other = await market.orchestrator(3, price=1_500_000)
            client, _ = await market.client(4)
            bid = await market.bid(client, gateway.key.peer, prompt="a red circle")
            got = await client.bid(gateway.key.peer, bid, lambda news: None)
            assert isinstance(got, Delivered)
            assert got.done.orchestrator == other.key.peer
            assert machine.done == 0
            known = gateway.role.reputation.of(choosy.key.peer, now_ms())  # type: ignore[union-attr]
            assert (known.faults, known.failed_in_row, known.banned_until) == (0, 0, 0)
            assert gateway.books.standing(choosy.key.address).faults == 0
            assert gateway.seat.failures == choosy.seat.failures == []


async def test_nobody_takes_it_and_nothing_is_paid(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1)
            machine = NoopWorker()
            choosy = await market.orchestrator(2, price=1_000_000, machine=machine, policy=NO_RED)
            client, _ = await market.client(4)
            bid = await market.bid(client, gateway.key.peer, prompt="a red circle", deadline_ms=3000)
            got = await client.bid(gateway.key.peer, bid, lambda news: None)
            assert isinstance(got, JobFailed)
            assert (got.code, got.charged) == (wire.POLICY, 0)
            assert "such words" in got.hint
            assert machine.done == 0
            assert choosy.books.standing(gateway.key.address).delivered == 0
            assert gateway.books.standing(choosy.key.address).faults == 0


async def test_a_gateway_has_its_own_policy(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with marketplace(tmp_path) as market:
            gateway = await market.gateway(1, policy=NO_RED)
            await market.orchestrator(2, price=1_000_000)
            client, _ = await market.client(4)
            got = await client.bid(
                gateway.key.peer, await market.bid(client, gateway.key.peer, prompt="a RED circle"), lambda news: None
            )
            assert isinstance(got, Refusal)
            assert got.code is Code.POLICY
            assert Code.POLICY.value == wire.POLICY
            assert "such words" in got.hint
            ok = await market.bid(client, gateway.key.peer, prompt="a blue circle")
            assert isinstance(await client.bid(gateway.key.peer, ok, lambda news: None), Delivered)
