"""Album: the previews of one bid, as files in a folder, while the work goes on.

They come from a stranger, unpaid and unproved: only what claims to be a small picture is kept, and not many of them.
Decodes nothing.
"""

from __future__ import annotations

from pathlib import Path

import structlog

from compute.pictureheader import claimed
from market.bidwire import JobPreview
from p2p.errors import Misconfigured

log = structlog.get_logger(__name__)

MOST = 512  # files of one bid
MOST_SIDE = 256  # pixels
_ENDINGS = {"WEBP": ".webp", "PNG": ".png", "JPEG": ".jpg"}


class Album:
    """Files named after the job and the step."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder where it is missing. Raises Misconfigured when that cannot be done."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise Misconfigured(f"previews: {folder} is no folder: {exc.strerror}") from exc
        self._folder = folder
        self.kept = 0

    def show(self, preview: JobPreview) -> None:
        """Keep one. What is no small picture, or one too many, is passed over, and so is a full disk."""
        header = claimed(preview.data)
        if header is None or max(header.width, header.height) > MOST_SIDE or self.kept >= MOST:
            return
        name = f"{preview.job_id.hex()[:12]}-{preview.step:04}{_ENDINGS[header.format]}"
        try:
            (self._folder / name).write_bytes(preview.data)
        except OSError as exc:
            log.warning("a preview cannot be written", file=name, reason=exc.strerror)
            return
        self.kept += 1
