"""Progress: what a person, or a program, sees on stderr while a job is on its way.

Three displays of the same news: a bar on a terminal, plain lines elsewhere, JSON lines for programs. They decide
nothing.
"""

from __future__ import annotations

import json
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from ledger.money import wei_text
from market.bidwire import BidTaken, JobNews, News
from p2p.peer import peer_text


class Display(Protocol):
    """Shows what happens; ``end`` before anything is printed on stdout."""

    def say(self, text: str) -> None: ...
    def news(self, news: BidTaken | JobNews) -> None: ...
    def end(self) -> None: ...


def words(news: BidTaken | JobNews) -> str:
    """One line for people; empty for what only a bar shows."""
    if isinstance(news, BidTaken):
        chosen = "no limit given: taking twice the cheapest offer, " if news.limit_chosen else "limit "
        return f"{chosen}{wei_text(news.limit)}"
    who = f"…{peer_text(news.orchestrator)[-8:]}" if news.orchestrator is not None else ""
    return {
        News.AUCTION: "auction opened",
        News.QUOTED: f"{who} quotes {wei_text(news.wei)}",
        News.AWARDED: f"awarded to {who} at {wei_text(news.wei)}",
        News.STARTED: f"{who} has started",
        News.STEP: "" if news.step else f"{who} loads the model first: about {-(-news.eta_ms // 1000)} s to the result",
        News.SEALED: "the result is sealed",
        News.PAID: f"tickets worth {wei_text(news.wei)} credited",
        News.OPENED: "the key fits, every digest agrees",
        News.RETRIED: f"{who} is gone without a result; a new auction follows",
    }[news.event]


class JsonDisplay:
    """One object a line: event, job_id, orchestrator, step, steps."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def say(self, text: str) -> None:
        unknown: dict[str, object] = {"job_id": None, "orchestrator": None, "step": 0, "steps": 0}
        self._put({"event": "note", **unknown, "text": text})

    def news(self, news: BidTaken | JobNews) -> None:
        if isinstance(news, BidTaken):
            line: dict[str, object] = {"event": "taken", "job_id": news.job_id.hex(), "orchestrator": None}
            self._put({**line, "step": 0, "steps": 0, "limit_wei": news.limit, "limit_chosen": news.limit_chosen})
            return
        who = peer_text(news.orchestrator) if news.orchestrator is not None else None
        line = {"event": news.event.value, "job_id": news.job_id.hex(), "orchestrator": who}
        self._put({**line, "step": news.step, "steps": news.steps, "wei": news.wei, "eta_ms": news.eta_ms})

    def end(self) -> None:
        """Nothing is open."""

    def _put(self, line: dict[str, object]) -> None:
        print(json.dumps(line), file=self._out, flush=True)


class PlainDisplay:
    """A line for each event, and one for every tenth of the steps."""

    def __init__(self, out: TextIO) -> None:
        self._out, self._tenth = out, -1

    def say(self, text: str) -> None:
        print(text, file=self._out, flush=True)

    def news(self, news: BidTaken | JobNews) -> None:
        text = words(news)
        if isinstance(news, JobNews) and news.event is News.STEP and news.step:
            tenth = 10 * news.step // news.steps
            text = f"step {news.step} of {news.steps}" if tenth != self._tenth else ""
            self._tenth = tenth
        if text:
            self.say(text)

    def end(self) -> None:
        """Nothing is open."""


class RichDisplay:
    """A bar that moves with the steps, the events above it."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}")
        self._progress = Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True)
        self._task = self._progress.add_task("steps", total=None, visible=False)
        self._progress.start()

    def say(self, text: str) -> None:
        self._progress.console.print(text, style="dim", highlight=False)

    def news(self, news: BidTaken | JobNews) -> None:
        if isinstance(news, JobNews) and news.event is News.STEP and news.step:
            self._progress.update(self._task, completed=news.step, total=news.steps, visible=True)
        elif text := words(news):
            self.say(text)

    def end(self) -> None:
        self._progress.stop()
