"""What the demo counts and says, from what its nodes logged: one structured line in, numbers and perhaps words out.

Pure. A line is a dict as ``--log-json`` writes it; who wrote it is a name that the stage gave. Nothing here is guessed:
a number that no node logged stays 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ledger.money import wei_text


@dataclass(slots=True)
class Seller:
    """One orchestrator in numbers: quotes given, jobs delivered, wei credited to the gateway by tickets."""

    address: str
    peer_id: str
    quoted: int = 0
    jobs: int = 0
    credit_wei: int = 0
    won: int = 0  # in the payment that is being credited
    face_wei: int = 0

    def as_dict(self) -> dict[str, int]:
        return {"quoted": self.quoted, "jobs": self.jobs, "credit_wei": self.credit_wei}


@dataclass(slots=True)
class Tally:
    """Sums over the logs of all nodes. Each line is counted once, by the node that is the authority on it."""

    found: set[str] = field(default_factory=set)  # peer ids that the DHT named to anybody
    offers: int = 0  # the most that the gateway's book held
    quotes: int = 0
    tickets: int = 0
    won: int = 0
    redeemed: int = 0
    redeemed_wei: int = 0
    certain: bool = False
    sellers: dict[str, Seller] = field(default_factory=dict)  # by the name on the stage

    @property
    def jobs(self) -> int:
        """Jobs that their sellers have closed as delivered."""
        return sum(seller.jobs for seller in self.sellers.values())

    def as_dict(self) -> dict[str, Any]:
        """What a program gets of it."""
        return {
            "peers_found_by_dht": len(self.found),
            "offers": self.offers,
            "quotes": self.quotes,
            "tickets": self.tickets,
            "tickets_won": self.won,
            "redeemed_wei": self.redeemed_wei,
            "orchestrators": {seller.address: seller.as_dict() for seller in self.sellers.values()},
        }

    def seller_ready(self, who: str, ready: Mapping[str, Any]) -> None:
        """An orchestrator said READY."""
        self.sellers[who] = Seller(str(ready["address"]), str(ready["peer_id"]))

    def name_of(self, peer_id: str) -> str:
        """The name on the stage of an orchestrator."""
        return next((who for who, one in self.sellers.items() if one.peer_id == peer_id), f"…{peer_id[-8:]}")

    def note(self, who: str, line: Mapping[str, Any]) -> str:
        """Count one line of ``who``; what to tell people of it, empty for nothing."""
        event, seller = line.get("event"), self.sellers.get(who)
        if event == "peer found":
            return self._peer_found(str(line.get("peer")), str(line.get("kind")))
        if who == "gateway" and event == "offers known":
            return self._offers(_number(line, "offers"))
        if who == "gateway" and event == "quoted":
            return self._quoted(str(line.get("seller")))
        if seller is None:
            return ""
        if event == "tickets credited":
            return self._credited(seller, _number(line, "tickets"), _number(line, "credited"))
        if event == "ticket won":  # logged before the payment that it came with
            self.won, seller.won = self.won + 1, seller.won + 1
            seller.face_wei = _number(line, "face_wei")
        if event == "tickets redeemed":
            return self._redeemed(_number(line, "tickets"), _number(line, "earned_wei"), _number(line, "cost_wei"))
        if event == "tickets sure to win":
            self.certain = True
            return "chance has denied every win so far: the next ticket wins for sure (p = 1)"
        if event == "sale closed" and line.get("code") == "DONE":
            seller.jobs += 1
        return ""

    def _peer_found(self, peer: str, kind: str) -> str:
        self.found.add(peer)
        return f"found {kind} …{peer[-8:]} over the DHT"

    def _offers(self, offers: int) -> str:
        if offers <= self.offers:
            return ""
        self.offers = offers
        return f"{counted(offers, 'offer')} in the book, heard by gossip"

    def _quoted(self, peer: str) -> str:
        self.quotes += 1
        for seller in self.sellers.values():
            if seller.peer_id == peer:
                seller.quoted += 1
        return ""  # the client hears of it too, and says it with the price

    def _credited(self, seller: Seller, tickets: int, credited: int) -> str:
        self.tickets += tickets
        seller.credit_wei += credited
        won, seller.won = seller.won, 0
        wins = f"; {won} won {wei_text(seller.face_wei)}" + (" each" if won > 1 else "") if won else ""
        return f"{counted(tickets, 'ticket')} credited, worth {wei_text(credited)}{wins}"

    def _redeemed(self, tickets: int, earned: int, cost: int) -> str:
        self.redeemed += tickets
        self.redeemed_wei += earned
        return f"{counted(tickets, 'ticket')} redeemed on chain: {wei_text(earned)} earned, gas {wei_text(cost)}"


def _number(line: Mapping[str, Any], key: str) -> int:
    value = line.get(key)
    return value if type(value) is int else 0


def counted(number: int, what: str) -> str:
    """``1 job``, ``3 jobs``."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
