"""A state machine as a table: rows of (states, event, action, states after), to be run, printed and counted.

    no row          a stray: late, repeated, or out of order. Nothing changes, nothing is commanded.
    a row           its action gives the commands and may set the state to one of ``to``, or leave it as it was.

Pure; knows no session.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from itertools import takewhile
from typing import Any, ClassVar, Generic, Self, TypeVar

from market.session.commands import Command, Journal, SendMessage
from market.session.events import Event
from p2p.codec import decode_as, encode

MAX_RECORD = 8 * 1024 * 1024

R = TypeVar("R")
Action = Callable[[Any, Any, int], list[Command]]


@dataclass(frozen=True, slots=True)
class Row:
    """In each of ``states``, ``event`` runs ``action`` and leads to one of ``to``, or nowhere else."""

    states: tuple[StrEnum, ...]
    event: type
    action: Action
    to: tuple[StrEnum, ...] = ()

    @property
    def why(self) -> str:
        """The rule, as the first line of the action's docstring states it."""
        return (self.action.__doc__ or "").strip().splitlines()[0]


class Table:
    """Every (state, event) has one row at most."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self._rows: dict[tuple[str, str], Row] = {}
        for row in rows:
            for state in row.states:
                if self._rows.setdefault((state.value, row.event.__name__), row) is not row:
                    raise ValueError(f"two rows for {state} and {row.event.__name__}")

    def find(self, state: StrEnum, event: type) -> Row | None:
        return self._rows.get((state.value, event.__name__))

    @property
    def cells(self) -> frozenset[tuple[str, str]]:
        """Every (state, name of event) that has a row."""
        return frozenset(self._rows)

    def draw(self) -> list[str]:
        """The whole table as lines of Markdown."""
        lines = ["| state | event | may lead to | rule |", "|---|---|---|---|"]
        for (state, event), row in self._rows.items():
            after = ", ".join(s.value for s in row.to if s.value != state) or "-"
            lines.append(f"| {state} | {event} | {after} | {row.why} |")
        return lines


class Machine(Generic[R]):
    """One end of a session: a record, and a table that says what each event does to it.

    The record is a registered message, frozen; its fields that end in ``_at`` are times of this machine's clock in
    milliseconds. Nothing but ``handle`` changes it.
    """

    table: ClassVar[Table]
    record_class: ClassVar[type]

    def __init__(self, record: R) -> None:
        self._record: R = record
        self.entered: tuple[str, str] | None = None  # the row of the last event, None for a stray

    @property
    def record(self) -> R:
        return self._record

    @property
    def state(self) -> StrEnum:
        state: StrEnum = self._r.state
        return state

    @property
    def _r(self) -> Any:
        return self._record

    def handle(self, event: Event, now: int) -> list[Command]:
        """What is to be done about ``event`` at ``now`` (milliseconds of one steady clock)."""
        row = self.table.find(self.state, type(event)) if self._concerns(event) else None
        if row is None:
            self.entered = None
            return []
        before = self.state
        self.entered = (before.value, row.event.__name__)
        commands = row.action(self, event, now)
        if self.state is not before and self.state not in row.to:
            raise AssertionError(f"{before} led to {self.state} on {row.event.__name__}, which its row does not say")
        if any(c.journal_first for c in commands):
            first = sum(1 for _ in takewhile(_is_ahead, commands))
            commands = [*commands[:first], Journal(self.snapshot(now)), *commands[first:]]
        return commands

    def snapshot(self, now: int) -> bytes:
        """The record as canonical bytes, to be restored after a restart."""
        return encode(self._set_clock(now))

    @classmethod
    def restore(cls, data: bytes, now: int, away_ms: int = 0) -> Self:
        """The machine as it was, ``away_ms`` later, on a clock that says ``now``; it has no stream.

        Raises MalformedMessage and UnknownMessage.
        """
        record: Any = decode_as(cls.record_class, data, MAX_RECORD)
        shift = now - away_ms - record.clock_at
        moved = {
            f.name: getattr(record, f.name) + shift
            for f in fields(record)
            if f.name.endswith("_at") and getattr(record, f.name) is not None
        }
        return cls(replace(record, **moved, connected=False))

    def _set(self, **changes: Any) -> None:
        self._record = replace(self._r, **changes)

    def _set_clock(self, now: int) -> Any:
        return replace(self._r, clock_at=now)

    def _concerns(self, event: Event) -> bool:
        """Whether a message is about this attempt; events of our own side always are."""
        named = getattr(event, "job_id", None), getattr(event, "attempt", None)
        return named in ((None, None), self._name)

    @property
    def _name(self) -> tuple[bytes, int]:
        raise NotImplementedError

    def _say(self, message: Any, *, journal_first: bool = False, ahead: bool = False) -> list[Command]:
        """Send it when there is a stream; else the Resume of the next one will bring it up."""
        return [SendMessage(message, journal_first, ahead)] if self._r.connected or journal_first else []


def _is_ahead(command: Command) -> bool:
    return isinstance(command, SendMessage) and command.ahead
