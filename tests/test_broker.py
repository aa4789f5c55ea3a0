"""The broker: one contract of behaviour, over the model in memory and the compiled source on a real EVM."""

from __future__ import annotations

import json
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ledger.broker import DEVELOPMENT_CHAINS, MemoryBroker, Reverted, is_development
from ledger.contract import call_data, event_of, result_of
from ledger.money import Settlement
from ledger.ticket import CERTAIN, ticket_hash
from p2p.errors import Unavailable
from p2p.peer import Address, keccak256
from tests.contracts import broker as contract
from tests.contracts.broker_build import CONTRACTS, compiled
from tests.contracts.chains import CHAIN_ID, ETHER, START, EvmBroker, signed, ticket_of

ALICE, BOB, CAROL = contract.ALICE, contract.BOB, contract.CAROL


def memory() -> MemoryBroker:
    return MemoryBroker(Settlement(CHAIN_ID, Address(b"\x0b" * 20)), contract.TERMS)


def on_evm() -> EvmBroker:
    return EvmBroker(contract.TERMS, keys=contract.KEYS)


@pytest.mark.parametrize("make", [memory, on_evm])
@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_broker(make, check):
    check(make())


def test_the_shipped_contract_is_the_compiled_source():
    assert (CONTRACTS / "broker.json").read_text() == compiled()


def test_ticket_hashes_are_the_contract_s_own():
    broker = on_evm()
    ticket, _ = ticket_of(ALICE.address, BOB.address, 12345, (7, b"\x07" * 32), nonce=3)
    fields = (
        ticket.recipient, ticket.sender, ticket.face_value, ticket.win_prob, ticket.nonce, ticket.rand_hash,
        ticket.aux_data,
    )  # fmt: skip
    assert broker.view("getTicketHash", fields) == ticket_hash(ticket)


def test_livepeer_s_own_vectors_hash_alike_on_the_contract():
    broker = on_evm()
    vectors = json.loads((Path(__file__).parent / "vectors" / "tickets.json").read_text())["contractVectors"]
    for v in vectors:
        fields = (
            bytes.fromhex(v["recipient"][2:]), bytes.fromhex(v["sender"][2:]), int(v["faceValue"]),
            int(v["winProb"], 16), v["senderNonce"], bytes.fromhex(v["recipientRandHash"][2:]),
            bytes.fromhex(v["auxData"][2:]),
        )  # fmt: skip
        assert broker.view("getTicketHash", fields).hex() == v["ticketHash"][2:], v["name"]


def test_rounds_bind_tickets_to_one_contract_on_one_chain():
    broker = on_evm()
    genesis = broker.chain.evm.header(0)
    assert genesis is not None
    parent = bytes.fromhex(genesis["hash"][2:])
    bound = parent + CHAIN_ID.to_bytes(32, "big") + bytes(12) + broker.address
    assert broker.round_hash(contract.TERMS.round_at(START)) == keccak256(bound)
    broker.fund(ALICE.address, 1000, 0, START)
    ticket, rand = ticket_of(ALICE.address, BOB.address, 10, (contract.TERMS.round_at(START), parent))
    with pytest.raises(Reverted, match="creationRoundBlockHash invalid"):
        broker.redeem(signed(ticket, rand, ALICE), START)


def test_a_round_is_initialised_by_its_first_transaction_and_never_again():
    broker = on_evm()
    later = START + 1000
    number = contract.TERMS.round_at(later)
    assert broker.round_hash(number) is None
    broker.send(ALICE.address, call_data("initializeRound"), later)
    assert broker.events == ["NewRound"]
    first = broker.round_hash(number)
    assert first is not None
    assert broker.view("lastInitializedRound") == number
    assert broker.view("currentRoundInitialized") is True
    broker.send(BOB.address, call_data("initializeRound"), later + 50)
    assert broker.events == []
    assert broker.round_hash(number) == first


def test_events_tell_what_happened():
    broker = on_evm()
    broker.fund(ALICE.address, 100, 50, START)
    assert broker.events == ["DepositFunded", "ReserveFunded"]
    broker.redeem(contract.winner(broker, 120), START)
    assert broker.events == ["ReserveClaimed", "WinningTicketTransfer", "WinningTicketRedeemed"]
    broker.withdraw_fees(BOB.address, 120, START)
    assert broker.events == ["WithdrawFees"]
    broker.unlock(ALICE.address, START)
    broker.cancel_unlock(ALICE.address, START)
    assert broker.events == ["UnlockCancelled"]
    broker.unlock(ALICE.address, START)
    broker.withdraw(ALICE.address, START + 300)
    assert broker.events[-1] == "Withdrawal"


