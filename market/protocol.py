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
BOOK = "/pasar/book/1"  # a neighbour's book, handed over

OFFER_FRAME = 4 * 1024  # a gossiped message, envelope included
CONTROL_FRAME = 256 * 1024
JOB_FRAME = 1024 * 1024 + 4096  # a chunk and its header

STREAMS: dict[str, int] = {
    CONTROL: CONTROL_FRAME,
    BID: JOB_FRAME,
    JOB: JOB_FRAME,
    LOAD: CONTROL_FRAME,
    BOOK: CONTROL_FRAME,
}

JOB_BUYER = ("award", "tickets", "cancellation", "resume", "closure")  # market/jobwire.py
JOB_SELLER = (
    *("acceptance", "job-refusal", "start", "progress", "preview", "slice-output", "due"),
    *("tickets-verdict", "seal", "delivery", "failure", "closure"),
)
JOB_SIGNED = ("quote", "commitment", "seal-key", "receipt")  # inside envelopes of the above
JOB_MONEY = ("payment", "payment-verdict", "ticket-params")  # ledger/ticket.py, as bytes inside the above
BLOBS = ("blob-head", "chunk", "chunk-ack", "blob-have")  # p2p/blobs.py

MESSAGES: dict[str, tuple[str, ...]] = {
    CONTROL: ("hello", "rfq", "quote", "quote-refusal", "release", "signed"),  # market/hello.py, market/quote.py
    BID: (  # market/bidwire.py, market/bid.py, market/refusal.py
        *("hello", "ask-models", "models-on-offer", "bid", "cancel-bid", "thanks"),
        *("refusal", "bid-taken", "job-news", "job-done", "job-failed", "bid-cancelled", *BLOBS),
    ),
    JOB: ("hello", *dict.fromkeys((*JOB_BUYER, *JOB_SELLER)), *BLOBS),
    LOAD: ("hello", "load"),  # market/offer.py
    BOOK: ("hello", "book-ask", "book-page", "signed"),  # market/bookfeed.py
}


def offers_topic(network: str, pipeline: str) -> str:
    """The topic on which offers of one pipeline are gossiped in one network."""
    return f"pasar/{network}/offers/{pipeline}"
