# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy on
"""
@title Broker: deposits of senders, and lottery tickets redeemed against them
@license Apache-2.0
@notice Ticket hash, signature, win check, argument tuple, events and revert strings are those of Livepeer's
        TicketBroker. Three things differ on purpose. A redemption is all or nothing: it reverts, and the ticket lives
        on, unless deposit and reserve cover the whole face value. Nobody has to be registered to be paid. A round's
        hash covers the chain id and this contract, so that a ticket is good for one settlement only.
        Rounds are spans of time; a round is initialised by the first transaction that touches it.
"""

struct Ticket:
    recipient: address
    sender: address
    faceValue: uint256
    winProb: uint256
    senderNonce: uint256
    recipientRandHash: bytes32
    auxData: Bytes[96]

struct Sender:
    deposit: uint256
    withdrawRound: uint256

struct ReserveInfo:
    fundsRemaining: uint256
    claimedInCurrentRound: uint256

event DepositFunded:
    sender: indexed(address)
    amount: uint256

event ReserveFunded:
    reserveHolder: indexed(address)
    amount: uint256

event ReserveClaimed:
    reserveHolder: indexed(address)
    claimant: address
    amount: uint256

event WinningTicketRedeemed:
    sender: indexed(address)
    recipient: indexed(address)
    faceValue: uint256
    winProb: uint256
    senderNonce: uint256
    recipientRand: uint256
    auxData: Bytes[96]

event WinningTicketTransfer:
    sender: indexed(address)
    recipient: indexed(address)
    amount: uint256

event Unlock:
    sender: indexed(address)
    startRound: uint256
    endRound: uint256

event UnlockCancelled:
    sender: indexed(address)

event Withdrawal:
    sender: indexed(address)
    deposit: uint256
    reserve: uint256

event WithdrawFees:
    recipient: indexed(address)
    to: address
    amount: uint256

event NewRound:
    round: indexed(uint256)
    blockHash: bytes32

MAX_BATCH: constant(uint256) = 100
HALF_ORDER: constant(uint256) = 57896044618658097711785492504343953926418782139537452191302581570759080747168

roundLength: public(immutable(uint256))
ticketValidityPeriod: public(immutable(uint256))
unlockPeriod: public(immutable(uint256))

lastInitializedRound: public(uint256)
blockHashForRound: public(HashMap[uint256, bytes32])
usedTickets: public(HashMap[bytes32, bool])
fees: public(HashMap[address, uint256])
senders: HashMap[address, Sender]
reserves: HashMap[address, uint256]
claimed: HashMap[address, HashMap[uint256, uint256]]

@deploy
def __init__(round_length: uint256, validity: uint256, unlock_period: uint256):
    """
    @param round_length seconds of one round
    @param validity rounds, the one of its creation included, in which a ticket can be redeemed
    @param unlock_period rounds between unlock() and withdraw()
    """
    assert round_length > 0 and validity > 0 and unlock_period > 0, "a length is zero"
    roundLength = round_length
    ticketValidityPeriod = validity
    unlockPeriod = unlock_period
    self._touch()

@view
@internal
def _current() -> uint256:
    return block.timestamp // roundLength

@internal
def _touch() -> uint256:
    """The parent's hash is the one hash that is always at hand, however late the first touch of a round comes."""
    now: uint256 = self._current()
    if self.blockHashForRound[now] == empty(bytes32):
        anchor: bytes32 = keccak256(abi_encode(blockhash(block.number - 1), chain.id, self))
        self.blockHashForRound[now] = anchor
        self.lastInitializedRound = now
        log NewRound(round=now, blockHash=anchor)
    return now

@external
def initializeRound():
    self._touch()

@view
@external
def currentRound() -> uint256:
    return self._current()

@view
@external
def currentRoundInitialized() -> bool:
    return self.lastInitializedRound == self._current()

@view
@external
def getSenderInfo(account: address) -> (Sender, ReserveInfo):
    return (
        self.senders[account],
        ReserveInfo(
            fundsRemaining=self.reserves[account],
            claimedInCurrentRound=self.claimed[account][self._current()],
        ),
    )

@view
@external
def isUnlockInProgress(account: address) -> bool:
    return self.senders[account].withdrawRound > 0

# --- funds of senders

