"""What a session wants done. A shell carries the commands of one ``handle`` out in their order, and does nothing else.

``journal_first`` marks a command whose loss would cost money. A list with such a command has a ``Journal`` in it: its
record must be on disk before anything that follows is done. It comes first, but for a message by which nothing is owed
(``ahead``). After a restart the machine is restored from its newest
record and told ``Restarted`` and, once there is a stream, ``Connected``; it then repeats what may have been lost, so
every command must be safe to do twice. Pure; knows no state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from market.jobwire import Award, JobMessage, JobRefusal
from p2p.envelope import Signed

# -- both sides ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Journal:
    """Put this session's record on disk, under its job id and attempt, before the commands that follow."""

    journal_first: ClassVar[bool] = False
    record: bytes


@dataclass(frozen=True, slots=True)
class SendMessage:
    """Send it on the stream. When the stream is broken, drop it: a new stream begins with a Resume."""

    message: JobMessage
    journal_first: bool = False
    ahead: bool = False  # it leaves before the record of it: whoever dies in between has lost a job and no money


@dataclass(frozen=True, slots=True)
class SendBlob:
    """Send the chunks of this blob that are not in ``have``. Starts over harmlessly."""

    journal_first: ClassVar[bool] = False
    blob: bytes
    have: bytes = b""


@dataclass(frozen=True, slots=True)
class Debit:
    """What this attempt has earned of the account between the two, in all. Repeating it changes nothing."""

    journal_first: ClassVar[bool] = True
    total: int


@dataclass(frozen=True, slots=True)
class Fault:
    """The counterpart broke the protocol. ``proof``, where there is some, convinces others; once per attempt."""

    journal_first: ClassVar[bool] = True
    code: str
    proof: bytes = b""


@dataclass(frozen=True, slots=True)
class Close:
    """The attempt's outcome is known: free its place, hold nothing for it. Repeating it changes nothing.

    ``cost`` is what it was charged, ``paid`` what the buyer has had credited for it, as far as this side knows.
    """

    journal_first: ClassVar[bool] = True
    code: str
    cost: int = 0
    paid: int = 0
    hint: str = ""
    refusal: JobRefusal | None = None


# -- the seller ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class JudgeAward:
    """Is the Quote ours, held and agreed with; the spec lawful; the gateway covered? -> AwardJudged"""

    journal_first: ClassVar[bool] = False
    award: Award


@dataclass(frozen=True, slots=True)
class CreditPayment:
    """Judge and credit tickets. -> PaymentJudged (a repeat: the same verdict)"""

    journal_first: ClassVar[bool] = False
    payment_id: bytes
    payment: bytes


@dataclass(frozen=True, slots=True)
class OfferParams:
    """Make fresh TicketParams for this gateway. -> ParamsOffered"""

    journal_first: ClassVar[bool] = False
    payment_id: bytes


@dataclass(frozen=True, slots=True)
class StartWork:
    """Work the job, or this slice; attach when it runs already. -> Stepped, PreviewMade, WorkDone or SliceWorked"""

    journal_first: ClassVar[bool] = True
    award: Award
    slice: int


@dataclass(frozen=True, slots=True)
class CancelWork:
    """Stop the work within one step."""

    journal_first: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class SealArtifacts:
    """Seal the result under a fresh key and sign the Commitment. -> SealMade (or WorkFailed)"""

    journal_first: ClassVar[bool] = True
    price: int
    late_ms: int


@dataclass(frozen=True, slots=True)
class SignReceipt:
    """Sign the Receipt with what was credited until now. -> ReceiptSigned"""

    journal_first: ClassVar[bool] = False
    price: int
    paid: int


@dataclass(frozen=True, slots=True)
class Forget:
    """Result, sealed artifact and key need not be kept any longer."""

    journal_first: ClassVar[bool] = False


# -- the buyer -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pay:
    """Sign and journal tickets worth ``amount``. -> PaymentReady (a repeat: the same bytes) or PaymentDeclined

    ``cover`` is the credit the seller wants to see for this job that is not yet earned, ``amount`` included. With
    ``replaces`` the seller has signed that the payment of this id was not credited: sign it anew under ``params``.
    """

    journal_first: ClassVar[bool] = True
    payment_id: bytes
    amount: int
    cover: int
    params: bytes
    replaces: int = 0


@dataclass(frozen=True, slots=True)
class SettlePayment:
    """Check the seller's signed verdict and take it into the books. -> PaymentSettled"""

    journal_first: ClassVar[bool] = False
    payment_id: bytes
    verdict: bytes


@dataclass(frozen=True, slots=True)
class OpenSeal:
    """Open the artifacts with the key, check every digest, and the Receipt. Without a seal: the Receipt. -> Opened"""

    journal_first: ClassVar[bool] = False
    commitment: Signed | None
    key: Signed | None
    receipt: Signed


@dataclass(frozen=True, slots=True)
class Deliver:
    """The result is the job's. ``late`` when the attempt was closed before its paid key came."""

    journal_first: ClassVar[bool] = True
    receipt: Signed
    late: bool = False


@dataclass(frozen=True, slots=True)
class DeliverSlice:
    """One slice of a streamed result is here."""

    journal_first: ClassVar[bool] = False
    slice: int
    blob: bytes


@dataclass(frozen=True, slots=True)
class Report:
    """Tell the client how far the work is."""

    journal_first: ClassVar[bool] = False
    step: int
    steps: int
    eta_ms: int


@dataclass(frozen=True, slots=True)
class ShowPreview:
    """Show the client what there is."""

    journal_first: ClassVar[bool] = False
    step: int
    media_type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class RefuseCancel:
    """Tell the client that the result is sealed already, and will be paid and delivered."""

    journal_first: ClassVar[bool] = False


@dataclass(frozen=True, slots=True)
class Measure:
    """For the gateway's own measure of this seller; never for anybody else."""

    journal_first: ClassVar[bool] = False
    kind: str
    value: int


SellerCommand = JudgeAward | CreditPayment | OfferParams | StartWork | CancelWork | SealArtifacts | SignReceipt | Forget
BuyerCommand = Pay | SettlePayment | OpenSeal | Deliver | DeliverSlice | Report | ShowPreview | RefuseCancel | Measure
Command = Journal | SendMessage | SendBlob | Debit | Fault | Close | SellerCommand | BuyerCommand
