"""Bulletin: what there is to tell of one job, in its order, for whoever follows it now or comes back later.

Bounded: when there is too much, the oldest goes, and with the end all but the last few. Of previews there is one, the
newest, and only where the bid asked for them. Knows no stream and no job.
"""

from __future__ import annotations

import trio

from market.bidwire import JobNews, JobPreview
from p2p.admission import RateLimit

MAX_NEWS = 512  # kept for a client that comes back; steps beyond it are dropped, oldest first
NEWS_AFTER = 32  # of them once the job is over, and its outcome says the rest
PREVIEWS_PER_SECOND, PREVIEWS_BURST = 4.0, 4.0  # a seller's others are dropped


class Bulletin:
    """``told`` counts the news that there ever were, ``shown`` the previews."""

    def __init__(self, *, previews: bool = False) -> None:
        self.told = self.shown = 0
        self._wanted = previews
        self._news: list[JobNews] = []
        self._preview: JobPreview | None = None
        self._rate = RateLimit(PREVIEWS_PER_SECOND, PREVIEWS_BURST, 1)
        self._changed = trio.Event()

    def tell(self, news: JobNews | JobPreview) -> None:
        if isinstance(news, JobPreview):
            if not self._wanted or not self._rate.allow("", trio.current_time()):
                return
            self._preview = news
            self.shown += 1
        else:
            self._news.append(news)
            self.told += 1
            if len(self._news) > MAX_NEWS:
                del self._news[0]
        self._wake()

    def since(self, heard: int) -> tuple[list[JobNews], int]:
        """News after the first ``heard`` ones, as far as they are kept, and how many there are now."""
        dropped = self.told - len(self._news)
        return self._news[max(0, heard - dropped) :], self.told

    def seen_since(self, seen: int) -> tuple[list[JobPreview], int]:
        """The newest preview, unless it is among the first ``seen`` ones, and how many there were."""
        fresh = [self._preview] if self._preview is not None and self.shown > seen else []
        return fresh, self.shown

    async def changed(self) -> None:
        """Wait for the next news, a preview, or the end."""
        await self._changed.wait()

    def end(self) -> None:
        """There will be none any more; whoever waits is woken."""
        del self._news[:-NEWS_AFTER]
        self._preview = None
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
