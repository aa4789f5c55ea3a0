"""Every error that Pasar raises on purpose, sorted by what to do about it.

    PasarError
    ├── PeerFault          the other side broke a rule: drop it, score it, go on
    │   ├── MalformedMessage   bytes that are no canonical message of their kind
    │   └── BadSignature       a signature that does not belong to the claimed author
    ├── UnknownMessage     a kind or version we do not speak: ignore it, nobody's fault
    ├── Refused            a lawful request that is declined, with a code that may travel
    ├── Unavailable        something outside is missing for now: retry later
    │   └── Unspoken           a peer that is there and does not speak the protocol asked for
    └── Misconfigured      the operator must act: stop before anything listens (exit 2)

``ValueError`` and ``AssertionError`` stay what they are, bugs of ours, and are never caught. The root sits here, at
the bottom of the import order, so that every package may use it; this module knows nothing of any of them.
"""

from __future__ import annotations


class PasarError(Exception):
    """Root of every error that is raised on purpose. The text is for our own log, never for the peer."""


class PeerFault(PasarError):
    """The peer sent what no correct peer sends. ``code`` may travel; the text does not."""

    code = "FAULT"


class MalformedMessage(PeerFault):
    """Bytes that are not the canonical encoding of a message within its bounds."""

    code = "MALFORMED"


class BadSignature(PeerFault):
    """A signature that is no signature, or not by the author that the message names."""

    code = "BAD_SIGNATURE"


class UnknownMessage(PasarError):
    """A well-formed message of a kind or version that this node does not speak. It is ignored."""

    def __init__(self, kind: str, version: int) -> None:
        super().__init__(f"{kind} v{version} is not known here")
        self.kind, self.version = kind, version


class Refused(PasarError):
    """A lawful request that is declined. ``code`` is stable and travels; ``have`` and ``need`` are for people."""

    def __init__(self, code: str, hint: str = "", *, have: int = 0, need: int = 0) -> None:
        super().__init__(f"{code}: {hint}" if hint else code)
        self.code, self.hint, self.have, self.need = code, hint, have, need


class Unavailable(PasarError):
    """Something outside (a peer, a chain, a worker) is not there for now. Safe to retry."""


class Unspoken(Unavailable):
    """The peer is there, and said that it does not speak this protocol."""


class Misconfigured(PasarError):
    """The operator asked for something impossible. The text says what to do; the process ends with exit code 2."""