@internal
def _add(account: address, deposit: uint256, reserve: uint256):
    self._touch()
    if account == msg.sender and self.senders[account].withdrawRound > 0:
        self._cancel_unlock(account)
    if deposit > 0:
        self.senders[account].deposit += deposit
        log DepositFunded(sender=account, amount=deposit)
    if reserve > 0:
        self.reserves[account] += reserve
        log ReserveFunded(reserveHolder=account, amount=reserve)

@internal
def _cancel_unlock(account: address):
    self.senders[account].withdrawRound = 0
    log UnlockCancelled(sender=account)

@payable
@external
def fundDeposit():
    self._add(msg.sender, msg.value, 0)

@payable
@external
def fundReserve():
    self._add(msg.sender, 0, msg.value)

@payable
@external
def fundDepositAndReserve(depositAmount: uint256, reserveAmount: uint256):
    assert msg.value == depositAmount + reserveAmount, "msg.value does not equal sum of deposit amount and reserve amount"
    self._add(msg.sender, depositAmount, reserveAmount)

@payable
@external
def fundDepositAndReserveFor(account: address, depositAmount: uint256, reserveAmount: uint256):
    assert account != empty(address), "account is null address"
    assert msg.value == depositAmount + reserveAmount, "msg.value does not equal sum of deposit amount and reserve amount"
    self._add(account, depositAmount, reserveAmount)

@external
def unlock():
    """A stranger can add to an account, never cancel its unlock: only funding by the sender itself does."""
    now: uint256 = self._touch()
    account: Sender = self.senders[msg.sender]
    assert account.deposit > 0 or self.reserves[msg.sender] > 0, "sender deposit and reserve are zero"
    assert account.withdrawRound == 0, "unlock already initiated"
    self.senders[msg.sender].withdrawRound = now + unlockPeriod
    log Unlock(sender=msg.sender, startRound=now, endRound=now + unlockPeriod)

@external
def cancelUnlock():
    self._touch()
    assert self.senders[msg.sender].withdrawRound > 0, "no unlock in progress"
    self._cancel_unlock(msg.sender)

@external
def withdraw():
    now: uint256 = self._touch()
    deposit: uint256 = self.senders[msg.sender].deposit
    reserve: uint256 = self.reserves[msg.sender]
    assert deposit > 0 or reserve > 0, "sender deposit and reserve are zero"
    assert self.senders[msg.sender].withdrawRound > 0, "no unlock in progress"
    assert now >= self.senders[msg.sender].withdrawRound, "account is locked"
    self.senders[msg.sender] = empty(Sender)
    self.reserves[msg.sender] = 0
    log Withdrawal(sender=msg.sender, deposit=deposit, reserve=reserve)
    raw_call(msg.sender, b"", value=deposit + reserve)

# --- tickets

@pure
@internal
def _ticket_hash(ticket: Ticket) -> bytes32:
    return keccak256(
        concat(
            convert(ticket.recipient, bytes20),
            convert(ticket.sender, bytes20),
            convert(ticket.faceValue, bytes32),
            convert(ticket.winProb, bytes32),
            convert(ticket.senderNonce, bytes32),
            ticket.recipientRandHash,
            ticket.auxData,
        )
    )

@pure
@external
def getTicketHash(ticket: Ticket) -> bytes32:
    return self._ticket_hash(ticket)

@view
@internal
def _wrong_creation(auxData: Bytes[96], now: uint256) -> String[96]:
    if len(auxData) != 64:
        return "invalid length for ticket auxData: must be 64 bytes"
    created: uint256 = extract32(auxData, 0, output_type=uint256)
    known: bytes32 = self.blockHashForRound[created]
    if known == empty(bytes32):
        return "ticket creationRound does not have a block hash"
    if known != extract32(auxData, 32):
        return "ticket creationRoundBlockHash invalid for creationRound"
    if created + ticketValidityPeriod <= now:
        return "ticket is expired"
    return ""

@pure
@internal
def _wrong_signature(sender: address, ticketHash: bytes32, sig: Bytes[96]) -> String[96]:
    if len(sig) != 65:
        return "INVALID_SIGNATURE_LENGTH"
    r: uint256 = extract32(sig, 0, output_type=uint256)
    s: uint256 = extract32(sig, 32, output_type=uint256)
    if s > HALF_ORDER:
        return "ECDSA: invalid signature 's' value"
    v: uint256 = convert(slice(sig, 64, 1), uint256)
    if v != 27 and v != 28:
        return "ECDSA: invalid signature"
    digest: bytes32 = keccak256(concat(b"\x19Ethereum Signed Message:\n32", ticketHash))
    signer: address = ecrecover(digest, v, r, s)
    if signer == empty(address):
        return "ECDSA: invalid signature"
    if signer != sender:
        return "invalid signature over ticket hash"
    return ""

