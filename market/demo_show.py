"""What people see of the demo: a line for each thing that happens, bars while steps are done, a summary at the end.

On a terminal pictures are shown too, as coloured half blocks. It decides nothing and counts nothing.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import psutil
from rich.columns import Columns
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from ledger.money import wei_text
from market.bidwire import BidTaken, JobNews, News
from market.demo_tally import Tally, counted

COLOURS = {"chain": "magenta", "bootstrap": "blue", "gateway": "yellow", "client": "cyan"}
THUMBNAIL = 32  # columns; a cell holds two pixels, one above the other


def seconds_since_start() -> float:
    """Since this process was created: imports count, as they do for who waits."""
    return max(0.0, time.time() - psutil.Process().create_time())


def job_words(news: BidTaken | JobNews, name_of: Callable[[str], str], seller: str) -> str:
    """One line for people on a job's news; empty for what only a bar shows. ``seller``: a peer id."""
    if isinstance(news, BidTaken):
        return f"auction: the limit is {wei_text(news.limit)}" + (
            ", twice the cheapest offer" if news.limit_chosen else ""
        )
    who = name_of(seller)
    return {
        News.AUCTION: "",  # the limit was told
        News.QUOTED: f"{who} quotes {wei_text(news.wei)}",
        News.AWARDED: f"awarded to {who} at {wei_text(news.wei)}",
        News.STARTED: f"{who} has started",
        News.STEP: "" if news.step else f"{who} loads the model first",
        News.SEALED: f"{who} has sealed the picture under a key of its own",
        News.PAID: "",  # the seller says it, with what won
        News.OPENED: "the key fits, and every digest agrees",
        News.RETRIED: f"{who} is gone without a result; a new auction follows",
    }[news.event]


class Show:
    """Lines on ``out``, each with the time since the process began."""

    def __init__(self, out: TextIO) -> None:
        self.console = Console(file=out, highlight=False, soft_wrap=True)
        columns = (
            TextColumn("         {task.description}"),
            BarColumn(),
            TextColumn("step {task.completed}/{task.total}"),
        )
        self._bars = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        self._tasks: dict[str, TaskID] = {}
        self._halves: dict[str, int] = {}
        self._bars.start()

    def say(self, who: str, text: str) -> None:
        """Something happened at ``who``."""
        line = Text(f"{seconds_since_start():6.1f} s  ", style="dim")
        line.append(f"{who:<15}", style=COLOURS.get(who, "green" if who.startswith("orch") else "bold"))
        line.append(text, style="")
        self._bars.console.print(line)

    def step(self, job: str, step: int, steps: int) -> None:
        """A bar on a terminal; elsewhere a line for each half."""
        if self.console.is_terminal:
            if job not in self._tasks:
                self._tasks[job] = self._bars.add_task(job, total=steps)
            self._bars.update(self._tasks[job], completed=step, visible=step < steps)
        elif steps and (half := 2 * step // steps) != self._halves.get(job, 0):
            self._halves[job] = half
            self.say(job, f"step {step} of {steps}")

    def pictures(self, files: Sequence[bytes]) -> None:
        """The pictures themselves, where the terminal has colours enough."""
        if self.console.is_terminal and self.console.color_system in ("truecolor", "256"):
            shown = [drawn for data in files if (drawn := half_blocks(data)) is not None]
            self.console.print(Columns(shown, padding=(0, 2)))

    def summary(self, report: dict[str, Any], tally: Tally) -> None:
        """The end of it, in numbers."""
        self.paragraph(*(f"  {line}" for line in summary_lines(report, tally)))

    def paragraph(self, *lines: str) -> None:
        """An empty line, and these."""
        for line in ("", *lines):
            self._bars.console.print(Text(line))

    def end(self) -> None:
        """No bar is left on the terminal."""
        self._bars.stop()


def summary_lines(report: dict[str, Any], tally: Tally) -> list[str]:
    """The last words: what was found, paid, redeemed, and how long it took."""
    seconds = report["seconds"]
    first = f"{seconds['first_image']:.1f} s" if seconds["first_image"] is not None else "never"
    sure = " (the last one was sent with p = 1: chance had denied every win)" if tally.certain else ""
    sellers = [
        f"{who:<15}{counted(one.quoted, 'quote')}, {counted(one.jobs, 'job')}, credited {wei_text(one.credit_wei)}"
        for who, one in sorted(tally.sellers.items())
    ]
    return [
        *(f"picture    {image}" for image in report["images"]),
        f"network    {report['peers_found_by_dht']} peers found by DHT, {report['offers']} offers, "
        f"{report['quotes']} quotes, {report['delivered']} of {report['jobs']} jobs delivered",
        f"money      {report['tickets']} tickets worth {wei_text(report['paid_wei'])}, {report['tickets_won']} won, "
        f"{wei_text(report['redeemed_wei'])} redeemed on the development chain{sure}",
        *(f"           {line}" for line in sellers),
        f"time       market up after {seconds['start']:.1f} s, first picture after {first}, "
        f"all done after {seconds['total']:.1f} s",
    ]


def half_blocks(data: bytes, columns: int = THUMBNAIL) -> Text | None:
    """A picture as text, two pixels to a cell; None where no picture library is installed or it is no picture."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ModuleNotFoundError:  # a light install shows no pictures
        return None
    try:
        picture = Image.open(io.BytesIO(data)).convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError):
        return None
    rows = max(2, round(columns * picture.height / picture.width) // 2 * 2)
    pixels = picture.resize((columns, rows)).load()
    drawn = Text()
    for row in range(0, rows, 2):
        for column in range(columns):
            above, below = (_rgb(pixels[column, row + k]) for k in (0, 1))
            drawn.append("▀", style=f"{above} on {below}")
        drawn.append("\n")
    return drawn


def _rgb(pixel: tuple[int, int, int]) -> str:
    return f"rgb({pixel[0]},{pixel[1]},{pixel[2]})"


def save_picture(folder: Path, number: int, prompt: str, data: bytes) -> Path:
    """Write one picture where people find it; its name says what was asked for."""
    words = "-".join("".join(c if c.isalnum() else " " for c in prompt.lower()).split())[:48]
    path = folder / f"{number}-{words}.png"
    path.write_bytes(data)
    return path
