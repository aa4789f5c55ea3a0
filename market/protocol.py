"""Every name of Pasar on the wire, in one screen: topics, streams, and what is said on each.

The kinds are those of ``p2p/codec.py``; a message family lives in the file named beside it. Pure; knows no message by
class, so that a role imports only what it speaks.
"""

from __future__ import annotations

MESHSUB = "/meshsub/1.1.0"
KAD = "/pasar/kad/1.0.0"

CONTROL = "/pasar/control/1"  # hello, RFQ, Quote, release: gateway and orchestrator
BID = "/pasar/bid/1"  # client and gateway
JOB = "/pasar/job/1"  # one attempt at one job: gateway and orchestrator
LOAD = "/pasar/load/1"  # queue and warm models, on change
BOOK = "/pasar/book/2"  # a neighbour's book: pages, and sums to find what differs
BOOK_1 = "/pasar/book/1"  # its forerunner: pages alone
PROOF = "/pasar/proof/1"  # two offers under one serial, shown to a neighbour
TRACE = "/pasar/trace/1"  # leaves of a committed trace, for a check
PING = "/pasar/ping/1"  # is the other end there; any two connected peers
DIALBACK = "/pasar/dialback/1"  # can I be dialled; any two connected peers

OFFER_FRAME = 4 * 1024  # a gossiped message, envelope included
CONTROL_FRAME = 256 * 1024
PING_FRAME, DIALBACK_FRAME = 64, 256
JOB_FRAME = 1024 * 1024 + 4096  # a chunk and its header

STREAMS: dict[str, int] = {
    CONTROL: CONTROL_FRAME,
    BID: JOB_FRAME,
    JOB: JOB_FRAME,
    LOAD: CONTROL_FRAME,
    BOOK: CONTROL_FRAME,
    BOOK_1: CONTROL_FRAME,
    PROOF: CONTROL_FRAME,
    TRACE: JOB_FRAME,
    PING: PING_FRAME,
    DIALBACK: DIALBACK_FRAME,
}

JOB_BUYER = ("award", "tickets", "cancellation", "resume", "closure")  # market/jobwire.py
JOB_SELLER = (
    *("acceptance", "job-refusal", "start", "progress", "preview", "slice-output", "due"),
    *("tickets-verdict", "seal", "delivery", "failure", "closure"),
)
CHUNKS = ("chunk", "chunk-ack")  # p2p/blobs.py, on any stream that carries files

# What a stream carries, frame by frame, both directions together.
MESSAGES: dict[str, tuple[str, ...]] = {
    CONTROL: ("hello", "rfq", "signed", "quote-refusal", "release"),  # market/hello.py, market/quote.py
    BID: (  # market/bidwire.py, market/bid.py, market/refusal.py
        *("hello", "ask-models", "models-on-offer", "bid", "cancel-bid", "thanks"),
        *("refusal", "bid-taken", "send-inputs", "job-news", "job-preview"),
        *("job-done", "job-failed", "bid-cancelled", *CHUNKS),
    ),
    JOB: ("hello", *dict.fromkeys((*JOB_BUYER, *JOB_SELLER)), *CHUNKS),
    LOAD: ("hello", "load-ask", "load", "loads-heard"),  # market/loads.py, market/offer.py
    BOOK: ("hello", "book-ask", "book-page", "book-sums-ask", "book-sums", "book-want"),  # market/bookwire.py
    BOOK_1: ("hello", "book-ask", "book-page"),
    PROOF: ("hello", "equivocation"),  # market/equivocation.py
    TRACE: ("hello", "trace-ask", "trace-leaf", "trace-part", "trace-refusal"),  # market/tracewire.py
    PING: ("ping", "pong"),  # p2p/heartbeat.py; no hello: these two know no market
    DIALBACK: ("dial-me", "dialled"),  # p2p/dialback.py
}
GOSSIP = ("signed",)  # an offer in its envelope

# What is never a frame of its own: the payload of an envelope, or bytes in a field of another message.
JOB_SIGNED = ("quote", "commitment", "seal-key", "receipt")
SIGNED = (*JOB_SIGNED, "offer", "statement", "countersigned-receipt")
JOB_MONEY = ("payment", "payment-verdict", "ticket-params")  # ledger/ticket.py, as bytes in messages of the job stream
DIGESTED = ("job-spec",)  # compute/spec.py: its digest is what a Receipt names
INPUTS = ("evidence",)  # compute/evidence.py: a file that a job of verify-step works on

# Plain transfers of one file on a stream of their own; no protocol of this version has one.
TRANSFERS = ("blob-head", "blob-have")  # p2p/transfer.py

# What does not leave a machine.
WORKER = (  # compute/messages.py, between a node and its worker
    *("worker-attach", "worker-ready", "worker-ping", "worker-pong", "worker-end", "capability"),
    *("worker-run", "worker-input", "worker-cancel", "worker-step", "worker-done", "worker-part", "worker-failed"),
    *("worker-preview", "worker-loading", "worker-pin", "worker-shelved", "worker-calibrated", "worker-due"),
    *("worker-model-changed", "worker-model-failed", "worker-open-trace", "worker-leaf", "worker-request-failed"),
    *("worker-replay-step", "worker-replay-start", "worker-replay-picture", "worker-replayed"),
    *("worker-join", "worker-welcome", "worker-declined"),  # compute/joinwire.py: of another host
)
DOOR = (  # market/localdoor.py, between a running node and a command of the same user
    *("wallet-question", "holdings", "deposit-order", "deposited", "door-refusal"),
    *("models-question", "models-here", "pin-order", "pin-kept"),
)
DISK = (
    "buying-record",
    "selling-record",
    "job",
    "kept-work",
    "trace-index",
    "kept-proof",
    "kept-proofs",
)  # what a restart reads back


def offers_topic(network: str, pipeline: str) -> str:
    """The topic on which offers of one pipeline are gossiped in one network."""
    return f"pasar/{network}/offers/{pipeline}"
