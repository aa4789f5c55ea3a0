"""Bulletin: what there is to tell of one job, in its order, for whoever follows it now or comes back later.

Bounded: when there is too much, the oldest goes, and with the end all but the last few. Knows no stream and no job.
"""

from __future__ import annotations

import trio

from market.bidwire import JobNews

MAX_NEWS = 512  # kept for a client that comes back; steps beyond it are dropped, oldest first
NEWS_AFTER = 32  # of them once the job is over, and its outcome says the rest


class Bulletin:
    """``told`` counts the news that there ever were."""

    def __init__(self) -> None:
        self.told = 0
        self._news: list[JobNews] = []
        self._changed = trio.Event()

    def tell(self, news: JobNews) -> None:
        self._news.append(news)
        self.told += 1
        if len(self._news) > MAX_NEWS:
            del self._news[0]
        self._wake()

    def since(self, heard: int) -> tuple[list[JobNews], int]:
        """News after the first ``heard`` ones, as far as they are kept, and how many there are now."""
        dropped = self.told - len(self._news)
        return self._news[max(0, heard - dropped) :], self.told

    async def changed(self) -> None:
        """Wait for the next news, or the end."""
        await self._changed.wait()

    def end(self) -> None:
        """There will be none any more; whoever waits is woken."""
        del self._news[:-NEWS_AFTER]
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()
