"""How an operator names a model: a bundled one, a local folder, or one of a hub as ORG/NAME with an optional @REVISION.

Pure: whether a folder is there is an argument. Knows no disk and no network.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from p2p.errors import Misconfigured

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
_HUB = re.compile(rf"({_PART})/({_PART})(?:@([A-Za-z0-9][A-Za-z0-9._/-]{{0,63}}))?")
MAIN = "main"
MAX_REF = 1024


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model of a hub. ``revision`` is a branch, a tag or a commit."""

    org: str
    name: str
    revision: str = MAIN

    @property
    def repo(self) -> str:
        """How the hub calls it."""
        return f"{self.org}/{self.name}"

    def __str__(self) -> str:
        return self.repo if self.revision == MAIN else f"{self.repo}@{self.revision}"

    @property
    def folder(self) -> str:
        """The name of its part of a hub's cache."""
        return f"models--{self.org}--{self.name}"


@dataclass(frozen=True, slots=True)
class FolderModel:
    """A model in a folder of this machine."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class BundledModel:
    """A model that came with the package."""

    name: str

    def __str__(self) -> str:
        return self.name


ModelRef = HubModel | FolderModel | BundledModel


def parse_ref(text: str, bundled: tuple[str, ...], *, is_folder: bool) -> ModelRef:
    """What ``text`` names. A folder that is there wins, then what is bundled. Raises Misconfigured."""
    if not text or len(text) > MAX_REF or "\0" in text:
        raise Misconfigured("a model is named by a bundled name, a folder, or ORG/NAME of a hub")
    if is_folder or text.startswith(("/", "./", "../", "~")):
        return FolderModel(text)
    if text in bundled:
        return BundledModel(text)
    found = _HUB.fullmatch(text)
    if found is None or ".." in text or "--" in text:
        raise Misconfigured(
            f"{text[:100]!r} is no model: no folder, not bundled ({', '.join(bundled) or 'none is'}), and not ORG/NAME"
        )
    org, name, revision = found.groups()
    return HubModel(org, name, revision or MAIN)
