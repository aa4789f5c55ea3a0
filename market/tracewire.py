"""What is said on ``/pasar/trace/1``: an ask for leaves of a committed trace, and the leaves, or why there are none.

Whoever shows the seller's own Receipt and the salted spec that it names may ask: the client, its gateway, and whoever
they let check. Both lie in the ask, so the seller remembers nothing, and a restart forgets nothing. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from compute.capability import Dtype
from compute.evidence import MAX_SHOWN
from compute.spec import MAX_STEPS, JobSpec, Verification
from compute.trace import FINISHED, MAX_LEAF, MAX_PATH
from market.receipt import Receipt
from p2p.codec import Hash, Range, Size, message
from p2p.envelope import Signed, open_signed
from p2p.errors import PeerFault, Refused

PART = 2**20  # bytes of latents in one frame


@message("trace-ask", 1)
@dataclass(frozen=True, slots=True)
class TraceAsk:
    """``receipt`` as its seller signed it; ``indexes`` rise."""

    receipt: Signed
    spec: JobSpec
    indexes: Annotated[tuple[Annotated[int, Range(0, MAX_STEPS)], ...], Size(1, MAX_SHOWN)]

    def __post_init__(self) -> None:
        if list(self.indexes) != sorted(set(self.indexes)):
            raise ValueError("leaves are asked for in order, each once")


@message("trace-leaf", 1)
@dataclass(frozen=True, slots=True)
class LeafHead:
    """Announces one leaf; its ``size`` bytes follow as parts."""

    index: Annotated[int, Range(0, MAX_STEPS)]
    timestep: Annotated[int, Range(0, FINISHED)]
    dtype: Dtype
    size: Annotated[int, Range(1, MAX_LEAF)]
    path: Annotated[tuple[Hash, ...], Size(0, MAX_PATH)]


@message("trace-part", 1)
@dataclass(frozen=True, slots=True)
class LeafPart:
    """The next bytes of the leaf that was announced last."""

    data: Annotated[bytes, Size(1, PART)]


@message("trace-refusal", 1)
@dataclass(frozen=True, slots=True)
class TraceRefusal:
    """Why there are no leaves, or no more."""

    code: Annotated[str, Size(1, 48)]
    hint: Annotated[str, Size(0, 200)]


def opened_ask(ask: TraceAsk) -> Receipt:
    """The Receipt that an ask stands on. Raises PeerFault for a false one, Refused for one without a trace."""
    receipt, signer = open_signed(ask.receipt, Receipt)
    if signer != receipt.orchestrator or ask.spec.digest != receipt.spec:
        raise PeerFault("an ask on a Receipt that is not signed by its seller, or is about another job")
    if receipt.trace_root is None or ask.spec.shape.verification is not Verification.TRACE:
        raise Refused("NO_TRACE", "no trace was bought with this job")
    if ask.indexes[-1] > receipt.steps:
        raise Refused("NO_LEAF", "the trace has fewer leaves", have=receipt.steps + 1, need=ask.indexes[-1] + 1)
    return receipt
