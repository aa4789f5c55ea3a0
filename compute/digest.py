"""Digests of artifacts: SHA-256 of the plain bytes, with media type and size beside it.

The same digest stands in the Receipt, in Content Credentials and under ``sha256sum``. Knows no job.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from compute.spec import Artifact
from p2p.codec import Hash, Range, Size

MAX_ARTIFACT = 2 * 2**30  # bytes; what is larger is not made
MAX_ARTIFACTS = 16


@dataclass(frozen=True, slots=True)
class ArtifactDigest:
    """Names one artifact: ``digest`` is SHA-256 over exactly ``size`` bytes."""

    media_type: Annotated[str, Size(1, 96)]
    size: Annotated[int, Range(0, MAX_ARTIFACT)]
    digest: Hash

    def agrees(self, artifact: Artifact) -> bool:
        """Whether ``artifact`` is the one that was named, media type included."""
        return self == digest_artifact(artifact)


def digest_bytes(data: bytes) -> bytes:
    """SHA-256."""
    return hashlib.sha256(data).digest()


def digest_parts(parts: Iterable[bytes]) -> bytes:
    """SHA-256 of the parts one after the other, as of one piece."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def digest_artifact(artifact: Artifact) -> ArtifactDigest:
    """The name of an artifact."""
    return ArtifactDigest(artifact.media_type, len(artifact.data), digest_bytes(artifact.data))