@internal
def _redeem(ticket: Ticket, sig: Bytes[96], recipientRand: uint256, now: uint256) -> String[96]:
    """The empty text when the ticket is paid, else why not, with nothing changed."""
    if ticket.recipient == empty(address):
        return "ticket recipient is null address"
    if ticket.sender == empty(address):
        return "ticket sender is null address"
    wrong: String[96] = self._wrong_creation(ticket.auxData, now)
    if wrong != "":
        return wrong
    if keccak256(convert(recipientRand, bytes32)) != ticket.recipientRandHash:
        return "recipientRand does not match recipientRandHash"
    ticketHash: bytes32 = self._ticket_hash(ticket)
    if self.usedTickets[ticketHash]:
        return "ticket is used"
    wrong = self._wrong_signature(ticket.sender, ticketHash, sig)
    if wrong != "":
        return wrong
    if convert(keccak256(concat(sig, convert(recipientRand, bytes32))), uint256) >= ticket.winProb:
        return "ticket did not win"
    account: Sender = self.senders[ticket.sender]
    if account.withdrawRound != 0 and now >= account.withdrawRound:
        return "sender is unlocked"
    # each side is compared alone: the sum of an attacker's face value and ours never is computed
    reserve: uint256 = self.reserves[ticket.sender]
    if ticket.faceValue > account.deposit + reserve:
        return "sender deposit and reserve insufficient to cover ticket face value"
    self.usedTickets[ticketHash] = True
    self._pay(ticket.sender, ticket.recipient, ticket.faceValue, account.deposit, now)
    log WinningTicketRedeemed(
        sender=ticket.sender,
        recipient=ticket.recipient,
        faceValue=ticket.faceValue,
        winProb=ticket.winProb,
        senderNonce=ticket.senderNonce,
        recipientRand=recipientRand,
        auxData=ticket.auxData,
    )
    return ""

@internal
def _pay(sender: address, recipient: address, amount: uint256, deposit: uint256, now: uint256):
    fromDeposit: uint256 = min(amount, deposit)
    fromReserve: uint256 = amount - fromDeposit
    self.senders[sender].deposit = deposit - fromDeposit
    if fromReserve > 0:
        self.reserves[sender] -= fromReserve
        self.claimed[sender][now] += fromReserve
        log ReserveClaimed(reserveHolder=sender, claimant=recipient, amount=fromReserve)
    self.fees[recipient] += amount
    log WinningTicketTransfer(sender=sender, recipient=recipient, amount=amount)

@external
def redeemWinningTicket(ticket: Ticket, sig: Bytes[96], recipientRand: uint256):
    """Anyone may send it; the recipient is paid."""
    wrong: String[96] = self._redeem(ticket, sig, recipientRand, self._touch())
    assert wrong == "", wrong

@external
def batchRedeemWinningTickets(
    tickets: DynArray[Ticket, MAX_BATCH],
    sigs: DynArray[Bytes[96], MAX_BATCH],
    recipientRands: DynArray[uint256, MAX_BATCH],
):
    """A ticket that fails is passed over; the events say which were paid."""
    count: uint256 = len(tickets)
    assert count == len(sigs) and count == len(recipientRands), "ticket, sig and recipientRand counts differ"
    now: uint256 = self._touch()
    for i: uint256 in range(count, bound=MAX_BATCH):
        self._redeem(tickets[i], sigs[i], recipientRands[i], now)

# --- earnings of recipients

@internal
def _withdraw_fees(recipient: address, to: address, amount: uint256):
    assert to != empty(address), "to is null address"
    assert amount <= self.fees[recipient], "insufficient fees to withdraw"
    self.fees[recipient] -= amount
    log WithdrawFees(recipient=recipient, to=to, amount=amount)
    raw_call(to, b"", value=amount)

@external
def withdrawFees(to: address, amount: uint256):
    self._withdraw_fees(msg.sender, to, amount)

@external
def withdrawFeesFor(recipient: address):
    """Anyone may push a recipient's earnings to the recipient: a cold address needs no transaction of its own."""
    self._withdraw_fees(recipient, recipient, self.fees[recipient])