def test_anybody_can_push_earnings_to_a_cold_address():
    broker = on_evm()
    broker.fund(ALICE.address, 100, 0, START)
    cold = Address(b"\xcd" * 20)
    number = contract.TERMS.round_at(START)
    ticket, rand = ticket_of(ALICE.address, cold, 60, (number, broker.round_hash(number) or b""))
    broker.redeem(signed(ticket, rand, ALICE), START)
    broker.send(CAROL.address, call_data("withdrawFeesFor", cold), START)
    assert broker.chain.evm.balance_of(cold) == 60
    assert broker.fees_of(cold) == 0


def test_value_and_amounts_must_agree():
    broker = on_evm()
    with pytest.raises(Reverted, match=r"msg\.value"):
        broker.send(ALICE.address, call_data("fundDepositAndReserve", 5, 5), START, 9)
    for name in ("fundDeposit", "fundReserve"):
        broker.send(ALICE.address, call_data(name), START, 3)
    assert broker.info(ALICE.address).deposit == broker.info(ALICE.address).reserve == 3


def test_gas_of_a_redemption_stays_what_face_values_are_reckoned_with():
    broker = on_evm()
    broker.fund(ALICE.address, ETHER, 0, START)
    for nonce in (1, 2):
        broker.redeem(contract.winner(broker, 10, nonce=nonce), START)
    single = broker.gas[-1]
    broker.redeem_batch([contract.winner(broker, 10, nonce=n) for n in range(10, 20)], START)
    assert single < 90_000
    assert broker.gas[-1] < 10 * 55_000


def test_what_is_no_event_or_no_broker_is_no_traceback():
    assert event_of({}) is None
    assert event_of({"topics": ["0x" + "00" * 32], "data": "0x"}) is None
    with pytest.raises(Unavailable):
        result_of("getSenderInfo", b"")


def test_development_chains_are_a_fixed_range():
    assert is_development(CHAIN_ID)
    assert not any(is_development(n) for n in (1, 10, 1337, 31337, 42161, DEVELOPMENT_CHAINS.stop))


class SameBroker(RuleBasedStateMachine):
    """The model and the contract, driven alike, never differ in what they say or hold."""

    @initialize()
    def start(self) -> None:
        self.evm, self.model, self.now, self.issued = on_evm(), memory(), START, []
        self.model.rounds.clear()
        self.touch()

    def touch(self) -> None:
        self.both(lambda b: b.fund(CAROL.address, 1, 0, self.now))

    def both(self, call) -> None:
        number = contract.TERMS.round_at(self.now)
        answers = []
        for broker in (self.evm, self.model):
            try:
                answers.append(call(broker))
            except Reverted as exc:
                answers.append(exc.text)
            if broker is self.evm and (found := broker.round_hash(number)) is not None:
                self.model.rounds[number] = found
        assert answers[0] == answers[1]

    @rule(deposit=st.integers(0, 100), reserve=st.integers(0, 100), who=st.sampled_from([ALICE, BOB]))
    def fund(self, deposit, reserve, who):
        self.both(lambda b: b.fund(ALICE.address, deposit, reserve, self.now, by=who.address))

    @rule(face=st.integers(0, 150), chance=st.sampled_from([CERTAIN, CERTAIN // 2]))
    def redeem(self, face, chance):
        self.touch()
        number = contract.TERMS.round_at(self.now)
        place = number, self.evm.round_hash(number)
        ticket, rand = ticket_of(ALICE.address, BOB.address, face, place, nonce=len(self.issued) + 1, chance=chance)
        self.issued.append(signed(ticket, rand, ALICE))
        self.both(lambda b: b.redeem(self.issued[-1], self.now))

    @rule(data=st.data())
    def redeem_again(self, data):
        if self.issued:
            some = data.draw(st.lists(st.sampled_from(self.issued), min_size=1, max_size=4, unique_by=lambda w: w.rand))
            self.both(lambda b: b.redeem_batch(some, self.now))

    @rule(step=st.sampled_from(["unlock", "cancel_unlock", "withdraw"]))
    def leave(self, step):
        self.both(lambda b: getattr(b, step)(ALICE.address, self.now))

    @rule(amount=st.integers(0, 60))
    def take(self, amount):
        self.both(lambda b: b.withdraw_fees(BOB.address, amount, self.now))

    @rule(seconds=st.sampled_from([0, 50, 100, 400]))
    def wait(self, seconds):
        self.now += seconds
        self.touch()

    @invariant()
    def same_books(self):
        for who in (ALICE, BOB, CAROL):
            assert self.evm.info(who.address) == self.model.info(who.address)
            assert self.evm.fees_of(who.address) == self.model.fees_of(who.address)
        held = self.evm.chain.evm.balance_of(self.evm.address)
        assert held == self.model.paid_in - self.model.paid_out
        owed = sum(i.deposit + i.reserve for i in self.model.senders.values()) + sum(self.model.fees.values())
        assert held == owed


TestSameBroker = SameBroker.TestCase
TestSameBroker.settings = settings(max_examples=6, stateful_step_count=15, deadline=None)
